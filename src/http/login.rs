//! Signing in and out for development, with `--dev-login`. Applications use their own accounts.

use bytes::BufMut;
use hyper::StatusCode;
use hyper::header;

use super::context::Context;
use super::kick::{TICKS_UNTIL_GONE, kick_at_next_tick};
use super::reply::Reply;
use super::request::{id, text_field};
use crate::auth::dev_login::{Login, Logins};
use crate::json::{put_list, put_string, string_bytes};
use crate::node::Node;
use crate::presence::Reason;
use crate::presence::kick::Kick;

/// `POST /login`: signs a user in. Another user who was signed in with this browser is signed out.
pub(super) async fn login(context: Context) -> Result<Reply, Reply> {
    require_logins(context.node())?;
    check_origin(&context)?;
    let body = context.body().await?;
    let user = text_field(context.headers(), &body, "user").ok_or_else(|| {
        Reply::bad_request("user is missing; send JSON or a form field: {\"user\":\"alice\"} or user=alice")
    })?;
    let user = id(&user, "user")?;
    let (node, reply) = (context.node(), put_user(Some(&user)));
    let (logins, now) = (require_logins(node)?, node.now());
    match signed_in(&context, logins) {
        Some(login) if login.user == user => {
            logins.record(&login);
            return Ok(reply);
        }
        // The other user's pages find the new login when they reconnect: the answer does not wait for them to close.
        Some(other) => end(logins, node, &other)?,
        None => {}
    }
    Ok(reply.and(header::SET_COOKIE, &logins.sign_in(&user, now.unix_ms)))
}

/// `POST /logout`: ends the login and, at once, the connections that were opened with it.
pub(super) async fn logout(context: Context) -> Result<Reply, Reply> {
    let node = context.node();
    let logins = require_logins(node)?;
    check_origin(&context)?;
    if let Some(login) = signed_in(&context, logins) {
        end(logins, node, &login)?;
        context.wait_for_ticks(TICKS_UNTIL_GONE).await;
    }
    Ok(put_user(None).and(header::SET_COOKIE, &Logins::clear_cookie()))
}

/// `POST /login/session`: the user who is signed in with this browser. A server without logins says so; that is not an
/// error. It is no GET, because browsers send no `Origin` with those.
pub(super) async fn session(context: Context) -> Result<Reply, Reply> {
    let node = context.node();
    let Some(logins) = &node.auth.dev_login else {
        return Ok(Reply::json(|buffer| buffer.put_slice(br#"{"user":null,"enabled":false}"#)));
    };
    let login = signed_in(&context, logins);
    if let Some(login) = &login {
        logins.record(login);
    }
    Ok(put_user(login.as_ref().map(|login| &*login.user)))
}

/// `GET /login/users`: the users who have signed in since the start.
pub(super) async fn users(context: Context) -> Result<Reply, Reply> {
    let known = require_logins(context.node())?.known_users();
    context.charge(known.iter().map(|user| string_bytes(user) + 1).sum())?;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"users":["#);
        put_list(buffer, &known, |buffer, user| put_string(buffer, user));
        buffer.put_slice(b"]}");
    }))
}

/// Ends a login, and with the next tick its connections.
fn end(logins: &Logins, node: &Node, login: &Login) -> Result<(), Reply> {
    logins.end(login.id);
    let kick =
        Kick { user: login.user.as_str().into(), login: Some(login.id), reason: Reason::Left, requested_unix_ms: None };
    kick_at_next_tick(node, kick)
}

fn require_logins(node: &Node) -> Result<&Logins, Reply> {
    node.auth.dev_login.as_deref().ok_or_else(|| {
        let message = "this server does not sign users in; start it with --dev-login (for development only)";
        Reply::error(StatusCode::NOT_FOUND, "not_found", message)
    })
}

/// The login of the page that sent a request, if the page may use it.
fn signed_in(context: &Context, logins: &Logins) -> Option<Login> {
    let may_use_cookies = context.visitor.may_use_cookies;
    may_use_cookies.then(|| logins.find(context.headers(), context.node().now().unix_ms)).flatten()
}

/// Programs that are not browsers send no origin, and their cookies do not count.
fn check_origin(context: &Context) -> Result<(), Reply> {
    let message = "pages of other origins may not sign users in or out; Origin must be the Host of this server";
    let is_allowed = context.visitor.may_use_cookies || !context.headers().contains_key(header::ORIGIN);
    is_allowed.then_some(()).ok_or_else(|| Reply::error(StatusCode::FORBIDDEN, "forbidden", message))
}

fn put_user(user: Option<&str>) -> Reply {
    Reply::json(|buffer| {
        buffer.put_slice(br#"{"user":"#);
        match user {
            Some(user) => put_string(buffer, user),
            None => buffer.put_slice(b"null"),
        }
        buffer.put_u8(b'}');
    })
}
