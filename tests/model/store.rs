//! Three nodes and a Redis on simulated time, against a model: random joins, leaves, crashes, cut links, outages, lost data and
//! lost messages. When it has been quiet for a while, every node shows whom the model knows, and all show the same. And whatever
//! happens to Redis alone, nobody is ever seen leaving who is there.

use crate::simulation::{Step, World};
use proptest::prelude::*;

fn step() -> impl Strategy<Value = Step> {
    let (node, user, room) = (0..3usize, 0..4usize, 0..2usize);
    prop_oneof![
        6 => (node.clone(), user.clone(), room.clone(), prop::option::of(0..3u8)).prop_map(|(node, user, room, state)| Step::Join { node, user, room, state }),
        2 => (node.clone(), user.clone(), room.clone(), prop::option::of(0..3u8)).prop_map(|(node, user, room, state)| Step::SetState { node, user, room, state }),
        2 => (node.clone(), user.clone(), room).prop_map(|(node, user, room)| Step::Leave { node, user, room }),
        1 => (node.clone(), user).prop_map(|(node, user)| Step::End { node, user }),
        1 => (node.clone(), 1..30u64).prop_map(|(node, ticks)| Step::Crash { node, ticks }),
        10 => (1..15u64).prop_map(|ticks| Step::Wait { ticks }),
    ]
}

fn fault_of_redis() -> impl Strategy<Value = Step> {
    let node = 0..3usize;
    prop_oneof![
        1 => (1..60u64).prop_map(|ticks| Step::RedisDown { ticks, empty: false }),
        1 => (1..60u64).prop_map(|ticks| Step::RedisDown { ticks, empty: true }),
        1 => Just(Step::Flush),
        1 => Just(Step::WrongType),
        3 => node.clone().prop_map(|node| Step::LoseMessage { node }),
        2 => (node, any::<bool>(), 0..4u64).prop_map(|(node, done, hang)| Step::Cut { node, done, hang, ticks: 1 }),
    ]
}

fn cut() -> impl Strategy<Value = Step> {
    (0..3usize, any::<bool>(), 0..10u64, 1..60u64).prop_map(|(node, done, hang, ticks)| Step::Cut {
        node,
        done,
        hang,
        ticks,
    })
}

/// Steps without crashes and deliberate leaves, so that whoever has come stays.
fn coming_only(step: Step) -> Step {
    match step {
        Step::Leave { .. } | Step::End { .. } | Step::Crash { .. } => Step::Wait { ticks: 1 },
        step => step,
    }
}

proptest! {
    #[test]
    fn all_nodes_come_to_show_who_is_there(
        steps in prop::collection::vec(prop_oneof![4 => step(), 1 => fault_of_redis(), 1 => cut()], 1..60),
        lanes in 1..3usize,
    ) {
        let mut world = World::new(lanes);
        steps.into_iter().for_each(|step| world.act(step));
        world.settle();
        world.check();
    }

    #[test]
    fn nobody_leaves_because_of_redis(
        steps in prop::collection::vec(prop_oneof![3 => step().prop_map(coming_only), 1 => fault_of_redis()], 1..60),
        lanes in 1..3usize,
    ) {
        let mut world = World::new(lanes);
        world.nobody_leaves = true;
        steps.into_iter().for_each(|step| world.act(step));
        world.settle();
        world.check();
    }
}

/// Found by chance, and kept: the hash that a batch begins anew after a loss has an end, even if its owner dies before it notices.
#[test]
fn what_is_written_just_before_all_nodes_die_ends() {
    let mut world = World::new(1);
    world.act(Step::Join { node: 1, user: 0, room: 0, state: None });
    world.act(Step::RedisDown { ticks: 32, empty: true });
    world.act(Step::Wait { ticks: 1 });
    [1, 0, 2].into_iter().for_each(|node| world.act(Step::Crash { node, ticks: 1 }));
    world.settle();
    world.check();
}
