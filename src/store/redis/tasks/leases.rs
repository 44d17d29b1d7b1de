//! The task that keeps the lease and the node id of this incarnation, and reads the leases of the others.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{error, info};

use super::super::command::{RedisCommand, RedisReply};
use super::super::connection::RedisConnection;
use super::super::remote_view::LeaseCheck;
use super::{FIRST_PAUSE, Tasks, follows_slot};
use crate::os::unix_ms;
use crate::store::Unavailable;

/// How often the lease of an incarnation that uses this node's id is read before it counts as dead.
const ID_CHECKS: u32 = 10;

impl Tasks {
    pub(super) async fn run_leases(self: Rc<Self>) {
        let (mut pause, mut moves) = (FIRST_PAUSE, 0);
        let mut has_id = false;
        loop {
            let Err(error) = self.serve_leases(&mut has_id, &mut pause).await;
            if follows_slot(&error, self.leases_are_current.get(), &mut moves) {
                self.back_off(FIRST_PAUSE).await;
                continue;
            }
            self.leases_are_current.set(false);
            self.remote_view.borrow_mut().disconnected();
            self.connection_failed(&error);
            pause = self.back_off(pause).await;
        }
    }

    async fn serve_leases(&self, has_id: &mut bool, pause: &mut Duration) -> Result<Infallible, String> {
        let mut connection = self.servers.connect(&self.schema.incarnations_key()).await?;
        if !*has_id {
            self.check_compatibility(&mut connection).await?;
            self.claim_id(&mut connection).await?;
            *has_id = true;
        }
        self.revoked.borrow_mut().reconnected();
        loop {
            self.share_revocations(&mut connection).await?;
            let mut commands = self.node_leases.borrow_mut().renew(&self.remote_view.borrow());
            commands.push(RedisCommand::Time);
            let sent_unix_ms = unix_ms();
            let mut replies = self.execute(&mut connection, &commands).await?;
            self.compare_clocks(sent_unix_ms, replies.pop().as_ref());
            // Nodes that started at the same moment have not seen each other before.
            let mismatch = self.node_leases.borrow().mismatch(replies.first());
            self.is_mismatched.set(mismatch.is_some());
            if let Some(mismatch) = mismatch {
                let mismatch = self.refuse(mismatch);
                if self.start_failed.get() {
                    return Err(mismatch);
                }
                self.degrade(&mismatch);
            }
            let now_ms = self.now_ms();
            let (check, has_new) =
                self.node_leases.borrow_mut().handle_replies(replies, &mut self.remote_view.borrow_mut(), now_ms)?;
            self.apply_lease_check(check, &mut connection).await?;
            self.is_listed.send_if_modified(|is_listed| !std::mem::replace(is_listed, true));
            self.queue.counters.redis_nodes.set(self.remote_view.borrow().incarnations().count() as u64 + 1);
            if has_new {
                continue;
            }
            self.leases_are_current.set(true);
            *pause = FIRST_PAUSE;
            if let Some(missing) = self.remote_view.borrow().missing(now_ms) {
                self.degrade(&missing);
            }
            self.update_health();
            let expects_end = self.remote_view.borrow().expects_end_of_lease(self.now_ms());
            let interval = if expects_end { self.tick } else { self.schema.heartbeat_interval() };
            // Leases are read at most once per tick, however often this task is woken.
            sleep(self.tick.min(interval)).await;
            let _ = timeout(interval.saturating_sub(self.tick), self.check_leases.notified()).await;
        }
    }

    /// Takes the revocations of other nodes, and writes those that Redis lacks.
    async fn share_revocations(&self, connection: &mut RedisConnection) -> Result<(), String> {
        let look = self.revoked.borrow().look();
        if look.is_empty() {
            return Ok(());
        }
        let has_revoked = self.queue.has_revoked.swap(false, Ordering::AcqRel);
        let replies = self.execute(connection, &look).await?;
        if !self.revoked.borrow().must_read(&replies)? && !has_revoked {
            return Ok(());
        }
        let now_s = unix_ms() / 1000;
        let read = self.revoked.borrow().read(now_s);
        let replies = self.execute(connection, &read).await?;
        let writes = self.revoked.borrow_mut().merge(&replies, now_s)?;
        let replies = match writes.commands.is_empty() {
            true => Vec::new(),
            false => self.execute(connection, &writes.commands).await?,
        };
        self.revoked.borrow().written(&writes, &replies)
    }

