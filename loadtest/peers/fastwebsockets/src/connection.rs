//! One client: a task that waits for its next frame, for updates of the rooms it looks at, and for its pulse.

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
const PULSE: Duration = Duration::from_secs(5);
/// Who was silent for so long at a pulse is pinged: together with the next pulse it is less than a lease, and what answered the
/// last ping is pinged again.
const SILENCE: Duration = Duration::from_secs(4);
const MAX_ROOMS: usize = 100;
pub const SUBPROTOCOL: &str = "presence.v1";

type Stream = TokioIo<Upgraded>;
type Received = Result<Arc<Update>, BroadcastStreamRecvError>;

struct Connection {
    hub: Arc<Hub>,
    session: Arc<Session>,
    writer: WebSocketWrite<WriteHalf<Stream>>,
    views: Vec<View>,
    /// By room name, the updates of what is viewed.
    updates: StreamMap<Arc<str>, BroadcastStream<Arc<Update>>>,
}

/// A room that is looked at.
struct View {
    room: Arc<Room>,
    detail: Detail,
    /// Nothing makes sense before the next snapshot, or count.
    is_blank: bool,
}

/// A code of the protocol and a sentence.
type Refusal = (&'static str, &'static str);

/// Serves a client until it is gone. Unless it said so properly, its presence goes on until its lease ends.
pub async fn serve(hub: Arc<Hub>, mut socket: WebSocket<Stream>, user: String, rooms: Vec<String>) {
    // The writing half answers pings and closes, in `obey`.
    socket.set_auto_close(false);
    socket.set_auto_pong(false);
    socket.set_max_message_size(MAX_MESSAGE_BYTES);
    let (reader, writer) = socket.split(tokio::io::split);
    let session = hub.begin(user.into());
    let updates = StreamMap::new();
    let mut connection = Connection { hub, session, writer, views: Vec::new(), updates };
    if let Ok(Some(reason)) = connection.run(FragmentCollectorRead::new(reader), rooms).await {
        connection.hub.end(&connection.session, reason);
    }
}

impl Connection {
    /// Ends with why the presence is over, if the client said so.
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
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut nothing_to_send = |_| async { Ok::<_, WebSocketError>(()) };
        while !self.session.ended.load(Ordering::Relaxed) {
            // `read_frame` loses bytes when it is dropped half-way, so it is kept until it is done.
            let mut next = pin!(reader.read_frame(&mut nothing_to_send));
            let frame = loop {
                tokio::select! {
                    frame = &mut next => break frame?,
                    Some((room, received)) = self.updates.next() => self.show(&room, received).await?,
                    _ = pulse.tick() => if self.is_dead().await? { return Ok(None) },
                }
            };
            self.session.heard(self.hub.now_ms());
            match frame.opcode {
                OpCode::Text => self.obey(&frame.payload).await?,
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

    /// Writes what of an update concerns this client.
    async fn show(&mut self, room: &str, received: Received) -> Result<(), WebSocketError> {
        let Some(view) = self.views.iter_mut().find(|view| *view.room.name == *room) else { return Ok(()) };
        let Ok(update) = received else {
            // It was too slow for the channel: what it missed does not matter after a fresh start.
            let (room, detail) = (Arc::clone(&view.room), view.detail);
            self.look(&room, Some(detail));
            return Ok(());
        };
        let (detail, was_blank) = (view.detail, view.is_blank);
        match detail {
            Detail::Members if was_blank && !update.snapshot.is_empty() => {
                view.is_blank = false;
                for page in &update.snapshot {
                    self.send(page).await?;
                }
            }
            Detail::Members if !was_blank => {
                if let Some(diff) = &update.diff {
                    self.send(diff).await?;
                }
            }
            Detail::Count if was_blank || update.diff.is_some() => {
                if let Some(count) = &update.count {
                    view.is_blank = false;
                    self.send(count).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Pings a silent client; true if its lease is over.
    async fn is_dead(&mut self) -> Result<bool, WebSocketError> {
        let silent_ms = self.session.silent_for_ms(self.hub.now_ms());
        if silent_ms >= SILENCE.as_millis() as u64 {
            self.writer.write_frame(Frame::new(true, OpCode::Ping, None, Payload::Borrowed(b""))).await?;
        }
        Ok(self.session.ended.load(Ordering::Relaxed))
    }

    async fn obey(&mut self, text: &[u8]) -> Result<(), WebSocketError> {
        if text == b"heartbeat" {
            self.hub.heartbeats.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let Ok(request) = serde_json::from_slice::<Request<'_>>(text) else {
            return self.answer(Err(("bad_json", "a message is one JSON object with a type, or heartbeat"))).await;
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
                self.look(&room, Some(request.detail));
                Ok(())
            }
            "unobserve" => self.change_view(room, |_| None),
            "resync" => self.change_view(room, Some),
            kind => {
                let (code, message) = ("unknown_type", "this type is not known");
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
                return Err(("forbidden", "at most 100 rooms go on one connection"));
            }
            joined.push(Arc::clone(&room));
            room.enter(&self.session.user);
            self.hub.mark(&room);
        }
        drop(joined);
        self.look(&room, detail);
        Ok(())
    }

    fn leave(&mut self, name: &str) -> Result<(), Refusal> {
        let mut joined = self.session.rooms.lock().unwrap();
        let position = joined.iter().position(|room| *room.name == *name);
        let room = position.map(|position| joined.swap_remove(position)).ok_or(("not_joined", "it was not joined"))?;
        drop(joined);
        room.exit(&self.session.user, Reason::Left);
        self.hub.mark(&room);
        self.look(&room, None);
        Ok(())
    }

    fn change_view(&mut self, name: &str, to: impl Fn(Detail) -> Option<Detail>) -> Result<(), Refusal> {
        let view =
            self.views.iter().find(|view| *view.room.name == *name).ok_or(("not_joined", "it is not observed"))?;
        let (room, detail) = (Arc::clone(&view.room), to(view.detail));
        self.look(&room, detail);
        Ok(())
    }

    /// Changes what the client is told about a room, from the next tick on.
    fn look(&mut self, room: &Arc<Room>, detail: Option<Detail>) {
        self.views.retain(|view| view.room.name != room.name);
        self.updates.remove(&room.name);
        let Some(detail) = detail else { return };
        self.views.push(View { room: Arc::clone(room), detail, is_blank: true });
        self.updates.insert(Arc::clone(&room.name), BroadcastStream::new(room.observe(detail)));
        self.hub.mark(room);
    }
}
