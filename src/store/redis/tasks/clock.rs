//! Compares the clock of this node with that of Redis, which all nodes share.

use std::time::Duration;

use tracing::{info, warn};

use super::super::command::RedisReply;
use super::Tasks;
use crate::store::ComparedClocks;

impl Tasks {
    /// Takes the time of Redis, in a reply to commands that were sent at this time.
    pub(super) fn compare_clocks(&self, sent_unix_ms: u64, time: Option<&RedisReply>) {
        // Without the permission nothing is known.
        let Some(RedisReply::Number(redis_ms)) = time else { return };
        let compared = ComparedClocks::now(sent_unix_ms, *redis_ms);
        self.queue.compared_clocks.lock().replace(compared);
        let clock = compared.clock();
        let Some(ahead_ms) = clock.0 else { return };
        self.queue.counters.redis_clock_difference_ms.set(ahead_ms.unsigned_abs());
        let node = &self.schema.node;
        match (self.clock_differs.replace(clock.differs()), clock.differs()) {
            (false, true) => {
                let difference = humantime::format_duration(Duration::from_secs(ahead_ms.unsigned_abs() / 1000));
                let direction = if ahead_ms > 0 { "ahead of" } else { "behind" };
                warn!(
                    "the clock of node {node} is {difference} {direction} the clock of Redis: set it; until then, messages \
                     of this node have the time of Redis"
                );
            }
            (true, false) => info!("the clock of node {node} agrees with the clock of Redis again"),
            _ => {}
        }
    }
}
