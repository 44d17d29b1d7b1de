//! Limits of what clients may hold: in all, per user and per address.
//!
//! What each holder holds is counted in a table of fixed size with a random seed, which a flood of made-up names cannot
//! enlarge: each holder has one counter in each of two rows, and the smaller one counts. Others may share a counter, so
//! the number is an upper bound, and nearly always exact.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use foldhash::quality::RandomState;

use crate::peer::PeerAddress;

/// An IPv6 /48 may hold this many times as much as each of its /64 networks.
const SITE_FACTOR: u64 = 8;
/// The number of counters per row, of things that holders have few of.
const COUNTERS: usize = 1 << 16;
/// The number of counters per row if it matters little that holders share some.
const FEW_COUNTERS: usize = 1 << 14;
/// While a total is tight, a holder may hold at most this part of what is free.
const SHARE: u64 = 16;

/// The counters of a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place([u16; 2]);

/// Who holds something: a user, an address with its IPv6 site, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    user: Option<Place>,
    address: Option<Place>,
    site: Option<Place>,
}

/// The limit that something would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// What all may hold together.
    Total,
    /// What one holder may hold while the total is nearly reached.
    Share,
    /// What a user may hold.
    User,
    /// What an address may hold.
    Address,
}

/// How much clients hold of something, and the limits.
#[derive(Debug)]
pub struct Quota {
    total: u64,
    per_user: u64,
    per_address: u64,
    used: AtomicU64,
    rows: [Box<[AtomicU32]>; 2],
    seed: RandomState,
}

impl Quota {
    /// Nothing is held. The limits: in all, per user, per address; [`u64::MAX`] is none.
    #[must_use]
    pub fn new(total: u64, per_user: u64, per_address: u64) -> Self {
        Self::with_counters(COUNTERS, total, per_user, per_address)
    }

    /// As [`Quota::new`], with a limit in all only. Of that, each holder has a share while it is nearly reached.
    #[must_use]
    pub fn in_all(total: u64) -> Self {
        Self::with_counters(FEW_COUNTERS, total, u64::MAX, u64::MAX)
    }

    fn with_counters(counters: usize, total: u64, per_user: u64, per_address: u64) -> Self {
        let row = || (0..counters).map(|_| AtomicU32::new(0)).collect();
        Self {
            total,
            per_user,
            per_address,
            used: AtomicU64::new(0),
            rows: [row(), row()],
            seed: RandomState::default(),
        }
    }

    /// The limit in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The limit per user.
    #[must_use]
    pub fn per_user(&self) -> u64 {
        self.per_user
    }

    /// The limit per address.
    #[must_use]
    pub fn per_address(&self) -> u64 {
        self.per_address
    }

    /// How much is held in all.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more than three quarters of the total would be held with this much more: each holder may hold only its
    /// share then.
    #[must_use]
    pub fn is_tight(&self, more: u64) -> bool {
        self.used().saturating_add(more) > self.total / 4 * 3
    }

    /// The owner that consists of this user, and of this address unless it has no limits.
    #[must_use]
    pub fn owner(&self, user: Option<&(impl Hash + ?Sized)>, address: Option<PeerAddress>) -> Owner {
        Owner {
            user: user.map(|user| self.place(&("user", user))),
            address: address.map(|address| self.place(&("address", address))),
            site: address.and_then(PeerAddress::site).map(|site| self.place(&("site", site))),
        }
    }

    /// Whether an owner may hold this much more.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn check(&self, owner: &Owner, more: u64) -> Result<(), Exceeded> {
        self.check_with(owner, more, self.per_address)
    }

    /// The same with another limit per address.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn check_with(&self, owner: &Owner, more: u64, per_address: u64) -> Result<(), Exceeded> {
        let used = self.used();
        let free = self.total.saturating_sub(used);
        if more > free {
            return Err(Exceeded::Total);
        }
        self.check_holders(owner, more, self.per_user, per_address, (Exceeded::User, Exceeded::Address))?;
        if self.is_tight(more) {
            let share = (free / SHARE).max(1);
            self.check_holders(owner, more, share, share, (Exceeded::Share, Exceeded::Share))?;
        }
        Ok(())
    }

    fn check_holders(
        &self,
        owner: &Owner,
        more: u64,
        per_user: u64,
        per_address: u64,
        exceeded: (Exceeded, Exceeded),
    ) -> Result<(), Exceeded> {
        let fits = |place: Option<Place>, limit: u64| {
            limit == u64::MAX || place.is_none_or(|place| self.held(place).saturating_add(more) <= limit)
        };
        if !fits(owner.user, per_user) {
            return Err(exceeded.0);
        }
        if !fits(owner.address, per_address) || !fits(owner.site, per_address.saturating_mul(SITE_FACTOR)) {
            return Err(exceeded.1);
        }
        Ok(())
    }

    /// An owner holds this much more.
    pub fn add(&self, owner: &Owner, more: u64) {
        self.used.fetch_add(more, Ordering::Relaxed);
        self.assign(owner, more);
    }

    /// An owner holds this much more of what counts in all already.
    pub fn assign(&self, owner: &Owner, more: u64) {
        self.each(owner, |counter| {
            counter.fetch_add(more as u32, Ordering::Relaxed);
        });
    }

    /// An owner holds this much less.
    pub fn subtract(&self, owner: &Owner, less: u64) {
        self.used.fetch_sub(less, Ordering::Relaxed);
        self.unassign(owner, less);
    }

    /// An owner holds this much less of what still counts in all.
    pub fn unassign(&self, owner: &Owner, less: u64) {
        self.each(owner, |counter| {
            counter.fetch_sub(less as u32, Ordering::Relaxed);
        });
    }

    /// Counts something until it is dropped.
    #[must_use]
    pub fn hold(self: &Arc<Self>, owner: Owner, amount: u32) -> Held {
        self.add(&owner, amount.into());
        Held { quota: Arc::clone(self), owner, amount }
    }

    fn each(&self, owner: &Owner, change: impl Fn(&AtomicU32)) {
        for Place(at) in [owner.user, owner.address, owner.site].into_iter().flatten() {
            self.rows.iter().zip(at).for_each(|(row, at)| change(&row[usize::from(at)]));
        }
    }

    fn held(&self, Place(at): Place) -> u64 {
        let counters = self.rows.iter().zip(at).map(|(row, at)| row[usize::from(at)].load(Ordering::Relaxed));
        counters.min().map_or(0, u64::from)
    }

    fn place(&self, holder: &impl Hash) -> Place {
        let hash = self.seed.hash_one(holder);
        let last = self.rows[0].len() - 1; // A row has a power of two of them, at most 65,536.
        Place([hash as usize & last, (hash >> 32) as usize & last].map(|at| at as u16))
    }
}

