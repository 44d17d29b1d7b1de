//! A time within which nodes have promised something, by their own clock: the ticks they have done. A tick that a busy machine has put
//! off is no time that they had.

use std::time::Duration;

use tokio::time::Instant;

use super::node::TICK;
use super::{DEADLINE, Node};

/// What a loaded machine may take on top: Redis and the clients have no such clock.
const SLACK: Duration = Duration::from_secs(15);
/// If a test is not run for so long, the nodes were probably not either. What they find out by being in touch without a break
/// they then begin anew, and so does their time.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct TickDeadline<'a> {
    /// The nodes, and their ticks when the time began.
    nodes: Vec<(&'a Node, u64)>,
    ticks: u64,
    looked: Instant,
    deadline: Instant,
}

impl<'a> TickDeadline<'a> {
    /// The time begins now.
    pub(crate) async fn after(nodes: &[&'a Node], time: Duration) -> Self {
        let ticks = (time + SLACK).as_millis() / TICK.as_millis();
        let now = Instant::now();
        let mut tick_deadline = Self {
            nodes: nodes.iter().map(|node| (*node, 0)).collect(),
            ticks: u64::try_from(ticks).expect("a short time"),
            looked: now,
            deadline: now + DEADLINE,
        };
        tick_deadline.begin().await;
        tick_deadline
    }

    async fn begin(&mut self) {
        for (node, began) in &mut self.nodes {
            *began = node.stat("ticks").await;
        }
        self.looked = Instant::now();
    }

    /// Whether the time is over for all of them. Asked again and again: what is looked at afterwards and is not there has come
    /// too late.
    pub(crate) async fn has_passed(&mut self) -> bool {
        if self.looked.elapsed() > PAUSE {
            self.begin().await;
        }
        self.looked = Instant::now();
        for (node, began) in &self.nodes {
            if node.stat("ticks").await - began < self.ticks {
                return Instant::now() >= self.deadline;
            }
        }
        true
    }
}
