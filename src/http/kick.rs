//! `POST /v1/users/{user}/kick`: an application with its own accounts takes a user offline.

use bytes::BufMut;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use subtle::ConstantTimeEq;

use super::context::Context;
use super::reply::{Reply, thousands};
use crate::json::put_string;
use crate::node::Node;
use crate::presence::Reason;
use crate::presence::kick::{Kick, MAX_WAITING_KICKS};

/// One tick takes a kick to all workers, the next one announces what they did.
pub(super) const TICKS_UNTIL_GONE: u64 = 2;

/// The scheme of the `Authorization` header, in any case.
const SCHEME: &[u8] = b"bearer ";

/// Closes all connections of the user, in every protocol. The user can connect again at once.
pub(super) async fn kick(context: Context) -> Result<Reply, Reply> {
    check_token(context.node(), context.headers())?;
    let user = context.id("user", "the user id")?;
    kick_at_next_tick(context.node(), Kick { user: user.as_str().into(), login: None, reason: Reason::Kicked })?;
    context.wait_for_ticks(TICKS_UNTIL_GONE).await;
    Ok(Reply::json(|buffer| {
        buffer.put_slice(br#"{"user":"#);
        put_string(buffer, &user);
        buffer.put_u8(b'}');
    }))
}

/// Makes the next tick execute a kick.
pub(super) fn kick_at_next_tick(node: &Node, kick: Kick) -> Result<(), Reply> {
    node.kicks.add(kick).then_some(()).ok_or_else(|| {
        Reply::retry_later(&format!("the limit is {} kicks per tick; try again later", thousands(MAX_WAITING_KICKS)))
    })
}

fn check_token(node: &Node, headers: &HeaderMap) -> Result<(), Reply> {
    let token = node.config.login.admin_token.as_ref().ok_or_else(|| {
        let message = "this server does not kick users; start it with --admin-token TOKEN";
        Reply::error(StatusCode::NOT_FOUND, "not_found", message)
    })?;
    let given = headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes).unwrap_or_default();
    let bearer = given.split_at_checked(SCHEME.len()).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
    // Takes as long for any token of the right length: the time reveals the length and nothing else.
    let is_right = bearer.is_some_and(|(_, given)| bool::from(given.ct_eq(token.as_bytes())));
    is_right.then_some(()).ok_or_else(|| {
        let message = "the token is missing or wrong; send the server's --admin-token as Authorization: Bearer TOKEN";
        Reply::error(StatusCode::FORBIDDEN, "forbidden", message)
    })
}
