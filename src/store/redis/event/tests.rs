//! Tests of the lines of messages, and of those that are refused.

use super::*;
use crate::presence::Info;

#[test]
fn messages_are_read_back_as_documented() {
    let mut writer = EventWriter::new("n1.18c", 41);
    writer.held(true, "lobby", "alice", 1, None);
    writer.held(false, "a:b%", "bob smith", 2, Some(&State::written("{\"mood\":\"ok\"}", 3)));
    writer.left("lobby", "carol", Reason::Timeout);
    let stamp = |number| MessageStamp { unix_ms: 4, incarnation: 0x18c, number };
    writer.message("lobby", &RoomMessage::remote(Some("alice".into()), "\"hello\"".into(), stamp(5)));
    writer.message("a:b%", &RoomMessage::remote(None, "{}".into(), stamp(6)).kept(Keeping::History));
    writer.message_to_user(&UserMessage::remote("erin", "[1]", stamp(7)));
    writer.history_changed();
    writer.observers("a:b%", 3);
    writer.kick(3, 250, &Kick { user: "dave".into(), login: Some(7), reason: Reason::Left, requested_unix_ms: None });
    let text = writer.finish();
    assert_eq!(
        text,
        "n1.18c\t41\njoined\tlobby:alice\t1\nupdated\ta%3Ab%25:bob smith\t2\t3\t{\"mood\":\"ok\"}\n\
         left\tlobby:carol\ttimeout\nmessage\tlobby:alice\t4\t5\t\"hello\"\nkept\ta%3Ab%25:\t4\t6\t{}\n\
         to_user\t*:erin\t4\t7\t[1]\nhistory\nobservers\ta%3Ab%25:\t3\nkicked\t*:dave\t3\t250\tleft\t7"
    );
    let message = EventMessage::parse(&text, &mut Reader::default()).unwrap();
    assert_eq!((message.incarnation.as_str(), message.seq, message.changes.len()), ("n1.18c", 41, 7));
    let (room, user) = (|| "lobby".to_owned(), |name: &str| name.to_owned());
    assert_eq!(message.changes[1].partition_key(), "bob smith");
    let carol = RemoteChange::Left { room: room(), user: user("carol"), reason: Reason::Timeout };
    assert_eq!(message.changes[2], carol);
    assert!(message.history_changed);
    let data = "\"hello\"".to_owned();
    let to_erin = RemoteChange::ToUser { user: user("erin"), stamp: stamp(7), data: "[1]".to_owned() };
    let (user, stamp, form) = (Some(user("alice")), stamp(5), Form::Plain);
    let (excluded, publisher, keeping) = (None, Publisher::Client, Keeping::No);
    let of_alice = RemoteChange::Message { room: room(), user, stamp, form, excluded, publisher, keeping, data };
    assert_eq!(message.changes[3], of_alice);
    assert_eq!(message.changes[4].partition_key(), "a:b%");
    assert_eq!((&message.changes[5], message.changes[5].partition_key()), (&to_erin, "erin"));
    assert_eq!(message.changes[6], RemoteChange::Observers { room: "a:b%".to_owned(), count: 3 });
    let RemoteKick { number, age_ms, kick } = &message.kicks[0];
    assert_eq!((*number, *age_ms, kick.login), (3, 250, Some(7)));
}

