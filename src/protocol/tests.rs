//! Tests of ticks with the encoders of all protocols.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{chat, encoders, native, online_status, online_users, pusher};
use crate::broadcast::encoder::Exclusion;
use crate::broadcast::{Batch, Broadcaster, Snapshot, TickCounts};
use crate::config::Config;
use crate::presence::{
    AppRooms, ApplicationMessage, Audience, Form, Info, LOBBY, Now, Reason, Registry, RoomMessage, Settings, State,
};

/// A room with this many members, and an observer that waits for a snapshot of it.
fn room_of(members: usize, audience: Audience) -> (Arc<Registry>, Broadcaster) {
    let registry = Arc::new(Registry::new(Settings { ttl: 100, workers: 1, incarnation: 1 }));
    for number in 0..members {
        let session = registry.open_session(&format!("user-{number}"), Now::default());
        registry.join(&session, LOBBY, None, Now::default());
    }
    registry.observe(LOBBY, 0, audience, true);
    let encoders = encoders(&Config::from_args(["rollcall"]).unwrap());
    let broadcaster = Broadcaster::new(Arc::clone(&registry), 1, Duration::from_millis(100), encoders);
    (registry, broadcaster)
}

fn changes(broadcaster: &mut Broadcaster, audience: Audience) -> Option<String> {
    let (batches, _) = broadcaster.tick(Now::default());
    let frames = batches[0].rooms.first()?;
    frames.changes(audience).map(|frame| String::from_utf8_lossy(frame).into_owned())
}

#[test]
fn snapshots_are_deferred_while_too_many_bytes_are_unread() {
    for audience in [online_users::NAMES, online_status::EVENTS] {
        let (registry, mut broadcaster) = room_of(2_000, audience);
        broadcaster.limit_unread(1);
        let snapshot = |(batches, _): (Vec<Batch>, TickCounts)| -> Option<Snapshot> {
            batches[0].rooms.first().and_then(|frames| frames.snapshot(audience).cloned())
        };
        let unread = snapshot(broadcaster.tick(Now::default())).expect("the first is encoded");
        registry.observe(LOBBY, 0, audience, true);
        for _ in 0..3 {
            assert!(snapshot(broadcaster.tick(Now::default())).is_none(), "{audience:?}: deferred");
        }
        drop(unread);
        assert!(snapshot(broadcaster.tick(Now::default())).is_some(), "{audience:?}: encoded when there is room again");
    }
}

#[test]
fn short_lists_are_sent_although_too_many_bytes_are_unread() {
    let (registry, mut broadcaster) = room_of(2_000, online_users::NAMES);
    broadcaster.limit_unread(1);
    let _unread = broadcaster.tick(Now::default());
    let small = "den";
    registry.observe(small, 0, online_users::NAMES, true);
    let alice = registry.open_session("alice", Now::default());
    registry.join(&alice, small, None, Now::default());
    let (batches, _) = broadcaster.tick(Now::default());
    let frames = batches[0].rooms.iter().find(|frames| frames.room.is_named(small)).expect("the small room");
    let list = frames.changes(online_users::NAMES).map(|list| String::from_utf8_lossy(list).into_owned());
    assert!(list.as_ref().is_some_and(|list| list.contains("alice")), "{list:?}");
}

#[test]
fn snapshots_that_nobody_reads_are_dropped_before_clients_are() {
    let (registry, mut broadcaster) = room_of(2_000, native::MEMBERS);
    broadcaster.limit_unread(1);
    let unread = broadcaster.tick(Now::default());
    assert!(broadcaster.tick(Now::default()).0[0].unread_excess.of_stalled > 0, "a client has not read it");
    drop(unread);
    let excess = broadcaster.tick(Now::default()).0[0].unread_excess;
    assert_eq!((excess.of_stalled, excess.of_all), (0, 0), "it was only kept for others");
    registry.observe(LOBBY, 0, native::MEMBERS, true);
    assert!(broadcaster.tick(Now::default()).0[0].rooms[0].snapshot(native::MEMBERS).is_some());
}

/// The frames of a snapshot for one more observer, in the tick with this number.
fn snapshot_at(registry: &Registry, broadcaster: &mut Broadcaster, tick: u64) -> Vec<Bytes> {
    registry.observe(LOBBY, 0, native::MEMBERS, true);
    let (batches, _) = broadcaster.tick(Now { tick, unix_ms: 0 });
    let snapshot = batches[0].rooms[0].snapshot(native::MEMBERS).expect("a snapshot");
    snapshot.pages.to_vec()
}

