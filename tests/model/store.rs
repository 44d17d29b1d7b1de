//! Three nodes and a Redis on simulated time, compared with a model: random joins, leaves, crashes, lost connections,
//! outages, lost data and lost messages. After a quiet time, every node shows the members and the numbers of observers
//! of the model, and all show the same states. Faults of Redis alone never show a member leaving.

use crate::simulation::{Step, World, user_name};
use proptest::prelude::*;

fn any_step() -> impl Strategy<Value = Step> {
    let (node, user, room) = (0..3usize, 0..4usize, 0..2usize);
    let state = || prop::option::of(0..3u8);
    prop_oneof![
        6 => (node.clone(), user.clone(), room.clone(), state())
            .prop_map(|(node, user, room, state)| Step::Join { node, user, room, state }),
        2 => (node.clone(), user.clone(), room.clone(), state())
            .prop_map(|(node, user, room, state)| Step::SetState { node, user, room, state }),
        2 => (node.clone(), user.clone(), room.clone()).prop_map(|(node, user, room)| Step::Leave { node, user, room }),
        1 => (node.clone(), user.clone()).prop_map(|(node, user)| Step::End { node, user }),
        3 => (node.clone(), 0..2usize).prop_map(|(node, room)| Step::Observe { node, room }),
        2 => (node.clone(), 0..2usize).prop_map(|(node, room)| Step::Unobserve { node, room }),
        3 => (node.clone(), user.clone(), room.clone())
            .prop_map(|(node, user, room)| Step::Publish { node, user, room }),
        1 => (node.clone(), 1..30u64).prop_map(|(node, ticks)| Step::Crash { node, ticks }),
        1 => (node.clone(), prop::sample::select(vec![0, 5_000, -5_000, 86_400_000, -86_400_000]))
            .prop_map(|(node, ahead_ms)| Step::SetClock { node, ahead_ms }),
        10 => (1..15u64).prop_map(|ticks| Step::Wait { ticks }),
    ]
}

fn any_redis_fault() -> impl Strategy<Value = Step> {
    let node = 0..3usize;
    prop_oneof![
        1 => (1..60u64).prop_map(|ticks| Step::RedisDown { ticks, empty: false }),
        1 => (1..60u64).prop_map(|ticks| Step::RedisDown { ticks, empty: true }),
        1 => Just(Step::Flush),
        1 => Just(Step::WrongType),
        3 => node.clone().prop_map(|node| Step::LoseMessage { node }),
        2 => (node, any::<bool>(), 0..4u64)
            .prop_map(|(node, is_executed, hang)| Step::Disconnect { node, is_executed, hang, ticks: 1 }),
    ]
}

/// A node that works, but not in everything.
fn any_partial_fault() -> impl Strategy<Value = Step> {
    let ticks = || 1..120u64;
    prop_oneof![
        (0..3usize, ticks()).prop_map(|(node, ticks)| Step::Silence { node, ticks }),
        (0..3usize, 0..2usize, ticks()).prop_map(|(node, partition, ticks)| Step::CutOff { node, partition, ticks }),
    ]
}

fn any_disconnect() -> impl Strategy<Value = Step> {
    (0..3usize, any::<bool>(), 0..10u64, 1..60u64).prop_map(|(node, is_executed, hang, ticks)| Step::Disconnect {
        node,
        is_executed,
        hang,
        ticks,
    })
}

/// Replaces crashes and deliberate leaves, so that every user who joined stays.
fn without_leaves(step: Step) -> Step {
    match step {
        Step::Leave { .. } | Step::End { .. } | Step::Crash { .. } => Step::Wait { ticks: 1 },
        step => step,
    }
}

fn schedule(steps: impl Strategy<Value = Step>) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(steps, 1..60)
}

proptest! {
    #[test]
    fn all_nodes_agree_on_the_members_in_the_end(
        steps in schedule(prop_oneof![4 => any_step(), 1 => any_redis_fault(), 1 => any_disconnect(), 1 => any_partial_fault()]),
        partitions in 1..3usize,
    ) {
        let mut world = World::new(partitions);
        steps.into_iter().for_each(|step| world.act(step));
        world.settle();
        world.check();
    }

    #[test]
    fn no_member_leaves_because_of_redis(
        steps in schedule(prop_oneof![3 => any_step().prop_map(without_leaves), 1 => any_redis_fault()]),
        partitions in 1..3usize,
    ) {
        let mut world = World::new(partitions);
        world.forbid_leaves = true;
        steps.into_iter().for_each(|step| world.act(step));
        world.settle();
        world.check();
    }
}

