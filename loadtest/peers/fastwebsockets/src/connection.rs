//! One client: a task that waits for its next frame, for updates of the rooms that it observes, and for its timer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, Payload, WebSocket, WebSocketError, WebSocketWrite};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::WriteHalf;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{StreamExt, StreamMap};

use crate::hub::{Hub, TICK, TTL, unix_ms};
use crate::room::{Room, Update};
use crate::session::Session;
use crate::wire::{Detail, Message, Reason, Request, encode, is_name};

const MAX_MESSAGE_BYTES: usize = 16 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A client that was silent for this long when the timer fires is pinged. It is less than the interval, so a client
/// whose last sign of life was the answer to a ping is pinged again; both together are less than a lease.
const SILENCE: Duration = Duration::from_secs(4);
const MAX_ROOMS: usize = 100;
pub const SUBPROTOCOL: &str = "presence.v1";

type Stream = TokioIo<Upgraded>;
type Received = Result<Arc<Update>, BroadcastStreamRecvError>;

struct Connection {
    hub: Arc<Hub>,
    session: Arc<Session>,
    writer: WebSocketWrite<WriteHalf<Stream>>,
    observed: Vec<Observed>,
    /// Updates of observed rooms, by room name.
    updates: StreamMap<Arc<str>, BroadcastStream<Arc<Update>>>,
}

/// An observed room.
struct Observed {
    room: Arc<Room>,
    detail: Detail,
    /// The client has not received a snapshot or count yet.
    is_new: bool,
}

/// An error code of the protocol, and a sentence.
type Refusal = (&'static str, &'static str);

/// Serves a client until it disconnects. After an unclean close its presence lasts until its lease ends.
pub async fn serve(hub: Arc<Hub>, mut socket: WebSocket<Stream>, user: String, rooms: Vec<String>) {
    // The writing half answers pings and close frames, in `run`.
    socket.set_auto_close(false);
    socket.set_auto_pong(false);
    socket.set_max_message_size(MAX_MESSAGE_BYTES);
    let (reader, writer) = socket.split(tokio::io::split);
    let session = hub.begin(user.into());
    let updates = StreamMap::new();
    let mut connection = Connection { hub, session, writer, observed: Vec::new(), updates };
    if let Ok(Some(reason)) = connection.run(FragmentCollectorRead::new(reader), rooms).await {
        connection.hub.end(&connection.session, reason);
    }
}

