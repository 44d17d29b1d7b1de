//! What must hold at the end: the server's list of each room is who is in by what was sent, and each observer's mirror
//! is that list.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Stage;
use crate::crowd::Crowd;
use crate::http::{get_body, percent_encode};
use crate::interrupt::Interrupt;
use crate::mirror::{Members, Snapshot, Truth, read};
use crate::progress::Progress;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::target::Target;

/// Two looks are a tick or two apart.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longer than usual leases, so that users of an earlier run are gone by then.
const CLEAN_START: Duration = Duration::from_secs(20);
/// For servers and people with less patience: so many times theirs.
const CLEAN_START_PATIENCES: u32 = 4;
/// Some ticks of a server, in which it would have told what there is to tell.
const QUIET: Duration = Duration::from_millis(400);
/// Pages of one answer that no longer fit together are asked for again.
const FETCHES: usize = 5;
/// Each wrong room is a sentence; after this many the reader knows.
const ROOMS_SHOWN: usize = 3;

/// Waits until the server's lists hold our users and no others of ours: what an earlier run left behind would be
/// taken for a ghost, or would hide a join.
pub(super) fn wait_for_a_clean_start(stage: &mut Stage, patience: Duration, interrupt: &Interrupt) -> Result<()> {
    let dialect = stage.crowd.dialect;
    let started = Instant::now();
    let patience = CLEAN_START.min(patience * CLEAN_START_PATIENCES);
    let nodes: Vec<Target> = stage.nodes().map(|(node, _)| node.clone()).collect();
    let rooms = (0..dialect.rooms as usize).map(|number| dialect.room_name(number));
    for (room, node) in rooms.flat_map(|room| nodes.iter().map(move |node| (room.clone(), node))) {
        // Servers without such a list are judged by what observers see at the end.
        while let Ok(truth) = fetch(node, &room) {
            let ours = truth.members.filtered(|name| stage.is_ours(name));
            let Some(difference) = ours.difference(&stage.expected(&room)) else { break };
            if interrupt.is_asked() {
                bail!("interrupted before the load began");
            }
            if started.elapsed() > patience {
                bail!(
                    "{room} does not hold who has joined, after {patience:?}: {difference}. If another generator or an \
                     earlier run uses the same names, give --first-user"
                );
            }
            stage.listen(LOOK_EVERY)?;
        }
    }
    Ok(())
}

/// Waits until everything holds, and says what still does not when patience is over. Ctrl-C does not cut it short: the
/// last changes of a run that ended early have to be shown as well (a second one ends the process).
pub(super) fn verify(stage: &mut Stage, no_verify: bool, patience: Duration, report: &mut Report) -> Result<()> {
    stage.hear_out(patience)?;
    if no_verify {
        report.notes.push("mirrors were not compared with the server's lists (--no-verify)".to_owned());
        return Ok(());
    }
    let dialect = stage.crowd.dialect;
    let mut open: Vec<String> = (0..dialect.rooms as usize).map(|number| dialect.room_name(number)).collect();
    let rooms = open.len() as u64;
    let mut progress = Progress::new("verifying", rooms);
    let started = Instant::now();
    let mut unreadable = None;
    loop {
        let mut wrong = Vec::new();
        let mut still_open = Vec::new();
        for room in open {
            let differences = stage.differences(&room, &mut unreadable);
            if !differences.is_empty() {
                wrong.extend(differences);
                still_open.push(room);
            }
        }
        open = still_open;
        let over = started.elapsed() > patience || stage.crowd.engine.live() == 0;
        if open.is_empty() || over {
            report.figure("rooms_wrong", open.len() as f64, "whose members the server or an observer has wrong");
            report.problems.extend(wrong.into_iter().take(ROOMS_SHOWN));
            break;
        }
        progress.set(rooms - open.len() as u64);
        stage.listen(LOOK_EVERY)?;
    }
    progress.finish();
    if let Some(error) = unreadable {
        report
            .notes
            .push(format!("the server has no list of members; observers were compared with what was sent: {error}"));
    }
    Ok(())
}

