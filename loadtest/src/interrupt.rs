//! Ctrl-C and SIGTERM: the first one ends the run early, with its report; the second one ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code that shells expect after SIGINT.
const EXIT_KILLED: i32 = 130;

/// Set by the signal handler, read by every long loop.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self> {
        let requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: at the first signal the flag is not set yet, so the process does not exit.
            flag::register_conditional_shutdown(signal, EXIT_KILLED, Arc::clone(&requested))
                .context("cannot install a signal handler")?;
            flag::register(signal, Arc::clone(&requested)).context("cannot install a signal handler")?;
        }
        Ok(Self(requested))
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
