//! Why subscriptions fail.

use crate::protocol::Refused;

/// Why a subscription fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct SubscriptionError {
    /// The kind, for programs.
    pub(super) kind: &'static str,
    /// What is wrong, for people.
    pub(super) message: &'static str,
    /// The HTTP status that it would be.
    pub(super) status: u16,
}

/// The signature is missing or wrong. The right one is never told.
pub(super) const UNAUTHORIZED: SubscriptionError =
    SubscriptionError { kind: "AuthError", message: "The connection is unauthorized.", status: 401 };
pub(super) const INVALID_NAME: SubscriptionError = SubscriptionError {
    kind: "InvalidChannel",
    message: "A channel name has 1 to 200 characters of A-Z, a-z, 0-9 and -_=@,.;",
    status: 400,
};
pub(super) const INVALID_ROOM: SubscriptionError = SubscriptionError {
    kind: "InvalidChannel",
    message: "This presence channel is a room of all protocols, whose name has 1 to 128 characters after presence-.",
    status: 400,
};
const TOO_MANY_CHANNELS: SubscriptionError =
    SubscriptionError { kind: "LimitReached", message: "The connection has too many channels.", status: 403 };
const OVER_CAPACITY: SubscriptionError =
    SubscriptionError { kind: "LimitReached", message: "The server is over capacity, try again later.", status: 503 };

pub(super) const INVALID_MEMBER: SubscriptionError = SubscriptionError {
    kind: "InvalidMember",
    message: "channel_data must be JSON with a user_id, a string or number of at most 128 characters and 210 bytes. \
              It can be left out after pusher:signin.",
    status: 400,
};
pub(super) const INVALID_USER: SubscriptionError = SubscriptionError {
    kind: "InvalidMember",
    message: "Users of this channel are those of all protocols, so user_id must be 1 to 128 bytes of visible text in \
              Unicode normalization form C (NFC), without spaces at its ends.",
    status: 400,
};
pub(super) const INVALID_INFO: SubscriptionError = SubscriptionError {
    kind: "InvalidMember",
    message: "Members of this channel are shown to clients of all protocols, so user_info must be a JSON object, \
              nested at most 8 levels deep.",
    status: 400,
};
pub(super) const INFO_TOO_LONG: SubscriptionError =
    SubscriptionError { kind: "InvalidMember", message: "user_info has more than 1024 bytes.", status: 413 };
pub(super) const TOO_MANY_CONNECTIONS: SubscriptionError =
    SubscriptionError { kind: "LimitReached", message: "The user has too many connections.", status: 403 };

impl SubscriptionError {
    /// The error for a command that was not executed.
    pub(super) fn of(refused: Refused) -> Self {
        match refused {
            Refused::TooManyRooms | Refused::TooManyRoomsOfUser => TOO_MANY_CHANNELS,
            _ => OVER_CAPACITY,
        }
    }
}