impl Stage {
    /// Reads until the last joins have been seen and nothing more comes. Asking a server about a thousand rooms takes longer
    /// than a tick, and what is not read meanwhile would be counted as its delay.
    fn hear_out(&mut self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        let (mut heard, mut changed) = (self.gallery.deliveries.count, started);
        while started.elapsed() < patience && self.crowd.engine.live() > 0 {
            self.listen(LOOK_EVERY)?;
            if self.gallery.deliveries.count != heard {
                (heard, changed) = (self.gallery.deliveries.count, Instant::now());
            } else if changed.elapsed() >= QUIET && self.gallery.arrivals.unseen() == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Each server that people are at, and whether the observers are.
    fn nodes(&self) -> impl Iterator<Item = (&Target, bool)> {
        let Crowd { target, observed, .. } = &self.crowd;
        std::iter::once((target, observed.is_none())).chain(observed.iter().map(|observed| (observed, true)))
    }

    fn differences(&self, room: &str, unreadable: &mut Option<String>) -> Vec<String> {
        let expected = self.expected(room);
        let mut wrong = Vec::new();
        for (node, has_observers) in self.nodes() {
            let truth = match fetch(node, room) {
                Ok(truth) => truth,
                // Peers that speak only this dialect have no such list.
                Err(error) if self.crowd.dialect.protocol != Protocol::Native => {
                    *unreadable = Some(format!("{error:#}"));
                    Truth { room: room.to_owned(), epoch: String::new(), seq: 0, members: expected.clone() }
                }
                Err(error) => {
                    wrong.push(format!("the members of {room} cannot be read: {error:#}"));
                    continue;
                }
            };
            let ours = truth.members.filtered(|name| self.is_ours(name));
            let by_server = ours.difference(&expected);
            wrong.extend(by_server.map(|difference| format!("the list of {room} at {}: {difference}", node.authority)));
            if has_observers {
                let by_observers = self.gallery.mirrors.differences(&truth);
                wrong.extend(by_observers.problem("observers do not see what the server says"));
            }
        }
        wrong
    }

    fn is_ours(&self, name: &str) -> bool {
        self.crowd.dialect.index_of(name).is_some_and(|number| number < self.moves.numbers())
    }

    /// Who is in a room by what was sent.
    fn expected(&self, room: &str) -> Members {
        let dialect = self.crowd.dialect;
        let observers = 0..if self.observers_join { self.observers } else { 0 };
        let observers = observers.filter(|index| dialect.room(*index) == room).map(|index| dialect.user(index));
        let names: Vec<String> = observers.chain(self.moves.names_in(room)).collect();
        let mut expected: Members = names.iter().map(String::as_str).collect();
        for (name, state) in self.gallery.residents.iter().flat_map(|residents| residents.members_in(room)) {
            expected.insert(&name, state);
        }
        expected
    }
}

/// All pages of a room's list at one seq.
fn fetch(target: &Target, room: &str) -> Result<Truth> {
    for _ in 0..FETCHES {
        if let Some(truth) = fetch_once(target, room)? {
            return Ok(truth);
        }
    }
    bail!("the list of {room} changes faster than its pages can be read")
}

/// `None` if the room changed between two pages.
fn fetch_once(target: &Target, room: &str) -> Result<Option<Truth>> {
    let mut truth: Option<Truth> = None;
    let mut after = String::new();
    loop {
        let path = format!("/v1/rooms/{}/members?limit=1000{after}", percent_encode(room));
        let body = get_body(target, &path)?;
        let page: Snapshot<'_> =
            read(&body, true).map_err(anyhow::Error::msg).with_context(|| format!("GET {path}"))?;
        let truth = truth.get_or_insert_with(|| Truth {
            room: room.to_owned(),
            epoch: page.epoch.clone().into_owned(),
            seq: page.seq,
            members: Members::default(),
        });
        if page.seq != truth.seq || *page.epoch != *truth.epoch {
            return Ok(None);
        }
        truth.members.extend(page.members);
        match page.next {
            Some(next) => after = format!("&after={}", percent_encode(&next)),
            None if truth.members.len() as u64 != page.count => {
                bail!("the list of {room} counts {} members and names {}", page.count, truth.members.len())
            }
            None => return Ok(Some(truth.clone())),
        }
    }
}
