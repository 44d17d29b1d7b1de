//! Which node reports a join or a leave to its sinks, when several nodes announce it to their observers: the lowest
//! incarnation of the nodes that held the membership.
//!
//! - A join is reported by the lowest of the nodes that hold the user in the room when it is announced.
//! - A leave is reported by the lowest of the living nodes that have held the user in the room since the join.
//! - A leave with reason `node_lost` is reported by the lowest of all living nodes.
//!
//! A node that never held a membership reports nothing else about it. These cases are not covered:
//!
//! - If two nodes begin to hold a membership within the same tick, both may report the join.
//! - If the node that has to report a leave dies before the others notice, the leave is missing.
//! - If a node is disconnected from the others for longer than a lease, they count it as dead and report `node_lost`
//!   for its users. Users who left it meanwhile have a second leave, from that node. Users who stayed have no second
//!   join when the node returns: it has held them all along, and the others never held them.
//!
//! Locked inside a shard of the registry, and locks nothing itself.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Reason;
use super::remote_hold::IncarnationId;

/// Other nodes that hold or held a membership.
type OtherHolders = SmallVec<[IncarnationId; 1]>;

/// The other nodes that held what this node holds.
#[derive(Debug)]
pub(super) struct Holders {
    /// The incarnation of this node.
    own: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The living incarnations of other nodes. Written by the store.
    alive: HashMap<IncarnationId, u64, RandomState>,
    /// Memberships that this node held, by room id and user, with the other nodes that held them as well. An entry ends
    /// with its membership. Memberships that no other node held have none.
    shared: HashMap<(u64, Arc<str>), OtherHolders, RandomState>,
    /// Memberships that this node held and that ended when their room was settled, by user. Written and emptied by the
    /// tick, which settles one room after the other.
    ended: HashMap<Arc<str>, OtherHolders, RandomState>,
}

impl Inner {
    /// Whether this incarnation comes before the living ones of these.
    fn is_lowest(&self, own: u64, others: impl Iterator<Item = IncarnationId>) -> bool {
        let mut incarnations = others.filter_map(|other| self.alive.get(&other));
        incarnations.all(|incarnation| *incarnation > own)
    }
}

impl Holders {
    pub(super) fn new(own: u64) -> Self {
        Self { own, inner: Mutex::default() }
    }

    /// An incarnation of another node is alive.
    pub(super) fn add_incarnation(&self, id: IncarnationId, incarnation: u64) {
        self.inner.lock().alive.insert(id, incarnation);
    }

    /// An incarnation of another node is dead. Its holds are released after this.
    pub(super) fn remove_incarnation(&self, id: IncarnationId) {
        self.inner.lock().alive.remove(&id);
    }

    /// Remembers the other nodes that hold a membership, if the store knows that this node holds it, or did since the
    /// join.
    pub(super) fn note(
        &self,
        room: u64,
        user: &Arc<str>,
        is_held_here: bool,
        others: impl Iterator<Item = IncarnationId>,
    ) {
        let mut others = others.peekable();
        if others.peek().is_none() {
            return;
        }
        let mut inner = self.inner.lock();
        let key = (room, Arc::clone(user));
        if !is_held_here && !inner.shared.contains_key(&key) {
            return;
        }
        let Inner { alive, shared, .. } = &mut *inner;
        let known = shared.entry(key).or_default();
        known.retain(|other| alive.contains_key(other));
        for other in others {
            if !known.contains(&other) {
                known.push(other);
            }
        }
    }

    /// A membership has ended. Until now, this node held it (`was_held_here`), or it did earlier, or never.
    pub(super) fn note_end(&self, room: u64, user: &Arc<str>, was_held_here: bool) {
        let mut inner = self.inner.lock();
        let others = inner.shared.remove(&(room, Arc::clone(user)));
        if was_held_here || others.is_some() {
            inner.ended.insert(Arc::clone(user), others.unwrap_or_default());
        }
    }

    /// Whether this node reports a join, by the nodes that hold the membership when it is announced.
    pub(super) fn reports_join(&self, is_held_here: bool, others: impl Iterator<Item = IncarnationId>) -> bool {
        is_held_here && self.inner.lock().is_lowest(self.own, others)
    }

    /// Whether this node reports that the user left the room that was settled last.
    pub(super) fn reports_leave(&self, user: &str, reason: Reason) -> bool {
        let inner = self.inner.lock();
        if reason == Reason::NodeLost {
            return inner.alive.values().all(|incarnation| *incarnation > self.own);
        }
        inner.ended.get(user).is_some_and(|others| inner.is_lowest(self.own, others.iter().copied()))
    }

