//! Mirrors for the online-status and chat protocols, which send an event per user who comes or goes. Events are parsed
//! per observer, because observers do not receive the same ones: in online-status, users receive no events about
//! themselves.

use wire::room::{Members, difference};

use super::delivery::Delivery;
use super::join_times::{JoinTimes, UNPLANNED};
use super::messages::{event, is_event};
use super::room_state::{RoomState, filtered, members_of};
use crate::connection::Message;
use crate::error_log::ErrorLog;
use crate::protocol::{ClientProtocol, Protocol, message_kind};

#[derive(Debug)]
pub(crate) struct Events {
    protocol: ClientProtocol,
    /// By observer, then by client index. Users of other generators are ignored.
    known: Vec<Vec<KnownStatus>>,
    pub(crate) errors: ErrorLog,
    /// Clients with a lower index are present from the start.
    initial_members: usize,
    /// All clients are ready, and the load has started.
    pub(crate) has_started: bool,
    /// Planned joins that were received, counted per observer.
    pub(crate) joins_seen: u64,
    /// Events that repeated what the observer knew. They are harmless: a server may send them when two users come at
    /// the same time.
    pub(crate) repeated: u64,
}

/// The last event that an observer received about a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum KnownStatus {
    #[default]
    Unknown,
    Online,
    Offline,
}

impl Events {
    /// Clients with an index below `initial_members` are present from the start. The observers among them, which have
    /// the lowest indexes, never leave.
    pub(crate) fn new(protocol: ClientProtocol, observers: usize, initial_members: usize) -> Self {
        Self {
            protocol,
            known: vec![Vec::new(); observers],
            errors: ErrorLog::default(),
            initial_members,
            has_started: false,
            joins_seen: 0,
            repeated: 0,
        }
    }

    /// Handles a message that an observer received. Returns `None` if it is not an event.
    pub(crate) fn apply(
        &mut self,
        observer: usize,
        message: &Message<'_>,
        join_times: &mut JoinTimes,
        now_ns: u64,
    ) -> Option<Delivery> {
        if !is_event(message_kind(message.payload)?) {
            return None;
        }
        let event = match event(message.payload, message.is_whole) {
            Ok(event) => event,
            Err(error) => {
                self.add_error(observer, &error);
                return Some(Delivery { changes: 0 });
            }
        };
        if let Some(client) = self.protocol.index_of(&event.user) {
            if event.is_online {
                let planned_ns = join_times.announced(Some(client));
                join_times.record(&[planned_ns], now_ns);
                self.joins_seen += u64::from(planned_ns != UNPLANNED);
            }
            let now = if event.is_online { KnownStatus::Online } else { KnownStatus::Offline };
            let before = self.replace(observer, client, now);
            self.repeated += u64::from(before == now);
            if let Some(error) = self.contradiction(observer, client, before, now) {
                self.add_error(observer, &format!("{} {error}", event.user));
            }
        }
        Some(Delivery { changes: 1 })
    }

    /// How the observers' mirrors differ from the expected users.
    pub(crate) fn differences(&self, expected: &RoomState) -> ErrorLog {
        let online: Vec<usize> = expected.members.keys().filter_map(|name| self.protocol.index_of(name)).collect();
        let mut errors = ErrorLog::default();
        for (observer, known) in self.known.iter().enumerate() {
            let visible = self.visible_to(observer, expected);
            if let Some(difference) = difference(&self.mirror(known, &online), &visible) {
                errors.add(format!("{}: {difference}", self.protocol.user(observer)));
            }
        }
        errors
    }

