//! The mirrors of those who are told single events, one message for each who comes or goes (status, chat). Each event is
//! read anew for each observer: nobody is told the same stream as the next, for a status server leaves out oneself.

use super::arrivals::{Arrivals, UNPLANNED};
use super::members::Members;
use super::wire::{event, is_event};
use super::{Complaints, Seen, Truth};
use crate::connection::Message;
use crate::protocol::{Dialect, Protocol, message_kind};

#[derive(Debug)]
pub(crate) struct Events {
    dialect: Dialect,
    /// By observer, then by client number. Others' users are none of our business.
    known: Vec<Vec<Known>>,
    pub(crate) complaints: Complaints,
    /// Client numbers below are in at the start.
    insiders: usize,
    /// All are in, and the plan has begun.
    pub(crate) playing: bool,
    /// Planned joins, once for each observer that was told.
    pub(crate) joins_seen: u64,
    /// Events that told what was known. They change nothing, and a server may owe them to two that came at once.
    pub(crate) repeated: u64,
}

/// What an observer was told last of somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    Online,
    Offline,
}

impl Events {
    /// Client numbers below `insiders` are in at the start; of these the observers, who come first, never leave.
    pub(crate) fn new(dialect: Dialect, observers: usize, insiders: usize) -> Self {
        let known = vec![Vec::new(); observers];
        Self { dialect, insiders, playing: false, known, complaints: Complaints::default(), repeated: 0, joins_seen: 0 }
    }

    /// What an observer has read. Returns what it saw, if that was an event.
    pub(crate) fn take(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        arrivals: &mut Arrivals,
        now_ns: u64,
    ) -> Option<Seen> {
        if !is_event(message_kind(message.payload)?) {
            return None;
        }
        let event = match event(message.payload, message.is_whole) {
            Ok(event) => event,
            Err(complaint) => {
                self.complain(observer, &complaint);
                return Some(Seen { changes: 0 });
            }
        };
        if let Some(number) = self.dialect.index_of(&event.user) {
            if event.came {
                let planned_ns = arrivals.told(Some(number));
                arrivals.read(&[planned_ns], now_ns);
                self.joins_seen += u64::from(planned_ns != UNPLANNED);
            }
            let now = if event.came { Known::Online } else { Known::Offline };
            let before = self.note(observer, number, now);
            self.repeated += u64::from(before == now);
            if let Some(complaint) = self.impossible(observer, number, before, now) {
                self.complain(observer, &format!("{} {complaint}", event.user));
            }
        }
        Some(Seen { changes: 1 })
    }

    /// How what the observers were told differs from the truth.
    pub(crate) fn differences(&self, truth: &Truth) -> Complaints {
        let online: Vec<usize> = truth.members.names().filter_map(|name| self.dialect.index_of(name)).collect();
        let mut complaints = Complaints::default();
        for (observer, known) in self.known.iter().enumerate() {
            if let Some(difference) = self.mirror(known, &online).difference(&self.seen_by(observer, truth)) {
                complaints.add(format!("{}: {difference}", self.dialect.user(observer)));
            }
        }
        complaints
    }

