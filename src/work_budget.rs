//! How much work clients may cause, per connection, per user and per address.
//!
//! Work is counted in bytes: a command costs about as many bytes as the server stores, writes or sends because of it.
//! A budget is a token bucket: it allows a burst at once and then a steady rate. What is spent beyond it is a debt. A
//! client in debt is slowed, not refused: the worker reads its connection later. A debt that keeps growing ends the
//! connection.
//!
//! A bucket is one number: the time at which it would be full again ("generic cell rate algorithm", ITU-T I.371). The
//! budgets of users and addresses outlive their connections, so reconnecting does not help. They are in tables of fixed
//! size, which a flood of made-up names cannot enlarge: see [`SharedBudgets`].

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::RandomState;

use crate::peer::PeerAddress;

/// The time that a bucket counts in: milliseconds of engine time.
pub type Millis = u64;

/// The size of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Work per second, in bytes.
    pub per_second: u64,
    /// Work at once, in bytes.
    pub burst: u64,
    /// The limit of the debt; beyond it, connections are closed. Honest clients owe far less.
    pub limit: u64,
}

/// Of one connection. Joining 100 rooms, or watching 1,000 users, takes a fraction of the burst.
pub const CONNECTION: Allowance = Allowance { per_second: 4 << 10, burst: 1 << 20, limit: 32 << 20 };
/// Of a user: all connections on this node.
pub const USER: Allowance = Allowance { per_second: 16 << 10, burst: 4 << 20, limit: 64 << 20 };

/// A token bucket: the time when it is full again, in units of work that its rate has allowed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget(u64);

impl Allowance {
    /// Of an address: all its connections and requests. A company, a village or a proxy may share one, so no debt
    /// closes connections.
    #[must_use]
    pub fn of_address(per_second: u64) -> Self {
        Self { per_second, burst: per_second.saturating_mul(16), limit: u64::MAX }
    }

    /// The work that the rate has allowed since the start.
    fn allowed_until(self, now: Millis) -> u64 {
        // Not `now * rate / 1000`, which would overflow after a long time.
        now / 1000 * self.per_second + now % 1000 * self.per_second / 1000
    }

    /// The limit up to which a debt grows. Without it, honest clients that share the budget would wait for hours after
    /// an attack.
    fn most_debt(self) -> u64 {
        if self.limit < u64::MAX { self.limit + 1 } else { self.per_second.saturating_mul(256) }
    }

    /// How long it takes to work off a debt, in milliseconds.
    #[must_use]
    pub fn wait_for(self, debt: u64) -> Millis {
        debt.saturating_mul(1000).div_ceil(self.per_second)
    }
}

impl Budget {
    /// Spends this much. Returns the debt afterwards.
    pub fn spend(&mut self, allowance: Allowance, work: u64, now: Millis) -> u64 {
        let allowed = allowance.allowed_until(now);
        let most = allowed.saturating_add(allowance.burst).saturating_add(allowance.most_debt());
        self.0 = self.0.max(allowed).saturating_add(work).min(most);
        self.debt(allowance, now)
    }

    /// What was spent beyond the burst; 0 if nothing.
    #[must_use]
    pub fn debt(self, allowance: Allowance, now: Millis) -> u64 {
        self.spent(allowance, now).saturating_sub(allowance.burst)
    }

    /// What was spent and is not allowed again yet.
    #[must_use]
    pub fn spent(self, allowance: Allowance, now: Millis) -> u64 {
        self.0.saturating_sub(allowance.allowed_until(now))
    }

    /// Whether at most half of the burst is missing.
    #[must_use]
    pub fn is_half_full(self, allowance: Allowance, now: Millis) -> bool {
        self.spent(allowance, now) <= allowance.burst / 2
    }

    /// Whether nothing is missing. A full budget need not be stored.
    #[must_use]
    pub fn is_full(self, allowance: Allowance, now: Millis) -> bool {
        self.0 <= allowance.allowed_until(now)
    }
}

/// An IPv6 /48 may spend this many times as much as each of its /64 networks.
const SITE_FACTOR: u64 = 8;

/// The number of rows of a table. A holder has one slot in each.
const ROWS: usize = 2;
/// Slots per row: 128 KiB per row. With a million active users, 61 share a slot, and each may use a 61st of the rate in
/// both rows, on average, before any of them is slowed.
const SLOTS: usize = 1 << 14;

/// The budgets of all users, or of all addresses, on this node. All threads share them.
///
/// A table of fixed size instead of a map (a count-min sketch): each holder has one slot in each row, by a hash with a
/// random seed. Its debt is the smaller one of its slots. So honest holders pay for others only if heavy spenders share
/// both of their slots.
#[derive(Debug)]
pub struct SharedBudgets {
    allowance: Allowance,
    rows: [Box<[AtomicU64]>; ROWS],
    hashers: [RandomState; ROWS],
}

