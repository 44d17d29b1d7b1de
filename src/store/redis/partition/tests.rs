//! What a lane writes, how often, and what it keeps while nothing can be written.

use std::time::Duration;

use super::*;
use crate::broadcast::Broadcaster;
use crate::broadcast::encoder::Encoders;
use crate::presence::{Now, Settings};

const TTL_TICKS: Tick = 100;

/// A lane with the registry and the ticker that feed it.
struct Bench {
    registry: Arc<Registry>,
    broadcaster: Broadcaster,
    lane: Lane,
    tick: Tick,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings { ttl: 1_000_000, workers: 1, incarnation: 1 };
        let registry = Arc::new(Registry::with_store(settings));
        let (node, run, ttl) = ("n1".to_owned(), "n1.1".to_owned(), Duration::from_secs(10));
        let schema = Arc::new(Schema { prefix: "p".to_owned(), lanes: 1, node, run, ttl });
        let broadcaster = Broadcaster::new(Arc::clone(&registry), 1, Duration::from_millis(100), Encoders::default());
        Self { registry, broadcaster, lane: Lane::new(schema, 0, TTL_TICKS, 7), tick: 0 }
    }

    /// One whose hash has been written.
    fn connected() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.lane.verify(Some(&Reply::Texts(vec![None, None])), &bench.registry), Outcome::Lost);
        let batch = bench.lane.next_batch(&bench.registry, 0).unwrap();
        assert_eq!(bench.lane.answered(&batch, &[], &bench.registry), Outcome::Done);
        bench
    }

    fn pass(&mut self) {
        self.tick += 1;
        self.broadcaster.tick(Now { tick: self.tick, unix_ms: self.tick * 100 });
        for news in self.broadcaster.take_store_events() {
            self.lane.record(news);
        }
        self.lane.expire(self.tick);
    }

    /// Writes everything and returns the commands.
    fn flush(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(mut batch) = self.lane.next_batch(&self.registry, self.tick) {
            assert_eq!(self.lane.answered(&batch, &[], &self.registry), Outcome::Done);
            commands.append(&mut batch.commands);
        }
        commands
    }

    fn now(&self) -> Now {
        Now { tick: self.tick, unix_ms: self.tick * 100 }
    }
}

fn sets(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Set { .. })).count()
}

#[test]
fn a_join_is_one_pipeline_and_a_leave_is_one() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    bench.registry.join(&session, "lobby", None, bench.now());
    bench.pass();
    let commands = bench.flush();
    assert!(
        matches!(
            &commands[..],
            [
                Command::HashSet { .. },
                Command::HashCount { by: 1, .. },
                Command::Keep { .. },
                Command::Publish { .. },
                Command::Set { ttl_ms: 10_000, .. }
            ]
        ),
        "{commands:?}"
    );
    bench.registry.end_session(&session, Reason::Closed);
    bench.pass();
    let commands = bench.flush();
    assert!(
        matches!(
            &commands[..],
            [
                Command::HashRemove { .. },
                Command::HashCount { by: 1, .. },
                Command::Keep { .. },
                Command::Publish { .. },
                Command::Unlink(_)
            ]
        ),
        "{commands:?}"
    );
    assert_eq!(bench.lane.pending(), 0);
}

#[test]
fn a_key_is_renewed_once_in_half_a_lease_whatever_its_tabs_do() {
    let mut bench = Bench::connected();
    let first = bench.registry.open_unleased_session("alice");
    bench.registry.join(&first, "lobby", None, bench.now());
    bench.pass();
    assert_eq!(sets(&bench.flush()), 1);
    let (mut written, mut last) = (0, bench.tick);
    for _ in 0..10 * TTL_TICKS {
        let tab = bench.registry.open_unleased_session("alice");
        bench.registry.join(&tab, "lobby", None, bench.now());
        bench.pass();
        bench.registry.end_session(&tab, Reason::Closed);
        let now = sets(&bench.flush());
        if now > 0 {
            let after = bench.tick - last;
            assert!((TTL_TICKS / 2..=TTL_TICKS * 6 / 10).contains(&after), "after {after} ticks");
            (written, last) = (written + now, bench.tick);
        }
    }
    assert!((16..=20).contains(&written), "{written} times in 10 leases");
}

#[test]
fn what_waits_is_bounded_by_who_was_here_and_who_is() {
    let mut bench = Bench::connected();
    let known: Vec<_> = (0..100).map(|user| bench.registry.open_unleased_session(&format!("known{user}"))).collect();
    known.iter().for_each(|session| drop(bench.registry.join(session, "lobby", None, bench.now())));
    bench.pass();
    bench.flush();
    // The connection is lost, and whoever is here comes and goes for a long time.
    bench.lane.reconnected();
    for round in 0..200 {
        let strangers: Vec<_> =
            (0..50).map(|user| bench.registry.open_unleased_session(&format!("{round}-{user}"))).collect();
        strangers.iter().for_each(|session| drop(bench.registry.join(session, "lobby", None, bench.now())));
        bench.pass();
        assert!(bench.lane.next_batch(&bench.registry, bench.tick).is_none());
        strangers.iter().for_each(|session| bench.registry.end_session(session, Reason::Closed));
        bench.pass();
        assert!(bench.lane.pending() <= 200, "{} wait after round {round}", bench.lane.pending());
    }
    known.iter().for_each(|session| bench.registry.end_session(session, Reason::Closed));
    bench.pass();
    assert!(bench.lane.pending() <= 200, "{} wait", bench.lane.pending());
}