    /// What no true server tells once all are in, whatever the last word is. Before, an earlier run may still be going.
    fn impossible(&self, observer: usize, number: usize, before: Known, now: Known) -> Option<&'static str> {
        if !self.playing {
            return None;
        }
        let is_status = self.dialect.protocol == Protocol::Status;
        match now {
            Known::Online if is_status && number == observer => Some("was told of itself"),
            Known::Offline if number < self.known.len() => Some("was told to be gone and never left"),
            Known::Offline if is_status && before == Known::Nothing => Some("left without being there"),
            _ => None,
        }
    }

    /// Those who are online by what an observer was told. A chat tells only who comes and goes while one is there, so those
    /// of whom nothing was told are taken to be where they are, if they were there from the start.
    fn mirror(&self, known: &[Known], online: &[usize]) -> Members {
        let told = |number: &usize| known.get(*number).copied().unwrap_or_default();
        let told_online = (0..known.len()).filter(|number| told(number) == Known::Online);
        let insiders = if self.dialect.protocol == Protocol::Chat { self.insiders } else { 0 };
        let unknown = online.iter().copied().filter(|number| *number < insiders && told(number) == Known::Nothing);
        let names: Vec<String> = told_online.chain(unknown).map(|number| self.dialect.user(number)).collect();
        names.iter().map(String::as_str).collect()
    }

    /// The truth that an observer is told: in the status dialect that of the others.
    fn seen_by(&self, observer: usize, truth: &Truth) -> Members {
        let own = (self.dialect.protocol == Protocol::Status).then(|| self.dialect.user(observer));
        truth.members.filtered(|name| self.dialect.index_of(name).is_some() && Some(name) != own.as_deref())
    }

    fn note(&mut self, observer: usize, number: usize, now: Known) -> Known {
        let known = &mut self.known[observer];
        if known.len() <= number {
            known.resize(number + 1, Known::Nothing);
        }
        std::mem::replace(&mut known[number], now)
    }

    fn complain(&mut self, observer: usize, complaint: &str) {
        self.complaints.add(format!("{}: {complaint}", self.dialect.user(observer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: Dialect = Dialect { protocol: Protocol::Status, rooms: 1, first_user: 0 };
    const CHAT: Dialect = Dialect { protocol: Protocol::Chat, rooms: 1, first_user: 0 };

    fn online(number: usize) -> String {
        format!(r#"{{"type":"USER_ONLINE","userId":"{}","timestamp":"2024-01-01T12:00:00.000Z"}}"#, STATUS.user(number))
    }

    fn offline(number: usize) -> String {
        online(number).replace("ONLINE", "OFFLINE")
    }

    fn chat(kind: &str, number: usize) -> String {
        format!(r#"{{"type":"{kind}","payload":{{"user":"{}","ts":1700000000.123}}}}"#, CHAT.user(number))
    }

    /// Observer 0 is told this; `truth` are the numbers of those who are online at the end.
    fn check(dialect: Dialect, told: &[String], truth: &[usize], wrong: u64) -> Events {
        let mut events = Events::new(dialect, 1, 2);
        let mut arrivals = Arrivals::new();
        for payload in told {
            let message = Message { payload: payload.as_bytes(), is_whole: true };
            assert!(events.take(0, &message, &mut arrivals, 0).is_some());
        }
        let names: Vec<String> = truth.iter().map(|number| dialect.user(*number)).collect();
        let members = names.iter().map(String::as_str).collect();
        let truth = Truth { room: "lobby".into(), epoch: String::new(), seq: 0, members };
        assert_eq!(events.differences(&truth).count, wrong, "{:?}", events.differences(&truth));
        events
    }

    #[test]
    fn a_status_observer_knows_all_the_others() {
        check(STATUS, &[online(1), online(2), offline(1)], &[0, 2], 0);
        check(STATUS, &[online(1), online(2)], &[0, 2], 1);
        check(STATUS, &[online(1)], &[0, 1, 2], 1);
        check(STATUS, &[online(0)], &[0], 1);
    }

    #[test]
    fn a_chat_observer_knows_who_came_and_went_while_it_was_there() {
        check(CHAT, &[chat("join", 0), chat("join", 1), chat("leave", 1)], &[0], 0);
        check(CHAT, &[chat("join", 0), chat("join", 2), chat("leave", 2)], &[0, 1], 0);
        check(CHAT, &[chat("join", 0), chat("join", 1)], &[0], 1);
        check(CHAT, &[chat("join", 1)], &[0, 1], 0);
        check(CHAT, &[chat("leave", 1)], &[0, 1], 1);
    }

    #[test]
    fn who_came_late_must_have_been_told_of() {
        check(CHAT, &[chat("join", 0)], &[0, 1], 0);
        check(CHAT, &[chat("join", 0)], &[0, 2], 1);
    }

    #[test]
    fn what_cannot_be_is_wrong_whatever_comes_after() {
        for (dialect, told) in [
            (STATUS, [online(0), offline(0)]),
            (STATUS, [offline(3), online(1)]),
            (CHAT, [chat("leave", 0), chat("join", 0)]),
        ] {
            let mut events = Events::new(dialect, 1, 2);
            events.playing = true;
            let mut arrivals = Arrivals::new();
            for payload in &told {
                events.take(0, &Message { payload: payload.as_bytes(), is_whole: true }, &mut arrivals, 0);
            }
            assert!(events.complaints.count > 0, "{told:?}");
        }
    }

    #[test]
    fn what_is_told_twice_is_counted_and_what_names_nobody_is_wrong() {
        let events = check(STATUS, &[online(1), online(1)], &[0, 1], 0);
        assert_eq!((events.repeated, events.complaints.count), (1, 0));
        let events = check(STATUS, &[r#"{"type":"USER_ONLINE"}"#.to_owned()], &[0], 0);
        assert_eq!((events.repeated, events.complaints.count), (0, 1));
    }
}
