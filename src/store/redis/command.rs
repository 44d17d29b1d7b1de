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
    /// `PEXPIRE key ttl`, answered by [`RedisReply::Missing`] if the key does not exist.
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
    /// `PTTL key`, answered by [`RedisReply::Number`]: negative if the key does not exist or does not expire.
    TimeToLive(String),
    /// `HSCAN key cursor COUNT …`, answered by [`RedisReply::Page`].
    HashScan {
        /// The key.
        key: String,
        /// 0 for the first page.
        cursor: u64,
    },
    /// `ZADD key score member …`.
    SortedSetAdd {
        /// The key.
        key: String,
        /// Scores and members, at least one.
        members: Vec<(u64, String)>,
    },
    /// `ZREMRANGEBYRANK key 0 …`: all members but the last ones are removed.
    SortedSetTrim {
        /// The key.
        key: String,
        /// The number of members that stay.
        keep: usize,
    },
    /// `ZREVRANGEBYSCORE key score -inf LIMIT 0 last`: the last members up to a score, the last one first, answered by
    /// [`RedisReply::Texts`].
    SortedSetLast {
        /// The key.
        key: String,
        /// Their number.
        last: usize,
        /// The highest score.
        score: u64,
    },
    /// `ZRANGE key … -1 WITHSCORES`: the members with the highest scores, answered by [`RedisReply::Scores`].
    SortedSetScores {
        /// The key.
        key: String,
        /// Their number.
        last: usize,
    },
    /// `ZREM key member …`.
    SortedSetRemove {
        /// The key.
        key: String,
        /// At least one member.
        members: Vec<String>,
    },
    /// `ZREMRANGEBYSCORE key -inf score`.
    SortedSetRemoveBelow {
        /// The key.
        key: String,
        /// The highest score that is removed.
        score: u64,
    },
    /// `ZREMRANGEBYSCORE key (score +inf`.
    SortedSetRemoveAbove {
        /// The key.
        key: String,
        /// The highest score that stays.
        score: u64,
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
    /// `TIME`, answered by [`RedisReply::Number`]: milliseconds since the Unix epoch.
    Time,
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
    /// The key does not exist.
    Missing,
    /// The new value of a number.
    Number(i64),
    /// Texts, in the order of the request.
    Texts(Vec<Option<String>>),
    /// Members with their scores.
    Scores(Vec<(String, u64)>),
    /// One page of a hash.
    Page {
        /// The cursor of the next page; 0 after the last one.
        cursor: u64,
        /// Fields and values.
        fields: Vec<(String, String)>,
        /// It comes from the server to which the slot is moving. Cursors of one server mean nothing to the other.
        moved: bool,
    },
    /// The key holds a value of another type.
    WrongType,
    /// Any other error, in Redis's words.
    Error(String),
}

impl RedisReply {
    /// Whether the user of the connection lacks the permission for the command.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Error(message) if message.contains("NOPERM"))
    }

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
