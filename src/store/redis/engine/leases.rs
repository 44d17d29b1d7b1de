//! The task that keeps this run's lease and node id, and reads those of the others.

use std::convert::Infallible;
use std::rc::Rc;

use tokio::time::{sleep, timeout};
use tracing::{error, info};

use super::super::command::{Command, Reply};
use super::super::link::Connection;
use super::super::nodes::lanes_of;
use super::super::view::Leases;
use super::{Engine, FIRST_PAUSE};
use crate::store::Unavailable;

impl Engine {
    pub(super) async fn keep_leases(self: Rc<Self>) {
        let mut pause = FIRST_PAUSE;
        let mut claimed = false;
        loop {
            let Err(trouble) = self.serve_leases(&mut claimed).await;
            if self.in_touch.replace(false) {
                pause = FIRST_PAUSE;
            }
            self.view.borrow_mut().lost_touch();
            self.trouble(&trouble);
            pause = self.wait(pause).await;
        }
    }

    async fn serve_leases(&self, claimed: &mut bool) -> Result<Infallible, String> {
        let mut connection = self.target.connect(&self.schema.runs_key()).await?;
        if !*claimed {
            self.claim(&mut connection).await?;
            *claimed = true;
        }
        loop {
            let commands = self.nodes.borrow_mut().ask(&self.view.borrow());
            let replies = self.ask(&mut connection, &commands).await?;
            self.compare_lanes(&replies);
            let now_ms = self.now_ms();
            let (found, news) = self.nodes.borrow_mut().answered(replies, &mut self.view.borrow_mut(), now_ms)?;
            self.take_leases(found, &mut connection).await?;
            self.listed.send_if_modified(|listed| !std::mem::replace(listed, true));
            self.shared.counters.redis_nodes.set(self.view.borrow().runs().count() as u64 + 1);
            if news {
                continue;
            }
            self.in_touch.set(true);
            self.assess();
            let quiet = self.view.borrow().anybody_is_quiet(self.now_ms());
            let pause = if quiet { self.tick } else { self.schema.beacon_every() };
            // A whole tick at least between two looks, whoever calls.
            sleep(self.tick.min(pause)).await;
            let _ = timeout(pause.saturating_sub(self.tick), self.look.notified()).await;
        }
    }

    async fn take_leases(&self, found: Leases, connection: &mut Connection) -> Result<(), String> {
        found.loads.into_iter().for_each(|load| self.enqueue(load));
        for run in &found.dead {
            info!(run, "a node is gone, and with it those whom no other node holds");
            self.lanes.iter().for_each(|task| task.lane.borrow_mut().bury(run));
        }
        if !found.dead.is_empty() {
            let commands = self.nodes.borrow().bury(&found.dead);
            self.ask(connection, &commands).await?;
        }
        Ok(())
    }

    /// Takes the node id. Another run that has it may have died: it is watched for as long as a living one needs to show that it lives.
    async fn claim(&self, connection: &mut Connection) -> Result<(), String> {
        let commands = self.nodes.borrow().claim();
        let replies = self.ask(connection, &commands).await?;
        if let Some(reply) = replies.iter().find(|reply| matches!(reply, Reply::Failed(_))) {
            return Err(reply.complaint());
        }
        let Some(holder) = self.nodes.borrow().claimed(&replies) else { return Ok(()) };
        let key = self.schema.run_key(&holder);
        let first = self.lease_of(connection, &key).await?;
        info!(node = self.schema.node, "the node id was in use a moment ago: looking whether its holder still lives");
        sleep(self.schema.beacon_every() * 5 / 2).await;
        let now = self.lease_of(connection, &key).await?;
        if now.is_some() && now != first {
            let message =
                format!("another node with the id {:?} is running: give each its own with --node-id", self.schema.node);
            if self.misfit(&message) {
                // The id is somebody else's: nothing more may be written, or the next one would find this run there.
                std::future::pending::<()>().await;
            }
            return Ok(());
        }
        let commands = self.nodes.borrow().inherit();
        self.ask(connection, &commands).await.map(|_| ())
    }

    async fn lease_of(&self, connection: &mut Connection, key: &str) -> Result<Option<String>, String> {
        let replies = self.ask(connection, &[Command::Get(vec![key.to_owned()])]).await?;
        match replies.into_iter().next() {
            Some(Reply::Texts(mut texts)) => Ok(texts.pop().flatten()),
            Some(reply) => Err(reply.complaint()),
            None => Ok(None),
        }
    }

    /// Users of nodes with other lanes would be looked for in the wrong places.
    fn compare_lanes(&self, replies: &[Reply]) {
        let Some(Reply::Texts(leases)) = replies.first() else { return };
        let other =
            leases.iter().flatten().filter_map(|lease| lanes_of(lease)).find(|lanes| *lanes != self.schema.lanes);
        if let Some(lanes) = other {
            let message =
                format!("other nodes use --redis-lanes {lanes}, this one {}: all must use the same", self.schema.lanes);
            self.misfit(&message);
        }
    }

    /// This node does not fit to the others. At the start that is the end of it, and true; later it is said once, and somebody
    /// must act.
    fn misfit(&self, message: &str) -> bool {
        let at_start = self.tell_opened(Err(Unavailable(message.to_owned())));
        let said = self.misfit.replace(message.to_owned());
        if !at_start && said != message {
            error!("{message}");
        }
        at_start
    }
}
