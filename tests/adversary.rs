//! Hostile clients next to honest ones, scaled down: whatever an attacker does, ticks go on, honest clients see each
//! other, newcomers get their snapshots, and memory stays bounded. `loadtest adversary` runs the same attacks in full
//! size and measures what they cost.
//!
//! Limits are ticks, bytes and counts, never time: on a busy machine everything is late, ticks included.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use adversary::{Background, Credentials, KINDS, Kind, Outcome, Plan, Size};

/// Attacks with a rate are slower here, because an unoptimized server is.
const SHARE: f64 = 0.2;
const LENGTH: Duration = Duration::from_secs(2);
/// The time limit on a very busy machine. Only failures reach it.
const LIMIT: Duration = Duration::from_secs(120);
/// Ticks until an honest client has what it waits for: it takes one or two, and samples of the ticks are 100 ms apart.
const MAX_TICKS: u64 = 30;
/// Memory that an allocator may keep although it was freed.
const SPARE_BYTES: u64 = 24 << 20;
/// The most that an attacker may cause the server to send and hold, per byte of its own.
const MAX_RATIO: f64 = 20.0;

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_rollcall"))
            .args(["--listen", "127.0.0.1:0", "--workers", "2", "--ttl", "60s", "--log", "error"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            rest.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).next()?.parse().ok()
        });
        // Further lines must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address: address.expect("it prints its address") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an attack must not exceed.
#[derive(Clone, Copy)]
struct Bounds {
    /// The size of the attack.
    share: f64,
    /// What the server sends because the attacker asks: bursts of budgets, and one answer that exceeds them.
    requested_bytes: u64,
    /// What each connection is sent besides: the answer to its handshake, the welcome, and the reason of the close.
    connection_bytes: u64,
    /// Bytes per byte of the attacker, above `SPARE_BYTES` of memory. Not for attacks that may request a burst.
    ratio: f64,
    /// What the server takes from the attacker in one tick.
    bytes_per_tick: u64,
}

const BOUNDS: Bounds =
    Bounds { share: SHARE, requested_bytes: u64::MAX, connection_bytes: 0, ratio: MAX_RATIO, bytes_per_tick: 4 << 20 };

fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap_or_else(|| panic!("{name} is an attack"))
}

fn attack(kind: &Kind, share: f64, flags: &[&str]) -> Outcome {
    attack_with(kind, share, flags, None)
}

fn attack_with(kind: &Kind, share: f64, flags: &[&str], credentials: Option<Credentials>) -> Outcome {
    let server = Server::start(flags);
    let plan = Plan {
        server: server.address,
        pid: Some(server.process.id()),
        redis: None,
        credentials,
        size: Size::new(share, 7),
        duration: LENGTH,
        calm: Duration::from_millis(300),
        patience: LIMIT / 2,
        limit: LIMIT,
    };
    adversary::run(kind, &plan).unwrap_or_else(|error| panic!("{}: {error}", kind.name))
}

/// Honest clients keep their guarantees.
fn check_honest(name: &str, outcome: &Outcome) {
    assert!(outcome.broken.is_empty(), "{name}: {:#?}", outcome.broken);
    assert!(outcome.ticks > 0, "{name}: no tick was completed");
    for (kind, waits) in &outcome.waits {
        assert!(!waits.0.is_empty(), "{name}: nobody waited for a {kind}");
        let ticks = outcome.ticks_of(kind);
        assert!(ticks.iter().all(Option::is_some), "{name}: a {kind} never came: {ticks:?}");
        let longest = ticks.into_iter().flatten().max().unwrap_or(0);
        assert!(longest <= MAX_TICKS, "{name}: a {kind} took {longest} ticks");
    }
}

fn check_cost(name: &str, outcome: &Outcome, bounds: Bounds) {
    let ratio = outcome.bytes_ratio(SPARE_BYTES);
    let memory = outcome.memory_growth(0);
    let Outcome { traffic, ticks, .. } = outcome;
    println!("{name}: {ratio:.1}x, {memory} bytes of memory, {ticks} ticks, {traffic:?}");
    assert!(
        ratio <= bounds.ratio,
        "{name}: {ratio:.1} times as many bytes as the attacker; memory {memory}: {traffic:?}"
    );
    let requested = outcome.requested_bytes().saturating_sub(traffic.connections * bounds.connection_bytes);
    assert!(requested <= bounds.requested_bytes, "{name}: {requested} bytes were requested: {traffic:?}");
    let per_tick = traffic.sent_bytes / ticks.max(&1);
    assert!(per_tick <= bounds.bytes_per_tick, "{name}: {per_tick} bytes were taken in one tick of {ticks}");
}

const SECRET: &str = "the secret of the tokens in these tests";
const READ_KEY: &str = "a key that reads counters";

/// The same against a server that requires identity, while nothing answers where keys are published. All clients have
/// valid tokens, attackers included.
fn check_with_tokens(name: &str, bounds: Bounds) {
    // Port 9 discards what it gets, where it is served at all.
    let url = "http://127.0.0.1:9/keys";
    let flags = ["--jwt-secret", SECRET, "--read-key", READ_KEY, "--jwks-url", url, "--jwks-optional"];
    let credentials = Credentials { jwt_secret: SECRET.to_owned(), read_key: READ_KEY.to_owned() };
    let outcome = attack_with(kind(name), bounds.share, &flags, Some(credentials));
    check_cost(name, &outcome, bounds);
    check_honest(name, &outcome);
}

fn check(name: &str) {
    check_within(name, BOUNDS);
}

fn check_within(name: &str, bounds: Bounds) {
    let outcome = attack(kind(name), bounds.share, &[]);
    check_cost(name, &outcome, bounds);
    check_honest(name, &outcome);
}

