//! Which incarnations are alive: their leases, and which incarnation uses which node id. Decides only; does no I/O.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::command::{RedisCommand, RedisReply};
use super::remote_view::{LeaseCheck, MAX_INCARNATIONS, RemoteView};
use super::schema::{FORMAT, Schema};

/// The set of incarnations expires after this many leases without renewal.
const SET_LEASES: u64 = 10;
/// Longer names in the set of incarnations were not written by a node.
const MAX_NAME_BYTES: usize = 256;

/// Renews the lease of this incarnation and reads those of the others.
#[derive(Debug)]
pub struct NodeLeases {
    schema: Arc<Schema>,
    /// The set of incarnations, as it was read last.
    listed: Vec<String>,
    /// The incarnations whose leases are being read.
    requested: Vec<String>,
    /// The key of the set holds something else.
    set_is_broken: bool,
    /// Counts renewals: a node that wants this node's id sees it change.
    heartbeats: u64,
}

impl NodeLeases {
    /// Knows no other incarnation yet.
    #[must_use]
    pub fn new(schema: Arc<Schema>) -> Self {
        Self { schema, listed: Vec::new(), requested: Vec::new(), set_is_broken: false, heartbeats: 0 }
    }

    /// Reads the set of incarnations, without adding this one.
    #[must_use]
    pub fn read_set(&self) -> Vec<RedisCommand> {
        vec![RedisCommand::SetMembers(self.schema.incarnations_key())]
    }

    /// Reads the leases of these incarnations.
    #[must_use]
    pub fn read_leases(&self, incarnations: &[String]) -> Vec<RedisCommand> {
        vec![RedisCommand::MultiGet(incarnations.iter().map(|name| self.schema.lease_key(name)).collect())]
    }

    /// Takes the node id, unless another incarnation uses it.
    #[must_use]
    pub fn claim_id(&self) -> Vec<RedisCommand> {
        let (key, value, ttl_ms) = (self.schema.id_key(), self.schema.incarnation.clone(), self.schema.ttl_ms());
        vec![RedisCommand::SetIfAbsent { key: key.clone(), value, ttl_ms }, RedisCommand::MultiGet(vec![key])]
    }

    /// The incarnation that uses the node id, if it is not this one.
    #[must_use]
    pub fn other_id_owner(&self, replies: &[RedisReply]) -> Option<String> {
        let Some(RedisReply::Texts(owner)) = replies.get(1) else { return None };
        owner.first().cloned().flatten().filter(|owner| *owner != self.schema.incarnation)
    }

    /// Takes the node id from an incarnation that is dead.
    #[must_use]
    pub fn take_over_id(&self) -> Vec<RedisCommand> {
        let (key, value) = (self.schema.id_key(), self.schema.incarnation.clone());
        vec![RedisCommand::Set { key, value, ttl_ms: self.schema.ttl_ms() }]
    }

    /// Gives the node id back, so that the next start need not wait for its lease to end. The lease of the incarnation
    /// stays.
    #[must_use]
    pub fn release_id(&self) -> Vec<RedisCommand> {
        vec![RedisCommand::Unlink(self.schema.id_key())]
    }

    /// Renews the lease of this incarnation and reads all leases. The first command reads this incarnation's own lease
    /// before it is renewed: if it is missing, Redis has lost its data.
    pub fn renew(&mut self, remote_view: &RemoteView) -> Vec<RedisCommand> {
        self.heartbeats += 1;
        let schema = &self.schema;
        let known = remote_view.incarnations().chain(self.listed.iter().map(String::as_str));
        let others: BTreeSet<&str> = known.filter(|name| *name != schema.incarnation).collect();
        self.requested = others.into_iter().map(str::to_owned).collect();
        let names = [&schema.incarnation].into_iter().chain(&self.requested);
        let keys = names.map(|name| schema.lease_key(name)).collect();
        let (set, ttl_ms) = (schema.incarnations_key(), schema.ttl_ms());
        let mut commands = vec![RedisCommand::MultiGet(keys)];
        if std::mem::take(&mut self.set_is_broken) {
            commands.push(RedisCommand::Unlink(set.clone()));
        }
        commands.extend([
            RedisCommand::Set { key: schema.lease_key(&schema.incarnation), value: self.lease(), ttl_ms },
            RedisCommand::Set { key: schema.id_key(), value: schema.incarnation.clone(), ttl_ms },
            RedisCommand::SetAdd { key: set.clone(), member: schema.incarnation.clone() },
            RedisCommand::Expire { key: set.clone(), ttl_ms: (ttl_ms * SET_LEASES).max(60_000) },
            RedisCommand::SetMembers(set),
        ]);
        commands
    }

