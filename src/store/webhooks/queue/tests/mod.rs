//! Cases, and random schedules against a model of a receiver.

mod model;

use proptest::prelude::*;

use super::*;
use crate::presence::State;
use crate::store::webhooks::selection::Kind;
use crate::store::{Happening, Notice};
use model::{Simulation, World};

const DELAY: Ms = 3000;
const SETTLE: Ms = 1000;

fn settings(max_changes: usize) -> QueueSettings {
    let selection = Selection::new(Kind::ALL.map(|(kind, _)| kind), Vec::new());
    let (delay, settle) = (Duration::from_millis(DELAY), Duration::from_millis(SETTLE));
    QueueSettings { selection, delay, max_changes, settle, overflow: Overflow::Resync }
}

fn state(number: u8) -> Option<State> {
    (number > 0).then(|| State::from(format!("{{\"n\":{number}}}")))
}

#[derive(Debug, Clone)]
enum Step {
    Set(usize, usize, Option<u8>),
    Pass(Ms),
    Attempt { arrives: bool, answered: bool, lag: Ms },
    Late(usize),
    Resync(Option<usize>),
    GiveUp,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, 0..4usize, prop::option::weighted(0.6, 0..4u8)).prop_map(|(r, u, s)| Step::Set(r, u, s)),
        4 => (0..4000u64).prop_map(Step::Pass),
        1 => (0..2 * COLLAPSE_MS).prop_map(Step::Pass),
        6 => (any::<bool>(), any::<bool>(), 0..=SETTLE)
            .prop_map(|(arrives, answered, lag)| Step::Attempt { arrives, answered, lag }),
        1 => (0..100usize).prop_map(Step::Late),
        1 => prop::option::of(0..3usize).prop_map(Step::Resync),
        1 => Just(Step::GiveUp),
    ]
}

proptest! {
    #[test]
    fn the_mirror_of_a_receiver_equals_the_server_at_the_end(
        steps in prop::collection::vec(step(), 0..120),
        max_changes in 4..40usize,
    ) {
        let mut simulation = Simulation::new(max_changes);
        for step in steps {
            match step {
                Step::Set(room, user, shown) => simulation.set(&format!("r{room}"), &format!("u{user}"), shown),
                Step::Pass(ms) => simulation.now += ms,
                Step::Attempt { arrives, answered, lag } => simulation.attempt(arrives, answered, lag),
                Step::Late(at) => simulation.arrive_late(at),
                Step::Resync(None) => simulation.queue.resync_all(simulation.now),
                Step::Resync(Some(room)) => {
                    simulation.queue.resync_room(&Arc::from(format!("r{room}")), simulation.now);
                }
                Step::GiveUp => {
                    simulation.queue.give_up(simulation.now);
                    simulation.request = None;
                }
            }
        }
        simulation.check_end();
    }
}

/// The kinds of the changes of one request.
fn sent(queue: &mut Queue, now: Ms) -> Vec<String> {
    let mut sent = Vec::new();
    queue.freeze(now, |change| {
        sent.push(match change {
            Change::Resync(Subject::Room(room)) => format!("resync {room}"),
            Change::Resync(_) => "resync".to_owned(),
            Change::Status { subject: Subject::Member(room, user), kind, .. } => {
                format!("{} {room} {user}", kind.name())
            }
            Change::Status { subject: Subject::Room(name) | Subject::User(name), kind, .. } => {
                format!("{} {name}", kind.name())
            }
            Change::Notice(_, notice) => format!("{} {}", kind_of(notice).name(), notice.room),
            Change::Status { .. } => unreachable!(),
        });
        Fit::Taken
    });
    queue.delivered();
    sent
}

/// What is sent of these changes of alice in the room r, each at its time, in requests at other times.
fn check(changes: &[(Ms, Option<u8>)], requests: &[(Ms, &[&str])]) {
    let (mut queue, mut world) = (Queue::new(settings(100)), World::default());
    let mut changes = changes.iter().peekable();
    for (now, expected) in requests {
        while let Some((at, shown)) = changes.next_if(|(at, _)| at <= now) {
            world.set("r", "alice", *shown, *at).iter().for_each(|event| queue.record(event, *at));
        }
        assert_eq!(sent(&mut queue, *now), *expected, "at {now}");
    }
    assert!(queue.is_empty());
}

