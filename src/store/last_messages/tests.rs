//! What a node knows of last messages, and what it asks a store that is shared.

use super::*;

fn room() -> Arc<str> {
    "news".into()
}

fn message(unix_ms: u64) -> LastMessage {
    LastMessage { stamp: MessageStamp { unix_ms, incarnation: 1, number: unix_ms }, data: unix_ms.to_string().into() }
}

fn found(messages: &LastMessages) -> Option<u64> {
    match messages.find(&room()) {
        LastFound::Message(message, left) => {
            assert!(left <= KEPT_FOR && left > KEPT_FOR - Duration::from_secs(60), "{left:?}");
            Some(message.stamp.unix_ms)
        }
        LastFound::Nothing => None,
        LastFound::Unknown => panic!("the store is asked"),
    }
}

/// Answers all questions. Returns how many there were.
fn answer(messages: &LastMessages, answer: &Answer) -> usize {
    let (number, rooms) = messages.take_questions(0, 100);
    messages.answered(0, number, rooms.iter().map(|room| (Arc::clone(room), answer.clone())));
    rooms.len()
}

#[test]
fn a_single_node_knows_everything() {
    let messages = LastMessages::default();
    assert_eq!(found(&messages), None);
    messages.published(&room(), message(5));
    assert_eq!((found(&messages), messages.stamp("news")), (Some(5), Some(message(5).stamp)));
    assert_eq!((messages.unwritten(0), messages.has_questions(0)), (0, false));
}

#[test]
fn the_store_is_asked_once_about_a_room_until_messages_may_have_been_missed() {
    let messages = LastMessages::shared(1);
    assert_eq!(found(&messages), None, "a store that is away is not waited for");
    messages.listens(0);
    assert_eq!((messages.find(&room()), messages.find(&room())), (LastFound::Unknown, LastFound::Unknown));
    assert_eq!(answer(&messages, &None), 1);
    assert_eq!((found(&messages), messages.has_questions(0)), (None, false));
    messages.missed(0);
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    assert_eq!(answer(&messages, &Some((message(7), KEPT_FOR))), 1);
    assert_eq!(found(&messages), Some(7));
    // What is heard meanwhile is later than what the store had.
    messages.missed(0);
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    messages.heard(&room(), message(9));
    assert_eq!(found(&messages), Some(9), "it is known without the answer");
    answer(&messages, &Some((message(8), KEPT_FOR)));
    assert_eq!(found(&messages), Some(9));
    messages.disconnected(0);
    assert_eq!(found(&messages), Some(9));
}

#[test]
fn an_answer_from_before_a_gap_does_not_count() {
    let messages = LastMessages::shared(1);
    messages.listens(0);
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    let (number, rooms) = messages.take_questions(0, 100);
    messages.missed(0);
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    messages.answered(0, number, rooms.into_iter().map(|room| (room, None)));
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    answer(&messages, &None);
    assert_eq!(found(&messages), None);
}

#[test]
fn the_store_is_given_what_is_published_and_what_it_has_lost() {
    let messages = LastMessages::shared(1);
    messages.published(&room(), message(5));
    messages.published(&room(), message(6));
    let mut taken = messages.take_unwritten(0, 1000);
    let Taken { room: of, how, message: last, .. } = taken.pop().unwrap();
    assert_eq!((&*of, how, last.stamp.unix_ms, taken.len(), messages.unwritten(0)), ("news", Unwritten::New, 6, 0, 0));
    messages.heard(&room(), message(7));
    assert_eq!(messages.unwritten(0), 0, "the other node writes it");
    messages.lost(0);
    assert_eq!(messages.lost_messages(0), 0, "also what it has lost");
    messages.published(&room(), message(9));
    assert_eq!(messages.take_unwritten(0, 1000).len(), 1);
    messages.lost(0);
    messages.put_back(&room(), Unwritten::Lost);
    assert_eq!((messages.unwritten(0), messages.lost_messages(0)), (0, 1));
    assert_eq!(messages.take_lost(0, 1000)[0].how, Unwritten::Lost);
    messages.heard(&room(), message(8));
    let again = &messages.take_unwritten(0, 1000)[0];
    assert_eq!((again.how, again.message.stamp.unix_ms), (Unwritten::New, 9), "the other node has overwritten it");
}

#[test]
fn a_message_that_comes_late_is_repaired_for_nodes_that_have_read_it() {
    let mut messages = LastMessages::shared(1);
    messages.published(&room(), message(9));
    assert_eq!(messages.take_unwritten(0, 1000).len(), 1);
    messages.started -= Duration::from_secs(2);
    messages.heard(&room(), message(8));
    let again = &messages.take_unwritten(0, 1000)[0];
    assert_eq!((again.how, again.message.stamp.unix_ms), (Unwritten::Repaired, 9));
    // As is what the store tells.
    for (told, how) in [(Some((message(7), KEPT_FOR)), Unwritten::Repaired), (None, Unwritten::Lost)] {
        messages.listens(0);
        assert_eq!(messages.find(&room()), LastFound::Unknown);
        assert_eq!(answer(&messages, &told), 1);
        let taken = [messages.take_unwritten(0, 1000), messages.take_lost(0, 1000)].concat();
        assert_eq!((taken.len(), taken[0].how, taken[0].message.stamp.unix_ms), (1, how, 9));
    }
    messages.listens(0);
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    assert_eq!(answer(&messages, &Some((message(9), KEPT_FOR))), 1);
    assert_eq!((messages.unwritten(0), messages.lost_messages(0)), (0, 0), "it is the same");
}

#[test]
fn a_message_that_was_dropped_is_found_again_although_it_ends_first() {
    let messages = LastMessages::shared(1);
    messages.listens(0);
    messages.limit_bytes(2000);
    let name = |number: u32| Arc::<str>::from(format!("room {number}"));
    (0..100).for_each(|number| messages.published(&name(number), message(5)));
    for number in 0..100 {
        let found = messages.find(&name(number));
        if matches!(found, LastFound::Message(..)) {
            continue;
        }
        assert_eq!(found, LastFound::Unknown, "{number}");
        assert_eq!(answer(&messages, &Some((message(5), Duration::from_secs(5)))), 1, "{number}");
        assert!(matches!(messages.find(&name(number)), LastFound::Message(..)), "{number}");
    }
}

#[test]
fn rooms_that_clients_name_take_limited_memory_and_keep_no_others_waiting() {
    let mut messages = LastMessages::shared(1);
    messages.inner.lock().shared.as_mut().unwrap().max_asked = 300;
    messages.listens(0);
    let name = |number: u32| Arc::<str>::from(format!("cache-{number}"));
    assert_eq!(messages.find(&room()), LastFound::Unknown);
    let unknown = (0..1000).filter(|number| messages.find(&name(*number)) == LastFound::Unknown).count();
    assert_eq!(unknown, 299);
    messages.missed(0);
    messages.started -= Duration::from_millis(1001);
    assert_eq!(messages.find(&room()), LastFound::Nothing, "the patience is not restarted");
    // What was answered is forgotten when there is too much of it, and when the room is closed.
    while answer(&messages, &None) > 0 {}
    messages.closed("cache-7");
    assert_eq!((messages.find(&name(6)), messages.find(&name(7))), (LastFound::Nothing, LastFound::Unknown));
    for number in 1000..2000 {
        assert_eq!(messages.find(&name(number)), LastFound::Unknown);
        answer(&messages, &None);
        assert_eq!(messages.find(&name(number)), LastFound::Nothing);
    }
    assert_eq!(messages.find(&name(6)), LastFound::Unknown);
}
