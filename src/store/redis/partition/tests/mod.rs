//! What a partition writes, and how often.

mod keys;
mod outages;

use std::time::Duration;

use super::*;
use crate::broadcast::Broadcaster;
use crate::broadcast::encoder::Encoders;
use crate::presence::{Audience, Now, Settings};

const TTL_TICKS: Tick = 100;

/// A partition with the registry and the ticker that feed it.
struct Bench {
    registry: Arc<Registry>,
    broadcaster: Broadcaster,
    partition: Partition,
    tick: Tick,
}

impl Bench {
    fn new() -> Self {
        Self::with_ttl(Duration::from_secs(10))
    }

    fn with_ttl(ttl: Duration) -> Self {
        let settings = Settings { ttl: 1_000_000, workers: 1, incarnation: 1 };
        let registry = Arc::new(Registry::with_store(settings));
        let (node, incarnation) = ("n1".to_owned(), "n1.1".to_owned());
        let ttl_ticks = ttl.as_secs() * TTL_TICKS / 10;
        let identity = crate::store::redis::IdentityRules::default();
        let prefix = "p".to_owned();
        let schema = Arc::new(Schema { prefix, partitions: 1, database: 0, node, incarnation, ttl, identity });
        let broadcaster = Broadcaster::new(Arc::clone(&registry), 1, Duration::from_millis(100), Encoders::default());
        Self { registry, broadcaster, partition: Partition::new(schema, 0, ttl_ticks, 7), tick: 0 }
    }

    /// A partition whose hash is written.
    fn connected() -> Self {
        Self::new().connect()
    }

    fn connect(self) -> Self {
        let mut bench = self;
        assert_eq!(bench.verify(&metadata(None, None)), WriteOutcome::HashLost);
        let mut batch = bench.next_batch().unwrap();
        assert_eq!(bench.partition.handle_replies(&mut batch, &[], &bench.registry), WriteOutcome::Done);
        bench
    }

    fn pass_tick(&mut self) {
        self.tick += 1;
        self.broadcaster.tick(self.now());
        for event in self.broadcaster.take_store_events() {
            self.partition.record(event);
        }
        self.partition.mark_due(self.tick);
    }

    fn verify(&mut self, reply: &RedisReply) -> WriteOutcome {
        self.partition.verify(std::slice::from_ref(reply), &self.registry)
    }

    fn next_batch(&mut self) -> Option<WriteBatch> {
        self.partition.next_batch(&self.registry, self.tick)
    }

    /// Writes everything and returns the commands.
    fn flush(&mut self) -> Vec<RedisCommand> {
        let mut commands = Vec::new();
        while let Some(mut batch) = self.next_batch() {
            assert_eq!(self.partition.handle_replies(&mut batch, &[], &self.registry), WriteOutcome::Done);
            commands.append(&mut batch.commands);
        }
        commands
    }

    /// Writes everything and returns the lines of all events.
    fn flush_events(&mut self) -> Vec<String> {
        let commands = self.flush();
        let messages = commands.iter().filter_map(|command| match command {
            RedisCommand::Publish { message, .. } => Some(message),
            _ => None,
        });
        messages.flat_map(|message| message.lines().skip(1)).map(str::to_owned).collect()
    }

    fn observe(&self, room: &str) -> Arc<crate::presence::Room> {
        self.registry.observe(room, 0, Audience::new(0), true).room
    }

    fn now(&self) -> Now {
        Now { tick: self.tick, unix_ms: self.tick * 100 }
    }
}

/// The reply to a request for the metadata of a hash.
fn metadata(last_seq: Option<&str>, revision: Option<&str>) -> RedisReply {
    RedisReply::Texts([last_seq, revision].map(|text| text.map(str::to_owned)).into())
}

fn sets(commands: &[RedisCommand]) -> usize {
    commands.iter().filter(|command| matches!(command, RedisCommand::Set { .. })).count()
}

