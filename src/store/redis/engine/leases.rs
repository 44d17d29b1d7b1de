//! The task that keeps this run's lease and node id, and reads those of the others.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{error, info};

use super::super::command::Reply;
use super::super::link::Connection;
use super::super::nodes::lanes_of;
use super::super::remote_view::Leases;
use super::{Engine, FIRST_PAUSE};
use crate::store::Unavailable;

/// How often the lease of a run that has this node's id is looked at before it counts as dead.
const LOOKS: u32 = 10;

impl Engine {
    pub(super) async fn keep_leases(self: Rc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut claimed = false;
        loop {
            let Err(trouble) = self.serve_leases(&mut claimed, &mut pause).await;
            self.in_touch.set(false);
            self.view.borrow_mut().lost_touch();
            self.trouble(&trouble);
            pause = self.wait(pause).await;
        }
    }

    async fn serve_leases(&self, claimed: &mut bool, pause: &mut Duration) -> Result<Infallible, String> {
        let mut connection = self.target.connect(&self.schema.runs_key()).await?;
        if !*claimed {
            self.enter(&mut connection).await?;
            *claimed = true;
        }
        loop {
            let commands = self.nodes.borrow_mut().ask(&self.view.borrow());
            let replies = self.ask(&mut connection, &commands).await?;
            let now_ms = self.now_ms();
            let (found, news) = self.nodes.borrow_mut().answered(replies, &mut self.view.borrow_mut(), now_ms)?;
            self.take_leases(found, &mut connection).await?;
            self.listed.send_if_modified(|listed| !std::mem::replace(listed, true));
            self.shared.counters.redis_nodes.set(self.view.borrow().runs().count() as u64 + 1);
            if news {
                continue;
            }
            self.in_touch.set(true);
            *pause = FIRST_PAUSE;
            self.assess();
            let quiet = self.view.borrow().anybody_is_quiet(self.now_ms());
            let rest = if quiet { self.tick } else { self.schema.beacon_every() };
            // A whole tick at least between two looks, whoever calls.
            sleep(self.tick.min(rest)).await;
            let _ = timeout(rest.saturating_sub(self.tick), self.look.notified()).await;
        }
    }

    async fn take_leases(&self, found: Leases, connection: &mut Connection) -> Result<(), String> {
        found.loads.into_iter().for_each(|load| self.enqueue(load));
        for run in &found.lost {
            info!(run, "a node is gone, and with it those whom no other node holds");
        }
        for run in &found.dead {
            self.lanes.iter().for_each(|task| task.lane.borrow_mut().bury(run));
        }
        if !found.dead.is_empty() {
            let commands = self.nodes.borrow().bury(&found.dead);
            self.ask(connection, &commands).await?;
        }
        Ok(())
    }

    /// Looks whether this node fits to those that are there, and takes its id. What it refuses here it has not touched.
    async fn enter(&self, connection: &mut Connection) -> Result<(), String> {
        let list = self.nodes.borrow().list();
        let runs = texts(self.ask(connection, &list).await?)?;
        if !runs.is_empty() {
            let leases = self.nodes.borrow().leases(&runs);
            let leases = texts(self.ask(connection, &leases).await?)?;
            self.compare_lanes(&leases)?;
        }
        self.claim(connection).await
    }

    /// Takes the node id. Another run that has it may have died: it is watched for as long as a living one needs to show that it lives.
    async fn claim(&self, connection: &mut Connection) -> Result<(), String> {
        let commands = self.nodes.borrow().claim();
        let replies = self.ask(connection, &commands).await?;
        if let Some(reply) = replies.iter().find(|reply| matches!(reply, Reply::Failed(_))) {
            return Err(reply.complaint());
        }
        let Some(holder) = self.nodes.borrow().claimed(&replies) else { return Ok(()) };
        let lease = self.nodes.borrow().leases(&[holder]);
        let first = texts(self.ask(connection, &lease).await?)?;
        info!(node = self.schema.node, "the node id was in use a moment ago: looking whether its holder still lives");
        // LiveStatus by look, and not once at the end: if the whole machine stood still, the other has not had that time either.
        for _ in 0..LOOKS {
            sleep(self.schema.beacon_every() * 5 / 2 / LOOKS).await;
            let now = texts(self.ask(connection, &lease).await?)?;
            if !now.is_empty() && now != first {
                let node = &self.schema.node;
                let message = format!("another node with the id {node:?} is running: give each its own with --node-id");
                return Err(self.misfit(message));
            }
        }
        let commands = self.nodes.borrow().inherit();
        self.ask(connection, &commands).await.map(|_| ())
    }

    /// Users of nodes with other lanes would be looked for in the wrong places.
    fn compare_lanes(&self, leases: &[String]) -> Result<(), String> {
        let own = self.schema.lanes;
        match leases.iter().filter_map(|lease| lanes_of(lease)).find(|lanes| *lanes != own) {
            Some(lanes) => {
                let message = format!("other nodes use --redis-lanes {lanes}, this one {own}: all must use the same");
                Err(self.misfit(message))
            }
            None => Ok(()),
        }
    }

    /// This node does not fit to the others. At the start that is the end of it; later it is said once, and somebody must act.
    fn misfit(&self, message: String) -> String {
        let at_start = self.tell_opened(Err(Unavailable(message.clone())));
        let said = self.misfit.replace(message.clone());
        if !at_start && said != message {
            error!("{message}");
        }
        message
    }
}

/// The texts that there are in the one answer.
fn texts(replies: Vec<Reply>) -> Result<Vec<String>, String> {
    match replies.into_iter().next() {
        Some(Reply::Texts(texts)) => Ok(texts.into_iter().flatten().collect()),
        Some(Reply::WrongType) => Ok(Vec::new()),
        Some(reply) => Err(reply.complaint()),
        None => Err("an empty answer".to_owned()),
    }
}
