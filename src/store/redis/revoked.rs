//! The list of revocations that nodes share. Decides only; does no I/O.
//!
//! Each change of the list in Redis gives it another version. Nodes read the version whenever they renew their leases,
//! and the list when the version is another one, the list is gone, or the connection is new: so a node learns what it
//! missed, and Redis gets back what it lost.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::warn;

use super::command::{RedisCommand, RedisReply};
use super::schema::Schema;
use crate::revocations::{MAX_MERGED, Merged, Revocation, Revocations, Target};

/// Entries stay in Redis for this time after their end: a node whose clock is ahead must not delete what others write
/// again.
const KEEP_S: u64 = 3600;
/// The longest lease of the list: nodes write no entries that last longer, and Redis refuses times far ahead.
const MAX_TTL_S: u64 = 400 * 24 * 3600;
/// The limit of members in one command.
const MAX_MEMBERS: usize = 1000;

/// Exchanges revocations with the other nodes.
#[derive(Debug)]
pub struct RevokedList {
    schema: Arc<Schema>,
    /// `None` if this node checks no credentials.
    revocations: Option<Arc<Revocations>>,
    /// The version of the list that was merged last; `None` if the list has to be read.
    seen: Option<Option<String>>,
    /// Counts the changes by this node.
    writes: u64,
}

/// What to write after the list was read.
#[derive(Debug)]
pub struct RevokedWrites {
    /// The commands.
    pub commands: Vec<RedisCommand>,
    /// The last change of this node that the list includes then.
    version: u64,
}

impl RevokedList {
    /// A list that has not been read.
    #[must_use]
    pub fn new(schema: Arc<Schema>, revocations: Option<Arc<Revocations>>) -> Self {
        Self { schema, revocations, seen: None, writes: 0 }
    }

    /// The connection is new: anything may have happened.
    pub fn reconnected(&mut self) {
        self.seen = None;
    }

    /// Asks whether there is something to read. Nothing if this node needs no list.
    #[must_use]
    pub fn look(&self) -> Vec<RedisCommand> {
        if self.revocations.is_none() {
            return Vec::new();
        }
        let key = self.schema.revoked_key();
        vec![RedisCommand::MultiGet(vec![self.schema.revoked_version_key()]), RedisCommand::TimeToLive(key)]
    }

    /// Whether the list has to be read, after the replies to [`look`](Self::look).
    ///
    /// # Errors
    /// The error that Redis reports.
    pub fn must_read(&self, replies: &[RedisReply]) -> Result<bool, String> {
        let (Some(RedisReply::Texts(version)), Some(RedisReply::Number(left_ms))) = (replies.first(), replies.get(1))
        else {
            return Err(error_in(replies));
        };
        let has_entries = self.revocations.as_ref().is_some_and(|revocations| !revocations.is_empty());
        let is_lost = *left_ms < 0 && has_entries;
        Ok(is_lost || self.seen.as_ref() != Some(&version.first().cloned().flatten()))
    }

    /// Reads the version, and then the list: a change in between is noticed later. Old entries are deleted.
    #[must_use]
    pub fn read(&self, now_s: u64) -> Vec<RedisCommand> {
        let key = self.schema.revoked_key();
        vec![
            RedisCommand::MultiGet(vec![self.schema.revoked_version_key()]),
            RedisCommand::SortedSetRemoveBelow { key: key.clone(), score: now_s.saturating_sub(KEEP_S) },
            RedisCommand::SortedSetScores { key, last: MAX_MERGED },
        ]
    }

