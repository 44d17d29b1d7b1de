//! HTTP: pages, the API, and the upgrade to WebSocket. Only this module knows hyper.
//!
//! A worker reads the first request of each connection ([`first_request`]). What is not a simple handshake is served
//! here, on a thread with a tokio runtime. When a request becomes a WebSocket, a worker takes over the bare socket with
//! the bytes that hyper has read ahead, and hyper's buffers are freed.

mod access;
mod activity;
pub mod answers;
mod api;
mod body;
mod client;
mod context;
mod corked;
mod direct;
mod errors;
pub mod first_request;
mod gate;
mod kick;
mod login;
mod metrics;
mod multipart;
mod pages;
mod probes;
mod publish;
mod pusher;
mod reply;
mod request;
mod requests;
mod rest;
mod revoke;
mod rights;
mod router;
mod shared_work;
mod stats;
mod stream;
pub mod thread;
mod unread;
mod upgrade;
mod users;
mod watched;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::metrics::ThreadCounters;
use crate::peer::ClientAddress;
use crate::protocol::Upgrade;
use crate::quota::{Held, SocketPermit};
use crate::websocket::{close, put_close};
use crate::worker::http_side::{MAX_HEAD_BYTES, Port};
use crate::worker::mailbox::Arrival;
use activity::Activity;
use client::Client;
use corked::{Cork, CorkedStream};
use direct::serve;
use requests::{Requests, Upgrading};
use stream::HttpStream;
use thread::{Busy, HttpThread};
use watched::{WatchedStream, tls_hint};

/// The limit of headers per request. Browsers send some 20.
const MAX_HEADERS: usize = 64;
/// A connection serves requests for this long. Then the next response asks the client to open another connection.
const MAX_AGE: Duration = Duration::from_secs(300);
/// The time for the last request of a connection of that age, after which it is closed in any case.
const LAST_REQUEST: Duration = Duration::from_secs(10);
/// The response to an upgrade fits, together with a greeting.
const RESPONSE_BYTES: usize = 512;
/// A refused client has this long to read the reason and to close.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// The pause when all workers have as many new sockets waiting as they may.
const CONGESTION_PAUSE: Duration = Duration::from_millis(1);

/// A connection that has become a WebSocket.
struct Upgraded {
    stream: HttpStream,
    /// The response to the upgrade, which is not sent yet.
    response: BytesMut,
    /// Bytes that the client sent after the request.
    read_ahead: Bytes,
    outcome: Outcome,
    /// When the request arrived.
    requested: Instant,
    /// Counts the socket until it is a WebSocket, or has ended because it was refused.
    permit: Option<SocketPermit>,
    /// The same for a client behind a trusted proxy.
    unproven: Option<Held>,
}

/// What the worker takes over, or the close code and reason that refuse the client.
type Outcome = Result<Upgrade, (u16, Cow<'static, str>)>;

async fn serve_requests(
    stream: HttpStream,
    peer: ClientAddress,
    read: Bytes,
    port: Port,
    permit: Option<SocketPermit>,
    thread: &Rc<HttpThread>,
) -> Option<Upgraded> {
    let cork = Cork::default();
    let upgrading = Rc::new(Upgrading {
        cork: Rc::clone(&cork),
        outcome: RefCell::new(None),
        requested: Cell::new(Instant::now()),
        unproven: RefCell::new(None),
    });
    let client = Arc::new(Client::new(&thread.node, peer, stream.is_encrypted()));
    // A connection that was read has sent a request. A server that stops waits for it.
    let first = Cell::new((port != Port::Internal).then(|| Busy::new(thread)));
    let activity = Rc::new(Activity::new(&thread.node, MAX_AGE));
    let requests = Requests {
        thread: Rc::clone(thread),
        client: Arc::clone(&client),
        activity: Rc::clone(&activity),
        upgrading,
        first,
        port,
        permit: Rc::new(RefCell::new(permit)),
    };
    let mut builder = http1::Builder::new();
    // A client may close its sending side and wait for the answer (RFC 9112, 9.6).
    builder.half_close(true).header_read_timeout(None).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD_BYTES);
    // Tokio learns only now that the socket is writable. hyper drops the response to a bad request, such as 431, if its
    // first write has to wait for that.
    stream.socket().writable().await.ok()?;
    let hint = tls_hint(stream.is_encrypted(), port);
    let watched = (Rc::clone(&activity), Arc::clone(&thread.answers));
    let stream = CorkedStream::new(stream, read, cork, Arc::clone(&client));
    let mut connection = builder.serve_connection(WatchedStream::new(stream, watched, hint), requests);
    let serve = poll_fn(|context| match connection.poll_without_shutdown(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => activity.poll_end(context).map(|()| None),
    });
    let longest = MAX_AGE + thread.node.config.limits.keep_alive + LAST_REQUEST;
    let result = tokio::select! {
        // Without a result the client was silent for too long.
        result = timeout(longest, serve) => result.ok().flatten()?,
        () = client.dropped() => {
            debug!("a connection was dropped because its client did not read a long answer");
            return None;
        }
    };
    let parts = connection.into_parts();
    let (stream, response, unread) = parts.io.into_inner().into_parts();
    let Upgrading { outcome, requested, unproven, .. } = &*parts.service.upgrading;
    let (outcome, requested) = match (result, outcome.take()) {
        (Ok(()), Some(outcome)) => (outcome, requested.get()),
        (result, _) => {
            if let Err(error) = result {
                debug!(%error, "a request failed");
            }
            let_client_read(stream).await;
            return None;
        }
    };
    let read_ahead = if unread.is_empty() { parts.read_buf } else { [parts.read_buf, unread].concat().into() };
    let (permit, unproven) = (parts.service.permit.take(), unproven.take());
    Some(Upgraded { stream, response, read_ahead, outcome, requested, permit, unproven })
}