impl SharedBudgets {
    /// All budgets are full.
    #[must_use]
    pub fn new(allowance: Allowance) -> Self {
        let row = || (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { allowance, rows: [row(), row()], hashers: [RandomState::default(), RandomState::default()] }
    }

    /// Their size.
    #[must_use]
    pub fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// Spends this much of a holder's budget. Returns the holder's debt afterwards.
    pub fn spend(&self, holder: &(impl Hash + ?Sized), work: u64, now: Millis) -> u64 {
        let spend = |slot: &AtomicU64| {
            let mut debt = 0;
            let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |filled| {
                let mut budget = Budget(filled);
                debt = budget.spend(self.allowance, work, now);
                Some(budget.0)
            });
            debt
        };
        self.slots(holder).map(spend).into_iter().min().unwrap_or(0)
    }

    /// What a holder has spent and is not allowed again yet.
    #[must_use]
    pub fn spent(&self, holder: &(impl Hash + ?Sized), now: Millis) -> u64 {
        let spent = |slot: &AtomicU64| Budget(slot.load(Ordering::Relaxed)).spent(self.allowance, now);
        self.slots(holder).map(spent).into_iter().min().unwrap_or(0)
    }

    /// A holder's debt.
    #[must_use]
    pub fn debt(&self, holder: &(impl Hash + ?Sized), now: Millis) -> u64 {
        let debt = |slot: &AtomicU64| Budget(slot.load(Ordering::Relaxed)).debt(self.allowance, now);
        self.slots(holder).map(debt).into_iter().min().unwrap_or(0)
    }

    fn slots<H: Hash + ?Sized>(&self, holder: &H) -> [&AtomicU64; ROWS] {
        std::array::from_fn(|row| &self.rows[row][self.hashers[row].hash_one(holder) as usize % SLOTS])
    }
}

/// The budgets of all addresses: of each IPv4 address or IPv6 /64, and eight times as much of each IPv6 /48.
#[derive(Debug)]
pub struct AddressBudgets {
    addresses: SharedBudgets,
    sites: SharedBudgets,
}

impl AddressBudgets {
    /// All budgets are full. This is the size of an address's.
    #[must_use]
    pub fn new(allowance: Allowance) -> Self {
        let Allowance { per_second, burst, limit } = allowance;
        let times = |number: u64| number.saturating_mul(SITE_FACTOR);
        let of_site = Allowance { per_second: times(per_second), burst: times(burst), limit: times(limit) };
        Self { addresses: SharedBudgets::new(allowance), sites: SharedBudgets::new(of_site) }
    }

    /// The size of an address's budget.
    #[must_use]
    pub fn allowance(&self) -> Allowance {
        self.addresses.allowance()
    }

