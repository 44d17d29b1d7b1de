//! Incarnations that are alive although this node hears nothing from them in some partition.
//!
//! A lease proves that a process runs, not that it can work in every partition: it may be cut off from one master of a
//! cluster, or lack a permission. Each partition must prove itself. If the lease is renewed and a partition stays
//! silent, this node reports that it is degraded and reads the hash of the partition once per heartbeat. If the
//! incarnation does not renew the hash either, its users there leave as late as the users of a dead node.
//!
//! The opposite exists as well: an incarnation that publishes but cannot renew its lease. Nodes that know it keep its
//! users. Other nodes ignore its events, report that they are degraded, and do not delete its keys.

use super::{HashId, MAX_NAME_BYTES, RETURN_MS, Reason, RemoteIncarnation, RemoteView};

/// The limit of incarnations without a lease that are noted.
const MAX_UNKNOWN: usize = 100;

/// What is known about the lease of another incarnation.
#[derive(Debug)]
pub(super) struct SeenLease {
    /// Counts renewals. Written by the incarnation.
    pub(super) renewals: u64,
    /// When this node last found it renewed.
    pub(super) renewed_ms: u64,
    /// It does not end before this time unless Redis loses it.
    pub(super) ends_after_ms: u64,
}

/// An incarnation that publishes and had no lease when this node looked.
#[derive(Debug)]
pub(super) struct UnknownSender {
    heard_ms: u64,
    /// Leases have been read since it was first heard.
    is_checked: bool,
}

impl RemoteView {
    /// Whether the lease of a silent incarnation may end at any moment: leases are read more often then.
    #[must_use]
    pub fn expects_end_of_lease(&self, now_ms: u64) -> bool {
        let heartbeat_ms = self.heartbeat_ms();
        self.incarnations.values().any(|incarnation| {
            incarnation.silent_ms(now_ms) > heartbeat_ms * 2 && now_ms + heartbeat_ms >= incarnation.lease.ends_after_ms
        })
    }

    /// What this node cannot know about other nodes at the moment, as a sentence.
    #[must_use]
    pub fn missing(&self, now_ms: u64) -> Option<String> {
        let limit_ms = self.silence_ms();
        let is_heard = |sender: &UnknownSender| now_ms.saturating_sub(sender.heard_ms) <= limit_ms;
        let mut unknown = self.unknown.iter().filter(|(_, sender)| sender.is_checked && is_heard(sender));
        if let Some((name, _)) = unknown.next() {
            return Some(format!("node {name} publishes changes but has no lease in Redis"));
        }
        self.incarnations.iter().find_map(|(name, incarnation)| {
            let number = (0..incarnation.partitions.len()).find(|number| self.is_silent(incarnation, *number))?;
            Some(format!("node {name} is alive but publishes nothing in partition {number}"))
        })
    }

    /// The names of incarnations that publish and had no lease when leases were read last.
    pub fn unknown_incarnations(&self) -> impl Iterator<Item = &str> {
        self.unknown.keys().map(String::as_str)
    }

    /// Whether an incarnation has renewed its lease long after its last message in a partition.
    pub(super) fn is_silent(&self, incarnation: &RemoteIncarnation, partition: usize) -> bool {
        let Some(listening_since_ms) = self.listening_since_ms[partition] else { return false };
        let heard_ms = incarnation.partitions[partition].heard_ms.max(listening_since_ms);
        incarnation.lease.renewed_ms >= heard_ms + self.silence_ms()
    }

    /// The lease of a known incarnation was read.
    pub(super) fn see_lease(&mut self, name: &str, renewals: u64, read_before_ms: u64, now_ms: u64) {
        let ttl_ms = self.schema.ttl_ms();
        let Some(incarnation) = self.incarnations.get_mut(name) else { return };
        if incarnation.lease.renewals != renewals {
            let ends_after_ms = if incarnation.lease.renewals == 0 { now_ms } else { read_before_ms + ttl_ms };
            incarnation.lease = SeenLease { renewals, renewed_ms: now_ms, ends_after_ms };
        }
    }

    /// An incarnation without a lease publishes. True if that is new.
    pub(super) fn hear_unknown(&mut self, name: String, now_ms: u64) -> bool {
        if let Some(sender) = self.unknown.get_mut(&name) {
            sender.heard_ms = now_ms;
            return false;
        }
        let fits = name.len() <= MAX_NAME_BYTES && self.unknown.len() < MAX_UNKNOWN;
        if fits {
            self.unknown.insert(name, UnknownSender { heard_ms: now_ms, is_checked: false });
        }
        fits
    }

    /// Leases were read: incarnations that are still unknown have none.
    pub(super) fn forget_unknown(&mut self, now_ms: u64) {
        let limit_ms = self.silence_ms();
        self.unknown.retain(|_, sender| {
            sender.is_checked = true;
            now_ms.saturating_sub(sender.heard_ms) <= limit_ms
        });
    }

    /// Takes the age of a hash that is about to be loaded. True if its incarnation has not renewed it for so long that
    /// nothing in it counts. Then what is known from it is released, unless this node has not listened as long.
    pub(super) fn is_abandoned(&mut self, hash: &HashId, age_ms: Option<u64>, now_ms: u64) -> bool {
        let limit_ms = self.schema.ttl_ms() + RETURN_MS;
        let listening_since_ms = self.listening_since_ms[hash.partition];
        let Some(incarnation) = self.incarnations.get_mut(&hash.incarnation) else { return false };
        let (id, partition) = (incarnation.id, &mut incarnation.partitions[hash.partition]);
        if age_ms.is_some_and(|age_ms| age_ms < limit_ms) {
            partition.is_abandoned = false;
            return false;
        }
        let silent_since_ms = listening_since_ms.unwrap_or(now_ms).max(partition.heard_ms);
        let is_over = now_ms.saturating_sub(silent_since_ms) >= limit_ms;
        if is_over && !std::mem::replace(&mut partition.is_abandoned, true) {
            let HashId { incarnation, partition } = hash;
            tracing::info!(incarnation, partition, "a node cannot write in this partition; its users there leave");
            let is_of_partition = |name: &str| self.schema.partition_of(name) == hash.partition;
            self.registry.sweep_remote_observers(id, u32::MAX, is_of_partition);
            let released = self.registry.sweep_remote_holds(id, u32::MAX, Reason::NodeLost, is_of_partition);
            self.released.extend(released);
        }
        true
    }

    fn heartbeat_ms(&self) -> u64 {
        self.schema.heartbeat_interval().as_millis() as u64
    }

    fn silence_ms(&self) -> u64 {
        self.schema.silence_limit().as_millis() as u64
    }
}
