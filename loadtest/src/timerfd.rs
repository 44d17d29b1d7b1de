//! A timerfd next to the sockets: a timer finer than epoll's milliseconds. `poll` rounds its timeout up to whole
//! milliseconds and adds 50 µs of slack, which would show up as latency of the server.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// One-shot, re-armed before each wait. It is never read: arming it clears what is pending.
#[derive(Debug)]
pub(crate) struct TimerFd(OwnedFd);

impl TimerFd {
    pub(crate) fn register(registry: &Registry, token: Token) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("cannot create a timer")?;
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)
            .context("cannot register the timer with epoll")?;
        Ok(Self(timer))
    }

    /// Fires once after `wait`. `wait` must not be zero, which would disarm the timer.
    pub(crate) fn arm(&self, wait: Duration) -> Result<()> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec::try_from(wait).context("the timeout is too long")?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).context("cannot arm the timer")?;
        Ok(())
    }
}