    /// The error in an event that a correct server never sends once all clients are ready. Before that, users of an
    /// earlier run may still leave.
    fn contradiction(
        &self,
        observer: usize,
        client: usize,
        before: KnownStatus,
        now: KnownStatus,
    ) -> Option<&'static str> {
        if !self.has_started {
            return None;
        }
        let is_status = self.protocol.kind == Protocol::OnlineStatus;
        match now {
            KnownStatus::Online if is_status && client == observer => Some("received an event about itself"),
            KnownStatus::Offline if client < self.known.len() => Some("was reported offline and never left"),
            KnownStatus::Offline if is_status && before == KnownStatus::Unknown => {
                Some("was reported offline and never online")
            }
            _ => None,
        }
    }

    /// The users that are online according to an observer's events. In a chat, observers receive no events about users
    /// who came before them, so an initial member without an event counts as expected: online if it should be.
    fn mirror(&self, known: &[KnownStatus], online: &[usize]) -> Members {
        let status_of = |client: &usize| known.get(*client).copied().unwrap_or_default();
        let reported = (0..known.len()).filter(|client| status_of(client) == KnownStatus::Online);
        let initial = if self.protocol.kind == Protocol::Chat { self.initial_members } else { 0 };
        let is_unreported = |client: &usize| *client < initial && status_of(client) == KnownStatus::Unknown;
        let unreported = online.iter().copied().filter(is_unreported);
        members_of(reported.chain(unreported).map(|client| self.protocol.user(client)))
    }

    /// The expected users that an observer receives events about: all, or in online-status all but itself.
    fn visible_to(&self, observer: usize, expected: &RoomState) -> Members {
        let own = (self.protocol.kind == Protocol::OnlineStatus).then(|| self.protocol.user(observer));
        filtered(&expected.members, |name| self.protocol.index_of(name).is_some() && Some(name) != own.as_deref())
    }

    fn replace(&mut self, observer: usize, client: usize, now: KnownStatus) -> KnownStatus {
        let known = &mut self.known[observer];
        if known.len() <= client {
            known.resize(client + 1, KnownStatus::Unknown);
        }
        std::mem::replace(&mut known[client], now)
    }

    fn add_error(&mut self, observer: usize, error: &str) {
        self.errors.add(format!("{}: {error}", self.protocol.user(observer)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: ClientProtocol =
        ClientProtocol { kind: Protocol::OnlineStatus, rooms: 1, first_user: 0, user_digits: 6 };
    const CHAT: ClientProtocol = ClientProtocol { kind: Protocol::Chat, rooms: 1, first_user: 0, user_digits: 6 };

    fn online(client: usize) -> String {
        format!(r#"{{"type":"USER_ONLINE","userId":"{}","timestamp":"2024-01-01T12:00:00.000Z"}}"#, STATUS.user(client))
    }

    fn offline(client: usize) -> String {
        online(client).replace("ONLINE", "OFFLINE")
    }

    fn chat(kind: &str, client: usize) -> String {
        format!(r#"{{"type":"{kind}","payload":{{"user":"{}","ts":1700000000.123}}}}"#, CHAT.user(client))
    }

    /// Observer 0 receives these events. `online` are the clients that are online at the end.
    fn check(protocol: ClientProtocol, received: &[String], online: &[usize], wrong: u64) -> Events {
        let mut events = Events::new(protocol, 1, 2);
        let mut join_times = JoinTimes::new();
        for payload in received {
            let message = Message { payload: payload.as_bytes(), is_whole: true };
            assert!(events.apply(0, &message, &mut join_times, 0).is_some());
        }
        let members = members_of(online.iter().map(|client| protocol.user(*client)));
        let expected = RoomState { room: "lobby".into(), epoch: String::new(), seq: 0, members };
        assert_eq!(events.differences(&expected).count, wrong, "{:?}", events.differences(&expected));
        events
    }

    #[test]
    fn an_online_status_observer_knows_all_other_users() {
        check(STATUS, &[online(1), online(2), offline(1)], &[0, 2], 0);
        check(STATUS, &[online(1), online(2)], &[0, 2], 1);
        check(STATUS, &[online(1)], &[0, 1, 2], 1);
        check(STATUS, &[online(0)], &[0], 1);
    }

    #[test]
    fn a_chat_observer_knows_the_users_who_came_or_went_since_it_joined() {
        check(CHAT, &[chat("join", 0), chat("join", 1), chat("leave", 1)], &[0], 0);
        check(CHAT, &[chat("join", 0), chat("join", 2), chat("leave", 2)], &[0, 1], 0);
        check(CHAT, &[chat("join", 0), chat("join", 1)], &[0], 1);
        check(CHAT, &[chat("join", 1)], &[0, 1], 0);
        check(CHAT, &[chat("leave", 1)], &[0, 1], 1);
    }

    #[test]
    fn a_user_who_joined_after_the_start_must_have_been_announced() {
        check(CHAT, &[chat("join", 0)], &[0, 1], 0);
        check(CHAT, &[chat("join", 0)], &[0, 2], 1);
    }

    #[test]
    fn a_contradiction_is_an_error_even_if_later_events_repair_it() {
        for (protocol, received) in [
            (STATUS, [online(0), offline(0)]),
            (STATUS, [offline(3), online(1)]),
            (CHAT, [chat("leave", 0), chat("join", 0)]),
        ] {
            let mut events = Events::new(protocol, 1, 2);
            events.has_started = true;
            let mut join_times = JoinTimes::new();
            for payload in &received {
                events.apply(0, &Message { payload: payload.as_bytes(), is_whole: true }, &mut join_times, 0);
            }
            assert!(events.errors.count > 0, "{received:?}");
        }
    }

    #[test]
    fn repeated_events_are_counted_and_events_without_a_user_are_errors() {
        let events = check(STATUS, &[online(1), online(1)], &[0, 1], 0);
        assert_eq!((events.repeated, events.errors.count), (1, 0));
        let events = check(STATUS, &[r#"{"type":"USER_ONLINE"}"#.to_owned()], &[0], 0);
        assert_eq!((events.repeated, events.errors.count), (0, 1));
    }
}
