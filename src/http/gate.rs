//! Who a request comes from, and whether it may enter: clients behind proxies, open mode, origins, CORS.
//!
//! The fast path of a worker and the HTTP threads decide by the same functions. What a request may do once it is in is
//! decided later: users by their identity, applications by their keys.

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::client::Client;
use super::reply::Reply;
use crate::auth::may_use_cookies;
use crate::config::Entry;
use crate::log_limit::{warn_limited, warn_once};
use crate::origin::{Origin, is_domain_name};
use crate::outside::shown_bytes;
use crate::peer::{ClientAddress, address_without_port, client_behind, is_loopback};

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Headers in which proxies name their clients.
static FORWARDING_HEADERS: [HeaderName; 3] =
    [HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip"), header::FORWARDED];

/// What preflights allow.
const ALLOWED_HEADERS: &str = "authorization, content-type";
/// How long browsers may remember the answer to a preflight, in seconds.
const PREFLIGHT_MAX_AGE: &str = "600";

/// Who a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    /// The address of the client, behind all trusted proxies.
    pub(super) address: ClientAddress,
    /// Whether a page sent the request that may use cookies.
    pub(super) may_use_cookies: bool,
}

impl Visitor {
    /// The visitor who sent a request with these headers over the connection of this client.
    pub(super) fn of(entry: &Entry, client: &Client, headers: &HeaderMap) -> Self {
        let peer = client.peer();
        let may_use_cookies = may_use_cookies(
            headers,
            entry,
            is_encrypted(entry, peer, headers).or(client.is_encrypted().then_some(true)),
        );
        Self { address: client_of(entry, peer, headers), may_use_cookies }
    }

    /// A visitor with this address, whose cookies do not count.
    pub(super) fn without_cookies(address: ClientAddress) -> Self {
        Self { address, may_use_cookies: false }
    }
}

/// The client that sent a request, behind the peer if that is a trusted proxy.
pub(super) fn client_of(entry: &Entry, peer: ClientAddress, headers: &HeaderMap) -> ClientAddress {
    if !is_forwarded(headers) {
        return peer;
    }
    if !entry.trusts(peer.ip()) {
        if headers.contains_key(&FORWARDED_FOR) {
            note_untrusted(peer.ip());
        }
        return peer.claiming_to_forward();
    }
    ClientAddress::forwarded(client_behind(peer.ip(), &entry.proxies, entries(headers, &FORWARDED_FOR)))
}

/// Whether the client speaks TLS with the proxy that is this peer, if the proxy is trusted and says so.
pub(super) fn is_encrypted(entry: &Entry, peer: ClientAddress, headers: &HeaderMap) -> Option<bool> {
    if entry.trusts(peer.ip()) { is_https(headers) } else { None }
}

/// Whether the client of a trusted proxy speaks TLS, if the proxy says so.
fn is_https(headers: &HeaderMap) -> Option<bool> {
    let scheme = entries(headers, &FORWARDED_PROTO).next()?;
    let is = |wanted: &[u8]| scheme.eq_ignore_ascii_case(wanted);
    (is(b"https") || is(b"http")).then(|| is(b"https"))
}

/// Whether the headers mean something only if the peer is a trusted proxy.
pub(super) fn needs_peer(headers: &HeaderMap) -> bool {
    is_forwarded(headers) || headers.contains_key(&FORWARDED_PROTO)
}

/// Whether a proxy names a client behind it.
fn is_forwarded(headers: &HeaderMap) -> bool {
    FORWARDING_HEADERS.iter().any(|name| headers.contains_key(name))
}

/// The entries of all lines of a list, from the right. Empty ones do not count.
fn entries<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
    let entries = lines.flat_map(|line| line.rsplit(|byte| *byte == b','));
    entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty())
}

/// Says once how to make a proxy trusted: limits and logs see its address in place of those of its clients.
fn note_untrusted(peer: IpAddr) {
    warn_once!(
        %peer,
        "X-Forwarded-For is ignored, because it comes from a peer that is not trusted: if {peer} is your proxy, start the \
         server with --trust-proxy {peer}"
    );
}

/// Why a request may not enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The server is open to this machine only.
    Guarded(String),
    /// A page of an origin that is not allowed sent it.
    Origin(String),
    /// The server serves only clients for which an application signs, and applications with a key.
    Closed,
}

impl Refused {
    /// Logs the refusal, and makes the answer.
    pub(super) fn into_reply(self) -> Reply {
        match self {
            Self::Guarded(why) => {
                warn_limited!(
                    "refused a request: {why}, so other machines may reach this server, and without tokens every client \
                     can claim any user id; if that is what you want, start it with --open"
                );
                let message = format!(
                    "this server is open to programs and pages of its own machine only, and {why}; configure tokens, or \
                     start it with --open"
                );
                Reply::error(StatusCode::FORBIDDEN, "not_open", &message)
            }
            Self::Closed => {
                let message = "this server serves only clients of --pusher-app and applications with a key; configure \
                               tokens, or start it with --open";
                Reply::error(StatusCode::FORBIDDEN, "not_open", message)
            }
            Self::Origin(origin) => {
                warn_limited!("refused a request of a page of {origin}: its origin is not in --origin");
                let message = format!("pages of {origin} may not use this server; allow them with --origin");
                Reply::error(StatusCode::FORBIDDEN, "wrong_origin", &message)
            }
        }
    }
}

