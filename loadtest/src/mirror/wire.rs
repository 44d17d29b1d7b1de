//! What servers say about who is there, as far as a mirror needs it.
//!
//! ```text
//! native        {"type":"snapshot","room":R,"epoch":E,"seq":N,"count":K,"members":[{"user":U,"state":{…}?},…],"page":1,"pages":1}
//!               {"type":"diff","room":R,"seq":N,"count":K,"joined":[…]?,"updated":[…]?,"left":[{"user":U,…},…]?}
//! online-users  {"type": "online_users", "users": [U, …]}
//! status        {"type":"USER_ONLINE","userId":U,…}   {"type":"USER_OFFLINE","userId":U,…}
//! chat          {"type":"join","payload":{"user":U,…}}   {"type":"leave","payload":{"user":U,…}}
//! ```

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

/// A page of a room at one moment; also the answer of `/v1/rooms/{room}/members`.
#[derive(Debug, Deserialize)]
pub(crate) struct Snapshot<'a> {
    #[serde(borrow)]
    pub(crate) room: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) epoch: Cow<'a, str>,
    pub(crate) seq: u64,
    pub(crate) count: u64,
    #[serde(borrow)]
    pub(crate) members: Vec<Member<'a>>,
    #[serde(default = "one")]
    pub(crate) page: u32,
    #[serde(default = "one")]
    pub(crate) pages: u32,
    /// In answers of the HTTP API: the name to go on after, if there are more.
    #[serde(default, borrow)]
    pub(crate) next: Option<Cow<'a, str>>,
}

/// What changed in a room from `seq - 1` to `seq`.
#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Diff<'a> {
    #[serde(borrow)]
    pub(crate) room: Cow<'a, str>,
    pub(crate) seq: u64,
    pub(crate) count: u64,
    #[serde(default, borrow)]
    pub(crate) joined: Vec<Member<'a>>,
    #[serde(default, borrow)]
    pub(crate) updated: Vec<Member<'a>>,
    #[serde(default, borrow)]
    pub(crate) left: Vec<Gone<'a>>,
}

#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Member<'a> {
    #[serde(borrow)]
    pub(crate) user: Cow<'a, str>,
    #[serde(default)]
    pub(crate) state: Value,
}

#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Gone<'a> {
    #[serde(borrow)]
    pub(crate) user: Cow<'a, str>,
}

/// Everybody, by name.
#[derive(Debug, Deserialize)]
pub(crate) struct List<'a> {
    #[serde(borrow)]
    pub(crate) users: Vec<Cow<'a, str>>,
}

/// Somebody came or went.
#[derive(Debug, PartialEq)]
pub(crate) struct Event<'a> {
    pub(crate) user: Cow<'a, str>,
    pub(crate) came: bool,
}

/// The same as it is told: where the user stands depends on the dialect.
#[derive(Debug, Deserialize)]
struct ToldEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default, rename = "userId", borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    payload: Option<Gone<'a>>,
}

/// Where an event names its user.
enum Naming {
    UserId,
    Payload,
}

/// Of the kinds of messages that tell of one user: whether it came, and where it is named.
fn event_kind(kind: &str) -> Option<(bool, Naming)> {
    match kind {
        "USER_ONLINE" => Some((true, Naming::UserId)),
        "USER_OFFLINE" => Some((false, Naming::UserId)),
        "join" => Some((true, Naming::Payload)),
        "leave" => Some((false, Naming::Payload)),
        _ => None,
    }
}

/// Whether this kind of message tells of somebody who came or went.
pub(crate) fn is_event(kind: &str) -> bool {
    event_kind(kind).is_some()
}

/// Reads what the status and the chat dialect tell of one user.
pub(crate) fn event(payload: &[u8], is_whole: bool) -> Result<Event<'_>, String> {
    let told: ToldEvent<'_> = read(payload, is_whole)?;
    let named = event_kind(&told.kind).and_then(|(came, naming)| {
        let user = match naming {
            Naming::UserId => told.user_id,
            Naming::Payload => told.payload.map(|Gone { user }| user),
        };
        Some(Event { user: user?, came })
    });
    named.ok_or_else(|| format!("names no user: {}", beginning(payload)))
}

impl Diff<'_> {
    /// Members that joined, changed or left.
    pub(crate) fn changes(&self) -> u32 {
        u32::try_from(self.joined.len() + self.updated.len() + self.left.len()).unwrap_or(u32::MAX)
    }
}

/// What goes wrong is a broken server, so the message's beginning is worth showing.
pub(crate) fn read<'a, T: Deserialize<'a>>(payload: &'a [u8], is_whole: bool) -> Result<T, String> {
    if !is_whole {
        return Err(format!("a message is too long to be kept: {}…", beginning(payload)));
    }
    serde_json::from_slice(payload).map_err(|error| format!("{error} in {}", beginning(payload)))
}

fn beginning(payload: &[u8]) -> Cow<'_, str> {
    const SHOWN_BYTES: usize = 120;
    String::from_utf8_lossy(&payload[..payload.len().min(SHOWN_BYTES)])
}

fn one() -> u32 {
    1
}