    async fn apply_lease_check(&self, check: LeaseCheck, connection: &mut RedisConnection) -> Result<(), String> {
        check.loads.into_iter().for_each(|hash| self.enqueue_load(hash));
        for incarnation in &check.lost {
            info!(incarnation, "a node is gone; users whom no other node holds leave");
        }
        for user in &check.rewrite_keys {
            self.partitions[self.schema.partition_of(user)].partition.borrow_mut().rewrite_key(user);
        }
        for incarnation in &check.dead {
            self.partitions.iter().for_each(|task| task.partition.borrow_mut().delete_incarnation(incarnation));
        }
        if !check.dead.is_empty() {
            let commands = self.node_leases.borrow().delete_incarnations(&check.dead);
            self.execute(connection, &commands).await?;
        }
        Ok(())
    }

    /// Compares this node with the living ones before it writes anything.
    async fn check_compatibility(&self, connection: &mut RedisConnection) -> Result<(), String> {
        let commands = self.node_leases.borrow().read_set();
        let incarnations = texts(self.execute(connection, &commands).await?)?;
        if incarnations.is_empty() {
            return Ok(());
        }
        let commands = self.node_leases.borrow().read_leases(&incarnations);
        let replies = self.execute(connection, &commands).await?;
        self.check_mismatch(&replies)
    }

    /// Fails if a node with one of these leases is incompatible.
    fn check_mismatch(&self, replies: &[RedisReply]) -> Result<(), String> {
        match self.node_leases.borrow().mismatch(replies.first()) {
            Some(mismatch) => Err(self.refuse(mismatch)),
            None => Ok(()),
        }
    }

    /// Takes the node id. If another incarnation uses it, that one may have died: its lease is watched until a living
    /// node would have renewed it.
    async fn claim_id(&self, connection: &mut RedisConnection) -> Result<(), String> {
        let commands = self.node_leases.borrow().claim_id();
        let replies = self.execute(connection, &commands).await?;
        if let Some(reply) = replies.iter().find(|reply| matches!(reply, RedisReply::Error(_))) {
            return Err(reply.error_text());
        }
        let Some(owner) = self.node_leases.borrow().other_id_owner(&replies) else { return Ok(()) };
        let read_lease = self.node_leases.borrow().read_leases(&[owner]);
        let first = texts(self.execute(connection, &read_lease).await?)?;
        info!(
            node = self.schema.node,
            "the node id was in use a moment ago: checking whether that node is still alive"
        );
        // Several short waits instead of a long one: if the whole machine was suspended, the other node had no time
        // either.
        for _ in 0..ID_CHECKS {
            sleep(self.schema.heartbeat_interval() * 5 / 2 / ID_CHECKS).await;
            let now = texts(self.execute(connection, &read_lease).await?)?;
            if !now.is_empty() && now != first {
                let node = &self.schema.node;
                return Err(self.refuse(format!(
                    "another node with the id {node:?} is running: give each node its own --node-id"
                )));
            }
        }
        let commands = self.node_leases.borrow().take_over_id();
        self.execute(connection, &commands).await.map(|_| ())
    }

    /// This node is incompatible with the others. At startup that is an error; later it is logged once.
    fn refuse(&self, mismatch: String) -> String {
        let at_startup = self.report_opened(Err(Unavailable(mismatch.clone())));
        let former = self.config_mismatch.replace(mismatch.clone());
        if !at_startup && former != mismatch {
            error!("{mismatch}");
        }
        mismatch
    }
}

/// The texts in the only reply.
fn texts(replies: Vec<RedisReply>) -> Result<Vec<String>, String> {
    match replies.into_iter().next() {
        Some(RedisReply::Texts(texts)) => Ok(texts.into_iter().flatten().collect()),
        Some(RedisReply::WrongType) => Ok(Vec::new()),
        Some(reply) => Err(reply.error_text()),
        None => Err("an empty reply".to_owned()),
    }
}
