//! What must hold at the end: the server lists exactly the users who must be present according to what was sent, and
//! each observer's mirror matches the server's list.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wire::room::{Member, Members, Snapshot, difference};

use super::churn_run::ChurnRun;
use crate::clients::Clients;
use crate::http::{get_body, percent_encode};
use crate::interrupt::Interrupt;
use crate::mirror::{RoomState, filtered, members_of, read};
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::target::Target;

/// One or two ticks.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Longer than usual leases, so that users of an earlier run are gone by then.
const CLEAN_START_TIMEOUT: Duration = Duration::from_secs(20);
/// With a short --settle-timeout, this many times it.
const CLEAN_START_SETTLE_TIMEOUTS: u32 = 4;
/// Several ticks: without a delivery for this long, the server has nothing left to deliver.
const QUIET: Duration = Duration::from_millis(400);
/// How often a list is fetched again because the room changed between two of its pages.
const FETCHES: usize = 5;
/// The limit of differences in the report.
const DIFFERENCES_SHOWN: usize = 3;

/// Waits until the server lists exactly the users of this run who have joined. Users that an earlier run left behind
/// would count as unexpected members, or would hide a join.
pub(super) fn wait_for_clean_start(run: &mut ChurnRun, settle_timeout: Duration, interrupt: &Interrupt) -> Result<()> {
    let protocol = run.clients.protocol;
    let started = Instant::now();
    let timeout = CLEAN_START_TIMEOUT.min(settle_timeout * CLEAN_START_SETTLE_TIMEOUTS);
    let nodes: Vec<Target> = nodes(&run.clients).map(|(node, _)| node.clone()).collect();
    let rooms = (0..protocol.rooms as usize).map(|number| protocol.room_name(number));
    for (room, node) in rooms.flat_map(|room| nodes.iter().map(move |node| (room.clone(), node))) {
        // Servers without a list of members are only compared with the mirrors, at the end.
        while let Ok(listed) = fetch(node, &room) {
            let own = filtered(&listed.members, |name| is_own(run, name));
            let Some(difference) = difference(&own, &expected_members(run, &room)) else { break };
            if interrupt.is_requested() {
                bail!("interrupted before the load started");
            }
            if started.elapsed() > timeout {
                bail!(
                    "after {timeout:?} the list of {room} is not that of the users who have joined: {difference}. If another \
                     generator or an earlier run uses the same user names, choose others with --first-user"
                );
            }
            run.listen(POLL_INTERVAL)?;
        }
    }
    Ok(())
}

/// Waits until everything matches. After `settle_timeout` it reports what does not. Ctrl-C does not end it, because the
/// last changes of a run that ended early must arrive as well; a second Ctrl-C ends the process.
pub(super) fn verify(run: &mut ChurnRun, no_verify: bool, settle_timeout: Duration, report: &mut Report) -> Result<()> {
    read_remaining(run, settle_timeout)?;
    if no_verify {
        report.notes.push("mirrors were not compared with the server's lists (--no-verify)".to_owned());
        return Ok(());
    }
    let protocol = run.clients.protocol;
    let mut open: Vec<String> = (0..protocol.rooms as usize).map(|number| protocol.room_name(number)).collect();
    let rooms = open.len() as u64;
    let mut progress = Progress::new("verifying", rooms);
    let started = Instant::now();
    let mut unreadable = None;
    loop {
        let mut wrong = Vec::new();
        let mut still_open = Vec::new();
        for room in open {
            let differences = differences(run, &room, &mut unreadable);
            if !differences.is_empty() {
                wrong.extend(differences);
                still_open.push(room);
            }
        }
        open = still_open;
        let is_over = started.elapsed() > settle_timeout || run.clients.engine.live() == 0;
        if open.is_empty() || is_over {
            let meaning = "rooms whose members are wrong on the server or in a mirror";
            report.figure("rooms_mismatched", open.len() as f64, meaning);
            report.problems.extend(wrong.into_iter().take(DIFFERENCES_SHOWN));
            break;
        }
        progress.set(rooms - open.len() as u64);
        run.listen(POLL_INTERVAL)?;
    }
    progress.finish();
    if let Some(error) = unreadable {
        report
            .notes
            .push(format!("the server has no list of members; mirrors were compared with what was sent: {error}"));
    }
    Ok(())
}

