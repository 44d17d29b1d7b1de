//! A deadline measured in completed ticks of nodes: on a busy machine ticks are late, and the deadline with them.

use std::time::Duration;

use tokio::time::Instant;

use super::node::TICK;
use super::{DEADLINE, Node};

/// Extra time for a loaded machine: Redis and the clients do not run on ticks.
const SLACK: Duration = Duration::from_secs(15);
/// If a test was not scheduled for this long, the nodes probably were not either. Nodes restart the checks that need an
/// uninterrupted connection then, and so the deadline restarts too.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct TickDeadline<'a> {
    /// The nodes, and their completed ticks at the start.
    nodes: Vec<(&'a Node, u64)>,
    ticks: u64,
    last_call: Instant,
    deadline: Instant,
}

impl<'a> TickDeadline<'a> {
    /// Starts now.
    pub(crate) async fn after(nodes: &[&'a Node], time: Duration) -> Self {
        let ticks = (time + SLACK).as_millis() / TICK.as_millis();
        let now = Instant::now();
        let mut tick_deadline = Self {
            nodes: nodes.iter().map(|node| (*node, 0)).collect(),
            ticks: u64::try_from(ticks).expect("a short time"),
            last_call: now,
            deadline: now + DEADLINE,
        };
        tick_deadline.restart().await;
        tick_deadline
    }

    async fn restart(&mut self) {
        for (node, began) in &mut self.nodes {
            *began = node.stat("ticks").await;
        }
        self.last_call = Instant::now();
    }

    /// Whether the time has passed for all nodes. Call it before each check: if it returns true and the check then
    /// fails, the test has failed.
    pub(crate) async fn has_passed(&mut self) -> bool {
        if self.last_call.elapsed() > PAUSE {
            self.restart().await;
        }
        self.last_call = Instant::now();
        for (node, began) in &self.nodes {
            if node.stat("ticks").await - began < self.ticks {
                return Instant::now() >= self.deadline;
            }
        }
        true
    }
}
