//! What is asked of Redis and what it answers, as plain values: the logic that decides what to ask does no I/O, and the tests
//! drive it over simulated time.

/// A command. All of one batch are about keys of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `SET key value EX ttl`.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The lease, in milliseconds.
        ttl_ms: u64,
    },
    /// `SET key value NX EX ttl`: what is there already stays.
    Claim {
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
    Keep {
        /// The key.
        key: String,
        /// From now, in milliseconds.
        ttl_ms: u64,
    },
    /// `MGET keys…`, answered by [`Reply::Texts`].
    Get(Vec<String>),
    /// `HSET key field value …`.
    HashSet {
        /// The key.
        key: String,
        /// Fields and values, at least one.
        fields: Vec<(String, String)>,
    },
    /// `HDEL key field …`.
    HashRemove {
        /// The key.
        key: String,
        /// At least one.
        fields: Vec<String>,
    },
    /// `HINCRBY key field by`, answered by [`Reply::Number`].
    HashCount {
        /// The key.
        key: String,
        /// The field.
        field: &'static str,
        /// What is added.
        by: u64,
    },
    /// `HMGET key @ #`: the head of a run's hash, answered by [`Reply::Texts`].
    HashHead(String),
    /// `HSCAN key cursor COUNT …`, answered by [`Reply::Page`].
    HashScan {
        /// The key.
        key: String,
        /// 0 to begin with.
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
    /// `SMEMBERS key`, answered by [`Reply::Texts`].
    SetMembers(String),
    /// `PUBLISH channel message`, or `SPUBLISH` on a cluster.
    Publish {
        /// The channel.
        channel: String,
        /// The message.
        message: String,
    },
}

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done; what it says does not matter.
    Done,
    /// A number, as it is now.
    Number(i64),
    /// Texts in the order asked for.
    Texts(Vec<Option<String>>),
    /// A part of a hash, and where to go on; 0 at the end.
    Page {
        /// Where to go on.
        cursor: u64,
        /// Fields and values.
        fields: Vec<(String, String)>,
    },
    /// The key holds something of another type.
    WrongType,
    /// Anything else that went wrong, as Redis says it.
    Failed(String),
}

impl Reply {
    /// What is wrong with it, for an answer that is not the one asked for.
    #[must_use]
    pub fn complaint(&self) -> String {
        match self {
            Self::WrongType => "a key holds something of another type".to_owned(),
            Self::Failed(message) => message.clone(),
            other => format!("Redis answered something else than was asked for: {other:.200?}"),
        }
    }
}
