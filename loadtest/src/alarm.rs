//! A timer finer than epoll's milliseconds: a timerfd beside the sockets. `poll` rounds its timeout up to
//! whole milliseconds and adds 50 µs of slack, which would show up as latency of the server.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// One-shot, re-armed before each wait; it is never read, since arming it clears what was pending.
#[derive(Debug)]
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    pub(crate) fn register(registry: &Registry, token: Token) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("cannot make a timer")?;
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)
            .context("cannot watch the timer")?;
        Ok(Self(timer))
    }

    /// Rings once after `wait`, which must not be zero: zero would disarm it.
    pub(crate) fn set(&self, wait: Duration) -> Result<()> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec::try_from(wait).context("the wait is too long")?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).context("cannot set the timer")?;
        Ok(())
    }
}