/// Gives an upgraded socket to a worker, or refuses the client with a close frame.
async fn hand_over(upgraded: Upgraded, thread: &Rc<HttpThread>) {
    let _busy = Busy::new(thread);
    let Upgraded { stream, response, read_ahead, outcome, requested, permit: _permit, unproven: _unproven } = upgraded;
    let node = &thread.node;
    let is_draining = node.draining.load(Ordering::Relaxed);
    let upgrade = admit(outcome, is_draining, || node.add_connection(), &thread.counters);
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err((code, reason)) => {
            refuse(stream, response, code, &reason).await;
            return thread.socket_closed();
        }
    };
    let given = match stream.into_transport() {
        Ok(transport) => give_to_worker(Arrival { transport, response, read_ahead, upgrade, requested }, thread).await,
        Err(error) => Err(error),
    };
    match given {
        // The worker counts it from now on.
        Ok(()) => thread.counters.sockets.subtract(1),
        Err(error) => {
            debug!(%error, "a socket could not be handed over");
            node.connections.fetch_sub(1, Ordering::Relaxed);
            thread.socket_closed();
        }
    }
}

/// Refuses clients of a server that stops, or that has no room. Counts each refusal under its reason.
fn admit(
    outcome: Outcome,
    is_draining: bool,
    add_connection: impl FnOnce() -> bool,
    counters: &ThreadCounters,
) -> Outcome {
    match outcome {
        outcome if is_draining => {
            let code = outcome.map_or(close::RESTART, |upgrade| upgrade.protocol.rules().close_codes.restart);
            Err((code, close::RESTART_REASON.into()))
        }
        Ok(upgrade) if !add_connection() => {
            counters.connections_refused.add(1);
            Err((upgrade.protocol.rules().close_codes.try_again, "too many connections, try again later".into()))
        }
        outcome => outcome.inspect_err(|_| counters.handshakes_refused.add(1)),
    }
}

/// Waits until a worker has room for the socket. Refuses the client if the server stops meanwhile.
async fn give_to_worker(mut arrival: Arrival, thread: &HttpThread) -> std::io::Result<()> {
    let _turn = thread.hand_over_turn.lock().await;
    while let Err(returned) = thread.least_loaded().hand_over(arrival) {
        arrival = *returned;
        if thread.node.draining.load(Ordering::Relaxed) {
            let stream = HttpStream::new(arrival.transport)?;
            refuse(
                stream,
                arrival.response,
                arrival.upgrade.protocol.rules().close_codes.restart,
                close::RESTART_REASON,
            )
            .await;
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        sleep(CONGESTION_PAUSE).await;
    }
    Ok(())
}

async fn refuse(mut stream: HttpStream, mut response: BytesMut, code: u16, reason: &str) {
    put_close(&mut response, code, reason);
    let goodbye = async {
        stream.write_all(&response).await?;
        wait_for_end(stream).await
    };
    // The client is refused either way, whether it reads the reason or not.
    let _ = timeout(REFUSED_WAIT, goodbye).await;
}

/// Ends a connection after its last response. The client may still be sending a body that nobody needs: closing before
/// it ends, too, would reset the connection before the client has read the response (RFC 9112, 9.6).
async fn let_client_read(stream: HttpStream) {
    let _ = timeout(REFUSED_WAIT, wait_for_end(stream)).await;
}

/// Ends the sending side and reads to the end of the client's.
async fn wait_for_end(mut stream: HttpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn each_refused_handshake_is_counted_under_its_reason() {
        let check = |is_valid: bool, is_draining: bool, has_room: bool, code: Option<u16>, counted: (u64, u64)| {
            let upgrade = Upgrade::new(Protocol::Native, Some("eve".to_owned()));
            let outcome = if is_valid { Ok(upgrade) } else { Err((4001, "no application has this key".into())) };
            let counters = ThreadCounters::default();
            let got = admit(outcome, is_draining, || has_room, &counters).err().map(|(code, _)| code);
            assert_eq!(got, code);
            assert_eq!((counters.handshakes_refused.get(), counters.connections_refused.get()), counted, "{code:?}");
        };
        check(true, false, true, None, (0, 0));
        check(false, false, true, Some(4001), (1, 0));
        check(false, false, false, Some(4001), (1, 0));
        check(true, false, false, Some(close::TRY_AGAIN), (0, 1));
        check(true, true, true, Some(close::RESTART), (0, 0));
        check(false, true, true, Some(close::RESTART), (0, 0));
    }
}
