//! What a partition keeps while nothing can be written.

use std::cell::RefCell;

use super::super::messages::{MAX_APPLICATION_BYTES, MAX_CLIENT_BYTES};
use super::*;
use crate::presence::{MessageStamp, RoomMessage, UserMessage};
use crate::store::LastMessage;

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
        let message = RoomMessage::local(Some("alice".into()), data.clone());
        bench.partition.record(StoreEvent::RoomMessage("lobby".into(), message));
    }
    let clients = bench.partition.messages.len();
    assert!(bench.partition.messages.bytes()[0] <= MAX_CLIENT_BYTES && clients > 10);
    // Clients take nothing from the application.
    for _ in 0..300 {
        bench.partition.record(StoreEvent::UserMessage(UserMessage::local("alice", &data)));
        bench.partition.record(StoreEvent::RoomMessage("lobby".into(), RoomMessage::local(None, data.clone())));
    }
    assert!(bench.partition.messages.bytes()[1] <= MAX_APPLICATION_BYTES && bench.partition.messages.len() > 400);
    let dropped = 1600 - bench.partition.messages.len() as u64;
    assert_eq!([(); 2].map(|()| bench.partition.take_dropped_messages()), [dropped, 0]);
}

#[test]
fn events_with_many_messages_are_split_and_stay_in_order() {
    let mut bench = Bench::connected();
    let data = "1".repeat(16_000);
    for number in 0..100 {
        let messages = &bench.registry.application_messages;
        assert!(messages.add(UserMessage::local(&format!("user{number}"), &data)));
    }
    bench.pass_tick();
    let mut first = bench.next_batch().unwrap();
    let refused = vec![RedisReply::Error("READONLY".to_owned()); first.commands.len()];
    bench.partition.handle_replies(&mut first, &refused, &bench.registry);
    bench.partition.take_back(first, &bench.registry);
    assert_eq!(bench.partition.messages.len(), 100);
    let mut bench = bench.connect();
    let commands = bench.flush();
    let event_bytes = |command: &RedisCommand| match command {
        RedisCommand::Publish { message, .. } => message.len(),
        _ => 0,
    };
    let longest = commands.iter().map(event_bytes).max().unwrap();
    assert!((200_000..300_000).contains(&longest), "{longest}");
    let numbers = commands.iter().filter_map(|command| match command {
        RedisCommand::Publish { message, .. } => Some(message),
        _ => None,
    });
    let lines = numbers.flat_map(|message| message.lines().skip(1)).filter(|line| line.starts_with("to_user\t"));
    let numbers: Vec<u64> = lines.map(|line| line.split('\t').nth(3).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
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
        let mut batch = bench.next_batch().unwrap();
        let refused = vec![RedisReply::Error("OOM".to_owned()); batch.commands.len()];
        let outcome = bench.partition.handle_replies(&mut batch, &refused, &bench.registry);
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
        let mut batch = bench.next_batch().unwrap();
        let refused = vec![RedisReply::Error("OOM".to_owned()); batch.commands.len()];
        let outcome = bench.partition.handle_replies(&mut batch, &refused, &bench.registry);
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

#[test]
fn lost_last_messages_are_written_again_between_heartbeats_a_limited_number_at_a_time() {
    let last = Arc::new(LastMessages::shared(1));
    let mut bench = Bench::new();
    bench.partition = bench.partition.with_last_messages(Arc::clone(&last));
    let mut bench = bench.connect();
    let stamp = MessageStamp { unix_ms: 1, incarnation: 1, number: 1 };
    let message = LastMessage { stamp, data: "x".repeat(MAX_RESENT_BYTES / 8).into() };
    let names: Vec<Arc<str>> = (0..20).map(|number| format!("cache-{number}").into()).collect();
    names.iter().for_each(|room| last.published(room, message.clone()));
    let sets = |bench: &mut Bench| {
        let commands = bench.flush();
        let is_set =
            |command: &&RedisCommand| matches!(command, RedisCommand::Set { .. } | RedisCommand::SetIfAbsent { .. });
        commands.iter().filter(is_set).count()
    };
    assert_eq!(sets(&mut bench), 20, "what is new is not limited");
    last.lost(0);
    let mut written = Vec::new();
    while last.lost_messages(0) > 0 {
        let _ = bench.partition.heartbeat(bench.tick);
        written.push(sets(&mut bench));
    }
    assert_eq!(written, [8, 8, 4]);
}

#[test]
fn other_nodes_are_told_to_read_a_last_message_that_was_repaired() {
    let last = Arc::new(LastMessages::shared(1));
    let mut bench = Bench::new();
    bench.partition = bench.partition.with_last_messages(Arc::clone(&last));
    let mut bench = bench.connect();
    let room: Arc<str> = "cache-a".into();
    let message = |number| LastMessage { stamp: MessageStamp { unix_ms: 1, incarnation: 1, number }, data: "1".into() };
    last.published(&room, message(2));
    assert_eq!(bench.flush_events(), Vec::<String>::new());
    last.listens(0);
    let _ = last.find(&room);
    let (number, rooms) = last.take_questions(0, 1);
    last.answered(0, number, rooms.into_iter().map(|room| (room, Some((message(1), Duration::from_secs(1))))));
    let _ = bench.partition.heartbeat(bench.tick);
    assert_eq!(bench.flush_events(), ["history"]);
}
