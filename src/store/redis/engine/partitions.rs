//! The task of one lane: it writes, listens and reads over connections to the one server that has the lane's slot.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use super::super::command::{Command, Reply};
use super::super::link::{Connection, Subscription};
use super::super::partition::Outcome;
use super::super::remote_view::{Load, Step};
use super::super::schema::Head;
use super::{Engine, FIRST_PAUSE, LaneTask};
use crate::deadline::timeout;
use crate::presence::kick::MAX_WAITING;

/// A batch on its way. It does not outlive the connection's turn: what it would still do comes too late.
struct Flight(JoinHandle<Result<Vec<Reply>, String>>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    pub(super) async fn keep_lane(self: Rc<Self>, number: usize) {
        let task = &self.lanes[number];
        let mut pause = FIRST_PAUSE;
        // The sender lives as long as this engine.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
        loop {
            let Err(trouble) = self.serve_lane(number).await;
            if task.up.replace(false) {
                pause = FIRST_PAUSE;
                // The connection of the leases may be lost as well, which shows when it is used: one outage is to be told once.
                self.in_touch.set(false);
                self.look.notify_one();
            }
            // The latest first: what it says is what counts.
            while let Some(batch) = task.flights.borrow_mut().pop_back() {
                task.lane.borrow_mut().failed(batch, &self.registry);
            }
            task.lane.borrow_mut().reconnected();
            for load in task.loads.take() {
                self.view.borrow_mut().abort(&load);
            }
            self.trouble(&trouble);
            pause = self.wait(pause).await;
        }
    }

    async fn serve_lane(&self, number: usize) -> Result<Infallible, String> {
        let channel = self.schema.events(number);
        let connection = self.target.connect(&channel).await?;
        let messages = self.target.subscribe(&channel).await?;
        for load in self.view.borrow_mut().resubscribed(number) {
            self.enqueue(load);
        }
        tokio::select! {
            over = self.write(number, connection.clone()) => over,
            over = self.listen(number, messages) => over,
            over = self.read(number, connection) => over,
        }
    }

    /// Writes what there is to write, and looks after the hash.
    async fn write(&self, number: usize, mut connection: Connection) -> Result<Infallible, String> {
        let task = &self.lanes[number];
        let mut beacon = interval(self.schema.beacon_every());
        beacon.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = beacon.tick() => self.beacon(task, &mut connection).await?,
                () = task.dirty.notified() => {}
            }
            self.flush(task, &connection).await?;
            if task.lane.borrow().is_whole() && !task.up.replace(true) {
                self.assess();
            }
        }
    }

    async fn beacon(&self, task: &LaneTask, connection: &mut Connection) -> Result<(), String> {
        let commands = task.lane.borrow_mut().beacon();
        let replies = self.ask(connection, &commands).await?;
        match task.lane.borrow_mut().verify(replies.first(), &self.registry) {
            Outcome::Done => Ok(()),
            Outcome::Lost => {
                if task.up.get() {
                    info!("Redis has lost what this node wrote: it is written anew");
                }
                Ok(())
            }
            Outcome::Refused(message) => Err(message),
        }
    }

    /// Writes batches until there is nothing left. While one is on its way the next is made.
    async fn flush(&self, task: &LaneTask, connection: &Connection) -> Result<(), String> {
        let mut flying = VecDeque::new();
        loop {
            let batch = task.lane.borrow_mut().next_batch(&self.registry, self.now());
            let more = batch.is_some();
            if let Some(mut batch) = batch {
                let commands = std::mem::take(&mut batch.commands);
                self.count(&commands, batch.keys_written);
                task.flights.borrow_mut().push_back(batch);
                let mut connection = connection.clone();
                flying.push_back(Flight(tokio::task::spawn_local(async move { connection.run(&commands).await })));
                tokio::task::yield_now().await; // It goes out before the next one is made.
            }
            if flying.len() > usize::from(more) {
                let Some(mut flight) = flying.pop_front() else { return Ok(()) };
                let replies = (&mut flight.0).await.map_err(|error| error.to_string())??;
                self.landed(task, &replies)?;
            } else if !more {
                return Ok(());
            }
        }
    }

    /// Takes the answers to the oldest batch on its way.
    fn landed(&self, task: &LaneTask, replies: &[Reply]) -> Result<(), String> {
        let mut flights = task.flights.borrow_mut();
        let Some(batch) = flights.front() else { return Ok(()) };
        let outcome = task.lane.borrow_mut().answered(batch, replies, &self.registry);
        if let Outcome::Refused(message) = outcome {
            return Err(message);
        }
        flights.pop_front();
        Ok(())
    }

    /// Takes what the others tell. This node hears itself as well, once a second at least: silence means that nobody is heard.
    async fn listen(&self, number: usize, mut messages: Subscription) -> Result<Infallible, String> {
        let patience = self.schema.beacon_every() * 3 + Duration::from_secs(1);
        loop {
            let message = timeout(patience, messages.next()).await;
            let message = message.map_err(|_| "nothing is heard any more, not even this node".to_owned())?;
            let message = message.ok_or("the connection for messages was lost")?;
            self.shared.counters.redis_events.add(1);
            let (renew, load) = self.view.borrow_mut().hear(number, &message, self.now_ms());
            self.mend(number, renew, load);
            let kicks = self.view.borrow_mut().take_kicks();
            if !kicks.is_empty() {
                let mut waiting = self.shared.kicks.lock();
                let room = MAX_WAITING.saturating_sub(waiting.len());
                waiting.extend(kicks.into_iter().take(room));
            }
            if self.view.borrow_mut().take_stranger() {
                self.look.notify_one();
            }
        }
    }

    pub(super) fn enqueue(&self, load: Load) {
        let task = &self.lanes[load.lane];
        let mut loads = task.loads.borrow_mut();
        if !loads.contains(&load) {
            loads.push_back(load);
        }
        task.load.notify_one();
    }

    /// Reads the hashes of other runs, one after the other. The one that is being read stays at the front.
    async fn read(&self, number: usize, mut connection: Connection) -> Result<Infallible, String> {
        let task = &self.lanes[number];
        loop {
            let load = task.loads.borrow().front().cloned();
            let Some(load) = load else {
                self.assess();
                task.load.notified().await;
                continue;
            };
            let head = self.read_hash(&load, &mut connection).await?;
            task.loads.borrow_mut().pop_front();
            let (renew, again) = self.view.borrow_mut().finish(&load, head);
            self.mend(number, renew, again);
        }
    }

    /// Has the keys of users written again whom another node has let go of, and a hash read of which something was missed.
    fn mend(&self, number: usize, renew: Vec<String>, load: Option<Load>) {
        for user in renew {
            self.lanes[number].lane.borrow_mut().renew(&user);
        }
        if let Some(load) = load {
            self.enqueue(load);
        }
    }

    /// Reads a hash from its head to its end. Returns its head as it is then.
    async fn read_hash(&self, load: &Load, connection: &mut Connection) -> Result<Option<Head>, String> {
        let key = self.schema.hash_key(load.lane, &load.run);
        let head = self.read_head(&key, connection).await?;
        if self.view.borrow_mut().begin(load, head, self.now_ms()) == Step::Stop {
            return Ok(head);
        }
        debug!(run = load.run, lane = load.lane, "reading what another node holds");
        self.shared.counters.redis_hashes_read.add(1);
        let mut cursor = 0;
        loop {
            let replies = self.ask(connection, &[Command::HashScan { key: key.clone(), cursor }]).await?;
            match replies.into_iter().next() {
                Some(Reply::Page { cursor: next, fields }) => {
                    self.view.borrow_mut().page(load, &fields);
                    cursor = next;
                }
                Some(Reply::WrongType) => return Ok(None), // Its owner will notice.
                Some(reply) => return Err(reply.complaint()),
                None => return Err("an empty answer".to_owned()),
            }
            if cursor == 0 {
                return self.read_head(&key, connection).await;
            }
        }
    }

    async fn read_head(&self, key: &str, connection: &mut Connection) -> Result<Option<Head>, String> {
        let replies = self.ask(connection, &[Command::HashHead(key.to_owned())]).await?;
        Head::parse(replies.first())
    }
}
