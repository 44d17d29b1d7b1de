//! What a partition keeps while nothing can be written.

use std::cell::RefCell;

use super::*;

#[test]
fn pending_changes_are_bounded_by_present_and_former_users() {
    let mut bench = Bench::connected();
    let known: Vec<_> = (0..100).map(|user| bench.registry.open_unleased_session(&format!("known{user}"))).collect();
    known.iter().for_each(|session| drop(bench.registry.join(session, "lobby", None, bench.now())));
    bench.pass_tick();
    bench.flush();
    // The connection is lost, and other users come and go for a long time.
    bench.partition.reconnected();
    for round in 0..200 {
        let guests: Vec<_> =
            (0..50).map(|user| bench.registry.open_unleased_session(&format!("{round}-{user}"))).collect();
        guests.iter().for_each(|session| drop(bench.registry.join(session, "lobby", None, bench.now())));
        bench.pass_tick();
        assert!(bench.next_batch().is_none());
        guests.iter().for_each(|session| bench.registry.end_session(session, Reason::Closed));
        bench.pass_tick();
        let pending = bench.partition.pending();
        assert!(pending <= 200, "{pending} are pending after round {round}");
    }
    known.iter().for_each(|session| bench.registry.end_session(session, Reason::Closed));
    bench.pass_tick();
    assert!(bench.partition.pending() <= 200, "{} are pending", bench.partition.pending());
}

#[test]
fn messages_that_cannot_be_published_are_bounded() {
    let mut bench = Bench::new();
    let data: Box<str> = "x".repeat(10_000).into();
    for _ in 0..1000 {
        let (room, user) = ("lobby".into(), Some("alice".into()));
        bench.partition.record(StoreEvent::RoomMessage { room, user, data: data.clone() });
    }
    assert!(bench.partition.message_bytes <= MAX_MESSAGE_BYTES && bench.partition.messages.len() > 10);
}

#[test]
fn a_redis_that_refuses_writes_does_not_make_the_node_remember_users_forever() {
    let mut bench = Bench::connected();
    for round in 0..20 * TTL_TICKS {
        let guest = bench.registry.open_unleased_session(&format!("guest{round}"));
        bench.registry.join(&guest, "lobby", None, bench.now());
        bench.pass_tick();
        // The hash has expired and cannot be written.
        bench.partition.reconnected();
        assert_eq!(bench.verify(&metadata(None, None)), WriteOutcome::HashLost);
        let batch = bench.next_batch().unwrap();
        let refused = vec![RedisReply::Error("OOM".to_owned()); batch.commands.len()];
        let outcome = bench.partition.handle_replies(&batch, &refused, &bench.registry);
        assert!(matches!(outcome, WriteOutcome::Refused(_)));
        bench.partition.take_back(batch, &bench.registry);
        bench.registry.end_session(&guest, Reason::Closed);
        bench.pass_tick();
        let pending = bench.partition.pending() as u64;
        assert!(pending <= 2 * TTL_TICKS + 10, "{pending} are pending in round {round}");
    }
}

/// In each round 50 users and rooms come, are in a batch that is refused, and go. Redis keeps the hash.
fn check_refused_writes(mut come: impl FnMut(&Bench, &str), mut go: impl FnMut(&Bench)) {
    let mut bench = Bench::connected();
    for round in 0..800 {
        (0..50).for_each(|number| come(&bench, &format!("{round}-{number}")));
        bench.pass_tick();
        bench.verify(&metadata(Some("1"), Some("1")));
        let batch = bench.next_batch().unwrap();
        let refused = vec![RedisReply::Error("OOM".to_owned()); batch.commands.len()];
        let outcome = bench.partition.handle_replies(&batch, &refused, &bench.registry);
        assert!(matches!(outcome, WriteOutcome::Refused(_)));
        bench.partition.take_back(batch, &bench.registry);
        go(&bench);
        bench.tick += 3 * TTL_TICKS;
        bench.pass_tick();
        let pending = bench.partition.pending();
        assert!(pending <= MAX_BACKLOG + 200, "{pending} are pending in round {round}");
    }
}

#[test]
fn a_redis_that_keeps_the_hash_but_refuses_writes_does_not_make_the_node_remember_users_forever() {
    let guests = RefCell::new(Vec::new());
    let come = |bench: &Bench, name: &str| {
        let guest = bench.registry.open_unleased_session(name);
        bench.registry.join(&guest, "lobby", None, bench.now());
        guests.borrow_mut().push(guest);
    };
    let go = |bench: &Bench| {
        guests.take().iter().for_each(|guest| bench.registry.end_session(guest, Reason::Closed));
    };
    check_refused_writes(come, go);
}

#[test]
fn a_redis_that_keeps_the_hash_but_refuses_writes_does_not_make_the_node_remember_rooms_forever() {
    let rooms = RefCell::new(Vec::new());
    let come = |bench: &Bench, name: &str| rooms.borrow_mut().push(bench.observe(name));
    let go = |bench: &Bench| {
        rooms.take().iter().for_each(|room| bench.registry.unobserve(room, 0, Audience::new(0)));
    };
    check_refused_writes(come, go);
}

#[test]
fn what_is_pending_of_present_users_does_not_rewrite_the_hash() {
    let mut bench = Bench::connected();
    bench.partition.reconnected();
    for user in 0..MAX_BACKLOG + 1000 {
        let session = bench.registry.open_unleased_session(&format!("user{user}"));
        bench.registry.join(&session, "lobby", None, bench.now());
    }
    bench.pass_tick();
    assert!(bench.partition.pending() > 2 * MAX_BACKLOG);
    assert_eq!(bench.verify(&metadata(Some("1"), Some("1"))), WriteOutcome::Done);
}
