//! How a node starts with Redis: every kind of URL, and every mistake that prevents a start. The message says what is
//! wrong and never contains a password.

use std::process::Output;
use std::time::Instant;

use tokio::task::spawn_blocking;

use crate::common::node::{arguments, is_timeout_error, start_refused};
use crate::common::process::{command, run_to_exit};
use crate::common::proxy::ProxyMode;
use crate::common::redis::free_port;
use crate::common::token::SECRET;
use crate::common::{DEADLINE, Node, Proxy, Redis, RedisCluster, RoomObservers};

/// Exit codes: EX_USAGE and EX_UNAVAILABLE in sysexits.h.
pub(super) const USAGE: i32 = 64;
pub(super) const UNAVAILABLE: i32 = 69;
const PASSWORD: &str = "hunter2secret";

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Expects this exit code and a message with these words, and no password.
pub(super) async fn check_refused(flags: &[&str], code: i32, words: &[&str]) {
    let deadline = Instant::now() + DEADLINE;
    let (output, message) = loop {
        let output = start_refused("a", &[flags, &["--log", "trace"]].concat()).await;
        let message = text(&output);
        // On a very busy machine Redis may answer too late, and the message says only that. Then the node starts again.
        let complete = words.iter().all(|word| message.contains(word));
        if complete || !is_timeout_error(&message) || Instant::now() >= deadline {
            break (output, message);
        }
    };
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {message}");
    for word in words {
        assert!(message.contains(word), "{flags:?}: the message lacks {word}: {message}");
    }
    assert!(!message.contains("panicked") && !message.contains(PASSWORD), "{flags:?}: {message}");
}

#[tokio::test]
async fn a_bad_command_line_exits_64() {
    for (url, word) in [
        ("", "redis"),
        ("127.0.0.1", "redis"),
        ("http://127.0.0.1:1", "redis"),
        ("redis://", "redis"),
        ("redis://127.0.0.1:99999", "redis"),
        ("redis://127.0.0.1:1/not-a-number", "redis"),
        ("redis://user:hunter2secret@127.0.0.1:port", "redis"),
        ("redis+unix://", "redis"),
        ("redis://127.0.0.1:1?db=4", "redis://host/4"),
        ("redis://127.0.0.1:1/?socket_timeout=2", "socket_timeout"),
        ("redis://:hunter2secret@127.0.0.1:1,", "comma"),
        ("rediss://127.0.0.1:1#insecure", "--redis-ca"),
        ("redis+sentinel://127.0.0.1:1", "service"),
    ] {
        check_refused(&["--redis", url], USAGE, &[word]).await;
    }
    let url = "redis://127.0.0.1:1";
    check_refused(&["--redis", url, "--redis-partitions", "0"], USAGE, &["redis-partitions"]).await;
    check_refused(&["--redis", url, "--redis-partitions", "many"], USAGE, &["redis-partitions"]).await;
    check_refused(&["--redis", url, "--redis-prefix", ""], USAGE, &["redis-prefix"]).await;
    check_refused(&["--redis", url, "--redis-prefix", "a{b}"], USAGE, &["redis-prefix"]).await;
    check_refused(&["--redis-cluster"], USAGE, &["redis-cluster", "--redis"]).await;
    check_refused(&["--redis-optional"], USAGE, &["redis-optional", "--redis"]).await;
    check_refused(&["--redis", "redis://:hunter2secret@127.0.0.1:99999"], USAGE, &["redis"]).await;
}

