//! Closing the connections of a user who has signed in.

use bytes::BufMut;

use super::call::Call;
use crate::http::kick::{TICKS_UNTIL_GONE, kick_at_next_tick};
use crate::http::reply::Reply;
use crate::log_limit::used_key;
use crate::presence::Reason;
use crate::presence::kick::Kick;
use crate::protocol::{is_user_id, signed_in_user};

/// `POST …/users/{user}/terminate_connections`.
pub(super) async fn terminate(call: &Call) -> Result<Reply, Reply> {
    let user = call.segment("user")?;
    if !is_user_id(&user) {
        return Err(Reply::bad_request("a user id has 1 to 128 characters, and at most 210 bytes"));
    }
    let signed_in = signed_in_user(call.app.id, &user);
    let kick = Kick { user: signed_in.into(), login: None, reason: Reason::Kicked, requested_unix_ms: None };
    kick_at_next_tick(call.node(), kick)?;
    used_key(call.app.id, "terminate_connections", &user);
    call.wait_for_ticks(TICKS_UNTIL_GONE).await;
    Ok(Reply::json(|buffer| buffer.put_slice(b"{}")))
}