#[test]
fn observers_of_a_long_list_share_a_snapshot_although_the_room_changes() {
    let (registry, mut broadcaster) = room_of(8_000, native::MEMBERS);
    let first = snapshot_at(&registry, &mut broadcaster, 1);
    let alice = registry.open_session("alice", Now::default());
    registry.join(&alice, LOBBY, None, Now::default());
    let second = snapshot_at(&registry, &mut broadcaster, 2);
    assert_eq!(second.len(), first.len() + 1);
    assert!(first.iter().zip(&second).all(|(a, b)| a.as_ptr() == b.as_ptr()), "the bytes are shared");
    assert!(String::from_utf8_lossy(&second[first.len()]).contains(r#""joined":[{"user":"alice"}]"#));
    // Nobody asked for it for a while, so it was forgotten.
    (3..100).for_each(|tick| drop(broadcaster.tick(Now { tick, unix_ms: 0 })));
    let last = snapshot_at(&registry, &mut broadcaster, 100);
    assert!(last.len() <= first.len() + 1 && last[0].as_ptr() != first[0].as_ptr());
}

#[test]
fn a_short_snapshot_is_shared_only_while_the_room_is_unchanged() {
    let (registry, mut broadcaster) = room_of(200, native::MEMBERS);
    let first = snapshot_at(&registry, &mut broadcaster, 1);
    let second = snapshot_at(&registry, &mut broadcaster, 2);
    assert_eq!(first[0].as_ptr(), second[0].as_ptr());
    let alice = registry.open_session("alice", Now::default());
    registry.join(&alice, LOBBY, None, Now::default());
    let third = snapshot_at(&registry, &mut broadcaster, 3);
    assert!(third[0].as_ptr() != first[0].as_ptr() && String::from_utf8_lossy(&third.concat()).contains("alice"));
}

#[test]
fn messages_of_users_whose_join_was_never_announced_are_dropped() {
    let (registry, mut broadcaster) = room_of(1, chat::CHAT);
    broadcaster.tick(Now::default());
    let passer_by = registry.open_unleased_session("passer-by");
    registry.join(&passer_by, LOBBY, None, Now::default());
    assert!(registry.publish(&passer_by, LOBBY, "\"boo\"".into(), Now::default()));
    registry.end_session(&passer_by, Reason::Closed);
    assert_eq!(changes(&mut broadcaster, chat::CHAT), None);
    let guest = registry.open_unleased_session("guest");
    registry.join(&guest, LOBBY, None, Now::default());
    assert!(changes(&mut broadcaster, chat::CHAT).is_some_and(|frames| frames.contains("guest")));
    assert!(registry.publish(&guest, LOBBY, "{\"text\":\"bye\"}".into(), Now::default()));
    registry.end_session(&guest, Reason::Closed);
    let last = changes(&mut broadcaster, chat::CHAT).expect("a message and a leave");
    assert!(last.find("bye") < last.find("leave") && last.contains("bye"), "{last}");
}

#[test]
fn the_application_publishes_without_being_a_member() {
    let (registry, mut broadcaster) = room_of(1, native::MEMBERS);
    broadcaster.tick(Now::default());
    assert!(registry.publish_as_application(LOBBY, "{\"text\":\"news\"}"));
    let (batches, _) = broadcaster.tick(Now { tick: 2, unix_ms: 7 });
    let messages = &batches[0].rooms[0].audience(native::MEMBERS).expect("an observer").messages.as_ref().unwrap();
    assert!(messages.before_changes.is_none());
    let frame = messages.after_changes.as_ref().expect("a message");
    let expected = br#"{"type":"message","room":"lobby","data":{"text":"news"},"ts":7}"#;
    assert_eq!(&frame.frames[2..], expected);
    assert!(registry.publish_as_application("a room without members or observers", "1"));
    broadcaster.tick(Now { tick: 3, unix_ms: 8 });
    assert_eq!(registry.rooms_open(), 1, "the room is removed again");
}

#[test]
fn audiences_of_one_format_share_the_frames_of_messages() {
    let (registry, mut broadcaster) = room_of(1, native::MEMBERS);
    registry.observe(LOBBY, 0, native::COUNT, true);
    assert!(registry.publish_as_application(LOBBY, "1"));
    let (batches, _) = broadcaster.tick(Now::default());
    let of = |audience: Audience| {
        batches[0].rooms[0].audience(audience).unwrap().messages.as_ref().unwrap().after_changes.clone().unwrap()
    };
    assert_eq!(of(native::MEMBERS).frames.as_ptr(), of(native::COUNT).frames.as_ptr());
}

#[test]
fn the_info_issued_last_is_shown_in_all_rooms_and_sent_when_it_changes() {
    let (registry, mut broadcaster) = room_of(0, native::MEMBERS);
    let now = Now { tick: 0, unix_ms: 1 };
    let info = |json: &str, issued_at| Info::new(json, issued_at);
    let mut members = || changes(&mut broadcaster, native::MEMBERS);
    let phone = registry.open_session("ann", now);
    registry.join(&phone, LOBBY, Some(State::of_info(info(r#"{"n":1}"#, 1))), now);
    let has = |frame: Option<String>, part: &str| {
        let frame = frame.unwrap_or_default();
        assert!(frame.contains(part), "{part}: {frame}");
    };
    has(members(), r#""joined":[{"user":"ann","info":{"n":1}}]"#);
    registry.set_state(&phone, LOBBY, Some(State::from(r#"{"s":1}"#.to_owned())), now);
    has(members(), r#""updated":[{"user":"ann","state":{"s":1}}]"#);
    // A second connection with an older credential changes nothing, one with a newer credential does.
    let tablet = registry.open_session("ann", now);
    registry.join(&tablet, LOBBY, Some(State::of_info(info(r#"{"n":0}"#, 0))), now);
    assert_eq!(members(), None);
    let laptop = registry.open_session("ann", now);
    registry.join(&laptop, LOBBY, Some(State::of_info(info(r#"{"n":2}"#, 2))), now);
    has(members(), r#""updated":[{"user":"ann","state":{"s":1},"info":{"n":2}}]"#);
    // The state is cleared by the connection that knows the older info.
    registry.set_state(&phone, LOBBY, None, now);
    has(members(), r#""updated":[{"user":"ann"}]"#);
    assert_eq!(registry.set_info(&laptop, &info("", 3), now), 1);
    has(members(), r#""updated":[{"user":"ann","info":null}]"#);
    assert_eq!(registry.set_info(&phone, &info(r#"{"n":4}"#, 4), now), 1);
    has(members(), r#""updated":[{"user":"ann","info":{"n":4}}]"#);
}

fn channel_room(app: u64, channel: &str) -> String {
    AppRooms::default().room(app, channel).unwrap()
}

#[test]
fn an_event_of_the_application_reaches_a_channel_as_it_is_and_leaves_one_connection_out() {
    let (registry, mut broadcaster) = room_of(0, native::MEMBERS);
    let room = channel_room(7, "news");
    registry.observe(&room, 0, pusher::CHANNEL, true);
    let frames = |broadcaster: &mut Broadcaster| {
        let (batches, _) = broadcaster.tick(Now::default());
        Arc::clone(batches[0].rooms.iter().find(|frames| frames.room.is_named(&room)).expect("the channel"))
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let first = frames(&mut broadcaster);
    let page = &first.snapshot(pusher::CHANNEL).expect("a snapshot").pages[0];
    let expected = r#"{"event":"pusher_internal:subscription_succeeded","channel":"news","data":"{}"}"#;
    assert_eq!(text(&page[2..]), expected);
    for (event, number) in [("a", None), ("b", Some(5))] {
        let data = pusher::event_data(event, "{\"n\": 1.0}").into();
        let event = ApplicationMessage { room: room.clone(), data, form: Form::Event, excluded: number };
        assert!(registry.publish_all_as_application(vec![event]));
    }
    let second = frames(&mut broadcaster);
    let own = second.audience(pusher::CHANNEL).and_then(|own| own.messages.as_ref()).expect("messages");
    let sent = own.after_changes.as_ref().expect("two messages");
    let payloads: Vec<_> =
        crate::websocket::frame::split_frames(&sent.frames).map(|(_, payload)| text(payload)).collect();
    let expected = ["a", "b"].map(|event| format!(r#"{{"channel":"news","event":"{event}","data":"{{\"n\": 1.0}}"}}"#));
    assert_eq!(payloads, expected);
    let bytes = sent.frames.len() / 2..sent.frames.len();
    assert_eq!(sent.excluded, [Exclusion { number: 5, bytes, is_last: false }]);
}

#[test]
fn events_and_plain_messages_of_one_room_do_not_cross() {
    let (registry, mut broadcaster) = room_of(1, native::MEMBERS);
    let audiences = [native::MEMBERS, native::COUNT, chat::CHAT, pusher::MEMBERS];
    audiences.iter().skip(1).for_each(|audience| drop(registry.observe(LOBBY, 0, *audience, true)));
    broadcaster.tick(Now::default());
    let room = registry.room(LOBBY).unwrap();
    for (form, word) in [(Form::Event, "an event"), (Form::Plain, "plain")] {
        let data = format!("{{\"event\":\"e\",\"text\":\"{word}\"}}").into();
        let message = RoomMessage::local(Some("user-0".into()), data).in_form(form);
        assert!(registry.publish_as_observer(&room, message));
    }
    let (batches, _) = broadcaster.tick(Now::default());
    for audience in audiences {
        let frames = batches[0].rooms[0].audience(audience).expect("an observer");
        let messages = frames.messages.as_ref().and_then(|messages| messages.after_changes.as_ref());
        let sent = messages.map(|messages| &messages.frames).or(frames.changes.as_ref()).expect("a message");
        let sent = String::from_utf8_lossy(sent);
        assert_eq!(sent.contains("an event"), audience == pusher::MEMBERS, "{sent}");
        assert_eq!(sent.contains("plain"), audience != pusher::MEMBERS, "{sent}");
    }
    registry.observe(LOBBY, 0, chat::CHAT, true);
    let (batches, _) = broadcaster.tick(Now::default());
    let history = batches[0].rooms[0].snapshot(chat::CHAT).expect("the history").pages.concat();
    let history = String::from_utf8_lossy(&history).into_owned();
    assert!(history.contains("plain") && !history.contains("an event"), "{history}");
}

/// The `data` of each of these frames, and their events.
fn events(frames: &[u8]) -> Vec<(String, serde_json::Value)> {
    let event = |payload: &[u8]| -> (String, serde_json::Value) {
        let event: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let data = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
        (event["event"].as_str().unwrap().to_owned(), data)
    };
    crate::websocket::frame::split_frames(frames).map(|(_, payload)| event(payload)).collect()
}

#[test]
fn many_changes_of_a_presence_channel_are_sent_as_a_list_of_the_members() {
    let (registry, mut broadcaster) = room_of(0, native::MEMBERS);
    let room = channel_room(7, "presence-a");
    let join = |number: usize| {
        let session = registry.open_session(&channel_room(7, &number.to_string()), Now::default());
        registry.join(&session, &room, None, Now::default());
        session
    };
    registry.observe(&room, 0, pusher::MEMBERS, true);
    let sessions: Vec<_> = (0..100).map(join).collect();
    let mut changes = |sends: usize| {
        let (batches, _) = broadcaster.tick(Now::default());
        let frames = batches[0].rooms.iter().find(|frames| frames.room.is_named(&room)).expect("the channel");
        let events = events(frames.changes(pusher::MEMBERS).expect("changes"));
        assert_eq!(events.len(), sends);
        events
    };
    assert!(changes(100).iter().all(|(event, _)| event == "pusher_internal:member_added"));
    (100..201).for_each(|number| drop(join(number)));
    let (event, data) = changes(1).remove(0);
    assert_eq!(event, "pusher_internal:subscription_succeeded");
    assert_eq!((&data["presence"]["count"], data["presence"]["ids"].as_array().unwrap().len()), (&201.into(), 201));
    sessions.iter().for_each(|session| registry.end_session(session, Reason::Closed));
    assert!(changes(100).iter().all(|(event, _)| event == "pusher_internal:member_removed"));
}

#[test]
fn user_ids_keep_their_json_type_until_they_leave() {
    let (registry, mut broadcaster) = room_of(0, native::MEMBERS);
    let room = channel_room(7, "presence-a");
    registry.observe(&room, 0, pusher::MEMBERS, true);
    let now = Now::default();
    let states = [Some(State::from("7".to_owned()).with_info(Some(Info::new("true", 1)))), None];
    let sessions: Vec<_> = ["7", "8"]
        .iter()
        .zip(states)
        .map(|(user, state)| {
            let session = registry.open_session(&channel_room(7, user), now);
            registry.join(&session, &room, state, now);
            session
        })
        .collect();
    let mut changes = || {
        let (batches, _) = broadcaster.tick(now);
        let frames = batches[0].rooms.iter().find(|frames| frames.room.is_named(&room)).expect("the channel");
        let changes = events(frames.changes(pusher::MEMBERS).expect("changes"));
        changes.into_iter().map(|(_, data)| data.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(changes(), [r#"{"user_id":7,"user_info":true}"#, r#"{"user_id":"8"}"#]);
    sessions.iter().for_each(|session| registry.end_session(session, Reason::Closed));
    assert_eq!(changes(), [r#"{"user_id":7}"#, r#"{"user_id":"8"}"#]);
}