    /// Takes the replies to [`read`](Self::read). Returns what to write.
    ///
    /// # Errors
    /// The error that Redis reports.
    pub fn merge(&mut self, replies: &[RedisReply], now_s: u64) -> Result<RevokedWrites, String> {
        let mut commands = Vec::new();
        let Some(revocations) = &self.revocations else { return Ok(RevokedWrites { commands, version: 0 }) };
        let key = self.schema.revoked_key();
        let (version, members) = match replies {
            [RedisReply::Texts(version), RedisReply::Done, RedisReply::Scores(members)] => (version, &members[..]),
            [RedisReply::Texts(version), RedisReply::WrongType, RedisReply::WrongType] => {
                commands.push(RedisCommand::Unlink(key.clone()));
                (version, &[][..])
            }
            others => return Err(error_in(others)),
        };
        // Nodes write only entries; leave anything else alone.
        let stored: Vec<_> = members.iter().filter_map(|(text, until)| Revocation::parse(text, *until)).collect();
        let Merged { missing, version: merged, left_out } = revocations.merge(stored.clone(), now_s);
        if left_out > 0 {
            warn!(left_out, "the list of revocations in Redis has more entries than a node can hold");
        }
        let last_end = stored.iter().chain(&missing).map(|entry| entry.until).max();
        let superseded = superseded(&stored, &missing);
        for entries in missing.chunks(MAX_MEMBERS) {
            let members = entries.iter().map(|entry| (entry.until, entry.text())).collect();
            commands.push(RedisCommand::SortedSetAdd { key: key.clone(), members });
        }
        for members in superseded.chunks(MAX_MEMBERS) {
            commands.push(RedisCommand::SortedSetRemove { key: key.clone(), members: members.to_vec() });
        }
        if let Some(last_end) = last_end {
            let ttl_ms = (last_end + KEEP_S).saturating_sub(now_s).clamp(1, MAX_TTL_S) * 1000;
            let version_key = self.schema.revoked_version_key();
            if missing.is_empty() {
                commands.push(RedisCommand::Expire { key: version_key, ttl_ms });
            } else {
                self.writes += 1;
                let value = format!("{}.{}", self.schema.incarnation, self.writes);
                commands.push(RedisCommand::Set { key: version_key, value, ttl_ms });
            }
            commands.push(RedisCommand::Expire { key, ttl_ms });
        }
        // Not the version that is written now: another node may have written between the two.
        self.seen = Some(version.first().cloned().flatten());
        Ok(RevokedWrites { commands, version: merged })
    }

    /// Takes the replies to what [`merge`](Self::merge) returned.
    ///
    /// # Errors
    /// The error that Redis reports.
    pub fn written(&self, writes: &RevokedWrites, replies: &[RedisReply]) -> Result<(), String> {
        if replies.iter().any(|reply| matches!(reply, RedisReply::Error(_) | RedisReply::WrongType)) {
            return Err(error_in(replies));
        }
        if let Some(revocations) = &self.revocations {
            revocations.note_stored(writes.version);
        }
        Ok(())
    }
}

/// The members that a stricter one for the same target makes useless.
fn superseded(stored: &[Revocation], missing: &[Revocation]) -> Vec<String> {
    let mut strictest: HashMap<&Target, u64> = HashMap::new();
    for entry in stored.iter().chain(missing) {
        let issued_before = strictest.entry(&entry.target).or_default();
        *issued_before = entry.issued_before.max(*issued_before);
    }
    let is_superseded = |entry: &&Revocation| strictest.get(&entry.target).is_some_and(|at| entry.issued_before < *at);
    stored.iter().filter(is_superseded).map(Revocation::text).collect()
}

