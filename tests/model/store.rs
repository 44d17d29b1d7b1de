//! Three nodes and a Redis on simulated time, compared with a model: random joins, leaves, crashes, lost connections,
//! outages, lost data and lost messages. After a quiet time, every node shows the members and the numbers of observers
//! of the model, and all show the same states. Faults of Redis alone never show a member leaving.

use crate::simulation::{Step, World};
use proptest::prelude::*;

fn any_step() -> impl Strategy<Value = Step> {
    let (node, user, room) = (0..3usize, 0..4usize, 0..2usize);
    let state = || prop::option::of(0..3u8);
    prop_oneof![
        6 => (node.clone(), user.clone(), room.clone(), state())
            .prop_map(|(node, user, room, state)| Step::Join { node, user, room, state }),
        2 => (node.clone(), user.clone(), room.clone(), state())
            .prop_map(|(node, user, room, state)| Step::SetState { node, user, room, state }),
        2 => (node.clone(), user.clone(), room).prop_map(|(node, user, room)| Step::Leave { node, user, room }),
        1 => (node.clone(), user).prop_map(|(node, user)| Step::End { node, user }),
        3 => (node.clone(), 0..2usize).prop_map(|(node, room)| Step::Observe { node, room }),
        2 => (node.clone(), 0..2usize).prop_map(|(node, room)| Step::Unobserve { node, room }),
        1 => (node.clone(), 1..30u64).prop_map(|(node, ticks)| Step::Crash { node, ticks }),
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
        steps in schedule(prop_oneof![4 => any_step(), 1 => any_redis_fault(), 1 => any_disconnect()]),
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
