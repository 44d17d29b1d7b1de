//! Which incarnations are alive: their leases, and which incarnation uses which node id. Decides only; does no I/O.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::command::{RedisCommand, RedisReply};
use super::identity::IdentityRules;
use super::remote_view::{LeaseCheck, MAX_INCARNATIONS, MAX_NAME_BYTES, RemoteView};
use super::schema::{FORMAT, Schema};

/// The set of incarnations expires after this many leases without renewal.
const SET_LEASES: u64 = 10;

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
        let known = remote_view.incarnations().chain(remote_view.unknown_incarnations());
        let known = known.chain(self.listed.iter().map(String::as_str));
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
                let is_wrong = |reply: &RedisReply| !matches!(reply, RedisReply::Texts(_));
                let wrong = leases.into_iter().chain(set).find(is_wrong);
                return Err(wrong.map_or_else(|| "an empty reply".to_owned(), |reply| reply.error_text()));
            }
        };
        let mut leases = leases.into_iter();
        let has_own_lease = leases.next().flatten().is_some();
        let requested: HashSet<_> = self.requested.iter().cloned().collect();
        let leases = self.requested.drain(..).zip(leases.map(|lease| lease.as_deref().map(Lease::parse)));
        // Incompatible nodes are reported and otherwise left alone.
        let is_compatible = |lease: &Option<Option<Lease>>| match lease {
            Some(Some(lease)) => lease.mismatch(&self.schema).is_none(),
            _ => true,
        };
        let compatible = leases.filter(|(_, lease)| is_compatible(lease));
        let renewals = |lease: Option<Lease>| lease.and_then(|lease| lease.heartbeats).unwrap_or_default();
        let compatible: Vec<_> = compatible.map(|(name, lease)| (name, lease.map(renewals))).collect();
        let check = remote_view.check_leases(has_own_lease, &compatible, now_ms);
        let listed = set.into_iter().flatten().filter(|name| name.len() <= MAX_NAME_BYTES);
        // If there are more, dead ones are removed from the set first.
        self.listed = listed.take(MAX_INCARNATIONS).collect();
        let is_new = |name: &String| *name != self.schema.incarnation && !requested.contains(name);
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
        let leases = leases.iter().flatten().filter_map(|lease| Lease::parse(lease));
        leases.into_iter().find_map(|lease| lease.mismatch(&self.schema))
    }

    fn lease(&self) -> String {
        let Schema { node, partitions, .. } = &*self.schema;
        let (ttl_ms, heartbeats) = (self.schema.ttl_ms(), self.heartbeats);
        // A node id contains no characters that JSON escapes.
        format!(
            "{{\"node\":\"{node}\",\"format\":{FORMAT},\"partitions\":{partitions},\"ttl_ms\":{ttl_ms},\
             \"heartbeats\":{heartbeats},{}}}",
            self.schema.identity.fields()
        )
    }
}

/// What a lease says about its node.
#[derive(Debug, PartialEq, Eq)]
struct Lease {
    node: String,
    format: u64,
    partitions: Option<usize>,
    ttl_ms: Option<u64>,
    heartbeats: Option<u64>,
    identity: IdentityRules,
}

impl Lease {
    /// Reads a lease; `None` if the text was not written by a node. The first format had no number.
    fn parse(text: &str) -> Option<Self> {
        let (node, _) = text.strip_prefix("{\"node\":\"").filter(|_| text.ends_with('}'))?.split_once('"')?;
        let node = node.to_owned();
        let (format, partitions) = (number_in(text, "\"format\":"), number_in(text, "\"partitions\":"));
        let partitions = partitions.and_then(|partitions| partitions.try_into().ok());
        let (ttl_ms, heartbeats) = (number_in(text, "\"ttl_ms\":"), number_in(text, "\"heartbeats\":"));
        let identity = IdentityRules::parse(text);
        Some(Self { node, format: format.unwrap_or(1), partitions, ttl_ms, heartbeats, identity })
    }