/// Something that is counted while it exists.
#[derive(Debug)]
pub struct Held {
    quota: Arc<Quota>,
    owner: Owner,
    amount: u32,
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.quota.hold(self.owner, self.amount)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.quota.subtract(&self.owner, self.amount.into());
    }
}

/// A socket that is no WebSocket. It counts while this exists.
#[derive(Debug)]
pub struct SocketPermit {
    /// Until the client has completed a handshake or a request.
    pub unproven: Option<Held>,
    /// Until it becomes a WebSocket or ends.
    pub plain: Held,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<PeerAddress> {
        Some(PeerAddress::of(text.parse().unwrap()))
    }

    /// How many an owner can get, one after another, up to `most`.
    fn fill(quota: &Quota, user: Option<&str>, address: Option<PeerAddress>, most: usize) -> usize {
        let owner = quota.owner(user, address);
        (0..most).take_while(|_| quota.check(&owner, 1).is_ok().then(|| quota.add(&owner, 1)).is_some()).count()
    }

    #[test]
    fn users_and_addresses_have_limits_and_what_ends_makes_room() {
        let quota = Quota::new(1000, 5, 10);
        assert_eq!(fill(&quota, Some("ann"), address("10.0.0.1"), 100), 5);
        let owner = quota.owner(Some("ann"), address("10.0.0.2"));
        assert_eq!(quota.check(&owner, 1), Err(Exceeded::User), "the same user elsewhere");
        assert_eq!(fill(&quota, None, address("::ffff:10.0.0.1"), 100), 5, "the same address");
        let owner = quota.owner(Some("bob"), address("10.0.0.1"));
        assert_eq!(quota.check(&owner, 1), Err(Exceeded::Address));
        assert_eq!(fill(&quota, None, None, 100), 100, "programs on this machine have no limit");
        quota.subtract(&quota.owner(Some("ann"), address("10.0.0.1")), 5);
        assert_eq!(quota.check(&owner, 5), Ok(()));
        assert_eq!(quota.used(), 105);
    }

    #[test]
    fn an_ipv6_site_has_eight_times_the_limit_of_its_networks() {
        let quota = Quota::new(100_000, u64::MAX, 10);
        let held: Vec<_> =
            (0..20).map(|network| fill(&quota, None, address(&format!("2001:db8:1:{network:x}::1")), 100)).collect();
        assert!(held.starts_with(&[10; 8]) && held[8..].iter().all(|held| *held == 0), "{held:?}");
        assert_eq!(fill(&quota, None, address("2001:db8:2::1"), 100), 10, "another site");
    }

    #[test]
    fn above_three_quarters_each_holder_has_a_share_and_newcomers_find_room() {
        let quota = Quota::new(1000, u64::MAX, u64::MAX);
        assert_eq!(fill(&quota, None, address("10.0.0.1"), 10_000), 750);
        assert_eq!(quota.check(&quota.owner(Some("eve"), address("10.0.0.1")), 1), Err(Exceeded::Share));
        for number in 0..40 {
            let held = fill(&quota, Some(&format!("user-{number}")), address(&format!("10.1.0.{number}")), 10_000);
            assert!((1..=250 / 16).contains(&held), "newcomer {number} got {held}");
        }
        let free = 1000 - quota.used();
        assert!(free > 0);
        assert_eq!(fill(&quota, None, None, 1000) as u64, free, "without a holder there is only the total");
        assert_eq!(quota.check(&Owner::default(), 1), Err(Exceeded::Total));
    }

    #[test]
    fn what_is_held_counts_until_its_last_copy_is_dropped() {
        let quota = Arc::new(Quota::new(1000, u64::MAX, u64::MAX));
        let held = quota.hold(quota.owner(Some("ann"), None), 100);
        let copy = held.clone();
        assert_eq!(quota.used(), 200);
        drop((held, copy));
        assert_eq!((quota.used(), fill(&quota, Some("ann"), None, 500)), (0, 500));
    }

    #[test]
    fn many_holders_hardly_disturb_each_other() {
        let quota = Quota::new(u64::MAX, 100, u64::MAX);
        let full = (0..1000).map(|user| fill(&quota, Some(&format!("full {user}")), None, 100)).sum::<usize>();
        assert!(full > 99_000, "{full}");
        let refused = (0..1000).filter(|user| fill(&quota, Some(&format!("user {user}")), None, 1) == 0).count();
        assert!(refused < 10, "{refused} of 1,000 share both counters with full ones");
    }
}