#[test]
fn a_batch_that_failed_is_written_again_as_things_are_by_then() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    bench.registry.join(&session, "lobby", None, bench.now());
    bench.pass();
    let batch = bench.lane.next_batch(&bench.registry, bench.tick).unwrap();
    bench.registry.end_session(&session, Reason::Closed);
    bench.pass();
    bench.lane.failed(batch, &bench.registry);
    let head = |seq: &str| Reply::Texts(vec![Some(seq.to_owned()), Some("1".to_owned())]);
    // Nobody knows whether the batch arrived: both may be.
    assert_eq!(bench.lane.verify(Some(&head("2")), &bench.registry), Outcome::Done);
    let commands = bench.flush();
    assert!(commands.iter().any(|command| matches!(command, Command::HashRemove { .. })), "{commands:?}");
    assert!(commands.iter().any(|command| matches!(command, Command::Unlink(_))), "{commands:?}");
    assert_eq!(sets(&commands), 0);
}

#[test]
fn a_hash_that_is_not_the_last_one_written_is_written_anew() {
    let lost = |texts: Vec<Option<&str>>| {
        let mut bench = Bench::connected();
        let texts = texts.into_iter().map(|text| text.map(str::to_owned)).collect();
        bench.lane.verify(Some(&Reply::Texts(texts)), &bench.registry)
    };
    assert_eq!(lost(vec![Some("1"), Some("1")]), Outcome::Done);
    assert_eq!(lost(vec![None, None]), Outcome::Lost);
    assert_eq!(lost(vec![Some("0"), Some("1")]), Outcome::Lost);
    assert_eq!(lost(vec![Some("2"), Some("1")]), Outcome::Lost);
    assert_eq!(lost(vec![Some("1"), Some("2")]), Outcome::Lost);
    assert_eq!(lost(vec![Some("partial"), Some("1")]), Outcome::Lost);
    let mut bench = Bench::connected();
    assert_eq!(bench.lane.verify(Some(&Reply::WrongType), &bench.registry), Outcome::Lost);
    assert!(matches!(
        bench.lane.verify(Some(&Reply::Failed("READONLY".to_owned())), &bench.registry),
        Outcome::Refused(_)
    ));
}

#[test]
fn what_is_said_while_nobody_can_be_told_has_a_bound() {
    let mut bench = Bench::new();
    let data: Box<str> = "x".repeat(10_000).into();
    for _ in 0..1000 {
        bench.lane.record(StoreEvent::RoomMessage {
            room: "lobby".into(),
            user: Some("alice".into()),
            data: data.clone(),
        });
    }
    assert!(bench.lane.said_bytes <= MAX_SAID_BYTES && bench.lane.said.len() > 10);
}

#[test]
fn a_redis_that_refuses_to_be_written_has_nobody_remembered_for_ever() {
    let mut bench = Bench::connected();
    for round in 0..20 * TTL_TICKS {
        let passing = bench.registry.open_unleased_session(&format!("passing{round}"));
        bench.registry.join(&passing, "lobby", None, bench.now());
        bench.pass();
        // The hash has ended, and may not be written.
        bench.lane.reconnected();
        assert_eq!(bench.lane.verify(Some(&Reply::Texts(vec![None, None])), &bench.registry), Outcome::Lost);
        let batch = bench.lane.next_batch(&bench.registry, bench.tick).unwrap();
        let refused = vec![Reply::Failed("OOM".to_owned()); batch.commands.len()];
        assert!(matches!(bench.lane.answered(&batch, &refused, &bench.registry), Outcome::Refused(_)));
        bench.lane.failed(batch, &bench.registry);
        bench.registry.end_session(&passing, Reason::Closed);
        bench.pass();
        assert!(bench.lane.pending() as u64 <= 2 * TTL_TICKS + 10, "{} wait in round {round}", bench.lane.pending());
    }
}

#[test]
fn who_is_gone_by_the_time_of_the_batch_is_not_told_of_as_held() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    bench.registry.join(&session, "lobby", None, bench.now());
    bench.pass();
    bench.registry.end_session(&session, Reason::Closed);
    bench.tick += 1;
    bench.broadcaster.tick(Now { tick: bench.tick, unix_ms: bench.tick * 100 });
    assert!(bench.lane.next_batch(&bench.registry, bench.tick).is_some_and(|batch| {
        !batch.commands.iter().any(|command| matches!(command, Command::HashSet { .. } | Command::Publish { .. }))
    }));
}
