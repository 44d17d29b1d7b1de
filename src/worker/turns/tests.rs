//! Who waits for a turn, and in which order.

use super::*;
use crate::worker::commands::tests::with_connection;

/// A worker whose clients have just used up what all may change.
fn with_tight_worker(test: impl FnOnce(&mut Worker, &mut Connection)) {
    with_connection(|worker, connection| {
        assert!(!worker.must_wait_for_turn(connection, 16_000), "nothing has changed");
        worker.turns.count(connection, &worker.addresses, CHANGES_BEFORE_TURNS + 1);
        test(worker, connection);
    });
}

#[test]
fn the_addresses_take_turns_and_so_do_the_users_of_an_address() {
    type Waiting = Ring<u32, Ring<&'static str, BTreeMap<u64, ConnectionId>>>;
    let mut waiting = Waiting::default();
    let push = |waiting: &mut Waiting, address, user, serial: u32| {
        waiting.entry(address).entry(user).insert(u64::from(serial), ConnectionId { index: 0, serial });
    };
    (0..1000).for_each(|serial| push(&mut waiting, 1, "mallory", serial));
    (1000..2000).for_each(|serial| push(&mut waiting, 2, ["u", "v", "w"][serial as usize % 3], serial));
    push(&mut waiting, 1, "alice", 2000);
    push(&mut waiting, 3, "bob", 2001);
    waiting.remove(&1, |users| users.remove(&"mallory", |queue| assert!(queue.remove(&1).is_some())));
    let mut order = Vec::new();
    while let Some(id) = waiting.rotate(|users| users.rotate(|queue| queue.pop_first().map(|(_, id)| id))) {
        order.push(id.serial);
    }
    assert_eq!(order[..8], [0, 1000, 2001, 2000, 1001, 2, 1002, 3]);
    assert_eq!(order.len(), 2001, "all but the one that was removed");
    assert!(waiting.queues.is_empty() && waiting.places.is_empty());
}

#[test]
fn a_long_message_waits_and_short_ones_pass_until_their_user_has_caused_enough() {
    with_tight_worker(|worker, connection| {
        assert!(!worker.must_wait_for_turn(connection, 300), "a short one");
        worker.turns.count(connection, &worker.addresses, CHANGES_OUT_OF_TURN);
        assert!(!worker.must_wait_for_turn(connection, r#"{"type":"heartbeat"}"#.len()));
        assert!(worker.must_wait_for_turn(connection, 300) && connection.is_paused);
        assert!(worker.must_wait_for_turn(connection, 16_000));
        assert_eq!(worker.counters.turns_waited.get(), 1, "it waits once");
        assert_eq!(worker.begin_turn(), None, "not in this tick");
        worker.turns.start_tick();
        assert_eq!(worker.begin_turn(), Some(connection.id));
        assert!(!worker.must_wait_for_turn(connection, 16_000));
        worker.turns.count(connection, &worker.addresses, 250);
        worker.turns.count(connection, &worker.addresses, CHANGES_BEFORE_TURNS);
        assert!(worker.must_wait_for_turn(connection, 300), "the turn is over");
        worker.end_turn();
        worker.turns.forget(connection.id.serial);
        worker.turns.start_tick();
        assert!(!worker.turns.is_tight() && worker.turns.waiting.queues.is_empty());
    });
}

#[test]
fn no_message_that_may_change_something_passes_beyond_the_limit() {
    with_tight_worker(|worker, connection| {
        worker.turns.count(connection, &worker.addresses, CHANGES_PER_TICK - CHANGES_BEFORE_TURNS);
        worker.turns.out_of_turn.clear();
        assert!(!worker.must_wait_for_turn(connection, JOIN_BYTES - 1));
        assert!(worker.must_wait_for_turn(connection, JOIN_BYTES));
    });
}

#[test]
fn a_connection_that_waits_for_its_turn_counts_as_alive() {
    with_tight_worker(|worker, connection| {
        assert!(worker.must_wait_for_turn(connection, 16_000));
        let now = worker.node.tick.fetch_add(1_000_000, std::sync::atomic::Ordering::Relaxed) + 1_000_000;
        assert!(worker.check(connection, now).is_some());
        worker.turns.start_tick();
        worker.begin_turn();
        let now = worker.node.tick.fetch_add(1_000_000, std::sync::atomic::Ordering::Relaxed) + 1_000_000;
        assert!(worker.check(connection, now).is_none());
    });
}

#[test]
fn a_greeting_that_joins_many_rooms_waits_and_one_that_joins_few_does_not() {
    with_tight_worker(|worker, connection| {
        assert!(!worker.must_wait_for_greeting(connection, Some("alice"), 3));
        assert!(worker.must_wait_for_greeting(connection, Some("alice"), 100));
        worker.turns.start_tick();
        assert_eq!(worker.begin_turn(), Some(connection.id));
    });
}
