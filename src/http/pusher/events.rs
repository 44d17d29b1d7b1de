//! Publishing: the next tick sends events to all clients that are subscribed, on all nodes.

use std::collections::HashSet;

use bytes::{BufMut, BytesMut};
use hyper::StatusCode;
use simd_json::prelude::ValueIntoString;

use super::call::Call;
use super::counts::{Attributes, Counts};
use crate::http::reply::{Reply, thousands};
use crate::json::{self, Value, put_list, put_string};
use crate::presence::{ApplicationMessage, Form, is_channel_name};
use crate::protocol::{event_data, is_user_id, owner_of_channel, socket_number};

/// The most channels of an event.
const MAX_CHANNELS: usize = 100;
/// The most events of a batch.
const MAX_BATCH: usize = 10;
/// The longest name of an event, in characters.
const MAX_NAME_CHARS: usize = 200;
/// The longest data of an event, in bytes.
const MAX_DATA_BYTES: usize = 10 * 1024;

/// An event as an application publishes it.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    name: String,
    data: String,
    /// Each once.
    channels: Vec<String>,
    /// The number of channels that the request names.
    named: usize,
    /// The number of the connection that does not receive it.
    excluded: Option<u64>,
    /// What the answer says about the channels.
    info: Option<Attributes>,
}

