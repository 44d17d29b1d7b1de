//! Questions about channels. The answers concern all nodes, as far as this node knows.
//!
//! Long lists are written in slices, with other requests in between.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::task::yield_now;

use super::cache::{cached, put_cached};
use super::call::Call;
use super::counts::{Attributes, Counts};
use crate::http::answers::RoomEntry;
use crate::http::api::room_list;
use crate::http::reply::Reply;
use crate::json::{put_list, put_number, put_string, string_bytes};
use crate::presence::{
    AppName, MEMBERS_PREFIX, Room, app_user_id, channel_name, is_channel_name, is_hidden, is_internal,
};
use crate::protocol::is_cache_channel;

/// Entries that are written before other requests have their turn.
const SLICE: usize = 1000;
/// The bytes of an entry, without its name.
const ENTRY_BYTES: usize = 32;

/// `GET …/channels`.
pub(super) async fn list(call: &Call) -> Result<Reply, Reply> {
    let prefix = call.params.get("filter_by_prefix").unwrap_or_default();
    let attributes = Attributes::parse(call.params.get("info").unwrap_or_default())?;
    let needs_members = attributes.user_count && !prefix.starts_with(MEMBERS_PREFIX);
    if attributes.subscription_count || attributes.cache || needs_members {
        let message = "info must be user_count, with a filter_by_prefix that begins with presence-";
        return Err(Reply::bad_request(message));
    }
    let answers = &call.thread.answers;
    let own = room_list(call, &answers.channels, is_listed).await;
    let shared = match call.is_shared(MEMBERS_PREFIX) {
        true => Some(room_list(call, &answers.rooms, |room| !is_internal(room)).await),
        false => None,
    };
    let mut listed: Vec<_> = own_channels(&own, call.app.id, prefix).iter().collect();
    listed.extend(shared.iter().flat_map(|rooms| shared_channels(rooms, prefix)));
    call.charge(listed.iter().map(|room| string_bytes(&channel_name(&room.name)) + ENTRY_BYTES).sum())?;
    let put = |buffer: &mut BytesMut, room: &&RoomEntry| {
        put_string(buffer, &channel_name(&room.name));
        buffer.put_u8(b':');
        match attributes.user_count {
            true => {
                buffer.put_slice(br#"{"user_count":"#);
                put_number(buffer, room.members);
                buffer.put_u8(b'}');
            }
            false => buffer.put_slice(b"{}"),
        }
    };
    Ok(in_slices(br#"{"channels":{"#, &listed, put, b"}}").await)
}

/// `GET …/channels/{channel}`.
pub(super) async fn one(call: &Call) -> Result<Reply, Reply> {
    let channel = channel(call)?;
    let attributes = Attributes::parse(call.params.get("info").unwrap_or_default())?;
    if attributes.user_count && !channel.starts_with(MEMBERS_PREFIX) {
        return Err(Reply::bad_request("only presence channels have a user_count"));
    }
    if attributes.cache && !is_cache_channel(&channel) {
        return Err(Reply::bad_request("only cache channels have a cache"));
    }
    let room = call.room(&channel)?;
    let cached = match attributes.cache {
        true => {
            // An address that is over its budget causes no work.
            call.charge_work(0)?;
            Some(cached(call, &room).await)
        }
        false => None,
    };
    call.charge_short(|| {
        let counts = Counts::of(call, &channel, room);
        Reply::json(|buffer| {
            buffer.put_slice(br#"{"occupied":"#);
            buffer.put_slice(if counts.is_occupied() { b"true" } else { b"false" });
            counts.put(buffer, attributes);
            cached.iter().for_each(|cached| put_cached(buffer, cached.as_ref()));
            buffer.put_u8(b'}');
        })
    })
}

/// `GET …/channels/{channel}/users`.
pub(super) async fn users(call: &Call) -> Result<Reply, Reply> {
    let channel = channel(call)?;
    if !channel.starts_with(MEMBERS_PREFIX) {
        return Err(Reply::bad_request("only presence channels have users"));
    }
    // An address that is over its budget causes no work.
    call.charge_work(0)?;
    let room = call.node().registry.room(&call.room(&channel)?);
    let users = match &room {
        Some(room) => members(room).await,
        None => Vec::new(),
    };
    call.charge(users.iter().map(|user| string_bytes(user) + ENTRY_BYTES).sum())?;
    let put = |buffer: &mut BytesMut, user: &Arc<str>| {
        buffer.put_slice(br#"{"id":"#);
        put_string(buffer, app_user_id(user));
        buffer.put_u8(b'}');
    };
    Ok(in_slices(br#"{"users":["#, &users, put, b"]}").await)
}

/// The channel in the path.
fn channel(call: &Call) -> Result<String, Reply> {
    let channel = call.segment("channel")?;
    let is_valid = is_channel_name(&channel);
    is_valid.then_some(channel).ok_or_else(|| Reply::bad_request("the channel name is not valid"))
}

/// The users of all members, sorted. The room is locked for one slice at a time.
async fn members(room: &Room) -> Vec<Arc<str>> {
    let mut users: Vec<Arc<str>> = Vec::new();
    loop {
        let before = users.len();
        room.read(|roster| {
            let last = users.last().cloned();
            users.extend(roster.members_after(last.as_deref()).take(SLICE).map(|(user, _)| Arc::clone(user)));
        });
        if users.len() < before + SLICE {
            return users;
        }
        yield_now().await;
    }
}

/// Whether a room is a channel that lists show.
fn is_listed(room: &str) -> bool {
    is_internal(room) && !is_hidden(room)
}

/// The rooms whose names begin with this.
fn with_prefix<'a>(rooms: &'a [RoomEntry], prefix: &str) -> &'a [RoomEntry] {
    let from = &rooms[rooms.partition_point(|room| *room.name < *prefix)..];
    &from[..from.partition_point(|room| room.name.starts_with(prefix))]
}

/// The application's own channels with this prefix.
fn own_channels<'a>(rooms: &'a [RoomEntry], app: u64, prefix: &str) -> &'a [RoomEntry] {
    with_prefix(rooms, &AppName { app, name: prefix }.to_string())
}

/// The rooms of all protocols that are channels with this prefix. A room that has only observers is not occupied.
fn shared_channels<'a>(rooms: &'a [RoomEntry], prefix: &str) -> impl Iterator<Item = &'a RoomEntry> {
    let rooms = match prefix.strip_prefix(MEMBERS_PREFIX) {
        Some(prefix) => with_prefix(rooms, prefix),
        None if MEMBERS_PREFIX.starts_with(prefix) => rooms,
        None => &[],
    };
    rooms.iter().filter(|room| room.members > 0 && is_channel_name(&room.name))
}

/// 200 with a list, and what comes before and after it.
async fn in_slices<T>(before: &[u8], list: &[T], put: impl Fn(&mut BytesMut, &T), after: &[u8]) -> Reply {
    let mut body = BytesMut::from(before);
    for (number, slice) in list.chunks(SLICE).enumerate() {
        if number > 0 {
            yield_now().await;
            body.put_u8(b',');
        }
        put_list(&mut body, slice, &put);
    }
    body.put_slice(after);
    Reply::json(|buffer| *buffer = body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(app: u64, name: &str) -> String {
        AppName { app, name }.to_string()
    }

    fn rooms(names: &[(u64, &str)]) -> Vec<RoomEntry> {
        let names = names.iter().map(|(app, name)| Arc::from(own(*app, name)));
        let mut rooms: Vec<_> = names.map(|name| RoomEntry { name, members: 1, observers: 1 }).collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms
    }

    #[test]
    fn a_list_has_the_channels_of_one_application_with_a_prefix() {
        let all = rooms(&[(1, "a"), (1, "presence-a"), (1, "presence-b"), (1, "z"), (10, "a"), (2, "presence-a")]);
        let check = |app, prefix: &str, want: &[&str]| {
            let listed = own_channels(&all, app, prefix);
            assert_eq!(listed.iter().map(|room| channel_name(&room.name)).collect::<Vec<_>>(), want, "{app} {prefix}");
        };
        check(1, "", &["a", "presence-a", "presence-b", "z"]);
        check(1, "presence-", &["presence-a", "presence-b"]);
        check(1, "presence-b", &["presence-b"]);
        check(1, "zz", &[]);
        check(1, "0", &[]);
        check(10, "", &["a"]);
        check(2, "", &["presence-a"]);
        check(3, "", &[]);
    }

    #[test]
    fn rooms_of_others_and_hidden_ones_are_not_listed() {
        assert!(is_listed(&own(1, "news")));
        assert!(!is_listed("news") && !is_listed(&own(1, "#server-to-user-7")));
    }

    #[test]
    fn rooms_of_all_protocols_are_listed_as_presence_channels() {
        let entry = |(name, members): (&str, usize)| RoomEntry { name: name.into(), members, observers: 1 };
        let all: Vec<_> = [("a", 1), ("ab", 2), ("b c", 1), ("watched", 0), ("z", 1), ("é", 1)].map(entry).into();
        let check = |prefix: &str, want: &[&str]| {
            let listed = shared_channels(&all, prefix).map(|room| channel_name(&room.name));
            assert_eq!(listed.collect::<Vec<_>>(), want, "{prefix}");
        };
        let every = ["presence-a", "presence-ab", "presence-z"];
        check("", &every);
        check("pre", &every);
        check("presence-", &every);
        check("presence-a", &every[..2]);
        check("presence-ab", &every[1..2]);
        check("presence-y", &[]);
        check("private-", &[]);
    }

    #[tokio::test]
    async fn long_lists_have_a_comma_between_all_entries() {
        for count in [0, 1, SLICE - 1, SLICE, SLICE + 1, 3 * SLICE] {
            let numbers: Vec<_> = (0..count).collect();
            let reply = in_slices(b"[", &numbers, |buffer, number| put_number(buffer, *number), b"]").await;
            let (_, body) = reply.with_length();
            assert_eq!(serde_json::from_slice::<Vec<usize>>(&body).unwrap(), numbers);
        }
    }
}
