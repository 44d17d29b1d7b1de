//! Counts rejected identities: by reason for the metrics, by address for the limit of failures, and for the log, which
//! has one line per reason and second.

use std::sync::atomic::{AtomicU64, Ordering};

use super::denied::{Denied, Reason};
use crate::config::FAILURES_PER_ADDRESS;
use crate::log_limit::{self, LogLimit};
use crate::peer::PeerAddress;
use crate::work_budget::{AddressBudgets, Allowance};

/// A second of failed authentications at once, this many times.
const BURST_SECONDS: u64 = 10;

/// The rejections of a node since its start.
#[derive(Debug)]
pub struct Rejections {
    by_reason: [AtomicU64; Reason::NAMES.len()],
    /// Nothing if they have no limit.
    failures: Option<AddressBudgets>,
    log: [LogLimit; Reason::NAMES.len()],
}

impl Default for Rejections {
    fn default() -> Self {
        Self::new(FAILURES_PER_ADDRESS)
    }
}

impl Rejections {
    /// None so far. An address may fail this often per second, and ten times as often at once; 0 is no limit.
    #[must_use]
    pub fn new(failures_per_second: u64) -> Self {
        let burst = failures_per_second.saturating_mul(BURST_SECONDS);
        let allowance = Allowance { per_second: failures_per_second, burst, limit: u64::MAX };
        Self {
            by_reason: Default::default(),
            failures: (failures_per_second > 0).then(|| AddressBudgets::new(allowance)),
            log: [const { LogLimit::new() }; Reason::NAMES.len()],
        }
    }

    /// The number of rejections of each reason, with its name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::NAMES.iter().map(|(reason, name)| (*name, self.by_reason[*reason as usize].load(Ordering::Relaxed)))
    }

    /// Refuses an address with too many failures before anything is checked. Addresses without limits have none.
    pub(super) fn check(&self, address: Option<PeerAddress>, unix_ms: u64) -> Result<(), Denied> {
        let (Some(address), Some(failures)) = (address, &self.failures) else { return Ok(()) };
        match failures.debt(&address, unix_ms) {
            0 => Ok(()),
            debt => Err(Denied::too_many(failures.allowance().wait_for(debt))),
        }
    }

    /// Counts a rejection. Returns it.
    pub(super) fn record(&self, denied: Denied, address: Option<PeerAddress>, unix_ms: u64) -> Denied {
        let reason = denied.reason;
        self.by_reason[reason as usize].fetch_add(1, Ordering::Relaxed);
        if let (Some(address), Some(failures)) = (address.filter(|_| reason.is_failure()), &self.failures) {
            failures.spend(&address, 1, unix_ms);
        }
        log_limit::refused(&self.log[reason as usize], unix_ms, reason.name(), address);
        denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn address(text: &str) -> Option<PeerAddress> {
        Some(PeerAddress::of(text.parse().unwrap()))
    }

    fn fail(rejections: &Rejections, address: Option<PeerAddress>, times: usize) {
        for _ in 0..times {
            rejections.record(Denied::new(Reason::Invalid, "x"), address, NOW);
        }
    }

    #[test]
    fn an_address_with_too_many_failures_waits_and_others_do_not() {
        let rejections = Rejections::new(20);
        let (eve, alice) = (address("10.0.0.1"), address("10.0.0.2"));
        fail(&rejections, eve, 200);
        assert_eq!(rejections.check(eve, NOW), Ok(()));
        fail(&rejections, eve, 20);
        let denied = rejections.check(eve, NOW).unwrap_err();
        assert_eq!((denied.reason, denied.retry_after_s), (Reason::TooMany, Some(2)));
        assert_eq!(rejections.check(address("::ffff:10.0.0.1"), NOW).unwrap_err().reason, Reason::TooMany);
        assert_eq!(rejections.check(alice, NOW), Ok(()));
        assert_eq!(rejections.check(eve, NOW + 1000), Ok(()), "20 per second");
        fail(&rejections, None, 1000);
        assert_eq!(rejections.check(None, NOW), Ok(()), "programs on this machine have no limit");
        assert_eq!(rejections.counts().find(|(name, _)| *name == "invalid"), Some(("invalid", 1220)));
    }

    #[test]
    fn what_no_client_can_guess_with_is_no_failure() {
        let rejections = Rejections::new(20);
        let address = address("10.0.0.1");
        for reason in [Reason::Missing, Reason::OtherUser, Reason::Undecided] {
            for _ in 0..1000 {
                rejections.record(Denied::new(reason, "x"), address, NOW);
            }
        }
        assert_eq!(rejections.check(address, NOW), Ok(()));
    }
}
