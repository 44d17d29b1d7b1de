//! Decodes messages of native clients into a [`Request`], or the error to reply with.

use std::borrow::Cow;

use simd_json::prelude::{TypedScalarValue, ValueAsScalar, ValueIntoString};

use super::{COUNT, MEMBERS};
use crate::json::{self, Reader, Value};
use crate::presence::{Audience, MAX_STATE_BYTES, State, check_id};
use crate::protocol::{Command, Resume};

/// The longest data of a message, in bytes of compact JSON.
pub const MAX_DATA_BYTES: usize = 4096;

/// The reply to a message that is invalid or was not executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// The error code, for programs.
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub message: Cow<'static, str>,
    /// The type of the message, if it is unknown.
    pub type_sent: Option<String>,
}

impl ErrorReply {
    /// An error with this code and message.
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), type_sent: None }
    }

    fn field(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("bad_field", message)
    }
}

/// Whether a text is a heartbeat that asks for no acknowledgement, in one of the two usual forms.
pub(super) fn is_heartbeat(text: &[u8]) -> bool {
    text == b"heartbeat" || text == br#"{"type":"heartbeat"}"#
}

/// Reads a text message and hands the command, or why there is none, to `act`.
pub fn decode<R>(reader: &mut Reader, text: &[u8], act: impl FnOnce(Result<Request<'_>, ErrorReply>) -> R) -> R {
    // Nearly every message is one of these: no parser for them.
    if is_heartbeat(text) {
        return act(Ok(Request::Heartbeat { ack: false }));
    }
    reader.read(text, |value| match value {
        Some(value) => act(request(&value)),
        None => act(Err(ErrorReply::new(
            "bad_json",
            "a message is one JSON object, nested at most 8 deep, or the text heartbeat",
        ))),
    })
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq)]
pub enum Request<'a> {
    /// Renew the lease.
    Heartbeat {
        /// Whether to send an acknowledgement.
        ack: bool,
    },
    /// Any other command.
    Command(Command<'a>),
}

fn request<'a>(message: &Value<'_, 'a>) -> Result<Request<'a>, ErrorReply> {
    if !message.is_object() {
        return Err(ErrorReply::new("bad_json", "a message is a JSON object, or the text heartbeat"));
    }
    let kind = text(message, "type")?.ok_or_else(|| ErrorReply::field("`type` is missing"))?;
    if kind == "heartbeat" {
        return Ok(Request::Heartbeat { ack: flag(message, "ack", false)? });
    }
    command(kind, message).map(Request::Command)
}

fn command<'a>(kind: &str, message: &Value<'_, 'a>) -> Result<Command<'a>, ErrorReply> {
    match kind {
        "join" => {
            let observe = flag(message, "observe", true)?;
            let audience = detail(message)?;
            let state = state(message)?;
            Ok(Command::Join {
                room: room(message)?,
                state,
                audience: observe.then_some(audience),
                resume: resume(message, audience)?,
            })
        }
        "leave" => Ok(Command::Leave { room: room(message)? }),
        "state" if message.get("state").is_none() => {
            Err(ErrorReply::field("`state` is missing: an object, or null to clear it"))
        }
        "state" => Ok(Command::SetState { room: room(message)?, state: state(message)? }),
        "observe" => {
            let audience = detail(message)?;
            Ok(Command::Observe { room: room(message)?, audience, resume: resume(message, audience)? })
        }
        "unobserve" => Ok(Command::Unobserve { room: room(message)? }),
        "resync" => Ok(Command::Resync { room: room(message)? }),
        "message" => Ok(Command::Publish { room: room(message)?, data: data(message)? }),
        "watch" => Ok(Command::Watch { users: users(message)? }),
        "unwatch" => Ok(Command::Unwatch { users: users(message)? }),
        _ => Err(unknown(
            kind,
            "is not a type: heartbeat, join, leave, state, observe, unobserve, resync, message, watch or unwatch",
        )),
    }
}