/// The node keeps its lease and cannot publish.
#[test]
fn changes_of_a_node_that_cannot_publish_are_read_and_the_others_report_that_they_are_degraded() {
    let mut world = World::new(1);
    let join = |user| Step::Join { node: 0, user, room: 0, state: None };
    world.act(join(0));
    world.act(Step::Wait { ticks: 20 });
    world.act(Step::Silence { node: 0, ticks: 300 });
    world.act(Step::End { node: 0, user: 0 });
    world.act(join(1));
    world.act(Step::Wait { ticks: 60 });
    let read_before = world.leases_read(1);
    for user in [2, 3] {
        world.act(join(user));
        world.act(Step::Wait { ticks: 30 });
        let expected: Vec<_> = (1..=user).map(user_name).collect();
        assert_eq!(world.view(1), (expected.clone(), true));
        assert_eq!(world.view(2), (expected, true));
    }
    let read = world.leases_read(1) - read_before;
    assert!(read <= 60 / 5 + 1, "leases were read {read} times in 60 ticks");
    world.settle();
    world.check();
    assert_eq!(world.degraded(), 0);
}

/// The node keeps its lease, which is on another server of a cluster.
#[test]
fn users_of_a_partition_that_a_node_cannot_reach_leave_and_the_others_report_that_they_are_degraded() {
    let mut world = World::new(2);
    (0..4).for_each(|user| world.act(Step::Join { node: 0, user, room: 0, state: None }));
    world.act(Step::Wait { ticks: 20 });
    world.act(Step::CutOff { node: 0, partition: 0, ticks: 300 });
    world.act(Step::Wait { ticks: 30 });
    assert_eq!((world.view(1).1, world.view(2).1), (true, true));
    world.act(Step::Wait { ticks: 30 });
    let others: Vec<_> = (0..4).map(user_name).filter(|user| partition_of(user) == 1).collect();
    assert!(others.len() < 4 && !others.is_empty(), "the users are in both partitions: {others:?}");
    let read_before = world.leases_read(1);
    world.act(Step::Wait { ticks: 60 });
    for node in [1, 2] {
        assert_eq!(world.view(node), (others.clone(), true));
    }
    let read = world.leases_read(1) - read_before;
    assert!(read <= 60 / 5 + 1, "leases were read {read} times in 60 ticks");
    world.settle();
    world.check();
    assert_eq!(world.degraded(), 0);
}

fn partition_of(user: &str) -> u32 {
    crc32fast::hash(user.as_bytes()) % 2
}

/// A clock that is a day ahead, or behind, is set while users chat, and set right later.
#[test]
fn messages_of_a_node_with_a_wrong_clock_are_in_the_history_in_their_order() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    for ahead_ms in [DAY_MS, -DAY_MS, 9_000, -9_000] {
        let mut world = World::new(2);
        (0..3).for_each(|node| world.act(Step::Join { node, user: node, room: 0, state: None }));
        world.act(Step::Wait { ticks: 20 });
        for ahead_ms in [ahead_ms, 0] {
            world.act(Step::SetClock { node: 0, ahead_ms });
            // These may have a wrong time: the node has not compared its clock yet.
            for _ in 0..8 {
                world.act(Step::Publish { node: 0, user: 0, room: 0 });
                world.act(Step::Wait { ticks: 1 });
            }
            world.act(Step::Wait { ticks: 200 });
            let first = world.history(0);
            let mut published = Vec::new();
            for number in 0..5 {
                let node = number % 3;
                world.act(Step::Publish { node, user: node, room: 0 });
                published.push(node.to_string());
                world.act(Step::Wait { ticks: 10 });
            }
            world.settle();
            world.check();
            let shown = world.history(1);
            let users: Vec<_> = shown.iter().filter_map(|text| text.trim_matches('"').split(' ').nth(1)).collect();
            assert_eq!(users, published, "{ahead_ms} ms ahead: {shown:?} after {first:?}");
        }
    }
}

/// Found by a random schedule. A batch that creates a lost hash again gives it an expiry, in case its owner dies before
/// it notices.
#[test]
fn a_hash_written_just_before_all_nodes_die_expires() {
    let mut world = World::new(1);
    world.act(Step::Join { node: 1, user: 0, room: 0, state: None });
    world.act(Step::RedisDown { ticks: 32, empty: true });
    world.act(Step::Wait { ticks: 1 });
    [1, 0, 2].into_iter().for_each(|node| world.act(Step::Crash { node, ticks: 1 }));
    world.settle();
    world.check();
}
