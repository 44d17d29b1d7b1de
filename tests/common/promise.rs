//! A time within which nodes have promised something, by their own clock: the ticks they have done. A tick that a busy machine has put
//! off is no time that they had.

use std::time::Duration;

use tokio::time::Instant;

use super::node::TICK;
use super::{DEADLINE, Node};

/// What a loaded machine may take on top: Redis and the clients have no such clock.
const SLACK: Duration = Duration::from_secs(15);

pub(crate) struct Promise<'a> {
    nodes: Vec<(&'a Node, u64)>,
    ticks: u64,
    deadline: Instant,
}

impl<'a> Promise<'a> {
    /// The time begins now.
    pub(crate) async fn of(nodes: &[&'a Node], time: Duration) -> Self {
        let mut began = Vec::new();
        for node in nodes {
            began.push((*node, node.stat("ticks").await));
        }
        let ticks = (time + SLACK).as_millis() / TICK.as_millis();
        Self { nodes: began, ticks: u64::try_from(ticks).expect("a short time"), deadline: Instant::now() + DEADLINE }
    }

    /// Whether the time is over for all of them. What is looked at after this was asked and is not there then has come too late.
    pub(crate) async fn is_over(&self) -> bool {
        for (node, began) in &self.nodes {
            if node.stat("ticks").await - began < self.ticks {
                return Instant::now() >= self.deadline;
            }
        }
        true
    }
}