const ALL_JOIN: &[&str] = &["room_occupied r", "member_joined r alice", "user_online alice"];
const ALL_LEAVE: &[&str] = &["member_left r alice", "room_vacated r", "user_offline alice"];

#[test]
fn a_leave_waits_for_a_return_and_both_cancel_out() {
    check(&[(0, Some(1)), (1000, None)], &[(500, ALL_JOIN), (3999, &[]), (4000, ALL_LEAVE)]);
    check(&[(0, Some(1)), (1000, None), (3000, Some(1))], &[(500, ALL_JOIN), (9000, &[])]);
    check(&[(0, Some(1)), (1000, None), (3000, Some(2))], &[(500, ALL_JOIN), (9000, &["member_updated r alice"])]);
    check(&[(0, Some(1)), (100, None)], &[(9000, &[])]);
    check(&[(0, Some(1)), (100, Some(2)), (200, Some(1))], &[(50, ALL_JOIN), (9000, &[])]);
    check(&[(0, Some(1)), (100, Some(2))], &[(9000, ALL_JOIN)]);
}

#[test]
fn a_request_that_was_attempted_does_not_merge() {
    let (mut queue, mut world) = (Queue::new(settings(100)), World::default());
    let mut set = |queue: &mut Queue, shown, now| {
        world.set("r", "alice", shown, now).iter().for_each(|event| queue.record(event, now));
    };
    set(&mut queue, Some(1), 0);
    assert_eq!(queue.due(), Some(BATCH_MS));
    assert!(queue.freeze(BATCH_MS, |_| Fit::Taken));
    assert_eq!(queue.due(), None, "one request at a time");
    set(&mut queue, None, 300);
    assert_eq!(queue.len(), 6);
    queue.delivered();
    assert_eq!(queue.due(), Some(300 + DELAY + BATCH_MS));
    queue.close();
    assert_eq!(queue.due(), Some(0), "at the end nothing waits");
    assert_eq!(sent(&mut queue, 301), ALL_LEAVE);
}

#[test]
fn the_room_with_most_changes_collapses_first_and_everything_at_last() {
    let (mut queue, mut world) = (Queue::new(settings(20)), World::default());
    let mut join = |queue: &mut Queue, room: &str, user: String| {
        let events = world.set(room, &user, Some(1), 0);
        events.iter().filter(|event| !matches!(event, Event::User(_))).for_each(|event| queue.record(event, 0));
    };
    (0..15).for_each(|number| join(&mut queue, "large", number.to_string()));
    (0..3).for_each(|number| join(&mut queue, "small", number.to_string()));
    assert_eq!(queue.len(), 20);
    join(&mut queue, "small", "3".to_owned());
    assert_eq!((queue.len(), queue.losses()), (6, (0, 1)));
    let resync = sent(&mut queue, SETTLE);
    assert_eq!(resync.len(), 6);
    assert_eq!((&resync[0][..], &resync[5][..]), ("room_occupied small", "resync large"));
    for number in 0..50 {
        queue.resync_room(&format!("room {number}").into(), 0);
    }
    assert_eq!((queue.len(), queue.losses()), (1, (0, 2)));
    // A room about which nothing is known later is read later.
    queue.resync_room(&"room 1".into(), 500);
    assert_eq!(sent(&mut queue, SETTLE), ["resync"]);
    assert_eq!(sent(&mut queue, SETTLE + 500), ["resync room 1"]);
}

#[test]
fn changes_collapse_after_five_minutes() {
    let (mut queue, mut world) = (Queue::new(settings(100)), World::default());
    world.set("r", "alice", Some(1), 0).iter().for_each(|event| queue.record(event, 0));
    assert!(queue.freeze(BATCH_MS, |_| Fit::Taken));
    world.set("s", "bob", Some(1), 0).iter().for_each(|event| queue.record(event, 1000));
    assert!(!queue.expire(COLLAPSE_MS + BATCH_MS), "not yet");
    assert!(queue.expire(COLLAPSE_MS + 2000));
    let later = COLLAPSE_MS + 2000 + SETTLE;
    assert_eq!(queue.oldest(), Some(0));
    assert_eq!(sent(&mut queue, later), ["user_online bob", "user_online alice", "resync s", "resync r"]);
}

