//! Subscriptions: checks what the application has signed, then observes the room of the channel, or joins it.

use super::channel::{Kind, Traits};
use super::decode::{Message, Subscription};
use super::encode::put_subscription_error;
use super::errors::{INVALID_NAME, SubscriptionError, UNAUTHORIZED};
use super::members::join;
use super::socket::Socket;
use super::user_id::owner_of_channel;
use super::{CHANNEL, refuse, rooms};
use crate::presence::is_channel_name;
use crate::protocol::{Client, Command};

/// The most characters of an invalid name that an error repeats.
const MAX_SHOWN_CHARS: usize = 200;

/// Handles `pusher:subscribe`. The tick replies that the client is subscribed.
pub(super) fn subscribe(client: &mut Client<'_>, socket: &mut Socket, message: &Message<'_>) {
    let Some(subscription) = message.subscription() else {
        return refuse(client, None, "pusher:subscribe needs data with a channel");
    };
    match try_subscribe(client, socket, &subscription) {
        Ok(()) => socket.counted.counters().pusher_subscriptions.add(1),
        Err(error) => {
            socket.counted.counters().pusher_subscriptions_refused.add(1);
            client.count_refusal();
            let channel: String = subscription.channel.chars().take(MAX_SHOWN_CHARS).collect();
            put_subscription_error(client.replies, &channel, error);
        }
    }
}

fn try_subscribe(
    client: &mut Client<'_>,
    socket: &mut Socket,
    subscription: &Subscription,
) -> Result<(), SubscriptionError> {
    let channel = &*subscription.channel;
    if let Some(owner) = owner_of_channel(channel) {
        let is_own = socket.signed_in.as_ref().is_some_and(|user| user.user_id == owner);
        return if is_own { observe(client, socket, channel) } else { Err(UNAUTHORIZED) };
    }
    if !is_channel_name(channel) {
        return Err(INVALID_NAME);
    }
    let kind = Traits::of(channel).kind;
    if kind != Kind::Public && !is_signed(client, socket, subscription) {
        return Err(UNAUTHORIZED);
    }
    match kind {
        Kind::Presence => join(client, socket, subscription)?,
        Kind::Public | Kind::Private => observe(client, socket, channel)?,
    }
    socket.is_authorized |= kind != Kind::Public;
    Ok(())
}

fn observe(client: &mut Client<'_>, socket: &Socket, channel: &str) -> Result<(), SubscriptionError> {
    let room = rooms(client).room(socket.app, channel).ok_or(INVALID_NAME)?;
    client.execute(Command::Observe { room: &room, audience: CHANNEL, resume: None }).map_err(SubscriptionError::of)
}

/// Whether the application has signed the subscription, for this connection and with a key of its own.
fn is_signed(client: &Client<'_>, socket: &Socket, subscription: &Subscription) -> bool {
    let Subscription { channel, auth, channel_data } = subscription;
    let mut parts: Vec<&[u8]> = vec![socket.id.as_bytes(), b":", channel.as_bytes()];
    if let Some(channel_data) = channel_data {
        parts.extend([b":", channel_data.as_bytes()]);
    }
    socket.read_app(client, |app| app.has_signed(auth, &parts)) == Some(true)
}

/// Handles `pusher:unsubscribe`, which has no reply.
pub(super) fn unsubscribe(client: &mut Client<'_>, socket: &mut Socket, message: &Message<'_>) {
    let Some(Subscription { channel, .. }) = message.subscription() else {
        return refuse(client, None, "pusher:unsubscribe needs data with a channel");
    };
    let Some(room) = rooms(client).room(socket.app, &channel) else { return };
    // A client may unsubscribe from a channel to which it is not subscribed, for example because that failed.
    let _ = match socket.member_of(&channel) {
        Some(_) => client.execute(Command::Leave { room: &room }),
        None => client.execute(Command::Unobserve { room: &room }),
    };
    socket.members.retain(|member| *member.channel != *channel);
}
