//! Messages of the application: `POST /v1/rooms/{room}/messages` to the observers of a room, and
//! `POST /v1/users/{user}/messages` to all connections of a user.
//!
//! The next tick delivers them, on all nodes. A message that nobody receives is not an error.

use bytes::BufMut;
use hyper::StatusCode;

use super::context::Context;
use super::reply::{Reply, thousands};
use crate::json::{self, Value};
use crate::presence::UserMessage;

/// The limit of the data of a message, in bytes of compact JSON.
pub(super) const MAX_DATA_BYTES: usize = 16 * 1024;

/// `POST /v1/rooms/{room}/messages`.
pub(super) async fn to_room(context: Context) -> Result<Reply, Reply> {
    let room = context.id("room", "the room name")?;
    let data = data(&context).await?;
    accepted(&context, context.node().registry.publish_as_application(&room, &data), "room")
}

/// `POST /v1/users/{user}/messages`.
pub(super) async fn to_user(context: Context) -> Result<Reply, Reply> {
    let user = context.id("user", "the user id")?;
    let data = data(&context).await?;
    let messages = &context.node().registry.application_messages;
    accepted(&context, messages.add(UserMessage::local(&user, &data)), "user")
}

/// The answer: 202, because delivery is up to the next tick, or 429.
fn accepted(context: &Context, is_accepted: bool, receiver: &str) -> Result<Reply, Reply> {
    if !is_accepted {
        let message = format!("this {receiver}, or the server, has too many bytes of messages in this tick; try again");
        return Err(Reply::too_many_messages(&message));
    }
    context.thread.counters.messages_published.add(1);
    Ok(Reply::json(|buffer| buffer.put_slice(b"{}")).with_status(StatusCode::ACCEPTED))
}

/// The data of the message in the body, as compact JSON.
async fn data(context: &Context) -> Result<String, Reply> {
    let body = context.body().await?;
    json::Reader::default().read(&body, |value| read(value.as_ref()))
}

fn read(body: Option<&Value<'_, '_>>) -> Result<String, Reply> {
    let bad = |what: &str| Reply::bad_request(&format!("{what}; send a message: {{\"data\":any JSON}}"));
    let body = body.filter(|body| body.is_object());
    let body = body.ok_or_else(|| bad("the body is not a JSON object that is nested at most 8 deep"))?;
    let data = json::compact(&json::field_or_null(body, "data").ok_or_else(|| bad("data is missing"))?);
    if data.len() > MAX_DATA_BYTES {
        let (bytes, limit) = (thousands(data.len()), thousands(MAX_DATA_BYTES));
        let message = format!("data has {bytes} bytes of JSON; the limit is {limit}");
        return Err(Reply::error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message));
    }
    Ok(data)
}