#[test]
fn a_join_is_one_pipeline_and_a_leave_is_one() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    bench.registry.join(&session, "lobby", None, bench.now());
    bench.pass_tick();
    let commands = bench.flush();
    assert!(
        matches!(
            &commands[..],
            [
                RedisCommand::HashSet { .. },
                RedisCommand::HashIncrement { by: 1, .. },
                RedisCommand::Expire { .. },
                RedisCommand::Publish { .. },
                RedisCommand::Set { ttl_ms: 10_000, .. }
            ]
        ),
        "{commands:?}"
    );
    bench.registry.end_session(&session, Reason::Closed);
    bench.pass_tick();
    let commands = bench.flush();
    assert!(
        matches!(
            &commands[..],
            [
                RedisCommand::HashDelete { .. },
                RedisCommand::HashIncrement { by: 1, .. },
                RedisCommand::Expire { .. },
                RedisCommand::Publish { .. },
                RedisCommand::Unlink(_)
            ]
        ),
        "{commands:?}"
    );
    assert_eq!(bench.partition.pending(), 0);
}

#[test]
fn a_key_is_renewed_once_per_half_lease_whatever_the_user_does() {
    let mut bench = Bench::connected();
    let first = bench.registry.open_unleased_session("alice");
    bench.registry.join(&first, "lobby", None, bench.now());
    bench.pass_tick();
    assert_eq!(sets(&bench.flush()), 1);
    let (mut written, mut last) = (0, bench.tick);
    for _ in 0..10 * TTL_TICKS {
        let tab = bench.registry.open_unleased_session("alice");
        bench.registry.join(&tab, "lobby", None, bench.now());
        bench.pass_tick();
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
fn a_failed_batch_is_written_again_with_the_present_values() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    bench.registry.join(&session, "lobby", None, bench.now());
    bench.pass_tick();
    let batch = bench.next_batch().unwrap();
    bench.registry.end_session(&session, Reason::Closed);
    bench.pass_tick();
    bench.partition.take_back(batch, &bench.registry);
    // Whether the batch arrived is unknown: both are possible.
    assert_eq!(bench.verify(&metadata(Some("2"), Some("1"))), WriteOutcome::Done);
    let commands = bench.flush();
    assert!(commands.iter().any(|command| matches!(command, RedisCommand::HashDelete { .. })), "{commands:?}");
    assert!(commands.iter().any(|command| matches!(command, RedisCommand::Unlink(_))), "{commands:?}");
    assert_eq!(sets(&commands), 0);
}

#[test]
fn a_hash_that_differs_from_the_last_one_written_is_rewritten() {
    let outcome = |last_seq, revision| Bench::connected().verify(&metadata(last_seq, revision));
    assert_eq!(outcome(Some("1"), Some("1")), WriteOutcome::Done);
    assert_eq!(outcome(None, None), WriteOutcome::HashLost);
    assert_eq!(outcome(Some("0"), Some("1")), WriteOutcome::HashLost);
    assert_eq!(outcome(Some("2"), Some("1")), WriteOutcome::HashLost);
    assert_eq!(outcome(Some("1"), Some("2")), WriteOutcome::HashLost);
    assert_eq!(outcome(Some("partial"), Some("1")), WriteOutcome::HashLost);
    let mut bench = Bench::connected();
    assert_eq!(bench.verify(&RedisReply::WrongType), WriteOutcome::HashLost);
    assert!(matches!(bench.verify(&RedisReply::Error("READONLY".to_owned())), WriteOutcome::Refused(_)));
}

#[test]
fn a_user_who_left_before_the_batch_is_made_is_not_published_as_held() {
    let mut bench = Bench::connected();
    let session = bench.registry.open_unleased_session("alice");
    bench.registry.join(&session, "lobby", None, bench.now());
    bench.pass_tick();
    bench.registry.end_session(&session, Reason::Closed);
    bench.tick += 1;
    bench.broadcaster.tick(bench.now());
    let batch = bench.next_batch().unwrap();
    let tells_of_alice =
        |command: &RedisCommand| matches!(command, RedisCommand::HashSet { .. } | RedisCommand::Publish { .. });
    assert!(!batch.commands.iter().any(tells_of_alice), "{:?}", batch.commands);
}

#[test]
fn occupied_rooms_are_published_with_the_tick_and_exact_numbers_within_a_second() {
    let mut bench = Bench::connected();
    let room = bench.observe("a:b");
    bench.pass_tick();
    assert_eq!(bench.flush_events(), ["observers\ta%3Ab:\t1"]);
    let mut published = Vec::new();
    for _ in 0..100 {
        bench.observe("a:b");
        bench.pass_tick();
        published.extend(bench.flush_events());
    }
    assert!((9..=10).contains(&published.len()), "once per second: {published:?}");
    let last = published.pop().unwrap();
    let count: u64 = last.rsplit('\t').next().unwrap().parse().unwrap();
    assert!((91..=101).contains(&count), "not older than a second: {last}");
    for _ in 0..101 {
        bench.registry.unobserve(&room, 0, Audience::new(0));
    }
    bench.pass_tick();
    assert_eq!(bench.flush_events(), ["observers\ta%3Ab:\t0"]);
    (0..20).for_each(|_| bench.pass_tick());
    assert_eq!((bench.flush(), bench.partition.pending()), (Vec::new(), 0));
}

#[test]
fn an_observer_who_comes_and_goes_between_two_ticks_is_not_counted_forever() {
    let mut bench = Bench::connected();
    let room = bench.observe("lobby");
    bench.pass_tick();
    bench.observe("lobby");
    assert_eq!(bench.flush_events(), ["observers\tlobby:\t1"], "the number of the last tick");
    bench.registry.unobserve(&room, 0, Audience::new(0));
    (0..20).for_each(|_| bench.pass_tick());
    assert_eq!(bench.flush_events(), [""; 0]);
    bench.observe("lobby");
    assert_eq!(bench.verify(&metadata(None, None)), WriteOutcome::HashLost);
    let commands = bench.flush();
    let written = ("lobby:".to_owned(), "1".to_owned());
    let has_it =
        |command: &RedisCommand| matches!(command, RedisCommand::HashSet { fields, .. } if fields.contains(&written));
    assert!(commands.iter().any(has_it), "a rewritten hash has the number of the last tick too: {commands:?}");
}

#[test]
fn numbers_of_observers_are_in_the_hash_and_in_a_rewritten_one() {
    let mut bench = Bench::connected();
    let lobby = bench.observe("lobby");
    bench.observe("attic");
    bench.pass_tick();
    let is_field = |field: &(String, String)| field.0 == "lobby:" && field.1 == "1";
    let has_field = |commands: &[RedisCommand]| {
        let mut sets = commands.iter().filter_map(|command| match command {
            RedisCommand::HashSet { fields, .. } => Some(fields),
            _ => None,
        });
        sets.any(|fields| fields.iter().any(is_field))
    };
    assert!(has_field(&bench.flush()));
    assert_eq!(bench.verify(&metadata(None, None)), WriteOutcome::HashLost);
    assert!(has_field(&bench.flush()), "a lost hash is rewritten with them");
    bench.registry.unobserve(&lobby, 0, Audience::new(0));
    bench.pass_tick();
    let deleted = vec!["lobby:".to_owned()];
    let is_deletion =
        |command: &RedisCommand| matches!(command, RedisCommand::HashDelete { fields, .. } if *fields == deleted);
    let commands = bench.flush();
    assert!(commands.iter().any(is_deletion), "{commands:?}");
}

#[test]
fn a_failed_batch_with_observers_is_written_again_with_the_present_number() {
    let mut bench = Bench::connected();
    let room = bench.observe("lobby");
    bench.pass_tick();
    let batch = bench.next_batch().unwrap();
    bench.registry.unobserve(&room, 0, Audience::new(0));
    bench.pass_tick();
    bench.partition.take_back(batch, &bench.registry);
    assert_eq!(bench.verify(&metadata(Some("1"), Some("1"))), WriteOutcome::Done);
    assert_eq!(bench.flush_events(), ["observers\tlobby:\t0"]);
}

#[test]
fn a_message_of_the_application_has_no_user() {
    let mut bench = Bench::connected();
    assert!(bench.registry.publish_as_application("lobby", "{\"text\":\"hello\"}"));
    bench.pass_tick();
    assert_eq!(bench.flush_events(), ["message\tlobby:\t100\t1\t{\"text\":\"hello\"}"]);
}