/// Answers of a connection are bounded by its burst of 1 MiB; the last one may exceed it by its own size.
const REQUESTED: Bounds = Bounds { share: 1.0, requested_bytes: 3 << 19, ratio: f64::INFINITY, ..BOUNDS };

#[test]
fn joining_and_leaving_new_rooms_stops_no_tick() {
    check("rooms");
}

#[test]
fn joining_and_leaving_on_four_connections_of_one_user_stops_no_tick() {
    check("rooms-of-one-user");
}

#[test]
fn closing_thousands_of_memberships_stops_no_tick() {
    check("memberships");
}

#[test]
fn naming_a_user_a_thousand_times_costs_as_much_as_once() {
    check("status-duplicates");
}

#[test]
fn a_change_of_one_state_costs_the_same_with_many_states() {
    check("states");
}

#[test]
fn the_diff_history_is_bounded() {
    check("diff-history");
}

#[test]
fn watching_new_names_stops_no_tick() {
    check("new-names");
}

#[test]
fn unread_snapshots_are_counted() {
    check("unread-snapshots");
}

#[test]
fn abandoned_requests_cost_little() {
    // Some are answered before they are abandoned.
    check_within("abandoned-lists", Bounds { requested_bytes: 2 << 20, ratio: f64::INFINITY, ..BOUNDS });
}

#[test]
fn made_up_users_do_not_end_the_chat_history() {
    check("made-up-users");
}

#[test]
fn a_resync_per_tick_is_slowed() {
    check_within("resync", REQUESTED);
}

#[test]
fn watching_the_same_names_again_is_slowed() {
    check_within("watch-again", REQUESTED);
}

#[test]
fn toggling_an_observer_is_slowed() {
    check_within("observe-toggle", REQUESTED);
}

#[test]
fn unfinished_messages_cost_what_was_sent() {
    check("unfinished-messages");
}

#[test]
fn lists_over_http_leave_the_others_their_turn() {
    // Within the burst of an address.
    check_within("online-users", Bounds { requested_bytes: 256 << 20, ..REQUESTED });
}

/// Thousands of reconnects bring no more than one connection: the burst of the user, the debt with which a user is not
/// refused yet, and a snapshot for each connection that is open then.
#[test]
fn reconnecting_brings_no_new_budget() {
    const BURST: u64 = 4 << 20;
    const DEBT: u64 = 4 << 20;
    const OPEN: u64 = 20;
    /// The attacked room has snapshots of some 220 KB.
    const SNAPSHOT: u64 = 256 << 10;
    /// What the budget regains in a minute.
    const REFILL: u64 = 60 * (16 << 10);
    let requested_bytes = BURST + DEBT + OPEN * SNAPSHOT + REFILL;
    check_within("reconnects", Bounds { share: 1.0, requested_bytes, connection_bytes: 512, ..REQUESTED });
}

#[test]
fn joining_a_hundred_rooms_and_closing_again_and_again_stops_no_tick() {
    check("rejoin-storm");
}

#[test]
fn visitors_who_come_for_what_newcomers_are_sent_stop_no_tick() {
    for name in ["greetings", "chat-histories", "reconnects-new-users"] {
        check_within(name, Bounds { ratio: f64::INFINITY, ..BOUNDS });
    }
}

#[test]
fn resuming_again_and_again_is_slowed() {
    check("resume");
}

#[test]
fn floods_of_messages_leave_the_others_their_turn() {
    for name in ["errors", "acks", "pings", "fragments", "empty-fragments"] {
        check(name);
    }
}

#[test]
fn floods_of_published_messages_leave_the_others_their_turn() {
    for name in ["publish", "chat", "many-rooms"] {
        check(name);
    }
}

#[test]
fn requests_and_handshakes_in_pipelines_leave_the_others_their_turn() {
    for name in ["slow-headers", "handshakes"] {
        check(name);
    }
}

#[test]
fn long_answers_over_http_leave_the_others_their_turn() {
    for name in ["metrics", "pages", "members-pages"] {
        check_within(name, Bounds { share: SHARE, requested_bytes: 256 << 20, ..REQUESTED });
    }
}

#[test]
fn new_users_do_not_end_the_chat_history() {
    check_within("online-users-lists", Bounds { ratio: f64::INFINITY, ..BOUNDS });
}

/// Lists that nobody reads must not use up what others need. Fewer users in more lists than in the full attack.
#[test]
fn clients_that_never_read_leave_newcomers_their_snapshots() {
    for name in ["unread-lists", "unread-answers"] {
        let background = Background { rest_users: 3_000, name_bytes: 128, replaced_per_s: 5, ..Background::default() };
        let known = kind(name);
        let outcome = attack(&Kind { background, ..*known }, 1.0, &[]);
        check_honest(name, &outcome);
    }
}

/// The limit of watched names belongs to all users.
#[test]
fn a_thousand_watchers_leave_others_their_names() {
    let outcome = attack(kind("watch-limit"), 1.0, &[]);
    check_honest("watch-limit", &outcome);
}

#[test]
fn hostile_clients_with_valid_tokens_leave_the_others_their_turn() {
    for name in ["rooms", "publish", "rejoin-storm", "handshakes"] {
        check_with_tokens(name, BOUNDS);
    }
    check_with_tokens("resync", REQUESTED);
    check_with_tokens("made-up-users", Bounds { ratio: f64::INFINITY, ..BOUNDS });
}

#[test]
fn floods_of_tokens_leave_the_others_their_turn_while_no_keys_are_published() {
    for name in ["bad-tokens", "unknown-keys", "bad-renewals", "renewals"] {
        check_with_tokens(name, BOUNDS);
    }
}
