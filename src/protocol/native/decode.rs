//! Decodes messages of native clients into a [`Request`], or the error to reply with.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use simd_json::prelude::{ValueAsScalar, ValueIntoString};

use super::{COUNT, MEMBERS};
use crate::json::{self, Reader, Value};
use crate::presence::{Audience, MAX_STATE_BYTES, State, check_id};
use crate::protocol::{Command, Resume};

/// The longest data of a message, in bytes of compact JSON.
pub const MAX_DATA_BYTES: usize = 4096;

/// The most characters of an unknown type that an error repeats.
const MAX_SHOWN_CHARS: usize = 64;

/// The reply to a message that is invalid or was not executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// The error code, for programs.
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub message: Cow<'static, str>,
    /// The type of the message, if it could be read.
    pub type_sent: Option<Box<str>>,
    /// The room that the message names, if the name is valid.
    pub room: Option<Box<str>>,
}

impl ErrorReply {
    /// An error with this code and message.
    pub fn new(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), type_sent: None, room: None }
    }

    /// The same error, with the message that it is about: clients can then tell which of their messages was refused.
    pub(super) fn about(self, kind: &str, room: &str) -> Self {
        // The reply is bounded, whatever the client sent.
        let kind: String = kind.chars().take(MAX_SHOWN_CHARS).collect();
        let room = check_id(room).ok().map(Into::into);
        Self { type_sent: Some(kind.into()), room, ..self }
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
        Some(value) => act(request(&value, &Names::default())),
        None => act(Err(ErrorReply::new(
            "bad_json",
            "a message is one JSON object, nested at most 8 deep, or the text heartbeat",
        ))),
    })
}

/// A message of a client.
#[derive(Clone, PartialEq)]
pub enum Request<'a> {
    /// Renew the lease.
    Heartbeat {
        /// Whether to send an acknowledgement.
        ack: bool,
    },
    /// Replace the token with which the connection began.
    Renew {
        /// The new token.
        token: &'a str,
    },
    /// Any other command.
    Command(Command<'a>),
}

impl fmt::Debug for Request<'_> {
    /// Without the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heartbeat { ack } => formatter.debug_struct("Heartbeat").field("ack", ack).finish(),
            Self::Renew { .. } => formatter.write_str("Renew"),
            Self::Command(command) => command.fmt(formatter),
        }
    }
}

/// Names of a message that are not in the input as they have to be: they were normalized.
#[derive(Default)]
struct Names {
    room: OnceCell<String>,
    users: OnceCell<Vec<String>>,
}

fn request<'a>(message: &Value<'_, 'a>, names: &'a Names) -> Result<Request<'a>, ErrorReply> {
    if !message.is_object() {
        return Err(ErrorReply::new("bad_json", "a message is a JSON object, or the text heartbeat"));
    }
    let kind = text(message, "type")?.ok_or_else(|| ErrorReply::field("`type` is missing"))?;
    if kind == "heartbeat" {
        return Ok(Request::Heartbeat { ack: flag(message, "ack", false)? });
    }
    if kind == "auth" {
        let token =
            text(message, "token").and_then(|token| token.ok_or_else(|| ErrorReply::field("`token` is missing")));
        return token.map(|token| Request::Renew { token }).map_err(|error| error.about(kind, ""));
    }
    let room = || text(message, "room").ok().flatten().unwrap_or_default();
    command(kind, message, names).map(Request::Command).map_err(|error| error.about(kind, room()))
}

fn command<'a>(kind: &str, message: &Value<'_, 'a>, names: &'a Names) -> Result<Command<'a>, ErrorReply> {
    match kind {
        "join" => {
            let observe = flag(message, "observe", true)?;
            let audience = detail(message)?;
            let state = state(message)?;
            Ok(Command::Join {
                room: room(message, names)?,
                state,
                audience: observe.then_some(audience),
                resume: resume(message, audience)?,
            })
        }
        "leave" => Ok(Command::Leave { room: room(message, names)? }),
        "state" if json::field_or_null(message, "state").is_none() => {
            Err(ErrorReply::field("`state` is missing: an object, or null to clear it"))
        }
        "state" => Ok(Command::SetState { room: room(message, names)?, state: state(message)? }),
        "observe" => {
            let audience = detail(message)?;
            Ok(Command::Observe { room: room(message, names)?, audience, resume: resume(message, audience)? })
        }
        "unobserve" => Ok(Command::Unobserve { room: room(message, names)? }),
        "resync" => Ok(Command::Resync { room: room(message, names)? }),
        "message" => Ok(Command::Publish { room: room(message, names)?, data: data(message)? }),
        "watch" => Ok(Command::Watch { users: users(message, names)? }),
        "unwatch" => Ok(Command::Unwatch { users: users(message, names)? }),
        _ => Err(unknown(
            kind,
            "is not a type: heartbeat, auth, join, leave, state, observe, unobserve, resync, message, watch or unwatch",
        )),
    }
}

