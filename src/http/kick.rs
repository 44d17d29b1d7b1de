//! `POST /v1/users/{user}/kick`: an application with its own accounts takes a user offline.

use bytes::BufMut;

use super::context::Context;
use super::reply::{Reply, thousands};
use crate::auth::Caller;
use crate::json::put_string;
use crate::log_limit::used_key;
use crate::node::Node;
use crate::presence::Reason;
use crate::presence::kick::{Kick, MAX_WAITING_KICKS};

/// One tick takes a kick to all workers, the next one announces what they did.
pub(super) const TICKS_UNTIL_GONE: u64 = 2;

/// Closes all connections of the user, in every protocol. The user can connect again at once.
pub(super) async fn kick(context: Context) -> Result<Reply, Reply> {
    let user = context.id("user", "the user id")?;
    kick_at_next_tick(
        context.node(),
        Kick { user: user.as_str().into(), login: None, reason: Reason::Kicked, requested_unix_ms: None },
    )?;
    if let Caller::Application(key) = context.caller {
        used_key(key, "kick", &user);
    }
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
