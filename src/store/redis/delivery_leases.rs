//! The lease of a partition's webhooks: one node has it, renews it with each heartbeat, and says how far it has come.
//! Decides only; does no I/O.
//!
//! The value is `<incarnation>\t<delivered>\t<version>`: all changes before the time `delivered` (in milliseconds since
//! the Unix epoch) are delivered, and no event had a higher version. A node that stops leaves out its incarnation.

use std::sync::Arc;

use super::command::{RedisCommand, RedisReply};
use super::schema::Schema;
use crate::store::deliveries::{Deliveries, Progress};

/// A node that has just started takes a lease only if it has seen none this often: nodes that have followed the changes
/// take it at their next heartbeat.
const PATIENCE: u32 = 5;

/// The lease of one partition.
#[derive(Debug)]
pub(super) struct DeliveryLease {
    schema: Arc<Schema>,
    partition: usize,
    deliveries: Arc<Deliveries>,
    /// When the commands in flight were made, and whether they renew the lease.
    asked: (u64, bool),
    /// How often in a row nobody had the lease.
    absent: u32,
}

impl DeliveryLease {
    pub(super) fn new(schema: Arc<Schema>, partition: usize, deliveries: Arc<Deliveries>) -> Self {
        Self { schema, partition, deliveries, asked: (0, false), absent: 0 }
    }

    /// Renews the lease, or takes it if no node has it. A node that does not know the others since `degraded_since`
    /// has not delivered what it does not know. Empty if this node stops.
    pub(super) fn renew(&mut self, degraded_since: Option<u64>) -> Vec<RedisCommand> {
        if self.deliveries.is_over() {
            return Vec::new();
        }
        let is_renewal = self.deliveries.has(self.partition);
        self.asked = (self.deliveries.asked(), is_renewal);
        let key = self.schema.deliveries_key(self.partition);
        let own = self.deliveries.own(self.partition);
        let delivered_unix_ms = own.delivered_unix_ms.min(degraded_since.unwrap_or(u64::MAX));
        let value = value(&self.schema.incarnation, Progress { delivered_unix_ms, ..own });
        let (read, ttl_ms) = (RedisCommand::MultiGet(vec![key.clone()]), self.schema.ttl_ms());
        let must_wait = self.absent < PATIENCE && self.deliveries.is_fresh(self.partition);
        match is_renewal {
            true => vec![read, RedisCommand::Set { key, value, ttl_ms }],
            false if must_wait => vec![read],
            false => vec![RedisCommand::SetIfAbsent { key, value, ttl_ms }, read],
        }
    }

    /// Takes the replies to [`renew`](Self::renew).
    ///
    /// # Errors
    /// The error that Redis reports.
    pub(super) fn handle_replies(&mut self, replies: &[RedisReply]) -> Result<(), String> {
        let (asked, is_renewal) = self.asked;
        if let Some(error) = replies.iter().find(|reply| matches!(reply, RedisReply::Error(_))) {
            return Err(error.error_text());
        }
        let texts = replies.iter().find_map(|reply| match reply {
            RedisReply::Texts(texts) => Some(texts),
            _ => None,
        });
        let text = texts.and_then(|texts| texts.first()).and_then(Option::as_deref);
        self.absent = if text.is_none() { self.absent.saturating_add(1) } else { 0 };
        match text.map(parse) {
            // Redis has lost the lease of this node, which is renewed just now.
            None if is_renewal => self.deliveries.acquired(self.partition, asked),
            Some(Some((holder, _))) if holder == self.schema.incarnation => {
                self.deliveries.acquired(self.partition, asked);
            }
            Some(Some((holder, progress))) => self.deliveries.saw(self.partition, progress, holder.is_empty()),
            // Something else is there, or nothing any more. It expires, or another node takes it.
            None | Some(None) => {}
        }
        Ok(())
    }

    /// Hands the lease over: other nodes read how far this one has come, and take it when it expires.
    pub(super) fn release(&self) -> Option<RedisCommand> {
        let ttl_ms = 2 * self.schema.heartbeat_interval().as_millis() as u64;
        let (key, value) = (self.schema.deliveries_key(self.partition), value("", self.deliveries.own(self.partition)));
        self.deliveries.has(self.partition).then_some(RedisCommand::Set { key, value, ttl_ms })
    }
}

fn value(holder: &str, Progress { delivered_unix_ms, version }: Progress) -> String {
    format!("{holder}\t{delivered_unix_ms}\t{version}")
}

