//! A WebSocket client (tokio-tungstenite). A task reads all the time, so pings are answered whatever the test does. The
//! test can stop it from reading, or drop the connection.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Duration, Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{DEADLINE, raw};

/// What came from the server.
#[derive(Debug)]
pub(crate) enum Event {
    Text(String),
    /// A close frame with this code.
    Close(Option<u16>),
    /// The connection has ended; nothing follows.
    End,
}

enum Command {
    /// Messages to send in one write.
    Send(Vec<Message>),
    Read(bool),
    /// Send a heartbeat at this interval.
    Beat(Duration),
}

pub(crate) struct Socket {
    commands: UnboundedSender<Command>,
    pub(crate) events: UnboundedReceiver<Event>,
}

impl Socket {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::connect_with(address, path, &[]).await
    }

    /// With further headers.
    pub(crate) async fn connect_with(address: SocketAddr, path: &str, headers: &[(&'static str, String)]) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts");
        Self::over(stream, address, path, headers).await
    }

    /// With a small receive buffer, so that the server soon notices when this client does not read.
    pub(crate) async fn connect_with_small_buffer(address: SocketAddr, path: &str) -> Self {
        Self::over(raw::small_buffer_stream(address).await, address, path, &[]).await
    }

    async fn over(stream: TcpStream, address: SocketAddr, path: &str, headers: &[(&'static str, String)]) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        let mut request = format!("ws://{address}{path}").into_client_request().expect("a good URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a good value"));
        }
        let handshake = tokio_tungstenite::client_async(request, stream);
        let (stream, _) = timeout(DEADLINE, handshake)
            .await
            .expect("the upgrade is answered")
            .unwrap_or_else(|error| panic!("{path} upgrades: {error}"));
        let (commands, received) = unbounded_channel();
        let (sender, events) = unbounded_channel();
        tokio::spawn(serve(stream, received, sender));
        Self { commands, events }
    }

    pub(crate) fn send(&self, text: impl Into<String>) {
        self.send_all([text]);
    }

    /// Sends several messages in one TCP segment, so that the server reads them together.
    pub(crate) fn send_all<T: Into<String>>(&self, texts: impl IntoIterator<Item = T>) {
        let messages = texts.into_iter().map(|text| Message::text(text.into())).collect();
        let _ = self.commands.send(Command::Send(messages));
    }

    /// Sends six heartbeats per lease from now on, which leaves most of a lease for pauses. Otherwise the client only
    /// answers pings.
    pub(crate) fn send_heartbeats(&self, lease: Duration) {
        let _ = self.commands.send(Command::Beat(lease / 6));
    }

    pub(crate) fn close(&self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "".into() };
        let _ = self.commands.send(Command::Send(vec![Message::Close(Some(frame))]));
    }

    /// Stops or resumes reading; sending continues.
    pub(crate) fn set_reading(&self, on: bool) {
        let _ = self.commands.send(Command::Read(on));
    }
}

/// Owns the stream. Ends with it, or when the `Socket` is dropped: then the connection ends without a close frame.
async fn serve(
    mut stream: WebSocketStream<TcpStream>,
    mut commands: UnboundedReceiver<Command>,
    events: UnboundedSender<Event>,
) {
    let mut reading = true;
    let mut beat: Option<Interval> = None;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Send(messages)) => {
                    for message in messages {
                        let _ = stream.feed(message).await;
                    }
                    let _ = stream.flush().await;
                }
                Some(Command::Read(on)) => reading = on,
                Some(Command::Beat(every)) => {
                    beat.insert(interval(every)).set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                None => return,
            },
            () = tick(&mut beat) => {
                let _ = stream.send(Message::text("heartbeat")).await;
            }
            message = stream.next(), if reading => {
                let event = match message {
                    Some(Ok(Message::Text(text))) => Event::Text(text.as_str().to_owned()),
                    Some(Ok(Message::Close(frame))) => Event::Close(frame.map(|frame| frame.code.into())),
                    Some(Ok(Message::Binary(_))) => panic!("the server sends text only"),
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => {
                        let _ = events.send(Event::End);
                        return;
                    }
                };
                let _ = events.send(event);
            }
        }
    }
}

/// Waits for the next heartbeat; for ever if there is none.
async fn tick(beat: &mut Option<Interval>) {
    match beat {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
