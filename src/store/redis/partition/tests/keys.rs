//! How many bytes the keys of users take, compared with what changed.

use super::super::user_keys::CHANGE_BYTES;
use super::*;
use crate::presence::Session;
use crate::presence::kick::Kick;

const ROOM_BYTES: usize = 128;

/// A user in 100 rooms with the longest names, each with the longest state.
fn member_of_100_rooms(bench: &mut Bench) -> Arc<Session> {
    let session = bench.registry.open_unleased_session("alice");
    for number in 0..100 {
        let state = State::from(format!("{{\"text\":\"{}\"}}", "x".repeat(1000)));
        bench.registry.join(&session, &room(number), Some(state), bench.now());
    }
    bench.pass_tick();
    assert_eq!(sets(&bench.flush()), 1);
    session
}

fn room(number: usize) -> String {
    format!("{number:0ROOM_BYTES$}")
}

/// The bytes of what is written to users' keys.
fn key_bytes(commands: &[RedisCommand]) -> usize {
    let bytes = commands.iter().map(|command| match command {
        RedisCommand::Set { key, value, .. } => key.len() + value.len(),
        RedisCommand::Expire { key, .. } if key.contains(":u:") => key.len(),
        _ => 0,
    });
    bytes.sum()
}

#[test]
fn the_key_lists_at_most_100_rooms_and_4_kib_of_names_without_states() {
    let check = |rooms: Vec<String>, expected: usize| {
        let mut bench = Bench::connected();
        let session = bench.registry.open_unleased_session("alice");
        for room in &rooms {
            bench.registry.join(&session, room, Some(State::from("{\"mood\":1}".to_owned())), bench.now());
        }
        bench.pass_tick();
        let commands = bench.flush();
        let value = commands.iter().find_map(|command| match command {
            RedisCommand::Set { value, .. } => Some(value),
            _ => None,
        });
        let value: serde_json::Value = serde_json::from_str(value.unwrap()).unwrap();
        assert_eq!(value["rooms"].as_array().unwrap().len(), expected, "{value}");
        assert!(!value.to_string().contains("mood"), "{value}");
    };
    check(vec!["lobby".to_owned()], 1);
    check((0..150).map(|number| format!("room {number}")).collect(), 100);
    check((0..100).map(room).collect(), 4096 / ROOM_BYTES);
}

#[test]
fn a_state_is_written_alone() {
    let mut bench = Bench::connected();
    let session = member_of_100_rooms(&mut bench);
    bench.registry.set_state(&session, &room(0), Some(State::from("{}".to_owned())), bench.now());
    bench.pass_tick();
    let commands = bench.flush();
    assert_eq!(key_bytes(&commands), 0, "{commands:?}");
    let fields = commands.iter().filter_map(|command| match command {
        RedisCommand::HashSet { fields, .. } => Some(fields.len()),
        _ => None,
    });
    assert_eq!(fields.sum::<usize>(), 1);
}

#[test]
fn changes_of_rooms_and_time_pay_for_the_bytes_of_a_long_value() {
    for ticks_between in [1, 10, 50] {
        let mut bench = Bench::connected();
        let session = member_of_100_rooms(&mut bench);
        let (mut written, mut changed, first) = (0, 0, bench.tick);
        for number in 0..1000 {
            match number % 2 {
                0 => drop(bench.registry.leave(&session, &room(0))),
                _ => drop(bench.registry.join(&session, &room(0), None, bench.now())),
            }
            changed += CHANGE_BYTES + ROOM_BYTES;
            (0..ticks_between).for_each(|_| bench.pass_tick());
            written += key_bytes(&bench.flush());
        }
        let paid = 8 * changed + 32 * (bench.tick - first) as usize / 10;
        assert!(written <= paid + 8000, "{written} bytes for {paid}, {ticks_between} ticks between changes");
        assert!(written > paid / 2, "{written} bytes for {paid}: the value is out of date for too long");
    }
}

#[test]
fn a_short_value_is_written_with_each_change() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    for number in 0..10 {
        bench.registry.join(&session, &format!("room {number}"), None, bench.now());
        bench.pass_tick();
        assert_eq!(sets(&bench.flush()), 1, "{number}");
    }
}

#[test]
fn only_the_lease_of_a_long_value_is_renewed_unless_the_key_is_missing() {
    let mut bench = Bench::connected();
    member_of_100_rooms(&mut bench);
    let mut renewals = 0;
    for _ in 0..10 * TTL_TICKS {
        bench.pass_tick();
        let commands = bench.flush();
        assert!(key_bytes(&commands) <= 20, "{commands:?}");
        renewals += usize::from(key_bytes(&commands) > 0);
    }
    assert!((16..=20).contains(&renewals), "{renewals} renewals in 10 leases");
    let mut batch = loop {
        bench.pass_tick();
        if let Some(batch) = bench.next_batch() {
            break batch;
        }
    };
    assert!(matches!(&batch.commands[..], [RedisCommand::Expire { .. }]), "{:?}", batch.commands);
    let outcome = bench.partition.handle_replies(&mut batch, &[RedisReply::Missing], &bench.registry);
    assert_eq!((outcome, sets(&bench.flush())), (WriteOutcome::Done, 1), "a missing key is written again");
}

#[test]
fn a_long_value_of_another_node_is_replaced_when_that_node_is_lost() {
    let mut bench = Bench::connected();
    member_of_100_rooms(&mut bench);
    bench.partition.renew_key("alice");
    let commands = bench.flush();
    assert!(matches!(&commands[..], [RedisCommand::Expire { .. }]), "a release is answered cheaply: {commands:?}");
    bench.partition.rewrite_key("alice");
    assert_eq!(sets(&bench.flush()), 1);
    bench.partition.rewrite_key("bob");
    assert_eq!(bench.flush(), [], "nothing is known of bob");
}

#[test]
fn a_kick_is_repeated_ten_times_per_lease_however_long_the_lease_is() {
    for seconds in [10, 60, 180] {
        let mut bench = Bench::with_ttl(Duration::from_secs(seconds)).connect();
        let kick = Kick { user: "alice".into(), login: Some(7), reason: Reason::Left, requested_unix_ms: None };
        bench.partition.record(StoreEvent::Kick(kick));
        bench.pass_tick();
        let is_kick = |line: &String| line.starts_with("kicked");
        let mut repeats = bench.flush_events().into_iter().filter(is_kick).count();
        let mut last = 0;
        for second in 1..=2 * seconds {
            (0..10).for_each(|_| bench.pass_tick());
            let commands = bench.partition.heartbeat(bench.tick);
            if commands.iter().any(|command| format!("{command:?}").contains("kicked")) {
                assert!(second - last <= seconds.div_ceil(10) + 1, "{second} s, after {last} s");
                (repeats, last) = (repeats + 1, second);
            }
        }
        assert!((9..=12).contains(&repeats), "{repeats} times with a lease of {seconds} s");
    }
}