    /// Why a node with this schema and the node of this lease cannot work together.
    fn mismatch(&self, schema: &Schema) -> Option<String> {
        if self.node == schema.node {
            return None; // A former life of the same node. If it is not over, its id is in use.
        }
        if self.format != FORMAT {
            return Some(format!(
                "other nodes use format {} in Redis, this node uses {FORMAT}: run the same version of rollcall on all \
                 nodes, or give this node another --redis-prefix",
                self.format
            ));
        }
        if let Some(other) = self.partitions.filter(|partitions| *partitions != schema.partitions) {
            let own = schema.partitions;
            return Some(format!(
                "other nodes use --redis-partitions {other}, this node uses {own}: all nodes must use the same"
            ));
        }
        if let Some(other) = self.ttl_ms.filter(|ttl_ms| *ttl_ms != schema.ttl_ms()) {
            let show = |ttl| humantime::format_duration(ttl);
            let (other, own) = (show(Duration::from_millis(other)), show(schema.ttl));
            return Some(format!("other nodes use --ttl {other}, this node uses {own}: all nodes must use the same"));
        }
        schema.identity.mismatch(&self.identity)
    }
}

/// The number after a key of a JSON object. In strings, quotes are escaped, so none contains a key.
fn number_in(text: &str, key: &str) -> Option<u64> {
    let (_, after) = text.split_once(key)?;
    after.split([',', '}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases_of_n1() -> NodeLeases {
        let (prefix, node, incarnation) = ("p".to_owned(), "n1".to_owned(), "n1.1".to_owned());
        let ttl = Duration::from_secs(10);
        let identity = IdentityRules::default();
        NodeLeases::new(Arc::new(Schema { prefix, partitions: 4, database: 0, node, incarnation, ttl, identity }))
    }

    #[test]
    fn a_lease_is_read_back() {
        let lease = leases_of_n1().lease();
        let text =
            "{\"node\":\"n1\",\"format\":5,\"partitions\":4,\"ttl_ms\":10000,\"heartbeats\":0,\"identity\":\"open\"}";
        assert_eq!(lease, text);
        let (partitions, ttl_ms, heartbeats) = (Some(4), Some(10_000), Some(0));
        let identity = IdentityRules::default();
        assert_eq!(
            Lease::parse(&lease),
            Some(Lease { node: "n1".to_owned(), format: FORMAT, partitions, ttl_ms, heartbeats, identity })
        );
        assert_eq!(Lease::parse("{\"node\":"), None);
        assert_eq!(Lease::parse(""), None);
    }

    #[test]
    fn nodes_with_another_format_number_of_partitions_ttl_or_identity_do_not_work_together() {
        let check = |lease: &str, expected: &[&str]| {
            let mismatch = leases_of_n1().mismatch(Some(&RedisReply::Texts(vec![None, Some(lease.to_owned())])));
            assert_eq!(mismatch.is_some(), !expected.is_empty(), "{lease}: {mismatch:?}");
            let mismatch = mismatch.unwrap_or_default();
            assert!(expected.iter().all(|words| mismatch.contains(words)), "{lease}: {mismatch}");
        };
        let head = "{\"node\":\"n2\",\"format\":5,";
        check(&format!("{head}\"partitions\":4,\"ttl_ms\":10000,\"heartbeats\":1}}"), &[]);
        check("{\"node\":\"n2\",\"lanes\":4,\"beat\":1}", &["format 1", "this node uses 5"]);
        check("{\"node\":\"n2\",\"format\":6,\"partitions\":4}", &["format 6", "same version", "--redis-prefix"]);
        check(&format!("{head}\"partitions\":16,\"ttl_ms\":10000}}"), &["--redis-partitions 16", "uses 4"]);
        check(&format!("{head}\"partitions\":4,\"ttl_ms\":90000}}"), &["--ttl 1m 30s", "uses 10s"]);
        let head = format!("{head}\"partitions\":4,\"ttl_ms\":10000");
        check(&format!("{head},\"identity\":\"open\"}}"), &[]);
        check(&format!("{head},\"identity\":\"tokens\"}}"), &["mode \"tokens\"", "uses \"open\""]);
        check("{\"node\":\"n1\",\"format\":5,\"partitions\":16,\"ttl_ms\":90000}", &[]);
        check("{\"node\":", &[]);
        check("wrong", &[]);
        assert_eq!(leases_of_n1().mismatch(Some(&RedisReply::WrongType)), None);
    }
}
