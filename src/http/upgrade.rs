//! The upgrade of a request to a WebSocket (RFC 6455, section 4.2): finds its protocol, authenticates its user, and
//! checks the handshake.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Request, StatusCode, Version};

use super::gate::Visitor;
use super::reply::Reply;
use super::request::Target;
use crate::auth::{Authenticator, Credentials};
use crate::node::Node;
use crate::peer::ClientAddress;
use crate::protocol::{Handshake, Identity, Protocol, Upgrade};
use crate::websocket::Refusal;
use crate::websocket::handshake::{VERSION, accept_key};

/// The protocol of a WebSocket path and the upgrade that it agrees to, with the user that the client claims to be;
/// `None` if the path belongs to no protocol.
pub(super) fn accept<B>(target: &Target, request: &Request<B>) -> Option<(Protocol, Result<Upgrade, Refusal>)> {
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let handshake = Handshake { path: &target.path, query: &target.raw_query, is_upgrade };
    Protocol::ALL.iter().find_map(|protocol| Some((*protocol, (protocol.rules().upgrade)(&handshake)?)))
}

/// The authenticator of a handshake, if one decides who its client is.
pub(super) fn authenticator(node: &Node, upgrade: &Upgrade) -> Option<Arc<dyn Authenticator>> {
    if upgrade.protocol.rules().is_signed() { None } else { node.auth.authenticator.clone() }
}

/// Replaces the claimed user with the authenticated one.
pub(super) async fn authenticate(
    authenticator: &dyn Authenticator,
    target: &Target,
    headers: &HeaderMap,
    visitor: &Visitor,
    unix_ms: u64,
    upgrade: Upgrade,
) -> Result<Upgrade, Refusal> {
    let authentication = authenticator.authenticate(&credentials(target, headers, visitor, unix_ms, &upgrade));
    Ok(identified(upgrade, authentication.await?))
}

/// The same at once, if that is possible.
pub(super) fn authenticate_now(
    authenticator: &dyn Authenticator,
    target: &Target,
    headers: &HeaderMap,
    address: ClientAddress,
    unix_ms: u64,
    upgrade: Upgrade,
) -> Option<Result<Upgrade, Refusal>> {
    let visitor = Visitor::without_cookies(address);
    let decided = authenticator.decide_now(&credentials(target, headers, &visitor, unix_ms, &upgrade))?;
    Some(decided.map(|identity| identified(upgrade, identity)))
}

fn credentials<'a>(
    target: &'a Target,
    headers: &'a HeaderMap,
    visitor: &Visitor,
    unix_ms: u64,
    upgrade: &'a Upgrade,
) -> Credentials<'a> {
    let rules = upgrade.protocol.rules();
    Credentials {
        protocol: rules.name,
        subprotocol: rules.subprotocol,
        address: visitor.address.ip(),
        counted: visitor.address.limited(),
        path: &target.path,
        query: &target.raw_query,
        claimed_user: upgrade.user.as_deref(),
        may_use_cookies: visitor.may_use_cookies,
        headers,
        unix_ms,
    }
}

fn identified(upgrade: Upgrade, identity: crate::auth::Identity) -> Upgrade {
    let crate::auth::Identity { user, login, grant } = identity;
    Upgrade { user: user.map(Into::into), login, grant, ..upgrade }
}

/// Refuses an upgrade without a user if its protocol requires one.
pub(super) fn require_user(upgrade: Upgrade) -> Result<Upgrade, Refusal> {
    match upgrade.protocol.rules().identity {
        // A grant without a user is that of an anonymous visitor.
        Identity::AtUpgrade { missing } if upgrade.user.is_none() && upgrade.grant.is_none() => Err(missing()),
        _ => Ok(upgrade),
    }
}

/// The response that makes the connection a WebSocket, if the request is a valid handshake.
pub(super) fn switch<B>(request: &Request<B>, protocol: Protocol) -> Result<Reply, Reply> {
    let headers = request.headers();
    match *request.method() {
        Method::GET => {}
        Method::OPTIONS => return Err(Reply::options(&[Method::GET])),
        _ => return Err(Reply::method_not_allowed(&[Method::GET])),
    }
    check_upgrade(request)?;
    // The bytes of a body would be decoded as frames.
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_body {
        return Err(Reply::bad_request("the request of a WebSocket must not have a body"));
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| keys.next().is_none());
    let accept = key.and_then(|key| accept_key(key.as_bytes()));
    let accept =
        accept.ok_or_else(|| Reply::bad_request("there must be one Sec-WebSocket-Key header: 16 bytes in base64"))?;
    let reply = Reply::empty(StatusCode::SWITCHING_PROTOCOLS)
        .and(header::UPGRADE, "websocket")
        .and(header::CONNECTION, "upgrade")
        .and(header::SEC_WEBSOCKET_ACCEPT, &accept);
    // As the client wrote it: browsers compare the name exactly.
    let subprotocol = protocol.rules().subprotocol;
    let offered = subprotocol.and_then(|name| token(headers, &header::SEC_WEBSOCKET_PROTOCOL, name));
    Ok(match offered {
        Some(name) => reply.and(header::SEC_WEBSOCKET_PROTOCOL, name),
        None => reply,
    })
}

/// Checks that a request asks for a WebSocket of the version that the server speaks. A refusal says what it lacks.
fn check_upgrade<B>(request: &Request<B>) -> Result<(), Reply> {
    let headers = request.headers();
    let has = |name, wanted| token(headers, name, wanted).is_some();
    let message = if !has(&header::UPGRADE, "websocket") {
        "this is a WebSocket: connect with a WebSocket client; a proxy in between must pass on Upgrade and Connection"
    } else if !has(&header::CONNECTION, "upgrade") {
        "the header `Connection: upgrade` is missing; a proxy in between must pass it on"
    } else if request.version() < Version::HTTP_11 {
        "a WebSocket needs HTTP/1.1; this request has an earlier version, perhaps from a proxy in between"
    } else if !has(&header::SEC_WEBSOCKET_VERSION, VERSION) {
        "the WebSocket version must be 13"
    } else {
        return Ok(());
    };
    let reply = Reply::error(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message);
    // A sender of Upgrade must name it in Connection (RFC 9110, 7.8).
    let reply = reply.and(header::UPGRADE, "websocket").and(header::CONNECTION, "upgrade");
    Err(reply.and(header::SEC_WEBSOCKET_VERSION, VERSION))
}

/// The token of a comma-separated header that equals this one in upper or lower case, on any of its lines (RFC 9110,
/// 5.6.1).
fn token<'a>(headers: &'a HeaderMap, name: &HeaderName, wanted: &str) -> Option<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).find(|part| part.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        switch(&request, Protocol::ALL[0]).map(status).map_err(status)
    }

    #[test]
    fn invalid_handshakes_are_refused() {
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