#[tokio::test]
async fn a_bad_node_id_exits_64() {
    for id in ["", "a b", "a:b", "{a}", "ü", &"x".repeat(300)] {
        let output = start_refused(id, &["--redis", "redis://127.0.0.1:1"]).await;
        let message = text(&output);
        assert_eq!(output.status.code(), Some(USAGE), "{id:?}: {message}");
        assert!(message.contains("node-id"), "{id:?}: {message}");
    }
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_exits_69() {
    let port = free_port().to_string();
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{port}");
    check_refused(&["--redis", &url], UNAVAILABLE, &[&port, "--redis-optional"]).await;
    check_refused(&["--redis", &url, "--redis-cluster"], UNAVAILABLE, &[&port]).await;
    check_refused(&["--redis", "redis+unix:///nowhere/redis.sock"], UNAVAILABLE, &["/nowhere/redis.sock"]).await;
    check_refused(&["--redis", "redis://redis.invalid:6000"], UNAVAILABLE, &["redis.invalid"]).await;
}

#[tokio::test]
async fn a_redis_that_does_not_answer_exits_69() {
    let redis = Redis::start().await;
    redis.hang();
    check_refused(&["--redis", &redis.url()], UNAVAILABLE, &[&redis.port.to_string()]).await;
}

#[tokio::test]
async fn a_server_other_than_redis_exits_69() {
    let redis = Redis::start().await;
    let other = Node::start("other", &redis.url(), &[]).await;
    check_refused(&["--redis", &format!("redis://{}", other.address)], UNAVAILABLE, &["cannot be used"]).await;
}

#[tokio::test]
async fn a_replica_exits_69() {
    let master = Redis::start().await;
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    check_refused(&["--redis", &replica.url()], UNAVAILABLE, &[&replica.port.to_string()]).await;
}

#[tokio::test]
async fn a_single_redis_with_the_cluster_flag_exits_69() {
    let redis = Redis::start().await;
    check_refused(&["--redis", &redis.url(), "--redis-cluster"], UNAVAILABLE, &["cluster"]).await;
}

/// Writes the lease of a node by hand.
async fn write_lease(redis: &Redis, incarnation: &str, lease: &str) {
    redis.command(&["SET", &format!("presence:{{nodes}}:incarnation:{incarnation}"), lease]).await;
    redis.command(&["SADD", "presence:{nodes}:incarnations", incarnation]).await;
}

#[tokio::test]
async fn a_node_does_not_start_beside_nodes_of_another_format() {
    let redis = Redis::start().await;
    let flags = ["--redis", &redis.url()];
    write_lease(&redis, "old.1", r#"{"node":"old","lanes":1,"beat":7}"#).await;
    check_refused(&flags, UNAVAILABLE, &["other nodes use format 1", "this node uses 5", "--redis-prefix"]).await;
    write_lease(&redis, "old.1", r#"{"node":"old","format":99,"partitions":1,"heartbeats":7}"#).await;
    check_refused(&flags, UNAVAILABLE, &["other nodes use format 99", "same version"]).await;
    write_lease(&redis, "old.1", r#"{"node":"old","format":5,"partitions":5,"heartbeats":7}"#).await;
    check_refused(&flags, UNAVAILABLE, &["--redis-partitions 5", "this node uses 1"]).await;
    write_lease(&redis, "old.1", r#"{"node":"old","format":5,"partitions":1,"ttl_ms":20000,"heartbeats":7}"#).await;
    check_refused(&flags, UNAVAILABLE, &["--ttl 20s", "this node uses 1m"]).await;
    redis.command(&["DEL", "presence:{nodes}:incarnation:old.1"]).await;
    let node = Node::start("a", &redis.url(), &[]).await;
    node.wait_until_degraded(false).await;
    let lease =
        redis.keys().await.into_iter().find(|key| key.contains(":incarnation:a.")).expect("the lease of the node");
    let lease = redis.command(&["GET", &lease]).await;
    assert!(lease.text().starts_with(r#"{"node":"a","format":5,"partitions":1,"ttl_ms":60000,"#), "{lease:?}");
}

/// A node with tokens beside an open one would show users whose names nobody has verified.
#[tokio::test]
async fn a_node_does_not_start_beside_nodes_with_another_identity() {
    let redis = Redis::start().await;
    let url = redis.url();
    let of = |issuer| ["--redis", &url, "--jwt-secret", SECRET, "--jwt-issuer", issuer, "--jwt-audience", "rooms"];
    let tokens = Node::with_flags("t", &of("https://a.example")).await;
    check_refused(&["--redis", &url], UNAVAILABLE, &["identity mode", "tokens", "open"]).await;
    check_refused(&of("https://b.example"), UNAVAILABLE, &["--jwt-issuer", "https://a.example", "https://b"]).await;
    let lease = redis.keys().await.into_iter().find(|key| key.contains(":incarnation:t.")).expect("the node's lease");
    let lease = redis.command(&["GET", &lease]).await;
    let rules = r#""identity":"tokens","issuers":["https://a.example"],"audiences":["rooms"]}"#;
    assert!(lease.text().ends_with(rules), "{lease:?}");
    drop(Node::with_flags("u", &of("https://a.example")).await);
    tokens.kill();
    redis.command(&["FLUSHALL"]).await;
    let _open = Node::start("o", &url, &[]).await;
    check_refused(&of("https://a.example"), UNAVAILABLE, &["identity mode", "open", "tokens"]).await;
}

/// Nodes that start at the same moment cannot refuse each other at the start.
#[tokio::test]
async fn running_nodes_report_a_node_with_other_settings_and_work_on() {
    for (lease, reason) in [
        (r#"{"node":"new","format":99,"partitions":1,"heartbeats":7}"#, "format 99"),
        (r#"{"node":"new","format":5,"partitions":7,"ttl_ms":60000,"heartbeats":7}"#, "--redis-partitions 7"),
        (r#"{"node":"new","format":5,"partitions":1,"ttl_ms":90000,"heartbeats":7}"#, "--ttl 1m 30s"),
        (r#"{"node":"new","format":5,"partitions":1,"ttl_ms":60000,"heartbeats":7,"identity":"tokens"}"#, "identity"),
    ] {
        let redis = Redis::start().await;
        let (url, flags) = (redis.url(), ["--log", "info"]);
        let (node, other) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &url, &flags));
        let alice = node.connect_to("alice", "lobby").await;
        write_lease(&redis, "new.1", lease).await;
        node.wait_until_degraded(true).await;
        let errors = || node.log().iter().filter(|line| line.contains("ERROR") && line.contains(reason)).count();
        node.wait_until("the error in the log", async || errors() == 1).await;
        // Nodes with the same settings still see each other, also when they start and end.
        let bob = other.connect_to("bob", "lobby").await;
        let mut observers = RoomObservers::on(&[&node, &other], "lobby").await;
        observers.wait_for_members(&[&node, &other], &["alice", "bob"]).await;
        redis.command(&["DEL", "presence:{nodes}:incarnation:new.1"]).await;
        node.wait_until_degraded(false).await;
        assert_eq!(errors(), 1, "the error must be logged once");
        drop((alice, bob));
    }
}

#[tokio::test]
async fn passwords_are_used_and_never_printed() {
    let redis = Redis::with_login("rollcall", PASSWORD, &[]).await;
    let address = redis.address().to_string();
    let port = redis.port.to_string();
    for login in ["", ":hunter2secretwrong@", "rollcall:hunter2secretwrong@", "nobody:hunter2secret@"] {
        let url = format!("redis://{login}{address}");
        check_refused(&["--redis", &url, "--redis-partitions", "2"], UNAVAILABLE, &[&port]).await;
    }
    let url = format!("redis://rollcall:{PASSWORD}@{address}");
    let node = Node::start("a", &url, &["--log", "trace"]).await;
    let _alice = node.connect_to("alice", "lobby").await;
    redis.until(&["EXISTS", "presence:{0}:u:alice"], |reply| reply.number() == 1).await;
    // A reconnect logs in again, and an error is logged.
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    redis.command(&["ACL", "SETUSER", "rollcall", "off"]).await;
    let _ = redis.try_command(&["PING"]).await;
    let _bob = node.connect_to("bob", "lobby").await;
    assert!(!node.output().contains(PASSWORD), "{}", node.output());
}

#[tokio::test]
async fn an_error_of_redis_that_quotes_the_password_is_not_printed() {
    // The command HELLO, which selects RESP 3, contains the password. Redis quotes unknown commands in its error.
    let redis = Redis::with_login("rollcall", PASSWORD, &["--rename-command", "HELLO", ""]).await;
    let url = format!("redis://rollcall:{PASSWORD}@{}", redis.address());
    check_refused(&["--redis", &url, "--redis-partitions", "2"], UNAVAILABLE, &["HELLO", "Redis 6"]).await;
}

#[tokio::test]
async fn passwords_in_urls_are_percent_decoded() {
    let redis = Redis::with_login("odd", "p@ss:w/rd%#?", &[]).await;
    let url = format!("redis://odd:p%40ss%3Aw%2Frd%25%23%3F@{}", redis.address());
    let node = Node::start("a", &url, &[]).await;
    node.wait_until_degraded(false).await;
}

#[tokio::test]
async fn an_optional_redis_may_start_later() {
    let mut redis = Redis::start().await;
    redis.kill();
    let url = redis.url();
    let (a, b) =
        tokio::join!(Node::start("a", &url, &["--redis-optional"]), Node::start("b", &url, &["--redis-optional"]));
    let alice = a.connect_to("alice", "lobby").await;
    assert!(alice.degraded.is_some(), "the client received no degraded health: {}", alice.describe());
    let _bob = b.connect_to("bob", "lobby").await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    for node in [&a, &b] {
        assert!(node.degraded().await.is_some());
        assert_eq!(node.members("lobby").await.len(), 1);
    }
    redis.restart().await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    for node in [&a, &b] {
        node.wait_until_degraded(false).await;
    }
}

#[tokio::test]
async fn an_optional_redis_may_first_hang_or_refuse_the_login() {
    let redis = Redis::with_login("rollcall", "other", &[]).await;
    let url = format!("redis://rollcall:{PASSWORD}@{}", redis.address());
    let proxy = Proxy::to(redis.address()).await;
    proxy.set(ProxyMode::Stall);
    let proxied = format!("redis://rollcall:other@{}", proxy.address());
    let flags = ["--redis-optional", "--log", "debug"];
    let (a, b) = tokio::join!(Node::start("a", &url, &flags), Node::start("b", &proxied, &flags));
    let (_alice, _bob) = (a.connect_to("alice", "lobby").await, b.connect_to("bob", "lobby").await);
    assert!(a.degraded().await.is_some() && b.degraded().await.is_some());
    proxy.set(ProxyMode::Forward);
    b.wait_until_degraded(false).await;
    redis.command(&["ACL", "SETUSER", "rollcall", &format!(">{PASSWORD}")]).await;
    a.wait_until_degraded(false).await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    assert!(!a.output().contains(PASSWORD), "{}", a.output());
}

/// Two nodes with the same id start while Redis is unreachable. Once it is back, one of them stays degraded or exits,
/// and logs the reason.
#[tokio::test]
async fn only_one_of_two_optional_nodes_gets_a_shared_id() {
    let mut redis = Redis::start().await;
    redis.kill();
    let url = redis.url();
    let flags = ["--redis-optional"];
    let (first, second) = tokio::join!(Node::start("twin", &url, &flags), Node::start("twin", &url, &flags));
    redis.restart().await;
    redis.until(&["EXISTS", "presence:{nodes}:id:twin"], |reply| reply.number() == 1).await;
    let logged = |node: &Node| node.log().iter().any(|line| line.contains("twin") && line.contains("node-id"));
    first.wait_until("the error of one node", async || logged(&first) || logged(&second)).await;
}

#[tokio::test]
async fn redis_can_be_reached_through_a_unix_socket() {
    let redis = Redis::start().await;
    let a = Node::start("a", &format!("redis+unix://{}", redis.socket_path()), &[]).await;
    let b = Node::start("b", &redis.url(), &[]).await;
    let _alice = a.connect_to("alice", "lobby").await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice"]).await;
}

#[tokio::test]
async fn environment_variables_configure_redis() {
    let redis = Redis::start().await;
    let url = redis.url();
    let environment =
        [("ROLLCALL_REDIS", url.as_str()), ("ROLLCALL_REDIS_PREFIX", "other"), ("ROLLCALL_REDIS_PARTITIONS", "3")];
    let node = Node::with_environment("a", &[], &environment).await;
    let _alice = node.connect_to("alice", "lobby").await;
    redis.until(&["EXISTS", "other:{nodes}:id:a"], |reply| reply.number() == 1).await;
    node.wait_until("the key of alice", async || redis.keys().await.iter().any(|key| key.ends_with("}:u:alice"))).await;
    assert!(redis.keys().await.iter().all(|key| key.starts_with("other:{")), "{:?}", redis.keys().await);
}

/// As compose files write lists. A comma separates nothing, so that it may be part of a password.
#[tokio::test]
async fn urls_in_a_variable_are_separated_by_spaces_or_line_breaks() {
    let cluster = RedisCluster::start().await;
    for separator in [" ", "\n", "  \n "] {
        let urls = format!("{}\n", cluster.urls().join(separator));
        let node = Node::with_environment("a", &[], &[("ROLLCALL_REDIS", &urls)]).await;
        node.wait_until_degraded(false).await;
        assert_eq!(node.terminate().await.code(), Some(0));
    }
    let urls = cluster.urls().join(",");
    let mut command = command(&arguments("a", &[]));
    command.env("ROLLCALL_REDIS", urls);
    let output = spawn_blocking(move || run_to_exit(command)).await.expect("it ends by itself");
    assert_eq!(output.status.code(), Some(USAGE));
    assert!(text(&output).contains("spaces"), "{}", text(&output));
    let redis = Redis::with_login("odd", "a,b", &[]).await;
    let url = format!("redis://odd:a,b@{}", redis.address());
    Node::with_environment("a", &[], &[("ROLLCALL_REDIS", &url)]).await.wait_until_degraded(false).await;
}

#[tokio::test]
async fn clusters_with_different_prefixes_share_a_redis_without_seeing_each_other() {
    let redis = Redis::start().await;
    let a = Node::start("a", &redis.url(), &["--redis-prefix", "one"]).await;
    let b = Node::start("a", &redis.url(), &["--redis-prefix", "two"]).await;
    let _alice = a.connect_to("alice", "lobby").await;
    let _bob = b.connect_to("bob", "lobby").await;
    let c = Node::start("c", &redis.url(), &["--redis-prefix", "one"]).await;
    let mut observers = RoomObservers::on(&[&a, &c], "lobby").await;
    observers.wait_for_members(&[&a, &c], &["alice"]).await;
    assert_eq!(b.members("lobby").await.into_keys().collect::<Vec<_>>(), ["bob"]);
}