fn unknown(kind: &str, what: &str) -> ErrorReply {
    let short: String = kind.chars().take(MAX_SHOWN_CHARS).collect();
    ErrorReply::new("unknown_type", format!("`{short}` {what}"))
}

fn room<'a>(message: &Value<'_, 'a>, names: &'a Names) -> Result<&'a str, ErrorReply> {
    let room = text(message, "room")?.ok_or_else(|| ErrorReply::field("`room` is missing"))?;
    match check_id(room) {
        Ok(Cow::Borrowed(room)) => Ok(room),
        Ok(Cow::Owned(room)) => Ok(names.room.get_or_init(|| room)),
        Err(error) => Err(ErrorReply::field(format!("`room` {error}"))),
    }
}

fn users<'a>(message: &Value<'_, 'a>, names: &'a Names) -> Result<Vec<&'a str>, ErrorReply> {
    let list = json::field(message, "users").ok_or_else(|| ErrorReply::field("`users` is missing"))?;
    let list = list.as_array().ok_or_else(|| ErrorReply::field("`users` must be a list of names"))?;
    let mut users = Vec::with_capacity(list.len());
    let mut is_normal = true;
    for value in list.iter() {
        let user = value.into_string().ok_or_else(|| ErrorReply::field("`users` must be a list of strings"))?;
        let checked = check_id(user).map_err(|error| ErrorReply::field(format!("a name in `users` {error}")))?;
        is_normal &= matches!(checked, Cow::Borrowed(_));
        users.push(user);
    }
    if is_normal {
        return Ok(users);
    }
    let normal = || users.iter().filter_map(|user| check_id(user).ok().map(Cow::into_owned)).collect();
    Ok(names.users.get_or_init(normal).iter().map(String::as_str).collect())
}

fn text<'a>(message: &Value<'_, 'a>, field: &str) -> Result<Option<&'a str>, ErrorReply> {
    let Some(value) = json::field(message, field) else { return Ok(None) };
    // Not `as_str`: text from `into_string` lives as long as the input.
    value.into_string().map(Some).ok_or_else(|| ErrorReply::field(format!("`{field}` must be a string")))
}

fn flag(message: &Value<'_, '_>, field: &str, default: bool) -> Result<bool, ErrorReply> {
    let Some(value) = json::field(message, field) else { return Ok(default) };
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
    let Some(value) = json::field(message, "state") else { return Ok(None) };
    if !value.is_object() {
        return Err(ErrorReply::field("`state` must be an object, or null"));
    }
    compact("state", &value, MAX_STATE_BYTES).map(|text| Some(State::from(text)))
}

fn data(message: &Value<'_, '_>) -> Result<String, ErrorReply> {
    let value = json::field_or_null(message, "data").ok_or_else(|| ErrorReply::field("`data` is missing: any JSON"))?;
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
    let Some(value) = json::field(message, "resume") else { return Ok(None) };
    let epoch = json::field(&value, "epoch").and_then(ValueIntoString::into_string);
    let seq = json::field(&value, "seq").and_then(|seq| seq.as_u64());
    match (epoch, seq) {
        (Some(epoch), Some(seq)) => Ok(Some(Resume { epoch, seq }).filter(|_| audience == MEMBERS)),
        _ => Err(ErrorReply::field("`resume` must be {\"epoch\": string, \"seq\": whole number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_request_does_not_have_its_token() {
        let text = |request: &Request<'_>| format!("{request:?}");
        assert_eq!(text(&Request::Renew { token: "secret" }), "Renew");
        assert_eq!(text(&Request::Heartbeat { ack: true }), "Heartbeat { ack: true }");
    }
}