/// Reads until all joins have been received and no delivery arrives any more. Fetching the lists of a thousand rooms
/// takes longer than a tick; messages that arrive meanwhile would get a latency that is not the server's.
fn read_remaining(run: &mut ChurnRun, timeout: Duration) -> Result<()> {
    let started = Instant::now();
    let (mut count, mut changed) = (run.observers.deliveries.count, started);
    while started.elapsed() < timeout && run.clients.engine.live() > 0 {
        run.listen(POLL_INTERVAL)?;
        if run.observers.deliveries.count != count {
            (count, changed) = (run.observers.deliveries.count, Instant::now());
        } else if changed.elapsed() >= QUIET && run.observers.join_times.unseen() == 0 {
            break;
        }
    }
    Ok(())
}

/// Each node with clients, and whether the observers are connected to it.
fn nodes(clients: &Clients) -> impl Iterator<Item = (&Target, bool)> {
    let Clients { target, observer_target, .. } = clients;
    std::iter::once((target, observer_target.is_none())).chain(observer_target.iter().map(|node| (node, true)))
}

fn differences(run: &ChurnRun, room: &str, unreadable: &mut Option<String>) -> Vec<String> {
    let expected = expected_members(run, room);
    let mut wrong = Vec::new();
    for (node, has_observers) in nodes(&run.clients) {
        let listed = match fetch(node, room) {
            Ok(listed) => listed,
            // Peers that speak only another protocol have no such list.
            Err(error) if run.clients.protocol.kind != Protocol::Native => {
                *unreadable = Some(format!("{error:#}"));
                RoomState { room: room.to_owned(), epoch: String::new(), seq: 0, members: expected.clone() }
            }
            Err(error) => {
                wrong.push(format!("the members of {room} cannot be read: {error:#}"));
                continue;
            }
        };
        let own = filtered(&listed.members, |name| is_own(run, name));
        let by_server = difference(&own, &expected);
        wrong.extend(by_server.map(|difference| format!("the list of {room} at {}: {difference}", node.authority)));
        if has_observers {
            let by_mirrors = run.observers.mirrors.differences(&listed);
            wrong.extend(by_mirrors.problem("mirrors differ from the server's list"));
        }
    }
    wrong
}

/// Whether a user belongs to this run.
fn is_own(run: &ChurnRun, name: &str) -> bool {
    run.clients.protocol.index_of(name).is_some_and(|user| user < run.members.user_count())
}

/// The members of a room according to what was sent.
fn expected_members(run: &ChurnRun, room: &str) -> Members {
    let protocol = run.clients.protocol;
    let observers = 0..if run.observers_join { run.observer_count } else { 0 };
    let observers = observers.filter(|index| protocol.room(*index) == room).map(|index| protocol.user(index));
    let mut expected = members_of(observers.chain(run.members.names_in(room)));
    expected.extend(run.observers.permanent_members.iter().flat_map(|members| members.members_in(room)));
    expected
}

/// All pages of a room's list, at one `seq`.
fn fetch(target: &Target, room: &str) -> Result<RoomState> {
    for _ in 0..FETCHES {
        if let Some(listed) = fetch_once(target, room)? {
            return Ok(listed);
        }
    }
    bail!("the members of {room} change faster than the pages of the list can be fetched")
}

/// `None`: the room changed between two pages.
fn fetch_once(target: &Target, room: &str) -> Result<Option<RoomState>> {
    let mut listed: Option<RoomState> = None;
    let mut after = String::new();
    loop {
        let path = format!("/v1/rooms/{}/members?limit=1000{after}", percent_encode(room));
        let body = get_body(target, &path)?;
        let page: Snapshot<'_> =
            read(&body, true).map_err(anyhow::Error::msg).with_context(|| format!("GET {path}"))?;
        let listed = listed.get_or_insert_with(|| RoomState {
            room: room.to_owned(),
            epoch: page.epoch.clone().into_owned(),
            seq: page.seq,
            members: Members::default(),
        });
        if page.seq != listed.seq || *page.epoch != *listed.epoch {
            return Ok(None);
        }
        listed.members.extend(page.members.iter().map(Member::to_entry));
        match page.next {
            Some(next) => after = format!("&after={}", percent_encode(&next)),
            None if listed.members.len() as u64 != page.count => {
                bail!("the list of {room} counts {} members and contains {}", page.count, listed.members.len())
            }
            None => return Ok(Some(listed.clone())),
        }
    }
}