fn unknown(kind: &str, what: &str) -> ErrorReply {
    // The reply is bounded, whatever the client sent.
    let short: String = kind.chars().take(64).collect();
    ErrorReply { code: "unknown_type", message: format!("`{short}` {what}").into(), type_sent: Some(short) }
}

fn room<'a>(message: &Value<'_, 'a>) -> Result<&'a str, ErrorReply> {
    let room = text(message, "room")?.ok_or_else(|| ErrorReply::field("`room` is missing"))?;
    check_id(room).map_err(|error| ErrorReply::field(format!("`room` {error}")))
}

fn users<'a>(message: &Value<'_, 'a>) -> Result<Vec<&'a str>, ErrorReply> {
    let list = message.get("users").ok_or_else(|| ErrorReply::field("`users` is missing"))?;
    let list = list.as_array().ok_or_else(|| ErrorReply::field("`users` must be a list of names"))?;
    let user = |value: Value<'_, 'a>| {
        let user = value.into_string().ok_or_else(|| ErrorReply::field("`users` must be a list of strings"))?;
        check_id(user).map_err(|error| ErrorReply::field(format!("a name in `users` {error}")))
    };
    list.iter().map(user).collect()
}

fn text<'a>(message: &Value<'_, 'a>, field: &str) -> Result<Option<&'a str>, ErrorReply> {
    let Some(value) = message.get(field) else { return Ok(None) };
    // Not `as_str`: text from `into_string` lives as long as the input.
    value.into_string().map(Some).ok_or_else(|| ErrorReply::field(format!("`{field}` must be a string")))
}

fn flag(message: &Value<'_, '_>, field: &str, default: bool) -> Result<bool, ErrorReply> {
    let Some(value) = message.get(field) else { return Ok(default) };
    value.as_bool().ok_or_else(|| ErrorReply::field(format!("`{field}` must be true or false")))
}

fn detail(message: &Value<'_, '_>) -> Result<Audience, ErrorReply> {
    match text(message, "detail")? {
        None | Some("members") => Ok(MEMBERS),
        Some("count") => Ok(COUNT),
        Some(_) => Err(ErrorReply::field("`detail` must be \"members\" or \"count\"")),
    }
}

fn state(message: &Value<'_, '_>) -> Result<Option<State>, ErrorReply> {
    let Some(value) = message.get("state").filter(|value| !value.is_null()) else { return Ok(None) };
    if !value.is_object() {
        return Err(ErrorReply::field("`state` must be an object, or null"));
    }
    compact("state", &value, MAX_STATE_BYTES).map(|text| Some(State::from(text)))
}

fn data(message: &Value<'_, '_>) -> Result<String, ErrorReply> {
    let value = message.get("data").ok_or_else(|| ErrorReply::field("`data` is missing: any JSON"))?;
    compact("data", &value, MAX_DATA_BYTES)
}

fn compact(field: &str, value: &Value<'_, '_>, limit: usize) -> Result<String, ErrorReply> {
    let text = json::compact(value);
    if text.len() > limit {
        let message = format!("`{field}` has {} bytes of JSON; the limit is {limit}", text.len());
        return Err(ErrorReply::new("too_large", message));
    }
    Ok(text)
}

/// Counts have no history, so for them `resume` is checked and then ignored.
fn resume<'a>(message: &Value<'_, 'a>, audience: Audience) -> Result<Option<Resume<'a>>, ErrorReply> {
    let Some(value) = message.get("resume").filter(|value| !value.is_null()) else { return Ok(None) };
    let epoch = value.get("epoch").and_then(ValueIntoString::into_string);
    let seq = value.get("seq").and_then(|seq| seq.as_u64());
    match (epoch, seq) {
        (Some(epoch), Some(seq)) => Ok(Some(Resume { epoch, seq }).filter(|_| audience == MEMBERS)),
        _ => Err(ErrorReply::field("`resume` must be {\"epoch\": string, \"seq\": whole number}")),
    }
}
