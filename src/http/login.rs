//! Signing in and out for development (`--dev-login`), and removing a user (`--admin-token`), for applications that have accounts
//! of their own: what they end at their place ends here.

use std::rc::Rc;

use bytes::BufMut;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::{Request, StatusCode};
use subtle::ConstantTimeEq;

use super::api::{text_field, wait_for_ticks};
use super::reply::Reply;
use super::request::{body, id, id_segment};
use crate::auth::dev_login::{Login, Logins};
use crate::auth::is_same_origin;
use crate::json::{put_list, put_string};
use crate::presence::Reason;
use crate::presence::kick::Kick;
use crate::worker::Worker;

/// One tick takes the word to all workers, the next tells what they did.
const TICKS_UNTIL_GONE: u64 = 2;

/// Whether there is an answer at this path.
pub(super) fn knows(segments: &[&str]) -> bool {
    matches!(segments, ["login" | "logout"] | ["login", "session" | "users"] | ["v1", "users", _, "kick"])
}

/// `POST /login`: signs a user in. Somebody else who was signed in with this browser is signed out.
pub(super) async fn login(worker: &Rc<Worker>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let logins = logins(worker)?;
    let before = logins.find(request.headers(), worker.node.now().unix_ms);
    check_origin(request.headers())?;
    let body = body(request, worker.node.config.limits.header_timeout).await?;
    let user = text_field(&body, "user").ok_or_else(|| {
        Reply::bad_request("send user as JSON or as a form field: {\"user\":\"alice\"} or user=alice")
    })?;
    let user = id(&user, "user")?;
    let reply = put_user(Some(&user));
    if let Some(same) = before.as_ref().filter(|before| before.user == user) {
        logins.note(same);
        return Ok(reply);
    }
    if let Some(other) = before {
        // Its windows find the new login when they ask: nobody waits until they have gone.
        end(logins, worker, &other)?;
    }
    Ok(reply.and(header::SET_COOKIE, &logins.sign_in(&user, worker.node.now().unix_ms)))
}

/// `POST /logout`: ends the login, and with it at once the connections that came with it.
pub(super) async fn logout(worker: &Rc<Worker>, request: Request<Incoming>) -> Result<Reply, Reply> {
    let logins = logins(worker)?;
    check_origin(request.headers())?;
    if let Some(login) = logins.find(request.headers(), worker.node.now().unix_ms) {
        end(logins, worker, &login)?;
        wait_for_ticks(worker, TICKS_UNTIL_GONE).await;
    }
    Ok(put_user(None).and(header::SET_COOKIE, &Logins::forget()))
}

/// `GET /login/session`: who is signed in with this browser, or that the server signs nobody in, which is an answer and no error.
pub(super) fn session(worker: &Worker, headers: &HeaderMap) -> Reply {
    let Some(logins) = &worker.node.auth.dev_login else {
        return Reply::json(|buffer| buffer.put_slice(br#"{"user":null,"enabled":false}"#));
    };
    let login = logins.find(headers, worker.node.now().unix_ms);
    if let Some(login) = &login {
        logins.note(login);
    }
    put_user(login.as_ref().map(|login| &*login.user))
}

/// `GET /login/users`: who has signed in since the start.
pub(super) fn users(worker: &Worker) -> Result<Reply, Reply> {
    let known = logins(worker)?.known();
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"users":["#);
        put_list(buffer, &known, |buffer, user| put_string(buffer, user));
        buffer.put_slice(b"]}");
    }))
}

/// `POST /v1/users/{user}/kick`: the user goes at once, whatever it speaks. Nothing keeps it from coming back.
pub(super) async fn kick(worker: &Rc<Worker>, user: &str, headers: &HeaderMap) -> Result<Reply, Reply> {
    let token = worker.node.config.login.admin_token.as_ref().ok_or_else(|| {
        Reply::error(StatusCode::NOT_FOUND, "not_found", "users can be removed when the server has an --admin-token")
    })?;
    let given = headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes).unwrap_or_default();
    let bearer = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    // As long as it takes to compare all of it: the time tells how long the token is, and nothing else of it.
    let right = bearer.is_some_and(|(_, given)| bool::from(given.ct_eq(token.as_bytes())));
    if !right {
        let message = "send the --admin-token of the server: Authorization: Bearer TOKEN";
        return Err(Reply::error(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let user = id_segment(user, "the user id")?;
    remove(worker, Kick { user: user.as_str().into(), login: None, reason: Reason::Kicked })?;
    wait_for_ticks(worker, TICKS_UNTIL_GONE).await;
    Ok(put_user(Some(&user)))
}

fn end(logins: &Logins, worker: &Worker, login: &Login) -> Result<(), Reply> {
    logins.end(login.id);
    remove(worker, Kick { user: login.user.as_str().into(), login: Some(login.id), reason: Reason::Left })
}

/// Has the user go with the next tick.
fn remove(worker: &Worker, kick: Kick) -> Result<(), Reply> {
    worker.node.kicks.add(kick).then_some(()).ok_or_else(Reply::busy)
}

fn logins(worker: &Worker) -> Result<&Logins, Reply> {
    worker.node.auth.dev_login.as_deref().ok_or_else(|| {
        let message = "signing in here is for development: start the server with --dev-login";
        Reply::error(StatusCode::NOT_FOUND, "not_found", message)
    })
}

fn check_origin(headers: &HeaderMap) -> Result<(), Reply> {
    let message = "this may be asked for by pages of this server only";
    is_same_origin(headers).then_some(()).ok_or_else(|| Reply::error(StatusCode::FORBIDDEN, "forbidden", message))
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
