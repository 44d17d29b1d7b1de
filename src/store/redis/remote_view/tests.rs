//! What a node takes from events, hashes and leases of other nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::schema::{LastSeq, Metadata};
use super::*;
use crate::presence::{Audience, Now, Settings};

/// The view of n1 when it has seen the lease of n2.
fn view_of_another(partitions: usize) -> (Arc<Registry>, RemoteView) {
    let registry = Arc::new(Registry::with_store(Settings { ttl: 100, workers: 1, incarnation: 1 }));
    let (prefix, node, incarnation) = ("p".to_owned(), "n1".to_owned(), "n1.1".to_owned());
    let ttl = Duration::from_secs(10);
    let identity = crate::store::redis::IdentityRules::default();
    let schema = Arc::new(Schema { prefix, partitions, database: 0, node, incarnation, ttl, identity });
    let mut view = RemoteView::new(schema, Arc::clone(&registry));
    (0..partitions).for_each(|partition| drop(view.resubscribed(partition, 0)));
    view.check_leases(true, &[("n2.1".to_owned(), Some(1))], 0);
    (registry, view)
}

fn renewing(user: &str) -> FollowUp {
    FollowUp { renew_keys: vec![user.to_owned()], ..FollowUp::default() }
}

#[test]
fn a_kick_that_arrives_twice_is_passed_on_once_and_each_partition_counts_by_itself() {
    let (_, mut view) = view_of_another(2);
    let mut users: Vec<Arc<str>> = Vec::new();
    for (partition, user) in [(0, "alice"), (1, "bob"), (0, "alice"), (1, "bob")] {
        let follow_up = view.handle_message(partition, &format!("n2.1\t0\nkicked\t*:{user}\t1\t0\tkicked"), 0);
        users.extend(follow_up.kicks.into_iter().map(|remote| remote.kick.user));
    }
    assert_eq!(users, ["alice".into(), "bob".into()] as [Arc<str>; 2]);
}

#[test]
fn a_message_that_arrives_twice_is_delivered_once() {
    let (registry, mut view) = view_of_another(1);
    let alice = registry.open_unleased_session("alice");
    let room = registry.join(&alice, "lobby", None, Now { tick: 1, unix_ms: 1 });
    for (seq, number) in [(1, 1), (2, 2), (3, 1), (4, 2), (5, 3)] {
        view.handle_message(0, &format!("n2.1\t{seq}\nmessage\tlobby:alice\t1\t{number}\t\"{number}\""), 0);
    }
    let data: Vec<_> = registry.settle(&room).messages.iter().map(|message| message.data.to_string()).collect();
    assert_eq!(data, ["\"1\"", "\"2\"", "\"3\""]);
}

#[test]
fn a_last_message_is_kept_before_it_is_delivered_unless_its_time_is_wrong() {
    let (registry, view) = view_of_another(1);
    let last = Arc::new(LastMessages::default());
    let mut view = view.with_last_messages(Arc::clone(&last));
    view.set_latest_message_time(10);
    let room = registry.observe("cache-a", 0, Audience::new(0), true).room;
    for (number, unix_ms, kept) in [(1, 10, 1), (2, 11, 1), (3, 9, 3)] {
        view.handle_message(0, &format!("n2.1\t{number}\nlast\tcache-a:\t{unix_ms}\t{number}\t{{\"event\":\"e\"}}"), 0);
        assert_eq!(last.stamp("cache-a").map(|stamp| stamp.number), Some(kept));
        assert_eq!(registry.settle(&room).messages.len(), 1);
    }
}

#[test]
fn a_message_to_a_user_is_taken_once_and_only_in_the_partition_of_the_user() {
    let (registry, mut view) = view_of_another(2);
    let schema = Arc::clone(&view.schema);
    let partition = schema.partition_of("alice");
    for (partition, seq, number) in
        [(partition, 1, 1), (partition, 2, 2), (partition, 2, 2), (1 - partition, 1, 3), (partition, 3, 3)]
    {
        view.handle_message(partition, &format!("n2.1\t{seq}\nto_user\t*:alice\t1\t{number}\t\"{number}\""), 0);
    }
    let data: Vec<_> = registry.application_messages.take().iter().map(|message| message.data.to_string()).collect();
    assert_eq!(data, ["\"1\"", "\"2\"", "\"3\""]);
}

