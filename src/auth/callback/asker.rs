//! Decides which question is asked next. It sends nothing and reads no clock.
//!
//! Equal questions share one request. Newcomers wait in a [`FairQueue`] for a limited time, and leave a quarter of the
//! requests to users who are connected already.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::ask::{Ask, Entry, MAX_SHARERS};
use super::memory::Memory;
use super::question::{Key, Question};
use super::queue::{FairQueue, Pushed};
use super::{Undecided, Verdict};
use crate::peer::PeerAddress;

/// The limit of waiting newcomers. Each is an open connection. An application answers this many in a few seconds.
const MAX_WAITING: usize = 1024;
/// How long a newcomer waits until its question is sent.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long a refusal is remembered.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Remembered refusals. With its reason each takes some 300 bytes.
const MAX_REFUSED: usize = 16 * 1024;
/// Remembered identities of clients that come back every few seconds. Each takes some 400 bytes.
const MAX_ACCEPTED: usize = 100_000;

/// What became of a question at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It waits for its own request.
    Queued,
    /// It shares the request of an equal one, or its result.
    Shared,
    /// There was no room for it, or for another one that had to give way.
    TurnedAway,
}

/// All questions that are not answered yet.
#[derive(Debug)]
pub(super) struct Asker {
    concurrency: usize,
    /// Requests that newcomers leave to users who are connected.
    reserved: usize,
    entries: HashMap<Key, Entry>,
    newcomers: FairQueue,
    rechecks: VecDeque<Key>,
    /// When newcomers came, the first ones first. Some of them no longer wait.
    arrivals: VecDeque<(Instant, PeerAddress, Key)>,
    running_newcomers: usize,
    running_rechecks: usize,
    refused: Memory,
    accepted: Memory,
}