    /// Takes the replies to [`renew`](Self::renew). True if the set has incarnations whose leases have not been read.
    ///
    /// # Errors
    /// The error that Redis reports.
    pub fn handle_replies(
        &mut self,
        replies: Vec<RedisReply>,
        remote_view: &mut RemoteView,
        now_ms: u64,
    ) -> Result<(LeaseCheck, bool), String> {
        let mut replies = replies.into_iter();
        let (leases, set) = (replies.next(), replies.next_back());
        self.set_is_broken = set == Some(RedisReply::WrongType);
        let refused = replies.find(|reply| matches!(reply, RedisReply::Error(_) | RedisReply::WrongType));
        if let Some(reply) = refused {
            return Err(reply.error_text());
        }
        let (leases, set) = match (leases, set) {
            (Some(RedisReply::Texts(leases)), Some(RedisReply::Texts(set))) => (leases, set),
            (leases, set) => {
                let errors: Vec<_> = leases.into_iter().chain(set).map(|reply| reply.error_text()).collect();
                return Err(errors.join("; "));
            }
        };
        let mut leases = leases.into_iter();
        let has_own_lease = leases.next().flatten().is_some();
        let alive: Vec<_> = self.requested.drain(..).zip(leases.map(|lease| lease.is_some())).collect();
        let check = remote_view.check_leases(has_own_lease, &alive, now_ms);
        let listed = set.into_iter().flatten().filter(|name| name.len() <= MAX_NAME_BYTES);
        // If there are more, dead ones are removed from the set first.
        self.listed = listed.take(MAX_INCARNATIONS).collect();
        let requested: HashSet<&str> = alive.iter().map(|(name, _)| name.as_str()).collect();
        let is_new = |name: &String| *name != self.schema.incarnation && !requested.contains(name.as_str());
        let has_new = self.listed.iter().any(is_new);
        Ok((check, has_new))
    }

    /// Removes dead incarnations from the set.
    #[must_use]
    pub fn delete_incarnations(&self, dead: &[String]) -> Vec<RedisCommand> {
        let set = self.schema.incarnations_key();
        dead.iter().map(|name| RedisCommand::SetRemove { key: set.clone(), member: name.clone() }).collect()
    }

    /// Why this node cannot work with the nodes that have these leases; `None` if it can. The reply is the first one to
    /// [`read_leases`](Self::read_leases) or [`renew`](Self::renew).
    #[must_use]
    pub fn mismatch(&self, leases: Option<&RedisReply>) -> Option<String> {
        let Some(RedisReply::Texts(leases)) = leases else { return None };
        let own = self.schema.partitions;
        leases.iter().flatten().filter_map(|lease| Lease::parse(lease)).find_map(|lease| {
            if lease.format != FORMAT {
                return Some(format!(
                    "other nodes use format {} in Redis, this node uses {FORMAT}: run the same version of rollcall on all \
                     nodes, or give this node another --redis-prefix",
                    lease.format
                ));
            }
            let other = lease.partitions.filter(|partitions| *partitions != own)?;
            Some(format!("other nodes use --redis-partitions {other}, this node uses {own}: all nodes must use the same"))
        })
    }

    fn lease(&self) -> String {
        let Schema { node, partitions, .. } = &*self.schema;
        let heartbeats = self.heartbeats;
        // A node id contains no characters that JSON escapes.
        format!("{{\"node\":\"{node}\",\"format\":{FORMAT},\"partitions\":{partitions},\"heartbeats\":{heartbeats}}}")
    }
}

/// What a lease says about its node.
#[derive(Debug, PartialEq, Eq)]
struct Lease {
    format: u64,
    partitions: Option<usize>,
}

impl Lease {
    /// Reads a lease; `None` if the text was not written by a node. The first format had no number.
    fn parse(text: &str) -> Option<Self> {
        let is_lease = text.starts_with("{\"node\":\"") && text.ends_with('}');
        let (format, partitions) = (number_in(text, "\"format\":"), number_in(text, "\"partitions\":"));
        let partitions = partitions.and_then(|partitions| partitions.try_into().ok());
        is_lease.then_some(Self { format: format.unwrap_or(1), partitions })
    }
}

/// The number after a key of a JSON object whose strings contain no quotes.
fn number_in(text: &str, key: &str) -> Option<u64> {
    let (_, after) = text.split_once(key)?;
    after.split([',', '}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn leases_of_n1() -> NodeLeases {
        let (prefix, node, incarnation) = ("p".to_owned(), "n1".to_owned(), "n1.1".to_owned());
        NodeLeases::new(Arc::new(Schema { prefix, partitions: 4, node, incarnation, ttl: Duration::from_secs(10) }))
    }

    #[test]
    fn a_lease_is_read_back() {
        let lease = leases_of_n1().lease();
        assert_eq!(lease, "{\"node\":\"n1\",\"format\":2,\"partitions\":4,\"heartbeats\":0}");
        assert_eq!(Lease::parse(&lease), Some(Lease { format: FORMAT, partitions: Some(4) }));
        assert_eq!(Lease::parse("{\"node\":"), None);
        assert_eq!(Lease::parse(""), None);
    }

    #[test]
    fn nodes_with_another_format_or_number_of_partitions_do_not_work_together() {
        let check = |lease: &str, expected: &[&str]| {
            let mismatch = leases_of_n1().mismatch(Some(&RedisReply::Texts(vec![None, Some(lease.to_owned())])));
            assert_eq!(mismatch.is_some(), !expected.is_empty(), "{lease}: {mismatch:?}");
            let mismatch = mismatch.unwrap_or_default();
            assert!(expected.iter().all(|words| mismatch.contains(words)), "{lease}: {mismatch}");
        };
        check("{\"node\":\"n2\",\"format\":2,\"partitions\":4,\"heartbeats\":1}", &[]);
        check("{\"node\":\"n2\",\"lanes\":4,\"beat\":1}", &["format 1", "this node uses 2"]);
        check("{\"node\":\"n2\",\"format\":3,\"partitions\":4}", &["format 3", "same version", "--redis-prefix"]);
        check(
            "{\"node\":\"n2\",\"format\":2,\"partitions\":16,\"heartbeats\":1}",
            &["--redis-partitions 16", "uses 4"],
        );
        check("{\"node\":", &[]);
        check("wrong", &[]);
        assert_eq!(leases_of_n1().mismatch(Some(&RedisReply::WrongType)), None);
    }
}