#[test]
fn a_message_that_arrives_with_the_join_of_its_user_is_delivered_whenever_a_tick_comes() {
    const ROUNDS: u64 = 300;
    let (registry, mut view) = view_of_another(1);
    let room = registry.observe("lobby", 0, Audience::new(0), true).room;
    let load = HashId { incarnation: "n2.1".to_owned(), partition: 0 };
    let empty = Some(Metadata { last_seq: LastSeq::Complete(0), revision: 1 });
    assert_eq!(view.begin_load(&load, empty, Some(0), 0), LoadStep::Scan);
    view.finish_load(&load, empty);
    let is_done = AtomicBool::new(false);
    let ticks = || {
        let mut delivered = 0;
        loop {
            let is_last = is_done.load(Ordering::Relaxed);
            let change = registry.settle(&room);
            // A message is delivered if its user is a member or leaves now.
            let left = |user: &Arc<str>| change.diff.left.iter().any(|(left, _)| left == user);
            let is_known = |user: &Arc<str>| left(user) || room.read(|roster| roster.contains(user));
            delivered += change.messages.iter().filter(|message| message.user.as_ref().is_some_and(is_known)).count();
            if is_last {
                return delivered;
            }
            std::thread::yield_now();
        }
    };
    let delivered = std::thread::scope(|scope| {
        let ticker = scope.spawn(ticks);
        for round in 0..ROUNDS {
            let seq = 2 * round + 1;
            let joined = format!("n2.1\t{seq}\njoined\tlobby:alice\t1\nmessage\tlobby:alice\t1\t{seq}\t1");
            let left = format!("n2.1\t{}\nleft\tlobby:alice\tclosed", seq + 1);
            for (event, is_member) in [(joined, true), (left, false)] {
                view.handle_message(0, &event, 0);
                while room.read(|roster| roster.contains("alice")) != is_member {
                    std::thread::yield_now();
                }
            }
        }
        is_done.store(true, Ordering::Relaxed);
        ticker.join().expect("the ticker ends")
    });
    assert_eq!(delivered, ROUNDS as usize);
}

#[test]
fn a_message_of_the_application_is_delivered_without_a_user() {
    let (registry, mut view) = view_of_another(1);
    let room = registry.observe("lobby", 0, Audience::new(0), true).room;
    view.handle_message(0, "n2.1\t1\nmessage\tlobby:\t1\t1\t{}", 0);
    let messages = registry.settle(&room).messages;
    assert_eq!(messages.len(), 1);
    assert_eq!((&messages[0].user, &*messages[0].data, messages[0].is_local), (&None, "{}", false));
}

#[test]
fn numbers_of_observers_come_with_events_and_hashes_and_end_with_their_node() {
    let (registry, mut view) = view_of_another(1);
    let metadata = |seq: u64| Some(Metadata { last_seq: LastSeq::Complete(seq), revision: 1 });
    let hash = HashId { incarnation: "n2.1".to_owned(), partition: 0 };
    let page = [("lobby:".to_owned(), "3".to_owned()), ("attic:".to_owned(), "1".to_owned())];
    assert_eq!(view.begin_load(&hash, metadata(1), Some(0), 0), LoadStep::Scan);
    view.load_page(&hash, &page);
    view.finish_load(&hash, metadata(1));
    assert_eq!((registry.observers("lobby"), registry.observers("attic")), (3, 1));
    view.handle_message(0, "n2.1\t2\nobservers\tlobby:\t5\nobservers\tattic:\t0", 0);
    assert_eq!((registry.observers("lobby"), registry.observers("attic")), (5, 0));
    // An event is missed: the next load no longer finds the lobby.
    assert!(view.handle_message(0, "n2.1\t4\nobservers\thall:\t2", 0).load.is_some());
    assert_eq!(view.begin_load(&hash, metadata(4), Some(0), 0), LoadStep::Scan);
    view.load_page(&hash, &[("hall:".to_owned(), "2".to_owned()), ("cellar:".to_owned(), "many".to_owned())]);
    view.finish_load(&hash, metadata(4));
    assert_eq!((registry.observers("lobby"), registry.observers("hall"), registry.observers("cellar")), (0, 2, 0));
    // Its lease ends, and it is silent.
    for now_ms in [4_000, 8_000, 12_000] {
        view.check_leases(true, &[("n2.1".to_owned(), None)], now_ms);
    }
    assert_eq!(registry.observers("hall"), 0);
}

#[test]
fn an_unknown_incarnation_is_reported_and_not_trusted() {
    let (registry, mut view) = view_of_another(1);
    let follow_up = view.handle_message(0, "n3.1\t1\njoined\tlobby:mallory\t1", 0);
    assert_eq!(follow_up, FollowUp { is_unknown_incarnation: true, ..FollowUp::default() });
    assert!(registry.status("mallory", "", 0).is_none());
}

#[test]
fn the_key_of_a_user_whom_another_node_releases_during_a_load_is_renewed() {
    let (registry, mut view) = view_of_another(1);
    let alice = registry.open_unleased_session("alice");
    registry.join(&alice, "lobby", None, Now { tick: 1, unix_ms: 1 });
    let metadata = |seq: u64| Some(Metadata { last_seq: LastSeq::Complete(seq), revision: 1 });
    let hash = HashId { incarnation: "n2.1".to_owned(), partition: 0 };
    assert_eq!(view.begin_load(&hash, metadata(1), Some(0), 0), LoadStep::Scan);
    view.load_page(&hash, &[("lobby:alice".to_owned(), "1".to_owned())]);
    assert_eq!(view.handle_message(0, "n2.1\t2\nleft\tlobby:alice\tclosed", 0), FollowUp::default());
    assert_eq!(view.finish_load(&hash, metadata(2)), renewing("alice"));
    // The same if that event is missed: the next load does not find the user.
    view.handle_message(0, "n2.1\t3\njoined\tlobby:alice\t1", 0);
    assert!(view.handle_message(0, "n2.1\t5\njoined\tlobby:bob\t1", 0).load.is_some());
    assert_eq!(view.begin_load(&hash, metadata(5), Some(0), 0), LoadStep::Scan);
    view.load_page(&hash, &[("lobby:bob".to_owned(), "1".to_owned())]);
    assert_eq!(view.finish_load(&hash, metadata(5)), renewing("alice"));
}