#[test]
fn messages_of_applications_are_read_back_whatever_their_users_and_data_are() {
    let (room, user) = ("\0pusher:1:presence-x", "\0pusher:1:a\tb%\n:c");
    let data = format!("{{\"data\":{}{}}}", "[".repeat(20), "]".repeat(20));
    let stamp = MessageStamp { unix_ms: 4, incarnation: 1, number: 5 };
    let mut writer = EventWriter::new("n1.1", 41);
    writer.held(true, room, user, 1, Some(&State::written("7", 3).with_info(Some(Info::new("[[]]", 8)))));
    let event = RoomMessage::remote(Some(user.into()), data.as_str().into(), stamp).in_form(Form::Event);
    writer.message(room, &event.except(Some(u64::MAX)));
    writer.kick(3, 250, &Kick { user: user.into(), login: None, reason: Reason::Kicked, requested_unix_ms: None });
    let message = EventMessage::parse(&writer.finish(), &mut Reader::default()).unwrap();
    let RemoteChange::Held { user: held, state, .. } = &message.changes[0] else { panic!("{message:?}") };
    let state = state.as_ref().unwrap();
    assert_eq!((&**held, state.as_str(), state.info().map(Info::as_str)), (user, "7", Some("[[]]")));
    let (room, user) = (room.to_owned(), Some(user.to_owned()));
    let (form, excluded) = (Form::Event, Some(u64::MAX));
    let (publisher, keeping) = (Publisher::Client, Keeping::No);
    let sent = RemoteChange::Message { room, user, stamp, form, excluded, publisher, keeping, data };
    assert_eq!(message.changes[1], sent);
    assert_eq!(*message.kicks[0].kick.user, **held);
    // Only an event may be nested to any depth.
    let nested = "n1.1\t1\nevent\tlobby:\t4\t5\t[[[[[[[[[[[[1]]]]]]]]]]]]";
    assert!(EventMessage::parse(nested, &mut Reader::default()).is_some());
    assert!(EventMessage::parse(&nested.replace("event", "message"), &mut Reader::default()).is_none());
}

#[test]
fn invalid_messages_are_refused() {
    let mut json = Reader::default();
    for text in [
        "",
        "n1",
        "n1\t18446744073709551615",
        "n1\tx",
        "n1\t1\n",
        "n1\t1\nleft\tlobby:alice\tbored",
        "n1\t1\njoined\tlobby\t1",
        "n1\t1\nmessage\tlobby:a\t1\t1\thello",
        "n1\t1\nevent\tlobby:a\t1\t1\t{",
        "n1\t1\nto_user\t*:\t1\t1\t\"hello\"",
        "n1\t1\nto_user\t*:a\t1\t1\thello",
        "n1\t1\nkept\tlobby:a\t1\t\"hello\"",
        "n1\t1\nhistory\tlobby:",
        "n1\t1\nmessage\tlobby:a\t\"hello\"",
        "n1\t1\nmessage\tlobby:a\t1\t1!\t\"hello\"",
        "n1\t1\nmessage\tlobby:a\t1\t1!-1\t\"hello\"",
        "n1\t1\njoined\tlobby:\t1",
        "n1\t1\nleft\tlobby:\tclosed",
        "n1\t1\nobservers\tlobby:a\t1",
        "n1\t1\nobservers\tlobby:\t-1",
        "n1\t1\nkicked\t*:\t3\t0\tkicked",
        "n1\t1\nkicked\t*:dave\t3\tkicked",
    ] {
        assert!(EventMessage::parse(text, &mut json).is_none(), "{text:?}");
    }
    assert_eq!(EventMessage::parse("n1\t7", &mut json).unwrap().changes, []);
}

#[test]
fn a_message_says_who_has_published_it_and_whether_later_observers_receive_it() {
    let stamp = MessageStamp { unix_ms: 4, incarnation: 1, number: 5 };
    let message = || RoomMessage::remote(None, "1".into(), stamp).in_form(Form::Event);
    let check = |message: RoomMessage, line: &str, want: (Publisher, Keeping)| {
        let mut writer = EventWriter::new("n1.1", 41);
        writer.message("room", &message);
        let text = writer.finish();
        assert_eq!(text, format!("n1.1\t41\n{line}"));
        let changes = EventMessage::parse(&text, &mut Reader::default()).unwrap().changes;
        let RemoteChange::Message { publisher, keeping, .. } = &changes[0] else { panic!("{changes:?}") };
        assert_eq!((*publisher, *keeping), want, "{text}");
    };
    check(message(), "event\troom:\t4\t5\t1", (Publisher::Application, Keeping::No));
    check(message().kept(Keeping::Last), "last\troom:\t4\t5\t1", (Publisher::Application, Keeping::Last));
    check(message().of_client().except(Some(31)), "relayed\troom:\t4\t5!1f\t1", (Publisher::Client, Keeping::No));
    let of_member = RoomMessage::remote(Some("ann".into()), "1".into(), stamp).in_form(Form::Event);
    check(of_member, "event\troom:ann\t4\t5\t1", (Publisher::Client, Keeping::No));
}
