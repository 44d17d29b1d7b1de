//! Tests of ticks with the encoders of all protocols.

use std::sync::Arc;
use std::time::Duration;

use super::{chat, encoders, native, online_status, online_users};
use crate::broadcast::{Batch, Broadcaster, Snapshot, TickCounts};
use crate::config::Config;
use crate::presence::{Audience, LOBBY, Now, Reason, Registry, Settings};

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
    for audience in [native::MEMBERS, online_users::NAMES, online_status::EVENTS] {
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
fn a_short_list_that_is_deferred_because_too_many_bytes_are_unread_is_sent_later() {
    let (registry, mut broadcaster) = room_of(2_000, online_users::NAMES);
    broadcaster.limit_unread(1);
    let unread = broadcaster.tick(Now::default());
    let small = "den";
    registry.observe(small, 0, online_users::NAMES, true);
    let list = |(batches, _): (Vec<Batch>, TickCounts)| {
        let frames = batches[0].rooms.iter().find(|frames| frames.room.is_named(small));
        frames
            .and_then(|frames| frames.changes(online_users::NAMES))
            .map(|list| String::from_utf8_lossy(list).into_owned())
    };
    let alice = registry.open_session("alice", Now::default());
    registry.join(&alice, small, None, Now::default());
    for _ in 0..3 {
        assert_eq!(list(broadcaster.tick(Now::default())), None, "slow clients have not read the long list");
    }
    drop(unread);
    let sent = list(broadcaster.tick(Now::default()));
    assert!(sent.as_ref().is_some_and(|list| list.contains("alice")), "{sent:?}");
    assert_eq!(list(broadcaster.tick(Now::default())), None, "once");
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
    assert_eq!(&frame[2..], expected);
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
    assert_eq!(of(native::MEMBERS).as_ptr(), of(native::COUNT).as_ptr());
}