fn parse(text: &str) -> Option<(&str, Progress)> {
    let mut parts = text.split('\t');
    let (holder, delivered, version) = (parts.next()?, parts.next()?, parts.next()?);
    Some((holder, Progress { delivered_unix_ms: delivered.parse().ok()?, version: version.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    /// A time long after the start of all nodes.
    const LATER: u64 = 1 << 50;

    /// A node, and the Redis that all share. Keys expire when a test removes them.
    struct Node(DeliveryLease);

    type Keys = HashMap<String, String>;

    impl Node {
        fn new(name: &str) -> Self {
            let (prefix, node, ttl) = ("p".to_owned(), name.to_owned(), Duration::from_secs(60));
            let (incarnation, identity) = (format!("{name}.1"), Default::default());
            let schema = Schema { prefix, partitions: 1, database: 0, node, incarnation, ttl, identity };
            Self(DeliveryLease::new(Arc::new(schema), 0, Arc::new(Deliveries::new(1, ttl))))
        }

        fn heartbeat(&mut self, keys: &mut Keys) {
            let commands = self.0.renew(None);
            let replies: Vec<_> = commands.into_iter().map(|command| execute(keys, command)).collect();
            self.0.handle_replies(&replies).unwrap();
        }

        /// The lease is free: it takes it after some heartbeats.
        fn begin(&mut self, keys: &mut Keys) {
            for _ in 0..PATIENCE {
                self.heartbeat(keys);
                assert!(!self.delivers(), "nodes that know more come first");
            }
            self.heartbeat(keys);
            assert!(self.delivers());
        }

        fn delivers(&self) -> bool {
            self.0.deliveries.term(0).is_some()
        }
    }

    fn execute(keys: &mut Keys, command: RedisCommand) -> RedisReply {
        match command {
            RedisCommand::MultiGet(names) => {
                RedisReply::Texts(names.iter().map(|name| keys.get(name).cloned()).collect())
            }
            RedisCommand::SetIfAbsent { key, value, .. } => {
                keys.entry(key).or_insert(value);
                RedisReply::Done
            }
            RedisCommand::Set { key, value, .. } => {
                keys.insert(key, value);
                RedisReply::Done
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_node_delivers_until_its_lease_ends() {
        let (mut a, mut b, mut keys) = (Node::new("a"), Node::new("b"), Keys::new());
        a.begin(&mut keys);
        for _ in 0..3 {
            a.heartbeat(&mut keys);
            b.heartbeat(&mut keys);
            assert_eq!((a.delivers(), b.delivers()), (true, false));
        }
        let progress = Progress { delivered_unix_ms: LATER, version: 7 };
        a.0.deliveries.progressed(0, progress);
        a.heartbeat(&mut keys);
        b.heartbeat(&mut keys);
        keys.clear(); // a dies.
        b.heartbeat(&mut keys);
        let term = b.0.deliveries.term(0).unwrap();
        assert_eq!(term.former.unwrap().0, progress);
        assert!(!term.is_handed_over && !term.is_fresh);
        a.heartbeat(&mut keys);
        assert_eq!((a.delivers(), b.delivers()), (false, true), "a returns: it has the lease no longer");
    }

    #[test]
    fn a_node_that_stops_hands_over_and_one_whose_lease_is_lost_keeps_it() {
        let (mut a, mut b, mut keys) = (Node::new("a"), Node::new("b"), Keys::new());
        a.begin(&mut keys);
        a.0.deliveries.progressed(0, Progress { delivered_unix_ms: LATER, version: 7 });
        keys.clear(); // Redis restarts.
        a.heartbeat(&mut keys);
        assert_eq!(a.0.deliveries.term(0).unwrap().number, 1);
        assert_eq!(b.0.release(), None);
        execute(&mut keys, a.0.release().unwrap());
        b.heartbeat(&mut keys);
        assert!(!b.delivers());
        keys.clear();
        b.heartbeat(&mut keys);
        assert!(b.0.deliveries.term(0).unwrap().is_handed_over);
    }

    #[test]
    fn a_node_that_has_just_started_takes_a_lease_only_if_no_other_does() {
        let (mut a, mut b, mut keys) = (Node::new("a"), Node::new("b"), Keys::new());
        a.begin(&mut keys);
        a.0.deliveries.progressed(0, Progress { delivered_unix_ms: LATER, version: 7 });
        a.heartbeat(&mut keys);
        b.heartbeat(&mut keys);
        // a stops. Its successor begins, and sees how far a has come, but does not know what was not delivered.
        a.0.deliveries.progressed(0, Progress { delivered_unix_ms: 1, version: 7 });
        execute(&mut keys, a.0.release().unwrap());
        let mut successor = Node::new("a2");
        successor.heartbeat(&mut keys);
        keys.clear();
        successor.heartbeat(&mut keys);
        b.heartbeat(&mut keys);
        assert_eq!((successor.delivers(), b.delivers()), (false, true));
        // Nobody else is there.
        successor.heartbeat(&mut keys);
        keys.clear();
        successor.begin(&mut keys);
        assert!(successor.0.deliveries.term(0).unwrap().is_fresh);
    }

    #[test]
    fn what_a_degraded_node_does_not_know_it_has_not_delivered() {
        let (mut a, mut b, mut keys) = (Node::new("a"), Node::new("b"), Keys::new());
        a.begin(&mut keys);
        a.0.deliveries.progressed(0, Progress { delivered_unix_ms: 50, version: 7 });
        for command in a.0.renew(Some(30)) {
            execute(&mut keys, command);
        }
        b.heartbeat(&mut keys);
        assert_eq!(b.0.deliveries.seen(0).unwrap().delivered_unix_ms, 30);
        for other in ["", "x", "a.1\tx\t1"] {
            keys.values_mut().for_each(|value| other.clone_into(value));
            b.heartbeat(&mut keys);
            assert!(!b.delivers(), "{other:?} is not a lease");
        }
    }
}
