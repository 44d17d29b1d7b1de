//! Kicks of one partition: published, and published again for nodes that were disconnected.

use super::super::command::RedisCommand;
use super::super::event::EventWriter;
use super::Partition;
use crate::presence::Tick;
use crate::presence::kick::Kick;

/// How often a kick is published again within a lease, but not more than once per heartbeat. Nodes that were
/// disconnected must hear of it, and a client that logs out must not cause many times what it sends.
const KICK_REPEATS: Tick = 10;

/// A kick.
#[derive(Debug, Clone)]
pub(super) struct QueuedKick {
    pub(super) requested: Tick,
    /// When it was published last; `None` if it must be published with the next heartbeat.
    pub(super) published: Option<Tick>,
    /// Other nodes recognize by it a kick that is published again.
    pub(super) number: u64,
    pub(super) kick: Kick,
}

impl Partition {
    /// The kicks to publish again now: about [`KICK_REPEATS`] times in a lease, however long it is.
    pub(super) fn take_due_kicks(&mut self) -> Vec<QueuedKick> {
        let now = self.now;
        let pause = (self.ticks_per_ttl / KICK_REPEATS).saturating_sub(self.ticks_per_second() / 2);
        let is_due = |kick: &&mut QueuedKick| kick.published.is_none_or(|published| now >= published + pause);
        let due = self.published_kicks.iter_mut().filter(is_due);
        due.map(|kick| {
            kick.published = Some(now);
            kick.clone()
        })
        .collect()
    }

    fn ticks_per_second(&self) -> Tick {
        self.ticks_per_ttl * 1000 / self.schema.ttl_ms().max(1)
    }

    /// Publishes all kicks again: they may not have arrived.
    pub(super) fn repeat_kicks(&mut self) {
        self.published_kicks.iter_mut().for_each(|kick| kick.published = None);
    }

    /// The kicks of the last lease. Later, a kicked user may have come back.
    pub(super) fn recent(&self, mut kicks: Vec<QueuedKick>) -> Vec<QueuedKick> {
        let oldest = self.now.saturating_sub(self.ticks_per_ttl);
        kicks.retain(|queued| queued.requested >= oldest);
        kicks
    }

    /// Publishes kicks without any other change.
    pub(super) fn publish_kicks(&self, kicks: &[QueuedKick]) -> RedisCommand {
        let mut event = EventWriter::new(&self.schema.incarnation, self.seq);
        self.write_kicks(kicks, &mut event);
        self.publish(event)
    }

    pub(super) fn write_kicks(&self, kicks: &[QueuedKick], event: &mut EventWriter) {
        let ms_per_tick = self.schema.ttl_ms() / self.ticks_per_ttl.max(1);
        for QueuedKick { requested, number, kick, .. } in kicks {
            // Rounded down: what began just before the kick must end.
            let ticks = self.now.saturating_sub(*requested).saturating_sub(1);
            event.kick(*number, ticks * ms_per_tick, kick);
        }
    }
}
