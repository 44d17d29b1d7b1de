//! Events that are published to channels, by clients or by the application. A room message has the finished JSON, so
//! that each tick encodes it once.

use bytes::{BufMut, BytesMut};

use super::channel::Traits;
use super::decode::Message;
use super::raw_json::{Object, depth, minified};
use super::socket::Socket;
use super::user_id::owner_of_channel;
use super::{refuse, rooms};
use crate::json::put_string;
use crate::presence::is_channel_name;
use crate::protocol::{Client, Command, Refused};

/// The longest name of an event.
const MAX_NAME_CHARS: usize = 200;
/// The longest data of a client event, in bytes of JSON without spaces.
const MAX_DATA_BYTES: usize = 10 * 1024;
/// The deepest nesting of a client event. Ruby's parser fails at 101 levels, PHP's at 513 and Python's at
/// about 1,000: an event must not break the clients that receive it.
const MAX_DEPTH: usize = 100;

/// The error for client events that come too fast.
const TOO_FAST: u16 = 4301;

/// The data of the room message for an event of the application. The data of the event is text, which clients receive
/// as it is.
#[must_use]
pub fn event_data(event: &str, data: &str) -> String {
    let mut buffer = BytesMut::with_capacity(event.len() + data.len() + 32);
    buffer.put_slice(br#"{"event":"#);
    put_string(&mut buffer, event);
    buffer.put_slice(br#","data":"#);
    put_string(&mut buffer, data);
    buffer.put_u8(b'}');
    // All parts are text.
    String::from_utf8(buffer.into()).unwrap_or_default()
}

/// The data of an event of the application, as a JSON string: what [`event_data`] was given.
#[must_use]
pub fn data_of_event(event: &str) -> Option<&str> {
    Object::read(event)?.field("data")
}

/// The number of the connection that a socket id names; `None` if it is not a socket id.
#[must_use]
pub fn socket_number(socket_id: &str) -> Option<u64> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (node, number) = socket_id.split_once('.').filter(|(node, number)| is_number(node) && is_number(number))?;
    // Those of other servers have other lengths: no connection has them.
    node.parse::<u32>().ok().and_then(|_| number.parse().ok()).or(Some(0))
}

/// Handles an event of a client.
pub(super) fn relay(client: &mut Client<'_>, socket: &Socket, message: &Message<'_>) {
    match try_relay(client, socket, message) {
        Ok(()) => socket.counted.counters().pusher_client_events.add(1),
        Err((code, error)) => {
            socket.counted.counters().pusher_client_events_refused.add(1);
            refuse(client, code, error);
        }
    }
}

fn try_relay(
    client: &mut Client<'_>,
    socket: &Socket,
    message: &Message<'_>,
) -> Result<(), (Option<u16>, &'static str)> {
    let invalid = |error: &'static str| Err((None, error));
    let is_channel = |channel: &&str| is_channel_name(channel) || owner_of_channel(channel).is_some();
    let Some(channel) = message.channel.as_deref().filter(is_channel) else {
        return invalid("a client event needs a channel");
    };
    if socket.read_app(client, |app| app.options.client_messages) != Some(true) {
        return invalid("the application does not allow client events");
    }
    if !Traits::of(channel).has_client_events() {
        return invalid("client events are for private and presence channels that are not encrypted");
    }
    if message.event.chars().count() > MAX_NAME_CHARS {
        return invalid("the name of the event is longer than 200 characters");
    }
    let data = minified(message.data.unwrap_or("null"));
    if data.len() > MAX_DATA_BYTES {
        return invalid("the data of a client event is longer than 10 KiB");
    }
    // With one level for the event itself.
    if depth(&data) >= MAX_DEPTH {
        return invalid("the data of a client event is nested deeper than 99 levels");
    }
    let data = client_event(socket, channel, message, &data);
    let not_subscribed = "the connection is not subscribed to this channel";
    let Some(room) = rooms(client).room(socket.app, channel) else { return invalid(not_subscribed) };
    match client.execute(Command::Relay { room: &room, data }) {
        Ok(()) => Ok(()),
        Err(Refused::RateLimited) => Err((Some(TOO_FAST), "client events come too fast; the limit is 10 per second")),
        Err(_) => invalid(not_subscribed),
    }
}

/// The data of the room message for an event of a client. On presence channels it names the member.
fn client_event(socket: &Socket, channel: &str, message: &Message<'_>, data: &str) -> String {
    let mut buffer = BytesMut::with_capacity(message.raw_event.len() + data.len() + 64);
    buffer.put_slice(br#"{"event":"#);
    buffer.put_slice(message.raw_event.as_bytes());
    buffer.put_slice(br#","data":"#);
    buffer.put_slice(data.as_bytes());
    if let Some(member) = socket.member_of(channel) {
        buffer.put_slice(br#","user_id":"#);
        buffer.put_slice(member.user_id.as_bytes());
    }
    buffer.put_u8(b'}');
    // All parts are text.
    String::from_utf8(buffer.into()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_an_event_is_a_string_whatever_it_contains() {
        let event = event_data("a\"b", r#"{"c":1}"#);
        assert_eq!(event, r#"{"event":"a\"b","data":"{\"c\":1}"}"#);
        assert_eq!(data_of_event(&event), Some(r#""{\"c\":1}""#));
    }

    #[test]
    fn a_socket_id_is_two_numbers() {
        assert_eq!(socket_number("12.34"), Some(34));
        assert_eq!(socket_number("4294967295.18446744073709551615"), Some(u64::MAX));
        assert_eq!(socket_number("99999999999.34"), Some(0), "of another server");
        for wrong in ["", ".", "1", "1.", ".2", "1.2.3", "1.2\n", "1.-2", "+1.2", "a.b"] {
            assert_eq!(socket_number(wrong), None, "{wrong:?}");
        }
    }
}