impl Connection {
    /// Returns the reason for the end of the presence if the client closed cleanly.
    async fn run(
        &mut self,
        mut reader: FragmentCollectorRead<tokio::io::ReadHalf<Stream>>,
        rooms: Vec<String>,
    ) -> Result<Option<Reason>, WebSocketError> {
        self.welcome().await?;
        for room in rooms {
            let joined = self.join(&room, Some(Detail::Members));
            self.answer(joined).await?;
        }
        let mut ping_timer = interval(PING_INTERVAL);
        ping_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut nothing_to_send = |_| async { Ok::<_, WebSocketError>(()) };
        while !self.session.ended.load(Ordering::Relaxed) {
            // `read_frame` loses bytes if it is dropped before it is done, so the future is kept.
            let mut next = pin!(reader.read_frame(&mut nothing_to_send));
            let frame = loop {
                tokio::select! {
                    frame = &mut next => break frame?,
                    Some((room, received)) = self.updates.next() => self.send_update(&room, received).await?,
                    _ = ping_timer.tick() => if self.ping_if_silent().await? { return Ok(None) },
                }
            };
            self.session.renew(self.hub.now_ms());
            match frame.opcode {
                OpCode::Text => self.execute(&frame.payload).await?,
                OpCode::Ping => self.writer.write_frame(Frame::pong(frame.payload)).await?,
                OpCode::Close => {
                    let is_clean = frame.payload.is_empty() || frame.payload.starts_with(&1000_u16.to_be_bytes());
                    self.writer.write_frame(Frame::close_raw(frame.payload)).await?;
                    return Ok(is_clean.then_some(Reason::Closed));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    async fn welcome(&mut self) -> Result<(), WebSocketError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        let welcome = encode(&Message::Welcome {
            protocol: SUBPROTOCOL,
            user: &self.session.user,
            connection: &format!("{:x}", self.session.id),
            node: "fastwebsockets",
            ttl_ms: millis(TTL),
            heartbeat_ms: millis(TTL / 2),
            tick_ms: millis(TICK),
        });
        self.send(&welcome).await
    }

    async fn send(&mut self, text: &str) -> Result<(), WebSocketError> {
        self.writer.write_frame(Frame::text(Payload::Borrowed(text.as_bytes()))).await
    }

    /// Writes the part of an update that this client observes.
    async fn send_update(&mut self, room: &str, received: Received) -> Result<(), WebSocketError> {
        let Some(observed) = self.observed.iter_mut().find(|observed| *observed.room.name == *room) else {
            return Ok(());
        };
        let Ok(update) = received else {
            // The client was too slow for the channel: it gets a new snapshot.
            let (room, detail) = (Arc::clone(&observed.room), observed.detail);
            self.set_observed(&room, Some(detail));
            return Ok(());
        };
        let (detail, was_new) = (observed.detail, observed.is_new);
        match detail {
            Detail::Members if was_new && !update.snapshot.is_empty() => {
                observed.is_new = false;
                for page in &update.snapshot {
                    self.send(page).await?;
                }
            }
            Detail::Members if !was_new => {
                if let Some(diff) = &update.diff {
                    self.send(diff).await?;
                }
            }
            Detail::Count if was_new || update.diff.is_some() => {
                if let Some(count) = &update.count {
                    observed.is_new = false;
                    self.send(count).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Pings a silent client. Returns whether its lease has expired.
    async fn ping_if_silent(&mut self) -> Result<bool, WebSocketError> {
        let silent_ms = self.session.silent_for_ms(self.hub.now_ms());
        if silent_ms >= SILENCE.as_millis() as u64 {
            self.writer.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b""))).await?;
        }
        Ok(self.session.ended.load(Ordering::Relaxed))
    }

    async fn execute(&mut self, text: &[u8]) -> Result<(), WebSocketError> {
        if text == b"heartbeat" {
            self.hub.heartbeats.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let Ok(request) = serde_json::from_slice::<Request<'_>>(text) else {
            return self
                .answer(Err(("bad_json", "a message must be one JSON object with a type, or the text heartbeat")))
                .await;
        };
        if request.kind == "heartbeat" {
            self.hub.heartbeats.fetch_add(1, Ordering::Relaxed);
            let ack = encode(&Message::HeartbeatAck { ts: unix_ms() });
            return if request.ack { self.send(&ack).await } else { Ok(()) };
        }
        let Some(room) = request.room.as_deref().filter(|name| is_name(name)) else {
            return self.answer(Err(("bad_field", "`room` must be 1 to 128 bytes of text"))).await;
        };
        let outcome = match &*request.kind {
            "join" => self.join(room, request.observe.then_some(request.detail)),
            "leave" => self.leave(room),
            "observe" => {
                let room = self.hub.open(room);
                self.set_observed(&room, Some(request.detail));
                Ok(())
            }
            "unobserve" => self.change_observed(room, |_| None),
            "resync" => self.change_observed(room, Some),
            kind => {
                let (code, message) = ("unknown_type", "unknown type");
                return self.send(&encode(&Message::Error { code, message, type_sent: Some(kind) })).await;
            }
        };
        self.answer(outcome).await
    }

    async fn answer(&mut self, outcome: Result<(), Refusal>) -> Result<(), WebSocketError> {
        match outcome {
            Ok(()) => Ok(()),
            Err((code, message)) => self.send(&encode(&Message::Error { code, message, type_sent: None })).await,
        }
    }

    fn join(&mut self, name: &str, detail: Option<Detail>) -> Result<(), Refusal> {
        let room = self.hub.open(name);
        let mut joined = self.session.rooms.lock().unwrap();
        if !joined.iter().any(|other| other.name == room.name) {
            if joined.len() >= MAX_ROOMS {
                return Err(("forbidden", "the limit of rooms per connection is 100"));
            }
            joined.push(Arc::clone(&room));
            room.join(&self.session.user);
            self.hub.mark_changed(&room);
        }
        drop(joined);
        self.set_observed(&room, detail);
        Ok(())
    }

    fn leave(&mut self, name: &str) -> Result<(), Refusal> {
        let mut joined = self.session.rooms.lock().unwrap();
        let position = joined.iter().position(|room| *room.name == *name);
        let room =
            position.map(|position| joined.swap_remove(position)).ok_or(("not_joined", "the room is not joined"))?;
        drop(joined);
        room.leave(&self.session.user, Reason::Left);
        self.hub.mark_changed(&room);
        self.set_observed(&room, None);
        Ok(())
    }

    fn change_observed(&mut self, name: &str, to: impl Fn(Detail) -> Option<Detail>) -> Result<(), Refusal> {
        let observed = self
            .observed
            .iter()
            .find(|observed| *observed.room.name == *name)
            .ok_or(("not_joined", "the room is not observed"))?;
        let (room, detail) = (Arc::clone(&observed.room), to(observed.detail));
        self.set_observed(&room, detail);
        Ok(())
    }

    /// Changes what the client receives about a room, from the next tick on.
    fn set_observed(&mut self, room: &Arc<Room>, detail: Option<Detail>) {
        self.observed.retain(|observed| observed.room.name != room.name);
        self.updates.remove(&room.name);
        let Some(detail) = detail else { return };
        self.observed.push(Observed { room: Arc::clone(room), detail, is_new: true });
        self.updates.insert(Arc::clone(&room.name), BroadcastStream::new(room.observe(detail)));
        self.hub.mark_changed(room);
    }
}
