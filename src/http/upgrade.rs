//! The opening handshake (RFC 6455, 4.2): which protocol, for whom, and whether the request may become a WebSocket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode, Version};
use sha1::{Digest, Sha1};

use super::reply::Reply;
use super::request::{Target, id, id_segment};
use crate::auth::{Authenticator, Credentials};
use crate::protocol::{Protocol, native};
use crate::websocket::{Refusal, close};
use crate::worker::{MAX_ROOMS_PER_CONNECTION, Upgrade};

/// Appended to the client's key before hashing (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a WebSocket path asks for, with the user that the client claims; `None` if the path is not one.
pub(super) fn accept<B>(target: &Target, request: &Request<B>) -> Option<Result<Upgrade, Reply>> {
    #[cfg(not(feature = "echo"))]
    let _ = request;
    if let Some(user) = target.path.strip_prefix("/ws/") {
        let whole = !user.contains('/');
        let accept = || Ok(Upgrade::new(Protocol::OnlineUsers, Some(id_segment(user, "the user id")?)));
        return whole.then(accept);
    }
    #[cfg(feature = "echo")]
    if matches!(&*target.path, "/" | "/echo") && request.headers().contains_key(header::UPGRADE) {
        return Some(Ok(Upgrade::new(Protocol::Echo, Some("echo".to_owned()))));
    }
    match &*target.path {
        "/v1/connect" => Some(accept_native(target)),
        "/ws" => Some(Ok(Upgrade::new(Protocol::Chat, None))),
        "/ws-online-status" => Some(accept_status(target)),
        _ => None,
    }
}

fn accept_native(target: &Target) -> Result<Upgrade, Reply> {
    let query = target.query()?;
    let user = query.first("user").map(|user| id(user, "user")).transpose()?;
    if query.all("room").count() > MAX_ROOMS_PER_CONNECTION {
        return Err(Reply::bad_request(&format!("a connection has at most {MAX_ROOMS_PER_CONNECTION} rooms")));
    }
    let rooms: Result<Vec<_>, _> = query.all("room").map(|room| Ok(id(room, "room")?.into())).collect();
    Ok(Upgrade { rooms: rooms?, ..Upgrade::new(Protocol::Native, user) })
}

fn accept_status(target: &Target) -> Result<Upgrade, Reply> {
    let user = target.first("userId")?.filter(|user| !user.is_empty());
    let user = user.map(|user| id(&user, "userId")).transpose()?;
    Ok(Upgrade::new(Protocol::Status, user))
}

/// Replaces the claimed user by the one that the authenticator says.
pub(super) async fn authenticate(
    authenticator: &dyn Authenticator,
    target: &Target,
    headers: &HeaderMap,
    unix_ms: u64,
    upgrade: Upgrade,
) -> Result<Upgrade, Refusal> {
    let (path, query) = (&*target.path, &*target.raw_query);
    let credentials = Credentials { path, query, claimed_user: upgrade.user.as_deref(), headers, unix_ms };
    let identity = authenticator.authenticate(&credentials).await?;
    let login = identity.as_ref().and_then(|identity| identity.login);
    Ok(Upgrade { user: identity.map(|identity| identity.user.into()), login, ..upgrade })
}

/// Refuses a connection without a user if its protocol cannot do without one.
pub(super) fn require_user(upgrade: Upgrade) -> Result<Upgrade, Refusal> {
    match upgrade.protocol {
        _ if upgrade.user.is_some() => Ok(upgrade),
        Protocol::Native => Err(Refusal::http(400, "bad_request", "user is missing: /v1/connect?user=NAME")),
        // The close frame says what is missing: clients of this protocol expect the handshake to succeed.
        Protocol::Status => Err(Refusal::close(close::POLICY, "User ID required")),
        _ => Ok(upgrade),
    }
}

/// The answer that makes the connection a WebSocket, if the request is a sound handshake.
pub(super) fn switch<B>(request: &Request<B>, protocol: Protocol) -> Result<Reply, Reply> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Reply::method_not_allowed(&[Method::GET]));
    }
    let asked = request.version() >= Version::HTTP_11
        && has_token(headers, &header::UPGRADE, "websocket")
        && has_token(headers, &header::CONNECTION, "upgrade");
    if !asked {
        let reply = Reply::error(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            "this is a WebSocket: connect with a WebSocket client",
        );
        return Err(reply.and(header::UPGRADE, "websocket").and(header::CONNECTION, "upgrade"));
    }
    if !has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
        let reply = Reply::error(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "the WebSocket version must be 13");
        return Err(reply.and(header::SEC_WEBSOCKET_VERSION, "13").and(header::UPGRADE, "websocket"));
    }
    // Its bytes would be taken for frames.
    let body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if body {
        return Err(Reply::bad_request("the request of a WebSocket has no body"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| keys.next().is_none()).map(|key| key.as_bytes().trim_ascii());
    let key = key.filter(|key| BASE64.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let key = key.ok_or_else(|| Reply::bad_request("Sec-WebSocket-Key must be there once, 16 bytes in base64"))?;
    let reply = Reply::empty(StatusCode::SWITCHING_PROTOCOLS)
        .and(header::UPGRADE, "websocket")
        .and(header::CONNECTION, "upgrade")
        .and(header::SEC_WEBSOCKET_ACCEPT, &accept_key(key));
    let offered =
        protocol == Protocol::Native && has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, native::SUBPROTOCOL);
    Ok(if offered { reply.and(header::SEC_WEBSOCKET_PROTOCOL, native::SUBPROTOCOL) } else { reply })
}

fn accept_key(key: &[u8]) -> String {
    BASE64.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Whether a comma-separated header has a token, in any case and on any of its lines (RFC 9110, 5.6.1).
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn handshake(change: impl FnOnce(&mut Request<()>)) -> Result<StatusCode, StatusCode> {
        let mut request = Request::get("/v1/connect?user=a")
            .header("upgrade", "WebSocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap();
        change(&mut request);
        let status = |reply: Reply| reply.into_response().status();
        switch(&request, Protocol::Native).map(status).map_err(status)
    }

    #[test]
    fn unsound_handshakes_are_refused() {
        let set = |name: &'static str, value: &'static str| {
            handshake(|request| drop(request.headers_mut().insert(name, value.parse().unwrap())))
        };
        assert_eq!(handshake(|_| {}), Ok(StatusCode::SWITCHING_PROTOCOLS));
        assert_eq!(set("upgrade", "h2c"), Err(StatusCode::UPGRADE_REQUIRED));
        assert_eq!(set("connection", "keep-alive"), Err(StatusCode::UPGRADE_REQUIRED));
        assert_eq!(set("sec-websocket-version", "8"), Err(StatusCode::UPGRADE_REQUIRED));
        assert_eq!(set("sec-websocket-key", "short"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(set("content-length", "5"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(set("transfer-encoding", "chunked"), Err(StatusCode::BAD_REQUEST));
        let again = |request: &mut Request<()>| {
            let key = request.headers()["sec-websocket-key"].clone();
            request.headers_mut().append("sec-websocket-key", key);
        };
        assert_eq!(handshake(again), Err(StatusCode::BAD_REQUEST));
        assert_eq!(handshake(|request| *request.method_mut() = Method::POST), Err(StatusCode::METHOD_NOT_ALLOWED));
        assert_eq!(handshake(|request| *request.version_mut() = Version::HTTP_10), Err(StatusCode::UPGRADE_REQUIRED));
    }
}