/// Whether a request may enter: it is not from outside if the server is open by default, and a page that sent it is of
/// an allowed origin. Without a peer, it is that of the socket, and no proxy names a client behind it.
pub(super) fn check<B>(entry: &Entry, peer: Option<ClientAddress>, request: &Request<B>) -> Result<(), Refused> {
    if entry.is_guarded {
        check_guard(entry, peer, request)?;
    }
    check_origin(entry, request.headers())
}

/// Whether a request may enter that an application signs: only pages are refused, if their origin is not allowed.
pub(super) fn check_signed<B>(entry: &Entry, request: &Request<B>) -> Result<(), Refused> {
    check_origin(entry, request.headers())
}

/// Whether a request for a WebSocket may enter. Where an application signs for each client, it does not matter what
/// else the client could claim to be.
pub(super) fn check_upgrade<B>(
    entry: &Entry,
    peer: Option<ClientAddress>,
    request: &Request<B>,
    is_signed: bool,
) -> Result<(), Refused> {
    match is_signed {
        true => check_signed(entry, request),
        false if entry.is_closed => Err(Refused::Closed),
        false => check(entry, peer, request),
    }
}

/// Whether a page that sent a request is of an allowed origin.
fn check_origin(entry: &Entry, headers: &HeaderMap) -> Result<(), Refused> {
    if entry.origins.is_empty() {
        return Ok(());
    }
    for value in headers.get_all(header::ORIGIN) {
        if !origin(value).is_some_and(|origin| entry.lists(origin)) {
            return Err(Refused::Origin(shown_bytes(value.as_bytes())));
        }
    }
    Ok(())
}

/// Whether a request to an open server comes from this machine, as far as can be told: not through a proxy for others,
/// not under a name that an attacker may have pointed here, not from a page of elsewhere.
fn check_guard<B>(entry: &Entry, peer: Option<ClientAddress>, request: &Request<B>) -> Result<(), Refused> {
    let headers = request.headers();
    if let Some(peer) = peer {
        if !is_loopback(peer.ip()) {
            return Err(Refused::Guarded(format!("the client has the address {}", peer.ip())));
        }
        for name in &FORWARDING_HEADERS {
            if let Some(named) = named_elsewhere(headers, name) {
                return Err(Refused::Guarded(format!("the header {name} names the client {}", shown_bytes(named))));
            }
        }
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let hosts = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    for host in hosts.chain(authority) {
        if is_domain_name(host) {
            return Err(Refused::Guarded(format!("the request is for the host {}", shown_bytes(host))));
        }
    }
    for value in headers.get_all(header::ORIGIN) {
        if !origin(value).is_some_and(|origin| origin.is_loopback() || entry.lists(origin)) {
            let origin = shown_bytes(value.as_bytes());
            return Err(Refused::Guarded(format!("a page of {origin} sent the request, which is not in --origin")));
        }
    }
    Ok(())
}

/// The first client in a forwarding header that is not a loopback address.
fn named_elsewhere<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> Option<&'a [u8]> {
    let mut addresses = entries(headers, name).flat_map(|entry| {
        // `for=192.0.2.60;proto=http;by=203.0.113.43` (RFC 7239).
        let is_list = *name == header::FORWARDED;
        entry.split(move |byte| is_list && *byte == b';').filter_map(move |part| match is_list {
            true => parameter(part, b"for"),
            false => Some(part),
        })
    });
    addresses.find(|address| !address_without_port(address).is_some_and(is_loopback))
}

/// The value of a parameter of this name, without quotes.
fn parameter<'a>(part: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (known, value) = part.split_at(part.iter().position(|byte| *byte == b'=')?);
    let value = value[1..].trim_ascii();
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    known.trim_ascii().eq_ignore_ascii_case(name).then(|| unquoted.unwrap_or(value))
}

fn origin(value: &HeaderValue) -> Option<Origin<'_>> {
    Origin::parse(value.to_str().ok()?)
}

/// The origin that a reply allows to read it, as the request that has passed [`check`] states it.
#[derive(Debug, Clone, Default)]
pub(super) struct AllowedOrigin(Option<HeaderValue>);

impl AllowedOrigin {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(headers.get(header::ORIGIN).cloned())
    }

    /// Lets the page that sent the request read the reply. Never with credentials: cookies are for upgrades and POST.
    pub(super) fn put(&self, reply: Reply) -> Reply {
        let reply = reply.and(header::VARY, "Origin");
        match self.0.as_ref().and_then(|origin| origin.to_str().ok()) {
            Some(origin) => reply.and(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
            None => reply,
        }
    }
}

/// Whether a request asks whether a page may send another one (Fetch Standard, "CORS-preflight fetch").
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    *request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight for a path that allows these methods.
pub(super) fn preflight(allowed: &[Method]) -> Reply {
    let methods: Vec<_> = allowed.iter().map(Method::as_str).collect();
    let reply = Reply::options(allowed).and(header::ACCESS_CONTROL_ALLOW_METHODS, &methods.join(", "));
    let reply = reply.and(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
    reply.and(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE)
}

#[cfg(test)]
mod tests;