impl Asker {
    /// Asks at most this many questions at once.
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            concurrency,
            reserved: (concurrency / 4).max(1),
            entries: HashMap::new(),
            newcomers: FairQueue::new(MAX_WAITING),
            rechecks: VecDeque::new(),
            arrivals: VecDeque::new(),
            running_newcomers: 0,
            running_rechecks: 0,
            refused: Memory::new(MAX_REFUSED),
            accepted: Memory::new(MAX_ACCEPTED),
        }
    }

    /// Newcomers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.newcomers.len()
    }

    /// Requests that are under way.
    pub(super) fn running(&self) -> usize {
        self.running_newcomers + self.running_rechecks
    }

    /// Takes a question.
    pub(super) fn ask(&mut self, ask: Ask, now: Instant) -> Asked {
        let Ask { key, question, address, reuse, reply } = ask;
        let reused = (!reuse.is_zero()).then(|| self.accepted.get(&key, now)).flatten();
        if let Some(known) = reused.or_else(|| self.refused.get(&key, now)) {
            let _ = reply.send(known);
            return Asked::Shared;
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.replies.len() < MAX_SHARERS {
                entry.replies.push(reply);
                return Asked::Shared;
            }
            let _ = reply.send(Verdict::Undecided(Undecided::Busy));
            return Asked::TurnedAway;
        }
        let mut asked = Asked::Queued;
        match address.map(|address| (address, self.newcomers.push(address, key))) {
            None => self.rechecks.push_back(key),
            Some((_, Pushed::Full)) => {
                let _ = reply.send(Verdict::Undecided(Undecided::Busy));
                return Asked::TurnedAway;
            }
            Some((address, pushed)) => {
                self.note_arrival(now, address, key);
                if let Pushed::InPlaceOf(other) = pushed {
                    self.turn_away(&other);
                    asked = Asked::TurnedAway;
                }
            }
        }
        let entry = Entry { question, address, reuse, since: now, is_running: false, replies: vec![reply] };
        self.entries.insert(key, entry);
        asked
    }

    /// The next question to send, if another one may be sent.
    pub(super) fn next(&mut self) -> Option<(Key, Question)> {
        loop {
            let is_free = self.running() < self.concurrency;
            // Users who are connected come first, but cannot keep all newcomers out.
            let may_recheck = self.running_rechecks < self.reserved || self.newcomers.len() == 0;
            let may_add = self.running_newcomers < self.concurrency.saturating_sub(self.reserved).max(1);
            let recheck = if is_free && may_recheck { self.rechecks.pop_front() } else { None };
            let key = match recheck {
                Some(key) => key,
                None if is_free && may_add => self.newcomers.pop()?,
                None => return None,
            };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if !entry.is_wanted() {
                self.entries.remove(&key);
                continue;
            }
            entry.is_running = true;
            let question = entry.question.clone();
            match entry.address {
                Some(_) => self.running_newcomers += 1,
                None => self.running_rechecks += 1,
            }
            return Some((key, question));
        }
    }

    /// Passes the result of a request to the clients that wait for it. An accepted identity is valid for `valid_for`.
    pub(super) fn done(&mut self, key: Key, verdict: &Verdict, valid_for: Duration, now: Instant) {
        let Some(entry) = self.entries.remove(&key) else { return };
        match entry.address {
            Some(_) => self.running_newcomers = self.running_newcomers.saturating_sub(1),
            None => self.running_rechecks = self.running_rechecks.saturating_sub(1),
        }
        match verdict {
            Verdict::Refused(_) if entry.address.is_some() => {
                self.refused.insert(key, verdict.clone(), now + REFUSED_FOR);
            }
            Verdict::Accepted { .. } if !entry.reuse.is_zero() => {
                self.accepted.insert(key, verdict.clone(), now + entry.reuse.min(valid_for));
            }
            _ => {}
        }
        entry.reply(verdict);
    }

    /// When [`Self::expire`] has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.arrivals.front().map(|(since, ..)| *since + MAX_WAIT)
    }

    /// Turns newcomers away who have waited for too long. Returns how many.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while let Some((since, address, key)) = self.arrivals.pop_front_if(|(since, ..)| *since + MAX_WAIT <= now) {
            if self.waits(&key, since) {
                self.newcomers.remove(address, &key);
                self.turn_away(&key);
                expired += 1;
            }
        }
        expired
    }

    /// Whether the newcomer of that time still waits. An equal question may have come later.
    fn waits(&self, key: &Key, since: Instant) -> bool {
        self.entries.get(key).is_some_and(|entry| !entry.is_running && entry.since == since)
    }

    fn note_arrival(&mut self, now: Instant, address: PeerAddress, key: Key) {
        if self.arrivals.len() >= 4 * MAX_WAITING {
            let arrivals = std::mem::take(&mut self.arrivals);
            self.arrivals = arrivals.into_iter().filter(|(since, _, key)| self.waits(key, *since)).collect();
        }
        self.arrivals.push_back((now, address, key));
    }

    fn turn_away(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            entry.reply(&Verdict::Undecided(Undecided::Busy));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const NO_REUSE: Duration = Duration::ZERO;
    const HOUR: Duration = Duration::from_secs(3600);

    struct Check {
        asker: Asker,
        start: Instant,
    }

    impl Check {
        fn new(concurrency: usize) -> Self {
            Self { asker: Asker::new(concurrency), start: Instant::now() }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// Asks at this second; the address is 10.0.0.`address`, or none for a recheck.
        fn ask(&mut self, number: u16, address: u8, reuse: Duration, second: u64) -> oneshot::Receiver<Verdict> {
            let (reply, answer) = oneshot::channel();
            let address = (address > 0).then(|| PeerAddress::of([10, 0, 0, address].into()));
            let question = Question::still(&number.to_string(), None);
            let ask = Ask { key: key(number), question, address, reuse, reply };
            self.asker.ask(ask, self.at(second));
            answer
        }

        /// Starts all requests that may be started.
        fn started(&mut self) -> Vec<Key> {
            std::iter::from_fn(|| self.asker.next()).map(|(key, _)| key).collect()
        }
    }

    fn key(number: u16) -> Key {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        key
    }

    fn refused() -> Verdict {
        Verdict::Refused("no".into())
    }

    fn accepted() -> Verdict {
        use crate::auth::{Grant, Permissions};
        let permissions = std::sync::Arc::new(Permissions::everything());
        Verdict::Accepted { user: "a".into(), grant: Grant::anonymous(permissions).into() }
    }

    const BUSY: Verdict = Verdict::Undecided(Undecided::Busy);

    #[test]
    fn equal_questions_share_one_request_and_a_refusal_is_remembered_for_ten_seconds() {
        let mut check = Check::new(4);
        let mut answers: Vec<_> = (0..3).map(|_| check.ask(1, 1, NO_REUSE, 0)).collect();
        assert_eq!(check.started(), [key(1)]);
        answers.push(check.ask(1, 1, NO_REUSE, 1));
        assert!(check.started().is_empty());
        let now = check.at(2);
        check.asker.done(key(1), &refused(), HOUR, now);
        assert!(answers.iter_mut().all(|answer| answer.try_recv() == Ok(refused())));
        assert_eq!(check.ask(1, 1, NO_REUSE, 11).try_recv(), Ok(refused()));
        let mut again = check.ask(1, 1, NO_REUSE, 12);
        assert!(again.try_recv().is_err());
        assert_eq!(check.started(), [key(1)], "it is asked again");
        let now = check.at(12);
        check.asker.done(key(1), &accepted(), HOUR, now);
        let _answer = check.ask(1, 1, NO_REUSE, 12);
        assert_eq!(check.started(), [key(1)], "each connection asks");
    }

    #[test]
    fn an_identity_is_reused_for_its_time_where_that_is_wanted() {
        let mut check = Check::new(4);
        let reuse = Duration::from_secs(30);
        let _first = check.ask(1, 1, reuse, 0);
        assert_eq!(check.started(), [key(1)]);
        let now = check.at(1);
        check.asker.done(key(1), &accepted(), HOUR, now);
        assert_eq!(check.ask(1, 1, reuse, 30).try_recv(), Ok(accepted()));
        let _later = check.ask(1, 1, reuse, 31);
        assert_eq!(check.started(), [key(1)]);
        let now = check.at(31);
        check.asker.done(key(1), &Verdict::Undecided(Undecided::Failed), HOUR, now);
        let _again = check.ask(1, 1, reuse, 31);
        assert_eq!(check.started(), [key(1)], "a failure is not remembered");
        let now = check.at(31);
        check.asker.done(key(1), &accepted(), Duration::from_secs(2), now);
        assert_eq!(check.ask(1, 1, reuse, 32).try_recv(), Ok(accepted()));
        let _expired = check.ask(1, 1, reuse, 33);
        assert_eq!(check.started(), [key(1)], "no longer than it is valid");
    }

    #[test]
    fn a_quarter_of_the_requests_is_reserved_for_users_who_are_connected() {
        let mut check = Check::new(8);
        let mut answers: Vec<_> = (0..20).map(|number| check.ask(number, 1, NO_REUSE, 0)).collect();
        assert_eq!(check.started().len(), 6);
        answers.extend((100..120).map(|number| check.ask(number, 0, NO_REUSE, 0)));
        assert_eq!(check.started(), [key(100), key(101)]);
        // A place of a newcomer goes to a newcomer, and the other way round.
        let now = check.at(1);
        check.asker.done(key(0), &accepted(), HOUR, now);
        check.asker.done(key(100), &accepted(), HOUR, now);
        assert_eq!(check.started(), [key(102), key(6)]);
        // Without newcomers, users who are connected may use all.
        let mut check = Check::new(8);
        answers.extend((100..120).map(|number| check.ask(number, 0, NO_REUSE, 0)));
        assert_eq!(check.started().len(), 8);
        drop(answers);
    }

    #[test]
    fn newcomers_wait_for_five_seconds_at_most() {
        let mut check = Check::new(1);
        let mut first = check.ask(1, 1, NO_REUSE, 0);
        assert_eq!(check.started(), [key(1)]);
        let (mut second, mut third) = (check.ask(2, 1, NO_REUSE, 1), check.ask(3, 2, NO_REUSE, 2));
        let mut recheck = check.ask(100, 0, NO_REUSE, 0);
        assert_eq!(check.asker.next_deadline(), Some(check.at(5)));
        let (five, six, seven) = (check.at(5), check.at(6), check.at(7));
        assert_eq!((check.asker.expire(five), check.asker.expire(six), check.asker.expire(seven)), (0, 1, 1));
        assert!(first.try_recv().is_err() && recheck.try_recv().is_err(), "they are not newcomers that wait");
        assert_eq!((second.try_recv(), third.try_recv()), (Ok(BUSY), Ok(BUSY)));
        assert_eq!((check.asker.next_deadline(), check.asker.waiting(), check.asker.entries.len()), (None, 0, 2));
    }

    #[test]
    fn clients_that_are_gone_are_not_asked_about() {
        let mut check = Check::new(4);
        drop(check.ask(1, 1, NO_REUSE, 0));
        drop(check.ask(100, 0, NO_REUSE, 0));
        let kept = check.ask(2, 1, NO_REUSE, 0);
        assert_eq!(check.started(), [key(2)]);
        assert_eq!(check.asker.entries.len(), 1);
        drop(kept);
    }

    #[test]
    fn everything_that_waits_is_bounded() {
        let mut check = Check::new(1);
        let (mut answers, many) = (Vec::new(), (MAX_WAITING + 50) as u16);
        for number in 0..many {
            answers.push(check.ask(number, 1, NO_REUSE, 0));
        }
        assert_eq!((check.asker.waiting(), check.asker.entries.len()), (MAX_WAITING, MAX_WAITING));
        assert_eq!(answers[MAX_WAITING].try_recv(), Ok(BUSY));
        // Another address gets its share.
        let mut other = check.ask(many, 2, NO_REUSE, 0);
        assert!(other.try_recv().is_err());
        assert_eq!(answers[MAX_WAITING - 1].try_recv(), Ok(BUSY));
        assert_eq!(check.asker.entries.len(), MAX_WAITING);
        let mut sharing: Vec<_> = (0..MAX_SHARERS).map(|_| check.ask(many, 2, NO_REUSE, 0)).collect();
        assert_eq!(sharing.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect::<Vec<_>>(), [BUSY]);
        // Newcomers that are answered at once leave nothing behind.
        let mut check = Check::new(1);
        for number in 0..10_000 {
            let _answer = check.ask(number, 2, NO_REUSE, 0);
            assert_eq!(check.started(), [key(number)]);
            let now = check.at(0);
            check.asker.done(key(number), &accepted(), HOUR, now);
        }
        assert!(check.asker.arrivals.len() <= 4 * MAX_WAITING && check.asker.entries.is_empty());
    }
}
