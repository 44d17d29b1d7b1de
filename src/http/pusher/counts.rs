//! How many users and connections a channel has on all nodes.

use bytes::{BufMut, BytesMut};

use super::call::Call;
use crate::http::answers::RoomEntry;
use crate::http::api::room_entry;
use crate::http::reply::Reply;
use crate::json::put_number;
use crate::presence::MEMBERS_PREFIX;

/// What a request wants to know about channels, besides whether they have subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) user_count: bool,
    pub(super) subscription_count: bool,
    /// Only of one channel.
    pub(super) cache: bool,
}

impl Attributes {
    /// Reads a list that is separated by commas.
    pub(super) fn parse(list: &str) -> Result<Self, Reply> {
        let mut attributes = Self { user_count: false, subscription_count: false, cache: false };
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "user_count" => attributes.user_count = true,
                "subscription_count" => attributes.subscription_count = true,
                "cache" => attributes.cache = true,
                _ => return Err(Reply::bad_request("info must be a list of user_count, subscription_count and cache")),
            }
        }
        Ok(attributes)
    }
}

/// The counts of a channel.
#[derive(Debug)]
pub(super) struct Counts {
    room: RoomEntry,
    is_presence: bool,
    is_shared: bool,
}

impl Counts {
    /// Of this channel of the application, which is this room.
    pub(super) fn of(call: &Call, channel: &str, room: String) -> Self {
        let room = room_entry(&call.node().registry, room.into());
        Self { room, is_presence: channel.starts_with(MEMBERS_PREFIX), is_shared: call.is_shared(channel) }
    }

    /// Whether it has subscribers. A room of all protocols may have observers of other protocols, and each of its
    /// subscribers is a member.
    pub(super) fn is_occupied(&self) -> bool {
        if self.is_shared { self.room.members > 0 } else { self.room.is_used() }
    }

    /// Appends the attributes as fields of an object, each with a comma before it. Only presence channels have users.
    pub(super) fn put(&self, buffer: &mut BytesMut, attributes: Attributes) {
        if attributes.user_count && self.is_presence {
            buffer.put_slice(br#","user_count":"#);
            put_number(buffer, self.room.members);
        }
        if attributes.subscription_count {
            buffer.put_slice(br#","subscription_count":"#);
            put_number(buffer, self.room.observers);
        }
    }

    /// Appends the attributes as an object.
    pub(super) fn put_object(&self, buffer: &mut BytesMut, attributes: Attributes) {
        let mut fields = BytesMut::new();
        self.put(&mut fields, attributes);
        buffer.put_u8(b'{');
        buffer.put_slice(fields.strip_prefix(b",").unwrap_or_default());
        buffer.put_u8(b'}');
    }
}