    /// An address spends this much. Returns its debt afterwards. Debts of sites are in proportion.
    pub fn spend(&self, address: &PeerAddress, work: u64, now: Millis) -> u64 {
        let debt = self.addresses.spend(address, work, now);
        debt.max(address.site().map_or(0, |site| self.sites.spend(&site, work, now).div_ceil(SITE_FACTOR)))
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_spent(&self, address: &PeerAddress, now: Millis) -> bool {
        let is_spent = |budgets: &SharedBudgets, spent: u64| spent >= budgets.allowance.burst;
        is_spent(&self.addresses, self.addresses.spent(address, now))
            || address.site().is_some_and(|site| is_spent(&self.sites, self.sites.spent(&site, now)))
    }

    /// The debt of an address.
    #[must_use]
    pub fn debt(&self, address: &PeerAddress, now: Millis) -> u64 {
        let debt = self.addresses.debt(address, now);
        debt.max(address.site().map_or(0, |site| self.sites.debt(&site, now).div_ceil(SITE_FACTOR)))
    }
}

/// The part of a shared limit that one holder may use, if `used` of it is in use.
///
/// Below three quarters, everything that is free. Above, a fixed part of what is free, so that the more is in use, the
/// less each holder may have, and something always remains for newcomers ("dynamic queue length thresholds", Choudhury
/// and Hahne 1998). No holder has to be counted for that.
#[must_use]
pub fn fair_share(limit: usize, used: usize) -> usize {
    /// One holder's part of what is free while the limit is tight.
    const PART: usize = 1 << 8;
    let free = limit.saturating_sub(used);
    if free > limit / 4 { free } else { free / PART }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Allowance = Allowance { per_second: 100, burst: 1000, limit: 5000 };

    #[test]
    fn a_burst_is_free_and_a_debt_is_worked_off_at_the_rate() {
        let mut budget = Budget::default();
        assert_eq!(budget.spend(SMALL, 1000, 50_000), 0, "a burst");
        assert_eq!(budget.spend(SMALL, 300, 50_000), 300);
        assert_eq!((budget.debt(SMALL, 51_000), budget.debt(SMALL, 53_000)), (200, 0));
        assert_eq!(SMALL.wait_for(300), 3000);
        assert!(!budget.is_full(SMALL, 62_000) && budget.is_full(SMALL, 63_000));
    }

    #[test]
    fn a_debt_is_worked_off_in_limited_time_however_much_was_spent() {
        let mut budget = Budget::default();
        for _ in 0..100 {
            assert!(budget.spend(SMALL, SMALL.limit, 50_000) > 0);
        }
        assert!(budget.debt(SMALL, 50_000) > SMALL.limit);
        assert_eq!(budget.debt(SMALL, 50_000 + SMALL.wait_for(SMALL.limit + 1)), 0);
        let of_address = Allowance::of_address(100);
        for _ in 0..100 {
            let _ = budget.spend(of_address, 10_000, 50_000);
        }
        assert_eq!(of_address.wait_for(budget.debt(of_address, 50_000)), 256_000);
    }

    #[test]
    fn nothing_overflows_at_the_end_of_time() {
        let (mut budget, huge) = (Budget::default(), Allowance::of_address(1 << 40));
        let end = u64::MAX / huge.per_second;
        assert_eq!(budget.spend(huge, 1, end), 0);
        assert!(budget.spend(huge, u64::MAX, end) > huge.burst);
        assert!(huge.wait_for(u64::MAX) > 0);
    }

    #[test]
    fn holders_have_budgets_of_their_own_and_share_the_table() {
        let budgets = SharedBudgets::new(SMALL);
        for _ in 0..500 {
            let _ = budgets.spend("mallory", 10, 1000);
        }
        assert_eq!(budgets.debt("mallory", 1000), 4000);
        let honest = (0..1000).filter(|user| budgets.spend(&format!("user {user}"), 100, 1000) > 0).count();
        assert!(honest < 10, "{honest} of 1,000 share both slots with the attacker or with ten others");
        assert_eq!(budgets.debt("mallory", 100_000), 0);
    }

    #[test]
    fn an_ipv6_site_may_spend_eight_times_as_much_as_its_networks() {
        let budgets = AddressBudgets::new(SMALL);
        let spend = |address: &str, work| budgets.spend(&PeerAddress::of(address.parse().unwrap()), work, 50_000);
        for network in 0..8 {
            assert_eq!(spend(&format!("2001:db8:1:{network}::1"), 1000), 0);
        }
        assert!(spend("2001:db8:1:9::1", 80) == 10 && spend("2001:db8:1:0::2", 0) == 10, "the site is over its budget");
        assert_eq!((spend("2001:db8:2::1", 1000), spend("10.0.0.1", 1000)), (0, 0));
        assert_eq!(spend("::ffff:10.0.0.1", 10), 10, "the same address in IPv6 notation");
    }

    #[test]
    fn a_tight_limit_leaves_something_for_every_newcomer() {
        assert_eq!(fair_share(1_000_000, 0), 1_000_000);
        assert_eq!(fair_share(1_000_000, 700_000), 300_000);
        // Holders that take their whole share get ever less, and never everything.
        let mut used = 750_000;
        for _ in 0..10_000 {
            let share = fair_share(1_000_000, used);
            assert!(share < 1000);
            used += share;
        }
        assert!(used < 1_000_000 && fair_share(1_000_000, 1_000_000) == 0);
    }

    proptest! {
        /// Compared with a bucket that is filled step by step.
        #[test]
        fn it_behaves_like_a_bucket(steps in prop::collection::vec((0u64..5000, 0u64..2000), 1..50)) {
            let (mut budget, mut now, mut level) = (Budget::default(), 0, i128::from(SMALL.burst) * 1000);
            for (pause, work) in steps {
                now += pause;
                level = (level + i128::from(pause * SMALL.per_second)).min(i128::from(SMALL.burst) * 1000);
                level = (level - i128::from(work) * 1000).max(-i128::from(SMALL.limit + 1) * 1000);
                let debt = budget.spend(SMALL, work, now);
                // The bucket rounds to whole units at each step.
                prop_assert!((i128::from(debt) - (-level).max(0) / 1000).abs() <= 50, "{debt} and {level}");
            }
        }
    }
}
