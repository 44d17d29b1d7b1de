//! The task of one partition: it writes, listens and loads hashes, over connections to the server that has the
//! partition's slot.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use super::super::command::{RedisCommand, RedisReply};
use super::super::connection::{ChannelSubscription, RedisConnection};
use super::super::partition::WriteOutcome;
use super::super::remote_view::{FollowUp, HashId, LoadStep};
use super::super::schema::Metadata;
use super::{FIRST_PAUSE, PartitionTask, Tasks};
use crate::deadline::timeout;
use crate::presence::kick::MAX_WAITING_KICKS;

/// A pipeline in flight. Dropping it aborts it: after the connection has failed, its effects would come too late.
struct Pipeline(JoinHandle<Result<Vec<RedisReply>, String>>);

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tasks {
    pub(super) async fn run_partition(self: Rc<Self>, number: usize) {
        let task = &self.partitions[number];
        let mut pause = FIRST_PAUSE;
        // The sender lives as long as `self`.
        let _ = self.is_listed.subscribe().wait_for(|is_listed| *is_listed).await;
        loop {
            let Err(error) = self.serve_partition(number).await;
            if task.is_up.replace(false) {
                pause = FIRST_PAUSE;
                // The connection of the leases may be lost as well. Check it now, so that one outage is reported once.
                self.leases_are_current.set(false);
                self.check_leases.notify_one();
            }
            // The latest batch first: it is the one that counts.
            while let Some(batch) = task.in_flight.borrow_mut().pop_back() {
                task.partition.borrow_mut().take_back(batch, &self.registry);
            }
            task.partition.borrow_mut().reconnected();
            for hash in task.loads.take() {
                self.remote_view.borrow_mut().abort_load(&hash);
            }
            self.connection_failed(&error);
            pause = self.back_off(pause).await;
        }
    }

    async fn serve_partition(&self, number: usize) -> Result<Infallible, String> {
        let channel = self.schema.events_channel(number);
        let connection = self.servers.connect(&channel).await?;
        let messages = self.servers.subscribe(&channel).await?;
        for hash in self.remote_view.borrow_mut().resubscribed(number) {
            self.enqueue_load(hash);
        }
        tokio::select! {
            ended = self.write(number, connection.clone()) => ended,
            ended = self.listen(number, messages) => ended,
            ended = self.load_hashes(number, connection) => ended,
        }
    }

    /// Writes changes when there are any, and sends heartbeats.
    async fn write(&self, number: usize, mut connection: RedisConnection) -> Result<Infallible, String> {
        let task = &self.partitions[number];
        let mut heartbeats = interval(self.schema.heartbeat_interval());
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = heartbeats.tick() => self.send_heartbeat(task, &mut connection).await?,
                () = task.dirty.notified() => {}
            }
            self.write_batches(task, &connection).await?;
            if task.partition.borrow().is_complete() && !task.is_up.replace(true) {
                self.update_health();
            }
        }
    }

    async fn send_heartbeat(&self, task: &PartitionTask, connection: &mut RedisConnection) -> Result<(), String> {
        let commands = task.partition.borrow_mut().heartbeat();
        let replies = self.execute(connection, &commands).await?;
        match task.partition.borrow_mut().verify(replies.first(), &self.registry) {
            WriteOutcome::Done => Ok(()),
            WriteOutcome::HashLost => {
                if task.is_up.get() {
                    info!("Redis has lost what this node wrote; writing it again");
                }
                Ok(())
            }
            WriteOutcome::Refused(message) => Err(message),
        }
    }

    /// Writes batches until there is nothing left. While one is in flight, the next is made.
    async fn write_batches(&self, task: &PartitionTask, connection: &RedisConnection) -> Result<(), String> {
        let mut pipelines = VecDeque::new();
        loop {
            let batch = task.partition.borrow_mut().next_batch(&self.registry, self.now());
            let has_batch = batch.is_some();
            if let Some(mut batch) = batch {
                let commands = std::mem::take(&mut batch.commands);
                self.count(&commands, batch.keys_written);
                task.in_flight.borrow_mut().push_back(batch);
                let mut connection = connection.clone();
                let send = async move { connection.execute(&commands).await };
                pipelines.push_back(Pipeline(tokio::task::spawn_local(send)));
                tokio::task::yield_now().await; // Sends it before the next one is made.
            }
            if pipelines.len() > usize::from(has_batch) {
                let Some(mut pipeline) = pipelines.pop_front() else { return Ok(()) };
                let replies = (&mut pipeline.0).await.map_err(|error| error.to_string())??;
                self.handle_replies(task, &replies)?;
            } else if !has_batch {
                return Ok(());
            }
        }
    }

    /// Takes the replies to the oldest batch in flight.
    fn handle_replies(&self, task: &PartitionTask, replies: &[RedisReply]) -> Result<(), String> {
        let mut in_flight = task.in_flight.borrow_mut();
        let Some(batch) = in_flight.front() else { return Ok(()) };
        let outcome = task.partition.borrow_mut().handle_replies(batch, replies, &self.registry);
        if let WriteOutcome::Refused(message) = outcome {
            return Err(message);
        }
        in_flight.pop_front();
        Ok(())
    }

    /// Takes the messages of all nodes. This node receives its own as well, at least one per heartbeat: silence means
    /// that the subscription is dead.
    async fn listen(&self, number: usize, mut messages: ChannelSubscription) -> Result<Infallible, String> {
        let limit = self.schema.heartbeat_interval() * 3 + Duration::from_secs(1);
        loop {
            let message = timeout(limit, messages.next()).await;
            let message = message.map_err(|_| "no messages arrive, not even this node's own".to_owned())?;
            let message = message.ok_or("the connection for messages was lost")?;
            self.queue.counters.redis_events.add(1);
            let follow_up = self.remote_view.borrow_mut().handle_message(number, &message, self.now_ms());
            self.apply_follow_up(number, follow_up);
        }
    }

    fn apply_follow_up(&self, number: usize, follow_up: FollowUp) {
        for user in follow_up.renew_keys {
            self.partitions[number].partition.borrow_mut().renew_key(&user);
        }
        if let Some(hash) = follow_up.load {
            self.enqueue_load(hash);
        }
        if !follow_up.kicks.is_empty() {
            let mut waiting = self.queue.kicks.lock();
            let free = MAX_WAITING_KICKS.saturating_sub(waiting.len());
            waiting.extend(follow_up.kicks.into_iter().take(free));
        }
        if follow_up.is_unknown_incarnation {
            self.check_leases.notify_one();
        }
    }

    pub(super) fn enqueue_load(&self, hash: HashId) {
        let task = &self.partitions[hash.partition];
        let mut loads = task.loads.borrow_mut();
        if !loads.contains(&hash) {
            loads.push_back(hash);
        }
        task.load_added.notify_one();
    }

    /// Loads the hashes of other incarnations, one after the other.
    async fn load_hashes(&self, number: usize, mut connection: RedisConnection) -> Result<Infallible, String> {
        let task = &self.partitions[number];
        loop {
            let hash = task.loads.borrow().front().cloned();
            let Some(hash) = hash else {
                self.update_health();
                task.load_added.notified().await;
                continue;
            };
            let metadata = self.load_hash(&hash, &mut connection).await?;
            task.loads.borrow_mut().pop_front();
            let follow_up = self.remote_view.borrow_mut().finish_load(&hash, metadata);
            self.apply_follow_up(number, follow_up);
        }
    }

    /// Loads a hash. Returns its metadata after the last page.
    async fn load_hash(&self, hash: &HashId, connection: &mut RedisConnection) -> Result<Option<Metadata>, String> {
        let key = self.schema.hash_key(hash.partition, &hash.incarnation);
        let metadata = self.read_metadata(&key, connection).await?;
        if self.remote_view.borrow_mut().begin_load(hash, metadata, self.now_ms()) == LoadStep::Stop {
            return Ok(metadata);
        }
        debug!(hash.incarnation, hash.partition, "loading what another node holds");
        self.queue.counters.redis_hashes_read.add(1);
        let mut cursor = 0;
        loop {
            let replies = self.execute(connection, &[RedisCommand::HashScan { key: key.clone(), cursor }]).await?;
            match replies.into_iter().next() {
                Some(RedisReply::Page { cursor: next, fields }) => {
                    self.remote_view.borrow_mut().load_page(hash, &fields);
                    cursor = next;
                }
                Some(RedisReply::WrongType) => return Ok(None), // Its owner will notice.
                Some(reply) => return Err(reply.error_text()),
                None => return Err("an empty reply".to_owned()),
            }
            if cursor == 0 {
                return self.read_metadata(&key, connection).await;
            }
        }
    }

    async fn read_metadata(&self, key: &str, connection: &mut RedisConnection) -> Result<Option<Metadata>, String> {
        let replies = self.execute(connection, &[RedisCommand::HashMetadata(key.to_owned())]).await?;
        Metadata::parse(replies.first())
    }
}
