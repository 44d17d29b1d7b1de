//! Joins presence channels. A member is a user of the application, or of all protocols if the channel is a room of all
//! protocols. A user has one session per connection, however many channels the connection joins.

use super::decode::{MAX_INFO_BYTES, MemberData, Subscription};
use super::errors::{
    INFO_TOO_LONG, INVALID_INFO, INVALID_MEMBER, INVALID_ROOM, INVALID_USER, SubscriptionError, TOO_MANY_CONNECTIONS,
};
use super::socket::{Member, Socket};
use super::user_id::is_user_id;
use super::{MEMBERS, rooms};
use crate::json::{Reader, Value, compact};
use crate::presence::{AppRooms, Info, State};
use crate::protocol::{Client, Command, SessionNumber};

/// Larger numbers are not exact in JSON.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Joins a presence channel. The signature was checked.
pub(super) fn join(
    client: &mut Client<'_>,
    socket: &mut Socket,
    subscription: &Subscription,
) -> Result<(), SubscriptionError> {
    let (rooms, app, channel) = (rooms(client), socket.app, &*subscription.channel);
    let data = match &subscription.channel_data {
        Some(channel_data) => MemberData::read(channel_data),
        // The application has signed already who it is.
        None => socket.signed_in.as_deref().cloned(),
    };
    let data = data.ok_or(INVALID_MEMBER)?;
    let data = if rooms.is_shared(app, channel) { shared(data)? } else { data };
    let room = rooms.room(app, channel).ok_or(INVALID_ROOM)?;
    let session = session(client, &user_name(rooms, app, channel, &data)?)?;
    if socket.member_of(channel).is_some_and(|member| member.session != session) {
        // As another user: the former one leaves.
        leave(client, socket, channel, &room);
    }
    let state = state(&data, rooms.is_shared(app, channel), client.server().unix_ms);
    let join = Command::Join { room: &room, state, audience: Some(MEMBERS), resume: None };
    let joined = client.execute_as(session, join).inspect_err(|_| client.forget(session));
    joined.map_err(SubscriptionError::of)?;
    socket.members.retain(|member| *member.channel != *channel);
    socket.members.push(Member { channel: channel.into(), user_id: data.json_id().into(), session });
    Ok(())
}

/// The member of a room of all protocols. Ids are text there, and infos are objects.
fn shared(data: MemberData) -> Result<MemberData, SubscriptionError> {
    let user_info = match data.user_info {
        Some(info) if info == "null" => None,
        Some(info) if info.len() <= MAX_INFO_BYTES => Some(shared_info(&info).ok_or(INVALID_INFO)?),
        other => other,
    };
    Ok(MemberData { is_number: false, user_info, ..data })
}

/// The info in a room of all protocols; `None` if it is not an object. Surrogates without a partner become U+FFFD, as
/// in states: not every client can read them.
fn shared_info(info: &str) -> Option<String> {
    Reader::default().read(info.as_bytes(), |value| {
        let value = value.filter(Value::is_object)?;
        Some(if info.contains("\\u") { compact(&value) } else { info.to_owned() })
    })
}

fn leave(client: &mut Client<'_>, socket: &mut Socket, channel: &str, room: &str) {
    // It may have left already, if the room could not be joined again.
    let _ = client.execute(Command::Leave { room });
    socket.members.retain(|member| *member.channel != *channel);
}

/// The name of the user.
fn user_name(rooms: AppRooms, app: u64, channel: &str, data: &MemberData) -> Result<String, SubscriptionError> {
    if data.user_info.as_ref().is_some_and(|info| info.len() > MAX_INFO_BYTES) {
        return Err(INFO_TOO_LONG);
    }
    let name = rooms.user(app, channel, &data.user_id).filter(|_| is_user_id(&data.user_id));
    name.ok_or(if rooms.is_shared(app, channel) { INVALID_USER } else { INVALID_MEMBER })
}

/// The session of the user on this connection, a new one if there is none.
fn session(client: &mut Client<'_>, user: &str) -> Result<SessionNumber, SubscriptionError> {
    if client.check_user(user).is_err() {
        return Err(TOO_MANY_CONNECTIONS);
    }
    client.identify(user).ok_or(TOO_MANY_CONNECTIONS)
}

/// What the member shows. Of several infos of a user the one of the first connection counts, until the user leaves: an
/// earlier one has a greater time here. In a room of all protocols the last one counts, as with tokens.
fn state(data: &MemberData, is_shared: bool, unix_ms: u64) -> Option<State> {
    let state = data.is_number.then(|| State::from(data.user_id.clone()));
    let issued_at = if is_shared { unix_ms / 1000 } else { MAX_NUMBER - unix_ms.min(MAX_NUMBER) };
    let info = data.user_info.as_deref().map(|info| Info::new(info, issued_at));
    match (state, info) {
        (Some(state), info) => Some(state.with_info(info)),
        (None, info) => info.map(State::of_info),
    }
}