fn error_in(replies: &[RedisReply]) -> String {
    let is_error = |reply: &&RedisReply| matches!(reply, RedisReply::Error(_) | RedisReply::WrongType);
    let reply = replies.iter().find(is_error).or_else(|| replies.first());
    reply.map_or_else(|| "an empty reply".to_owned(), RedisReply::error_text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::IdentityRules;

    const NOW: u64 = 1_700_000_000;

    fn list() -> (RevokedList, Arc<Revocations>) {
        let (prefix, node, incarnation) = ("p".to_owned(), "n1".to_owned(), "n1.1".to_owned());
        let (ttl, identity) = (std::time::Duration::from_secs(10), IdentityRules::default());
        let schema = Schema { prefix, partitions: 1, database: 0, node, incarnation, ttl, identity };
        let revocations = Arc::new(Revocations::default());
        (RevokedList::new(Arc::new(schema), Some(Arc::clone(&revocations))), revocations)
    }

    fn replies(version: &str, members: &[(&str, u64)]) -> Vec<RedisReply> {
        let members = members.iter().map(|(text, until)| ((*text).to_owned(), *until)).collect();
        vec![RedisReply::Texts(vec![Some(version.to_owned())]), RedisReply::Done, RedisReply::Scores(members)]
    }

    fn look(version: Option<&str>, left_ms: i64) -> [RedisReply; 2] {
        [RedisReply::Texts(vec![version.map(str::to_owned)]), RedisReply::Number(left_ms)]
    }

    #[test]
    fn the_list_is_read_when_its_version_changes_it_is_lost_or_the_connection_is_new() {
        let (mut list, _) = list();
        assert_eq!(list.must_read(&look(None, -2)), Ok(true));
        list.merge(&replies("n2.1.1", &[("user:5:alice", NOW + 100)]), NOW).unwrap();
        assert_eq!(list.must_read(&look(Some("n2.1.1"), 1)), Ok(false));
        assert_eq!(list.must_read(&look(Some("n2.1.2"), 1)), Ok(true));
        assert_eq!(list.must_read(&look(Some("n2.1.1"), -2)), Ok(true));
        list.reconnected();
        assert_eq!(list.must_read(&look(Some("n2.1.1"), 1)), Ok(true));
        assert!(list.must_read(&[RedisReply::Error("NOPERM".to_owned())]).is_err());
    }

    #[test]
    fn what_redis_lacks_is_written_and_what_is_superseded_is_deleted() {
        let (mut list, revocations) = list();
        revocations.add(Target::User("alice".into()), 7, NOW).unwrap();
        let stored = [("user:5:alice", NOW + 1), ("jti:x", NOW + 9), ("wrong", NOW)];
        let writes = list.merge(&replies("v", &stored), NOW).unwrap();
        let added = |command: &RedisCommand| match command {
            RedisCommand::SortedSetAdd { members, .. } => members.iter().map(|(_, text)| text.clone()).collect(),
            _ => Vec::new(),
        };
        assert_eq!(writes.commands.iter().flat_map(added).collect::<Vec<_>>(), ["user:7:alice"]);
        let key = "p:{nodes}:revoked".to_owned();
        let removed = RedisCommand::SortedSetRemove { key, members: vec!["user:5:alice".to_owned()] };
        assert!(writes.commands.contains(&removed), "{writes:?}");
        assert_eq!(revocations.len(), 2);
        // Another node may have written in between, so the own version is read again.
        assert_eq!(list.must_read(&look(Some("n1.1.1"), 1)), Ok(true));
        let all = [("user:7:alice", NOW + 90_000), ("jti:x", NOW + 9)];
        let writes = list.merge(&replies("n1.1.1", &all), NOW).unwrap();
        let only_renews = writes.commands.iter().all(|command| matches!(command, RedisCommand::Expire { .. }));
        assert!(only_renews, "{writes:?}");
        assert_eq!(list.must_read(&look(Some("n1.1.1"), 1)), Ok(false));
    }

    #[test]
    fn another_value_in_place_of_the_list_is_replaced() {
        let (mut list, revocations) = list();
        revocations.add(Target::Everybody, 7, NOW).unwrap();
        let replies = vec![RedisReply::Texts(vec![None]), RedisReply::WrongType, RedisReply::WrongType];
        let writes = list.merge(&replies, NOW).unwrap();
        assert_eq!(writes.commands[0], RedisCommand::Unlink("p:{nodes}:revoked".to_owned()));
        assert!(matches!(writes.commands[1], RedisCommand::SortedSetAdd { .. }));
        assert!(list.written(&writes, &[RedisReply::Error("OOM".to_owned())]).is_err());
    }
}
