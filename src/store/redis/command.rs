//! Redis commands and replies as plain values. The logic that decides what to send does no I/O, so tests can run it on
//! simulated time.

/// A command. All keys of one batch are in the same slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisCommand {
    /// `SET key value EX ttl`.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The lease, in milliseconds.
        ttl_ms: u64,
    },
    /// `SET key value NX EX ttl`: an existing value stays.
    SetIfAbsent {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The lease, in milliseconds.
        ttl_ms: u64,
    },
    /// `UNLINK key`.
    Unlink(String),
    /// `PEXPIRE key ttl`.
    Expire {
        /// The key.
        key: String,
        /// The lease, in milliseconds from now.
        ttl_ms: u64,
    },
    /// `MGET keys…`, answered by [`RedisReply::Texts`].
    MultiGet(Vec<String>),
    /// `HSET key field value …`.
    HashSet {
        /// The key.
        key: String,
        /// Fields and values, at least one.
        fields: Vec<(String, String)>,
    },
    /// `HDEL key field …`.
    HashDelete {
        /// The key.
        key: String,
        /// At least one field.
        fields: Vec<String>,
    },
    /// `HINCRBY key field by`, answered by [`RedisReply::Number`].
    HashIncrement {
        /// The key.
        key: String,
        /// The field.
        field: &'static str,
        /// The number to add.
        by: u64,
    },
    /// `HMGET key @ #`: the metadata of an incarnation's hash, answered by [`RedisReply::Texts`].
    HashMetadata(String),
    /// `HSCAN key cursor COUNT …`, answered by [`RedisReply::Page`].
    HashScan {
        /// The key.
        key: String,
        /// 0 for the first page.
        cursor: u64,
    },
    /// `SADD key member`.
    SetAdd {
        /// The key.
        key: String,
        /// The member.
        member: String,
    },
    /// `SREM key member`.
    SetRemove {
        /// The key.
        key: String,
        /// The member.
        member: String,
    },
    /// `SMEMBERS key`, answered by [`RedisReply::Texts`].
    SetMembers(String),
    /// `PUBLISH channel message`, or `SPUBLISH` on a cluster.
    Publish {
        /// The channel.
        channel: String,
        /// The message.
        message: String,
    },
}

/// The reply to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisReply {
    /// The command succeeded; its reply does not matter.
    Done,
    /// The new value of a number.
    Number(i64),
    /// Texts, in the order of the request.
    Texts(Vec<Option<String>>),
    /// One page of a hash.
    Page {
        /// The cursor of the next page; 0 after the last one.
        cursor: u64,
        /// Fields and values.
        fields: Vec<(String, String)>,
    },
    /// The key holds a value of another type.
    WrongType,
    /// Any other error, in Redis's words.
    Error(String),
}

impl RedisReply {
    /// Describes the error of a reply that is not the expected one.
    #[must_use]
    pub fn error_text(&self) -> String {
        match self {
            Self::WrongType => "a key holds a value of another type".to_owned(),
            Self::Error(message) => message.clone(),
            other => format!("unexpected reply from Redis: {other:.200?}"),
        }
    }
}
