//! A new connection on an HTTP thread. A handshake with a credential is decided without hyper: most arrivals of a
//! server with public keys are that. What is not a sound handshake is left to hyper.

use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hyper::header;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::access::refused;
use super::client::Client;
use super::first_request::{Sound, write};
use super::gate::Visitor;
use super::reply::Reply;
use super::stream::HttpStream;
use super::thread::{Busy, HttpThread};
use super::{REFUSED_WAIT, Upgraded, hand_over, serve_requests, upgrade, wait_for_end};
use crate::peer::ClientAddress;
use crate::quota::SocketPermit;
use crate::websocket::Refusal;
use crate::worker::http_side::Port;

/// Serves a new connection until it ends or becomes a WebSocket. What was read may have been refused already.
pub(super) async fn serve(
    stream: HttpStream,
    named: Option<ClientAddress>,
    (read, refusal): (Bytes, Option<Refusal>),
    port: Port,
    permit: Option<SocketPermit>,
    thread: Rc<HttpThread>,
) {
    let peer = || stream.socket().peer_addr().ok().map(|peer| ClientAddress::of_peer(peer.ip()));
    let Some(peer) = named.or_else(peer) else { return thread.socket_closed() };
    let decided = match port {
        Port::Public => handshake(stream, peer, &read, refusal, &thread).await,
        Port::NeedsTls | Port::Internal => Direct::No(stream),
    };
    let stream = match decided {
        Direct::Decided(upgraded) => return hand_over(*upgraded, &thread).await,
        Direct::Answered => return thread.socket_closed(),
        Direct::No(stream) => stream,
    };
    match serve_requests(stream, peer, read, port, permit, &thread).await {
        Some(upgraded) => hand_over(upgraded, &thread).await,
        None => thread.socket_closed(),
    }
}

/// What became of a connection.
enum Direct {
    /// It is a WebSocket, or is refused with a close frame.
    Decided(Box<Upgraded>),
    /// It was refused with an HTTP error and has ended.
    Answered,
    /// It is not decided here.
    No(HttpStream),
}

/// Decides the handshake at the start of these bytes.
async fn handshake(
    stream: HttpStream,
    peer: ClientAddress,
    read: &Bytes,
    refusal: Option<Refusal>,
    thread: &Rc<HttpThread>,
) -> Direct {
    let node = &thread.node;
    if node.auth.authenticator.is_none() {
        return Direct::No(stream);
    }
    let requested = Instant::now();
    let Some(sound) = Sound::of(&node.config.entry, read, peer) else { return Direct::No(stream) };
    let Some(authenticator) = upgrade::authenticator(node, &sound.upgrade) else { return Direct::No(stream) };
    let _busy = Busy::new(thread);
    thread.counters.requests.add(1);
    let Sound { target, headers, upgrade, response, request_bytes, .. } = sound;
    let unproven = match thread.admit_unproven(upgrade.behind_proxy) {
        Ok(unproven) => unproven,
        Err(reply) => {
            answer(stream, reply, thread).await;
            return Direct::Answered;
        }
    };
    let upgrade = match refusal {
        Some(refusal) => Err(refusal),
        None => {
            let client = Client::new(node, peer, stream.is_encrypted());
            let visitor = Visitor::of(&node.config.entry, &client, &headers);
            let unix_ms = node.now().unix_ms;
            upgrade::authenticate(&*authenticator, &target, &headers, &visitor, unix_ms, upgrade).await
        }
    };
    let outcome = match upgrade.and_then(upgrade::require_user) {
        Ok(upgrade) => Ok(upgrade),
        Err(Refusal::Close { code, reason }) => Err((code, reason)),
        Err(refusal @ Refusal::Http { .. }) => {
            answer(stream, refused(&refusal), thread).await;
            return Direct::Answered;
        }
    };
    let read_ahead = read.slice(request_bytes..);
    Direct::Decided(Box::new(Upgraded { stream, response, read_ahead, outcome, requested, permit: None, unproven }))
}

/// Sends an HTTP error and lets the client read it.
async fn answer(mut stream: HttpStream, reply: Reply, thread: &HttpThread) {
    thread.answers.errors.count(reply.head());
    let (reply, body) = reply.and(header::CONNECTION, "close").with_length();
    let mut bytes: BytesMut = write(reply);
    bytes.extend_from_slice(&body);
    let answer = async {
        stream.write_all(&bytes).await?;
        wait_for_end(stream).await
    };
    // The client is refused either way, whether it reads the reason or not.
    let _ = timeout(REFUSED_WAIT, answer).await;
}
