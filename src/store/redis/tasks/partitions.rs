//! The task of one partition: it writes, listens and loads hashes, over connections to the server that has the
//! partition's slot.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use super::super::command::{RedisCommand, RedisReply};
use super::super::connection::{ChannelSubscription, RedisConnection};
use super::super::event::RemoteKick;
use super::super::partition::WriteOutcome;
use super::super::remote_view::{FollowUp, HashId, LoadStep};
use super::super::schema::Metadata;
use super::{FIRST_PAUSE, PartitionTask, Tasks, follows_slot};
use crate::deadline::timeout;
use crate::json::Reader;
use crate::log_limit::warn_limited;
use crate::os::unix_ms;
use crate::presence::kick::{Kick, MAX_WAITING_KICKS};
use crate::store::KeptMessage;

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
        let (mut pause, mut moves) = (FIRST_PAUSE, 0);
        // The sender lives as long as `self`.
        let _ = self.is_listed.subscribe().wait_for(|is_listed| *is_listed).await;
        loop {
            let Err(error) = self.serve_partition(number).await;
            self.queue.last_messages.disconnected(number);
            task.hears_itself.set(false);
            self.remote_view.borrow_mut().unsubscribed(number);
            let was_up = task.is_up.replace(false);
            let has_moved = follows_slot(&error, was_up, &mut moves);
            if was_up {
                pause = FIRST_PAUSE;
            }
            if was_up && !has_moved {
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
            if has_moved {
                pause = FIRST_PAUSE;
            } else {
                self.connection_failed(&error);
            }
            pause = self.back_off(pause).await;
        }
    }

    async fn serve_partition(&self, number: usize) -> Result<Infallible, String> {
        let channel = self.schema.events_channel(number);
        let connection = self.servers.connect(&channel).await?;
        let messages = self.servers.subscribe(&channel).await?;
        let hashes = self.remote_view.borrow_mut().resubscribed(number, self.now_ms());
        for hash in hashes {
            self.enqueue_load(hash);
        }
        tokio::select! {
            ended = self.write(number, connection.clone()) => ended,
            ended = self.listen(number, messages) => ended,
            ended = self.read_last_messages(number, connection.clone()) => ended,
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
                _ = heartbeats.tick() => {
                    self.send_heartbeat(task, &mut connection).await?;
                    self.renew_delivery(task, &mut connection).await?;
                }
                () = task.dirty.notified() => {}
            }
            self.write_batches(task, &connection).await?;
            if task.partition.borrow().is_complete() && !task.is_up.replace(true) {
                // This one is published: the node works in this partition if it arrives.
                self.send_heartbeat(task, &mut connection).await?;
            }
        }
    }

    async fn send_heartbeat(&self, task: &PartitionTask, connection: &mut RedisConnection) -> Result<(), String> {
        let commands = task.partition.borrow_mut().heartbeat(self.now());
        let replies = self.execute(connection, &commands).await?;
        let outcome = task.partition.borrow_mut().verify(&replies, &self.registry);
        match outcome {
            WriteOutcome::Done => Ok(()),
            WriteOutcome::NotPublished(message) => {
                self.cannot_publish(task, &message);
                Ok(())
            }
            WriteOutcome::HashLost => {
                if task.is_up.get() {
                    info!("Redis has lost what this node wrote; writing it again");
                }
                Ok(())
            }
            WriteOutcome::Refused(message) => Err(message),
        }
    }

    /// Renews the lease of the webhooks. A node that Redis refuses it delivers none; everything else works.
    async fn renew_delivery(&self, task: &PartitionTask, connection: &mut RedisConnection) -> Result<(), String> {
        let Some(delivery) = &task.delivery else { return Ok(()) };
        let degraded_since = self.queue.degraded_since_unix_ms.load(Ordering::Relaxed);
        let commands = delivery.borrow_mut().renew(Some(degraded_since).filter(|since| *since > 0));
        if commands.is_empty() {
            return Ok(());
        }
        let replies = self.execute(connection, &commands).await?;
        if let Err(why) = delivery.borrow_mut().handle_replies(&replies) {
            warn_limited!("this node delivers no webhooks: {why}");
        }
        Ok(())
    }

    /// Redis takes everything but events. Other nodes notice the silence and read hashes instead.
    fn cannot_publish(&self, task: &PartitionTask, message: &str) {
        task.hears_itself.set(false);
        self.connection_failed(&format!("events are refused: {message}"));
    }

    /// Writes batches until there is nothing left. While one is in flight, the next is made.
    async fn write_batches(&self, task: &PartitionTask, connection: &RedisConnection) -> Result<(), String> {
        let mut pipelines = VecDeque::new();
        loop {
            let batch = task.partition.borrow_mut().next_batch(&self.registry, self.now());
            self.queue.counters.redis_messages_dropped.add(task.partition.borrow_mut().take_dropped_messages());
            let has_batch = batch.is_some();
            if let Some(mut batch) = batch {
                let commands = std::mem::take(&mut batch.commands);
                self.count(&commands, batch.keys_written);
                task.in_flight.borrow_mut().push_back(batch);
                let (mut connection, queue) = (connection.clone(), Arc::clone(&self.queue));
                let send = async move {
                    let begun = Instant::now();
                    let replies = connection.execute(&commands).await;
                    replies.inspect(|_| queue.counters.redis_round_trip.observe(begun.elapsed()))
                };
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
        let Some(batch) = in_flight.front_mut() else { return Ok(()) };
        let outcome = task.partition.borrow_mut().handle_replies(batch, replies, &self.registry);
        match outcome {
            WriteOutcome::Refused(message) => return Err(message),
            WriteOutcome::NotPublished(message) => self.cannot_publish(task, &message),
            WriteOutcome::Done | WriteOutcome::HashLost => {}
        }
        in_flight.pop_front();
        Ok(())
    }

    /// Takes the messages of all nodes. This node receives its own as well, at least one per heartbeat: silence means
    /// that the subscription is dead.
    async fn listen(&self, number: usize, mut messages: ChannelSubscription) -> Result<Infallible, String> {
        let limit = self.schema.silence_limit();
        loop {
            let message = timeout(limit, messages.next()).await;
            let message = message.map_err(|_| "no messages arrive, not even this node's own".to_owned())??;
            self.queue.counters.redis_events.add(1);
            self.remote_view.borrow_mut().set_latest_message_time(self.latest_message_time());
            let follow_up = self.remote_view.borrow_mut().handle_message(number, &message, self.now_ms());
            self.apply_follow_up(number, follow_up);
        }
    }

    fn apply_follow_up(&self, number: usize, follow_up: FollowUp) {
        if follow_up.is_own && !self.partitions[number].hears_itself.replace(true) {
            self.update_health();
        }
        for user in follow_up.renew_keys {
            self.partitions[number].partition.borrow_mut().renew_key(&user);
        }
        if let Some(hash) = follow_up.load {
            self.enqueue_load(hash);
        }
        self.keep(number, follow_up.kept);
        if follow_up.history_changed {
            self.read_kept_again(number);
        }
        self.pass_on_kicks(follow_up.kicks);
        if follow_up.is_unknown_incarnation {
            self.check_leases.notify_one();
        }
    }

    /// Gives kicks to the ticker.
    fn pass_on_kicks(&self, kicks: Vec<RemoteKick>) {
        if kicks.is_empty() {
            return;
        }
        let now_unix_ms = unix_ms();
        let requested = |RemoteKick { age_ms, kick, .. }| Kick {
            requested_unix_ms: Some(now_unix_ms.saturating_sub(age_ms)),
            ..kick
        };
        let mut waiting = self.queue.kicks.lock();
        let free = MAX_WAITING_KICKS.saturating_sub(waiting.len());
        waiting.extend(kicks.into_iter().take(free).map(requested));
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
        task.histories_are_read.set(false);
        loop {
            if !task.histories_are_read.replace(true) {
                task.reads_histories.set(true);
                self.read_histories(number, &mut connection).await?;
            }
            task.reads_histories.set(false);
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

    /// Reads the histories, and gives the ticker what this node did not know.
    async fn read_histories(&self, number: usize, connection: &mut RedisConnection) -> Result<(), String> {
        let task = &self.partitions[number];
        let commands = task.partition.borrow().read_histories();
        if commands.is_empty() {
            return Ok(());
        }
        let replies = self.execute(connection, &commands).await?;
        let new = task.partition.borrow_mut().merge_histories(&replies, &mut Reader::default())?;
        self.pass_on(new);
        task.dirty.notify_one(); // There may be messages that Redis lacks.
        Ok(())
    }

    /// Messages that later observers receive may have been missed.
    fn read_kept_again(&self, number: usize) {
        self.queue.last_messages.missed(number);
        self.read_histories_again(number);
    }

    pub(super) fn read_histories_again(&self, number: usize) {
        self.partitions[number].histories_are_read.set(false);
        self.partitions[number].load_added.notify_one();
    }

    /// Takes messages of other nodes that belong to histories.
    fn keep(&self, number: usize, mut messages: Vec<KeptMessage>) {
        messages.retain(|message| self.partitions[number].partition.borrow_mut().add_kept(message));
        self.pass_on(messages);
    }

    /// Gives messages to the ticker. If it is late, the latest count.
    fn pass_on(&self, messages: Vec<KeptMessage>) {
        if messages.is_empty() {
            return;
        }
        let mut waiting = self.queue.kept.lock();
        waiting.extend(messages);
        let excess = waiting.len().saturating_sub(self.max_kept);
        waiting.drain(..excess);
    }

    /// Loads a hash. Returns its metadata after the last page.
    async fn load_hash(&self, hash: &HashId, connection: &mut RedisConnection) -> Result<Option<Metadata>, String> {
        let key = self.schema.hash_key(hash.partition, &hash.incarnation);
        let commands = [RedisCommand::HashMetadata(key.clone()), RedisCommand::TimeToLive(key.clone())];
        let replies = self.execute(connection, &commands).await?;
        let (metadata, age_ms) = (Metadata::parse(replies.first())?, self.schema.hash_age_ms(replies.get(1)));
        if self.remote_view.borrow_mut().begin_load(hash, metadata, age_ms, self.now_ms()) == LoadStep::Stop {
            return Ok(metadata);
        }
        // The missed events may have had messages.
        self.read_kept_again(hash.partition);
        debug!(hash.incarnation, hash.partition, "loading what another node holds");
        self.queue.counters.redis_hashes_read.add(1);
        let (mut cursor, mut has_moved) = (0, false);
        loop {
            let replies = self.execute(connection, &[RedisCommand::HashScan { key: key.clone(), cursor }]).await?;
            match replies.into_iter().next() {
                Some(RedisReply::Page { moved, .. }) if moved != has_moved && cursor != 0 => {
                    // The hash has moved to another server meanwhile. Reading it again from the beginning is harmless.
                    (cursor, has_moved) = (0, moved);
                    continue;
                }
                Some(RedisReply::Page { cursor: next, fields, moved }) => {
                    has_moved = moved;
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
