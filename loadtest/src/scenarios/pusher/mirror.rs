//! What each client of a presence channel has heard, compared with what really happened. Pure: no sockets, no time.
//!
//! A *round* is judged by its events: each watcher must hear of each join and each leave once. A reload is neither.
//! - missing: a watcher did not hear of a join or a leave;
//! - phantom: a watcher heard of a join or a leave that did not happen;
//! - duplicate: `member_added` for a user who is in the list already, or `member_removed` for one who is not.
//!
//! In the end each list must equal the members of its channel.

/// A user of the run, by client index. Channels are assigned round-robin, so a user has a slot in its channel.
type User = usize;

pub(crate) struct Mirrors {
    channels: usize,
    /// By client: its list. `None` while it is not subscribed.
    lists: Vec<Option<Vec<bool>>>,
    /// By client: how often it heard of each user of its channel in this round. Only of watchers.
    heard: Vec<Vec<Heard>>,
    /// By user.
    truth: Vec<Truth>,
    /// Of this round.
    pub(crate) counts: RoundCounts,
}

/// What a watcher heard about a user in a round.
#[derive(Clone, Copy, Default)]
struct Heard {
    joins: u32,
    leaves: u32,
}

#[derive(Clone, Copy, Default)]
struct Truth {
    is_present: bool,
    joins: u32,
    leaves: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoundCounts {
    /// Events about members that clients received.
    pub(crate) events: u64,
    /// Events that contradict the client's list.
    pub(crate) duplicates: u64,
    /// Lists that replaced another one on the same connection.
    pub(crate) resyncs: u64,
}

/// The judgement of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) missing: u64,
    pub(crate) phantom_joins: u64,
    pub(crate) phantom_leaves: u64,
    /// Members that lists lack.
    pub(crate) absent: u64,
    /// Users in lists who are not members.
    pub(crate) ghosts: u64,
}

impl Mirrors {
    pub(crate) fn new(users: usize, channels: usize) -> Self {
        Self {
            channels,
            lists: vec![None; users],
            heard: vec![Vec::new(); users],
            truth: vec![Truth::default(); users],
            counts: RoundCounts::default(),
        }
    }

    /// Starts a round in which the clients for which `watches` is true are judged.
    pub(crate) fn start_round(&mut self, watches: impl Fn(User) -> bool) {
        let slots = self.truth.len().div_ceil(self.channels);
        for (client, heard) in self.heard.iter_mut().enumerate() {
            heard.clear();
            if watches(client) {
                heard.resize(slots, Heard::default());
            }
        }
        for truth in &mut self.truth {
            (truth.joins, truth.leaves) = (0, 0);
        }
        self.counts = RoundCounts::default();
    }

    /// A user becomes a member of its channel.
    pub(crate) fn joins(&mut self, user: User) {
        self.truth[user].is_present = true;
        self.truth[user].joins += 1;
    }

    /// A user leaves its channel, or its connection is gone for good.
    pub(crate) fn leaves(&mut self, user: User) {
        self.truth[user].is_present = false;
        self.truth[user].leaves += 1;
        self.lists[user] = None;
    }

    /// The client lost its list with its connection; the user is still a member.
    pub(crate) fn disconnected(&mut self, client: User) {
        self.lists[client] = None;
    }

    /// The client received a list, which replaces what it knew.
    pub(crate) fn roster(&mut self, client: User, users: impl Iterator<Item = User>) {
        let mut list = vec![false; self.truth.len().div_ceil(self.channels)];
        for user in users.filter(|user| user % self.channels == client % self.channels) {
            list[user / self.channels] = true;
        }
        let Some(before) = self.lists[client].replace(list) else { return };
        self.counts.resyncs += 1;
        // Its differences stand for events.
        for (slot, was_present) in before.into_iter().enumerate() {
            let is_present = self.lists[client].as_ref().is_some_and(|list| list[slot]);
            if was_present != is_present {
                self.hear(client, slot, is_present);
            }
        }
    }

    pub(crate) fn added(&mut self, client: User, user: User) {
        self.changed(client, user, true);
    }

    pub(crate) fn removed(&mut self, client: User, user: User) {
        self.changed(client, user, false);
    }

    fn changed(&mut self, client: User, user: User, is_present: bool) {
        self.counts.events += 1;
        let slot = user / self.channels;
        // Events may still arrive after the client has left.
        let Some(list) = &mut self.lists[client] else { return };
        if std::mem::replace(&mut list[slot], is_present) == is_present {
            self.counts.duplicates += 1;
        } else {
            self.hear(client, slot, is_present);
        }
    }