#[test]
fn formats_without_a_resync_drop_new_changes() {
    let overflow = Overflow::Drop;
    let (mut queue, mut world) = (Queue::new(QueueSettings { overflow, ..settings(4) }), World::default());
    for user in ["a", "b"] {
        world.set("r", user, Some(1), 0).iter().for_each(|event| queue.record(event, 0));
    }
    assert_eq!((queue.len(), queue.losses()), (4, (1, 0)));
    queue.resync_all(0);
    assert!(!queue.expire(2 * COLLAPSE_MS));
    let all = ["room_occupied r", "member_joined r a", "user_online a", "member_joined r b"];
    assert_eq!(sent(&mut queue, BATCH_MS), all);
}

fn notice(number: u64) -> Event {
    let what = Happening::ClientEvent { event: "{}".into(), user: None, connection: number };
    Event::Notice(Notice { room: format!("r{number}").into(), what })
}

#[test]
fn notices_keep_their_order_do_not_merge_and_make_way_for_changes() {
    let overflow = Overflow::Drop;
    let (mut queue, mut world) = (Queue::new(QueueSettings { overflow, ..settings(6) }), World::default());
    for number in [2, 1, 1, 3] {
        queue.record(&notice(number), 10 * number);
    }
    assert_eq!((queue.len(), queue.dropped_notices(), queue.losses()), (3, 1, (0, 0)));
    assert_eq!(queue.due(), Some(10 + BATCH_MS), "they do not wait for returns");
    for user in ["a", "b", "c"] {
        world.set("r", user, Some(1), 50).iter().for_each(|event| queue.record(event, 50));
    }
    assert_eq!((queue.len(), queue.dropped_notices(), queue.losses()), (6, 4, (1, 0)));
    queue.record(&notice(4), 60);
    assert_eq!(queue.dropped_notices(), 5, "changes have the whole queue");
}

#[test]
fn notices_of_a_request_that_is_given_up_are_sent_again_in_order() {
    let overflow = Overflow::Drop;
    let (mut queue, mut world) = (Queue::new(QueueSettings { overflow, ..settings(10) }), World::default());
    world.set("r", "alice", Some(1), 0).iter().for_each(|event| queue.record(event, 0));
    [1, 2].iter().for_each(|number| queue.record(&notice(*number), 10));
    assert!(queue.freeze(BATCH_MS, |_| Fit::Taken));
    queue.record(&notice(3), 300);
    // Another node reports the room from now on.
    queue.retain(400, |subject| !matches!(subject, Subject::Member(..)));
    assert_eq!(queue.oldest(), Some(0));
    let all = ["client_event r1", "client_event r2", "client_event r3", "room_occupied r", "user_online alice"];
    assert_eq!(sent(&mut queue, 500), all);
    assert!(queue.is_empty() && queue.notices.firsts().next().is_none());
}

#[test]
fn only_selected_kinds_and_rooms_are_kept() {
    let check = |kinds: &[Kind], pattern: &str, expected: &[&str]| {
        let rooms = vec![crate::pattern::Pattern::new(pattern).unwrap()];
        let selection = Selection::new(kinds.iter().copied(), rooms);
        let (mut queue, mut world) = (Queue::new(QueueSettings { selection, ..settings(100) }), World::default());
        for (shown, now) in [(Some(1), 0), (Some(2), 10), (None, 20)] {
            world.set("r", "alice", shown, now).iter().for_each(|event| queue.record(event, now));
            let _ = queue.freeze(now, |_| Fit::Other);
        }
        assert_eq!(sent(&mut queue, 9000), expected, "{kinds:?}");
        assert!(queue.is_empty());
    };
    check(&[Kind::MemberLeft], "*", &["member_left r alice"]);
    check(&[Kind::MemberLeft], "x*", &[]);
    check(&[Kind::UserOffline, Kind::RoomVacated], "*", &["room_vacated r", "user_offline alice"]);
    check(&[Kind::MemberJoined], "*", &[]);
}
