//! All known attacks, one per row of the table of results.

mod connections;
mod frames;
mod http_replies;
mod names;
mod replies;
mod rooms;
mod states;
mod team;
mod tokens;
mod unread;

use crate::attack::{Background, Kind, Size};

const NOBODY: Background = Background {
    rest_users: 0,
    name_bytes: 12,
    replaced_per_s: 0,
    members: 0,
    rooms_each: 0,
    same_rooms: false,
    state_bytes: 0,
};
/// A room of 300 members with states of 1 KiB.
const BIG_ROOM: Background = Background { members: 300, rooms_each: 1, same_rooms: true, state_bytes: 1000, ..NOBODY };

/// A lobby whose lists are longer than what the kernel buffers for a socket, and which changes.
const LONG_LISTS: Background = Background { rest_users: 24_000, name_bytes: 128, replaced_per_s: 5, ..NOBODY };

const fn kind(
    id: &'static str,
    name: &'static str,
    make: fn(&Size) -> Box<dyn crate::attack::Attack>,
    about: &'static str,
) -> Kind {
    Kind { id, name, about, needs_redis: false, needs_tokens: false, background: NOBODY, make }
}

impl Kind {
    const fn with(self, background: Background) -> Self {
        Self { background, ..self }
    }

    const fn of_tokens(self) -> Self {
        Self { needs_tokens: true, ..self }
    }
}

/// See the module's documentation.
pub const KINDS: &[Kind] = &[
    kind("A1", "rooms", rooms::churn, "one connection joins and leaves ever-new rooms"),
    kind("A1", "rooms-of-one-user", rooms::churn_of_four, "four connections of one user join and leave ever-new rooms"),
    kind("A1", "memberships", rooms::closing_memberships, "one user closes 30,000 memberships, again and again"),
    kind(
        "A2",
        "status-duplicates",
        http_replies::status_duplicates,
        "a status request names a user of 6,000 rooms 1,000 times",
    ),
    kind("A3", "unread-lists", unread::lists, "observers of a big room send heartbeats and never read")
        .with(LONG_LISTS),
    kind("A3", "unread-answers", unread::answers, "330 sockets request lists over HTTP and never read")
        .with(LONG_LISTS),
    Kind {
        needs_redis: true,
        ..kind("A4", "states-in-redis", states::one_change_per_tick, "one user with 30,000 states changes one per tick")
    },
    kind("A5", "diff-history", states::history, "100 own rooms with 70 states of 1 KiB each"),
    kind("B1", "new-names", names::new_names, "watches and unwatches ever-new names"),
    kind("B2", "watch-limit", names::limit, "1,000 connections watch 1,000 names each"),
    kind("B3", "unread-snapshots", unread::snapshots, "observers of 100 rooms with snapshots under 16 KiB never read"),
    kind("B4", "abandoned-lists", http_replies::abandoned, "requests the list of 60,000 rooms and closes at once")
        .with(Background { members: 600, rooms_each: 100, ..NOBODY }),
    kind("B5", "made-up-users", http_replies::made_up_users, "heartbeats of made-up users over REST"),
    kind("C1", "resync", replies::resync, "resync every tick in a room of 300 states of 1 KiB").with(BIG_ROOM),
    kind("C1", "watch-again", replies::watch_again, "watches the same 300 users with states every tick").with(BIG_ROOM),
    kind("C9", "unfinished-messages", frames::unfinished, "messages that are never completed, with pongs"),
    kind("C17", "online-users", http_replies::online_users, "requests 30,000 names while users come and go")
        .with(Background { rest_users: 30_000, replaced_per_s: 20, ..NOBODY }),
    kind("D1", "observe-toggle", replies::observe_toggle, "observes and unobserves a big room").with(BIG_ROOM),
    kind("D2", "resume", replies::resume, "joins again with an old seq").with(BIG_ROOM),
    kind("D3", "errors", replies::errors, "messages of one byte, each answered with an error"),
    kind("D4", "publish", replies::publish, "publishes far more messages than allowed"),
    kind("D5", "states", states::flood, "a new state of 1 KiB as often as possible"),
    kind("D6", "acks", replies::acks, "heartbeats that request acks"),
    kind("D7", "reconnects", connections::reconnects, "connects, observes a big room, and resets, again and again")
        .with(BIG_ROOM),
    kind("D8", "rejoin-storm", connections::rejoin, "connects with 100 rooms in the query and closes, again and again"),
    kind("D9", "slow-headers", connections::slow_headers, "1,000 requests whose headers arrive one byte at a time"),
    kind("D10", "pings", frames::pings, "pings as fast as possible"),
    kind("D11", "fragments", frames::fragments, "messages in fragments of one byte"),
    kind("D12", "empty-fragments", frames::empty_fragments, "a message with endless empty fragments"),
    kind("D13", "many-rooms", rooms::many, "200 connections join 100 rooms with names of 128 bytes each"),
    kind("D14", "members-pages", http_replies::members, "requests pages of members and reads them").with(Background {
        rest_users: 12_000,
        name_bytes: 120,
        ..NOBODY
    }),
    kind("D15", "metrics", http_replies::metrics, "requests /metrics in pipelines"),
    kind("D16", "pages", http_replies::pages, "requests the largest page in pipelines"),
    kind("D17", "chat", replies::chat, "chat messages and pings as fast as possible"),
    kind(
        "D18",
        "online-users-lists",
        connections::lists,
        "new users of the online-users protocol, so that lists change",
    ),
    kind("D19", "handshakes", connections::refused, "handshakes that are refused, in pipelines"),
    kind(
        "D20",
        "reconnects-new-users",
        connections::reconnects_of_new_users,
        "the same as D7, each time as another user",
    )
    .with(BIG_ROOM),
    kind("D21", "greetings", connections::greetings, "connects to online status in a lobby of 12,000, again and again")
        .with(Background { rest_users: 12_000, ..NOBODY }),
    kind("D22", "chat-histories", connections::chat_histories, "joins the chat for its history, again and again"),
    kind("E1", "bad-tokens", tokens::bad_signatures, "tokens that no key has signed, as fast as they are refused")
        .of_tokens(),
    kind("E2", "unknown-keys", tokens::unknown_keys, "1,000 sockets with tokens of ever-new keys").of_tokens(),
    kind("E3", "bad-renewals", tokens::bad_renewals, "connections that renew with tokens that are refused").of_tokens(),
    kind("E4", "renewals", tokens::renewals, "connections that renew their tokens far too often").of_tokens(),
];
