//! The native protocol's messages as JSON.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A message of a client, with the fields of all kinds.
#[derive(Deserialize)]
pub struct Request<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(default, borrow)]
    pub room: Option<Cow<'a, str>>,
    #[serde(default = "yes")]
    pub observe: bool,
    #[serde(default)]
    pub detail: Detail,
    #[serde(default)]
    pub ack: bool,
}

/// What an observer receives.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    #[default]
    Members,
    Count,
}

/// Why a user left.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    Left,
    Closed,
    Timeout,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message<'a> {
    Welcome {
        protocol: &'a str,
        user: &'a str,
        connection: &'a str,
        node: &'a str,
        ttl_ms: u64,
        heartbeat_ms: u64,
        tick_ms: u64,
    },
    Snapshot {
        room: &'a str,
        epoch: &'a str,
        seq: u64,
        count: usize,
        members: &'a [Member],
        page: usize,
        pages: usize,
    },
    Diff {
        room: &'a str,
        seq: u64,
        count: usize,
        #[serde(skip_serializing_if = "<[Member]>::is_empty")]
        joined: &'a [Member],
        #[serde(skip_serializing_if = "<[Gone]>::is_empty")]
        left: &'a [Gone],
    },
    Count {
        room: &'a str,
        seq: u64,
        count: usize,
    },
    HeartbeatAck {
        ts: u128,
    },
    Error {
        code: &'a str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        type_sent: Option<&'a str>,
    },
}

#[derive(Serialize)]
pub struct Member {
    #[serde(serialize_with = "text")]
    pub user: Arc<str>,
}

#[derive(Serialize)]
pub struct Gone {
    #[serde(serialize_with = "text")]
    pub user: Arc<str>,
    pub reason: Reason,
}

/// `GET /v1/rooms/{room}/members`.
#[derive(Serialize)]
pub struct MembersPage<'a> {
    pub room: &'a str,
    pub epoch: &'a str,
    pub seq: u64,
    pub count: usize,
    pub members: Vec<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

pub fn encode(message: &impl Serialize) -> String {
    serde_json::to_string(message).expect("strings and numbers always encode")
}

/// User ids and room names.
pub fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn yes() -> bool {
    true
}