    /// The leaves of the room that was settled last are reported. Frees the memory, which may be that of a huge room.
    pub(super) fn forget_ended(&self) {
        self.inner.lock().ended = HashMap::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This node is the second oldest of three; the ids of the others are in another order than their incarnations.
    const OLDER: IncarnationId = 7;
    const YOUNGER: IncarnationId = 3;
    const ROOM: u64 = 1;

    fn holders() -> Holders {
        let holders = Holders::new(20);
        holders.add_incarnation(OLDER, 10);
        holders.add_incarnation(YOUNGER, 30);
        holders
    }

    /// What happens to alice's membership until it ends, and whether this node reports the leave.
    fn check(act: impl FnOnce(&Holders, &Arc<str>), was_held_here: bool, expected: bool) {
        let (holders, alice) = (holders(), Arc::from("alice"));
        act(&holders, &alice);
        holders.note_end(ROOM, &alice, was_held_here);
        assert_eq!(holders.reports_leave("alice", Reason::Closed), expected);
        assert!(!holders.reports_leave("bob", Reason::Closed), "nothing of bob has ended");
        holders.forget_ended();
        assert!(!holders.reports_leave("alice", Reason::Closed), "once");
        assert!(holders.inner.lock().shared.is_empty(), "nothing is kept after the end");
    }

    #[test]
    fn a_join_is_reported_by_the_lowest_of_its_holders() {
        let holders = holders();
        assert!(holders.reports_join(true, [].into_iter()));
        assert!(holders.reports_join(true, [YOUNGER].into_iter()));
        assert!(!holders.reports_join(true, [YOUNGER, OLDER].into_iter()));
        assert!(!holders.reports_join(false, [YOUNGER].into_iter()));
        assert!(holders.reports_join(true, [99].into_iter()), "an unknown incarnation is not alive");
    }

    #[test]
    fn a_leave_is_reported_by_the_lowest_of_the_nodes_that_held_the_membership() {
        check(|_, _| {}, true, true);
        check(|_, _| {}, false, false);
        check(|holders, alice| holders.note(ROOM, alice, true, [YOUNGER].into_iter()), true, true);
        check(|holders, alice| holders.note(ROOM, alice, true, [OLDER].into_iter()), true, false);
        check(|holders, alice| holders.note(ROOM, alice, false, [OLDER].into_iter()), false, false);
    }

    #[test]
    fn a_node_that_held_the_membership_earlier_is_still_a_candidate() {
        check(|holders, alice| holders.note(ROOM, alice, true, [YOUNGER].into_iter()), false, true);
        let later_older = |holders: &Holders, alice: &Arc<str>| {
            holders.note(ROOM, alice, true, [YOUNGER].into_iter());
            holders.note(ROOM, alice, false, [OLDER].into_iter());
        };
        check(later_older, false, false);
    }

    #[test]
    fn a_dead_node_is_no_candidate() {
        let older_dies = |holders: &Holders, alice: &Arc<str>| {
            holders.note(ROOM, alice, true, [OLDER].into_iter());
            holders.remove_incarnation(OLDER);
        };
        check(older_dies, true, true);
    }

    #[test]
    fn what_a_dead_node_held_is_reported_by_the_lowest_living_node() {
        let holders = holders();
        holders.remove_incarnation(YOUNGER);
        assert!(!holders.reports_leave("alice", Reason::NodeLost));
        holders.add_incarnation(YOUNGER, 30);
        holders.remove_incarnation(OLDER);
        assert!(holders.reports_leave("alice", Reason::NodeLost));
    }

    #[test]
    fn the_memory_of_a_tick_with_many_leaves_is_freed() {
        let holders = holders();
        (0..1000).for_each(|number| holders.note_end(ROOM, &Arc::from(number.to_string()), true));
        assert!(holders.reports_leave("7", Reason::Closed));
        holders.forget_ended();
        assert_eq!(holders.inner.lock().ended.capacity(), 0);
    }

    #[test]
    fn memberships_of_two_rooms_are_apart() {
        let (holders, alice) = (holders(), Arc::from("alice"));
        holders.note(ROOM, &alice, true, [OLDER].into_iter());
        holders.note_end(ROOM + 1, &alice, true);
        assert!(holders.reports_leave("alice", Reason::Left));
    }
}
