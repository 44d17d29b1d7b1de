//! Resident memory per member. Not timed.

use std::sync::Arc;

use rollcall::presence::{Now, Registry, Roster, Session};

use crate::common::{self, Random, user_name};

/// Names the kind of member that this process measures, instead of running the benchmarks.
pub(super) const MEASURE_MEMORY: &str = "ROLLCALL_BENCH_MEMORY";

/// Kinds of members, and how many share a room.
const KINDS: [(&str, usize); 3] = [("name", 1_000_000), ("uuid", 1_000_000), ("rooms", 100)];

/// Measures each kind of member in a process of its own, so that no memory was freed before.
pub(super) fn measure_all() {
    println!("\nmemory: resident bytes per member: session (with name and lease) + membership");
    let program = std::env::current_exe().expect("the path of this program");
    for (kind, _) in KINDS {
        let mut command = std::process::Command::new(&program);
        command.args(std::env::args_os().skip(1)).env(MEASURE_MEMORY, kind);
        let status = command.status().expect("this program starts again");
        assert!(status.success(), "measuring {kind}: {status}");
    }
}

/// Opens all sessions, then lets them join, a hundredth of them per tick.
pub(super) fn measure(kind: &str) {
    let users = common::user_counts()[common::user_counts().len() - 1];
    let per_room = KINDS.iter().find(|(name, _)| *name == kind).expect("a known kind").1;
    let at_once = users.div_ceil(100);
    let mut random = Random::new();
    let mut numbers: Vec<usize> = (0..users).collect();
    random.shuffle(&mut numbers);
    let mut sessions: Vec<Option<Arc<Session>>> = vec![None; users];
    let registry = common::registry();
    let mut now = Now::default();
    let empty = resident_bytes();
    for (sessions, numbers) in sessions.chunks_mut(at_once).zip(numbers.chunks(at_once)) {
        for (session, number) in sessions.iter_mut().zip(numbers) {
            let user = if kind == "uuid" { uuid(&mut random, *number) } else { user_name(*number) };
            *session = Some(registry.open_session(&user, now));
        }
        now.tick += 1;
        settle(&registry, now);
    }
    let opened = resident_bytes();
    for (sessions, numbers) in sessions.chunks(at_once).zip(numbers.chunks(at_once)) {
        for (session, number) in sessions.iter().flatten().zip(numbers) {
            registry.join(session, &format!("room-{}", number / per_room), None, now);
        }
        settle(&registry, now);
    }
    let joined = resident_bytes();
    let counted: usize = registry.rooms().iter().map(|room| room.read(Roster::count)).sum();
    assert_eq!((registry.users_online(), counted), (users, users));
    let id_bytes = sessions[0].as_ref().map_or(0, |session| session.user().len());
    let per_member = |before: usize, after: usize| after.saturating_sub(before) / users;
    let (session, membership, total) =
        (per_member(empty, opened), per_member(opened, joined), per_member(empty, joined));
    println!(
        "{users:>9} members, ids of {id_bytes} bytes, {per_room:>7} per room: \
         {session:>3} + {membership:>3} = {total:>3} B (budget of the membership 200)"
    );
}

fn settle(registry: &Registry, now: Now) {
    registry.end_leases(now);
    for room in registry.take_dirty() {
        registry.settle(&room);
    }
}

/// A text that looks like a UUID.
fn uuid(random: &mut Random, number: usize) -> String {
    let mut digits = || random.below(1 << 16);
    format!(
        "{:04x}{:04x}-{:04x}-4{:03x}-a{:03x}-{number:012x}",
        digits(),
        digits(),
        digits(),
        digits() >> 4,
        digits() >> 4
    )
}

/// Resident memory of this process. The kernel reports it in KiB.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
    let kib = line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number");
    kib * 1024
}