/// `POST …/events`.
pub(super) fn one(call: &Call) -> Result<Reply, Reply> {
    let event = json::Reader::default().read(&call.body, |body| Event::read(body.as_ref()))?;
    publish(call, std::slice::from_ref(&event))?;
    Ok(Reply::json(|buffer| {
        let Some(info) = event.info else { return buffer.put_slice(b"{}") };
        buffer.put_slice(br#"{"channels":{"#);
        put_list(buffer, &event.channels, |buffer, channel| {
            put_string(buffer, channel);
            buffer.put_u8(b':');
            put_info(buffer, call, channel, Some(info));
        });
        buffer.put_slice(b"}}");
    }))
}

/// `POST …/batch_events`.
pub(super) fn batch(call: &Call) -> Result<Reply, Reply> {
    let events = json::Reader::default().read(&call.body, |body| read_batch(body.as_ref()))?;
    publish(call, &events)?;
    Ok(Reply::json(|buffer| {
        if events.iter().all(|event| event.info.is_none()) {
            return buffer.put_slice(b"{}");
        }
        buffer.put_slice(br#"{"batch":["#);
        put_list(buffer, &events, |buffer, event| put_info(buffer, call, &event.channels[0], event.info));
        buffer.put_slice(b"]}");
    }))
}

/// Publishes all of them, or none.
fn publish(call: &Call, events: &[Event]) -> Result<(), Reply> {
    // An address that is over its budget causes no work.
    call.charge_work(0)?;
    let mut messages = Vec::new();
    for Event { name, data, channels, excluded, .. } in events {
        let data = event_data(name, data);
        for channel in channels {
            let (room, excluded) = (call.room(channel)?, *excluded);
            messages.push(ApplicationMessage { room, data: data.as_str().into(), form: Form::Event, excluded });
        }
    }
    let count = messages.len();
    if !call.node().registry.publish_all_as_application(messages) {
        let message = "a channel, or the server, has too many bytes of events in this tick; try again";
        return Err(Reply::too_many_messages(message));
    }
    call.thread.counters.messages_published.add(count as u64);
    call.app.of_http_thread(call.thread.number).pusher_events_published.add(count as u64);
    Ok(())
}

/// Appends what the answer says about a channel. Channels of users have no counts.
fn put_info(buffer: &mut BytesMut, call: &Call, channel: &str, info: Option<Attributes>) {
    // An event was published to the channel, so it is a room.
    match info.filter(|_| owner_of_channel(channel).is_none()).zip(call.room(channel).ok()) {
        Some((info, room)) => Counts::of(call, channel, room).put_object(buffer, info),
        None => buffer.put_slice(b"{}"),
    }
}

fn bad<T>(message: &str) -> Result<T, Reply> {
    Err(Reply::bad_request(message))
}

fn read_batch(body: Option<&Value<'_, '_>>) -> Result<Vec<Event>, Reply> {
    let batch = body.and_then(|body| json::field(body, "batch"));
    let Some(batch) = batch.as_ref().and_then(Value::as_array) else {
        return bad("the body must be a JSON object with a list of events: {\"batch\":[…]}");
    };
    if batch.len() > MAX_BATCH {
        return bad(&format!("Batch too large: the limit is {MAX_BATCH} events; this one has {}", batch.len()));
    }
    let events = batch.iter().map(|event| Event::read(Some(&event)));
    let events = events.collect::<Result<Vec<_>, _>>()?;
    match events.iter().all(|event| event.named == 1) {
        true => Ok(events),
        false => bad("an event of a batch has one channel"),
    }
}

impl Event {
    fn read(event: Option<&Value<'_, '_>>) -> Result<Self, Reply> {
        let Some(event) = event.filter(|event| event.is_object()) else {
            return bad("an event must be a JSON object: {\"name\":…,\"data\":…,\"channels\":[…]}");
        };
        let text = |name: &str| match json::field(event, name).map(|value| value.into_string().map(str::to_owned)) {
            Some(None) => bad(&format!("{name} must be a string")),
            text => Ok(text.flatten()),
        };
        let Some(name) = text("name")?.filter(|name| (1..=MAX_NAME_CHARS).contains(&name.chars().count())) else {
            return bad(&format!("name must be a string of 1 to {MAX_NAME_CHARS} characters"));
        };
        let Some(data) = text("data")? else { return bad("data is missing; it is a string, which may contain JSON") };
        if data.len() > MAX_DATA_BYTES {
            let (bytes, limit) = (thousands(data.len()), thousands(MAX_DATA_BYTES));
            let message = format!("data has {bytes} bytes; the limit is {limit}");
            return Err(Reply::error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message));
        }
        let channels = match (json::field(event, "channels"), text("channel")?) {
            (Some(_), Some(_)) => return bad("an event has channels or channel, not both"),
            (Some(channels), None) => read_channels(&channels)?,
            (None, channel) => channel.into_iter().collect(),
        };
        if !(1..=MAX_CHANNELS).contains(&channels.len()) {
            return bad(&format!("an event needs 1 to {MAX_CHANNELS} channels, in channels or channel"));
        }
        if !channels.iter().all(|channel| accepts_events(channel)) {
            let message = "a channel name has 1 to 200 characters of A-Z, a-z, 0-9 and -_=@,.; the channel of a user is \
                           #server-to-user- and the id, of at most 128 characters and 210 bytes";
            return bad(message);
        }
        let excluded = match text("socket_id")?.map(|socket| socket_number(&socket)) {
            Some(None) => return bad("socket_id must be two numbers with a dot in between"),
            number => number.flatten(),
        };
        let info = text("info")?.map(|info| Attributes::parse(&info)).transpose()?;
        if info.is_some_and(|info| info.cache) {
            return bad("info of an event must be a list of user_count and subscription_count");
        }
        Ok(Self { name, data, named: channels.len(), channels: unique(channels), excluded, info })
    }
}

fn read_channels(channels: &Value<'_, '_>) -> Result<Vec<String>, Reply> {
    let names = channels.as_array().and_then(|channels| {
        // One more than the limit is enough to refuse the event.
        let names = channels.iter().take(MAX_CHANNELS + 1);
        names.map(|channel| channel.into_string().map(str::to_owned)).collect()
    });
    names.ok_or_else(|| Reply::bad_request("channels must be a list of strings"))
}

/// Each channel once, in the order of the list.
fn unique(channels: Vec<String>) -> Vec<String> {
    let mut known = HashSet::new();
    let mut channels = channels;
    channels.retain(|channel| known.insert(channel.clone()));
    channels
}

/// Whether applications publish to a channel of this name.
fn accepts_events(channel: &str) -> bool {
    owner_of_channel(channel).map_or_else(|| is_channel_name(channel), is_user_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Event, u16> {
        let event = json::Reader::default().read(body.as_bytes(), |body| Event::read(body.as_ref()));
        event.map_err(|reply| reply.status().as_u16())
    }

    #[test]
    fn events_are_read_as_libraries_send_them() {
        let event = read(r#"{"name":"e","data":"{\"a\":1}","channels":["a","b","a"],"socket_id":"1.2"}"#).unwrap();
        assert_eq!((&*event.name, &*event.data, event.excluded, event.info), ("e", r#"{"a":1}"#, Some(2), None));
        assert_eq!(event.channels, ["a", "b"], "each once");
        let body = r#"{"name":"é","data":"","channel":"a","socket_id":null,"info":"user_count","more":[1]}"#;
        let event = read(body).unwrap();
        assert_eq!((&*event.channels, event.excluded), (&["a".to_owned()][..], None));
        assert_eq!(event.info, Some(Attributes { user_count: true, subscription_count: false, cache: false }));
        assert!(read(r##"{"name":"e","data":"","channel":"#server-to-user-Ann:\t/ü"}"##).is_ok());
    }

    #[test]
    fn mistakes_are_refused() {
        let name = |bytes: usize| format!(r#"{{"name":"{}","data":"","channel":"a"}}"#, "n".repeat(bytes));
        let data = |bytes: usize| format!(r#"{{"name":"e","data":"{}","channel":"a"}}"#, "d".repeat(bytes));
        let channels = |count: usize| {
            let channels: Vec<_> = (0..count).map(|number| format!("\"c{number}\"")).collect();
            format!(r#"{{"name":"e","data":"","channels":[{}]}}"#, channels.join(","))
        };
        assert!(read(&name(200)).is_ok() && read(&data(10 * 1024)).is_ok() && read(&channels(100)).is_ok());
        assert_eq!(read(&data(10 * 1024 + 1)).unwrap_err(), 413);
        let wrong = |channel: &str| format!(r#"{{"name":"e","data":"","channel":"{channel}"}}"#);
        let mut all = vec![name(0), name(201), channels(0), channels(101), wrong("#server-to-user-"), wrong("#x")];
        all.extend([wrong(""), wrong("a b"), wrong("a:b"), wrong(&format!("#server-to-user-{}", "u".repeat(129)))]);
        let others = [
            "",
            "[]",
            "{",
            r#"{"data":"","channel":"a"}"#,
            r#"{"name":"e","channel":"a"}"#,
            r#"{"name":"e","data":{},"channel":"a"}"#,
            r#"{"name":7,"data":"","channel":"a"}"#,
            r#"{"name":"e","data":""}"#,
            r#"{"name":"e","data":"","channel":7}"#,
            r#"{"name":"e","data":"","channel":"a","channels":["a"]}"#,
            r#"{"name":"e","data":"","channels":"a"}"#,
            r#"{"name":"e","data":"","channels":[7]}"#,
            r#"{"name":"e","data":"","channel":"a","socket_id":"1"}"#,
            r#"{"name":"e","data":"","channel":"a","socket_id":7}"#,
            r#"{"name":"e","data":"","channel":"a","info":"count"}"#,
            r#"{"name":"e","data":"","channel":"cache-a","info":"cache"}"#,
        ];
        all.extend(others.map(str::to_owned));
        for body in all {
            assert_eq!(read(&body).unwrap_err(), 400, "{body}");
        }
    }

    #[test]
    fn a_batch_has_at_most_ten_events_of_one_channel_each() {
        let read = |events: &[&str]| {
            let body = format!(r#"{{"batch":[{}]}}"#, events.join(","));
            json::Reader::default().read(body.as_bytes(), |body| read_batch(body.as_ref())).map(|events| events.len())
        };
        let event = r#"{"channel":"a","name":"e","data":"x"}"#;
        assert_eq!((read(&[]).unwrap(), read(&[event; 10]).unwrap()), (0, 10));
        for wrong in [&[event; 11][..], &["7"], &[r#"{"name":"e","data":"x","channels":["a","a"]}"#]] {
            assert_eq!(read(wrong).unwrap_err().status().as_u16(), 400, "{wrong:?}");
        }
    }
}