    fn hear(&mut self, client: User, slot: usize, is_present: bool) {
        let Some(heard) = self.heard[client].get_mut(slot) else { return };
        if is_present {
            heard.joins += 1;
        } else {
            heard.leaves += 1;
        }
    }

    /// Compares what was heard in this round, and all lists, with the truth.
    pub(crate) fn judge(&self) -> Judgement {
        let mut judgement = Judgement::default();
        for (user, truth) in self.truth.iter().enumerate() {
            let (channel, slot) = (user % self.channels, user / self.channels);
            for client in (channel..self.truth.len()).step_by(self.channels) {
                if let Some(list) = &self.lists[client] {
                    judgement.absent += u64::from(truth.is_present && !list[slot]);
                    judgement.ghosts += u64::from(!truth.is_present && list[slot]);
                }
                let Some(heard) = self.heard[client].get(slot).filter(|_| client != user) else { continue };
                let excess = |heard: u32, happened: u32| u64::from(heard.saturating_sub(happened));
                judgement.missing += excess(truth.joins, heard.joins) + excess(truth.leaves, heard.leaves);
                judgement.phantom_joins += excess(heard.joins, truth.joins);
                judgement.phantom_leaves += excess(heard.leaves, truth.leaves);
            }
        }
        judgement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: Judgement = Judgement { missing: 0, phantom_joins: 0, phantom_leaves: 0, absent: 0, ghosts: 0 };

    /// Clients 0 and 2 watch in one channel, 1 and 3 in the other; 4 is a visitor of the first channel.
    fn started() -> Mirrors {
        let mut mirrors = Mirrors::new(5, 2);
        for user in 0..4 {
            mirrors.joins(user);
            mirrors.roster(user, [user % 2, user % 2 + 2].into_iter());
        }
        mirrors.start_round(|client| client < 4);
        assert_eq!(mirrors.judge(), RIGHT);
        mirrors
    }

    #[test]
    fn a_visit_that_all_watchers_hear_of_once_is_right() {
        let mut mirrors = started();
        mirrors.joins(4);
        assert_eq!(mirrors.judge(), Judgement { missing: 2, absent: 2, ..RIGHT });
        mirrors.added(0, 4);
        mirrors.added(2, 4);
        assert_eq!(mirrors.judge(), RIGHT);
        mirrors.leaves(4);
        mirrors.removed(0, 4);
        assert_eq!(mirrors.judge(), Judgement { missing: 1, ghosts: 1, ..RIGHT });
        mirrors.removed(2, 4);
        assert_eq!(mirrors.judge(), RIGHT);
        assert_eq!(mirrors.counts, RoundCounts { events: 4, ..RoundCounts::default() });
    }

    #[test]
    fn a_reload_that_others_hear_of_is_a_phantom() {
        let mut mirrors = started();
        mirrors.disconnected(2);
        mirrors.removed(0, 2);
        assert_eq!(mirrors.judge(), Judgement { phantom_leaves: 1, absent: 1, ..RIGHT });
        mirrors.added(0, 2);
        mirrors.roster(2, [0, 2].into_iter());
        assert_eq!(mirrors.judge(), Judgement { phantom_leaves: 1, phantom_joins: 1, ..RIGHT });
        assert_eq!(mirrors.counts.resyncs, 0);
    }

    #[test]
    fn events_that_change_nothing_are_duplicates() {
        let mut mirrors = started();
        mirrors.added(0, 2);
        mirrors.removed(0, 4);
        assert_eq!(mirrors.judge(), RIGHT);
        assert_eq!(mirrors.counts, RoundCounts { events: 2, duplicates: 2, resyncs: 0 });
    }

    #[test]
    fn a_list_that_replaces_another_counts_as_its_events() {
        let mut mirrors = started();
        mirrors.joins(4);
        mirrors.roster(0, [0, 2, 4].into_iter());
        mirrors.added(2, 4);
        assert_eq!(mirrors.judge(), RIGHT);
        mirrors.roster(1, [1].into_iter());
        assert_eq!(mirrors.judge(), Judgement { phantom_leaves: 1, absent: 1, ..RIGHT });
        assert_eq!(mirrors.counts.resyncs, 2);
    }
}
