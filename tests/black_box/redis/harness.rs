//! Tests of the test tools: Redis servers, the proxy and the Redis Cluster cause exactly the faults that tests ask for.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::common::redis::free_port;
use crate::common::resp::{Reply, encode, execute, parse};
use crate::common::tls::Certificates;
use crate::common::{DEADLINE, MembershipChange, Node, Proxy, ProxyMode, Redis, RedisCluster, RoomObservers};

/// A client of Redis that keeps its connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn through(proxy: &Proxy) -> Self {
        Self { stream: TcpStream::connect(proxy.address()).await.unwrap(), buffer: Vec::new() }
    }

    async fn send(&mut self, words: &[&str]) {
        self.stream.write_all(&encode(words)).await.unwrap();
    }

    /// The next value, or `None` at the end of the connection.
    async fn next(&mut self) -> Option<Reply> {
        let reading = async {
            loop {
                if let Some((reply, used)) = parse(&self.buffer) {
                    self.buffer.drain(..used);
                    return Some(reply);
                }
                if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        timeout(DEADLINE, reading).await.expect("the connection neither answers nor ends")
    }
}

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

fn message(payload: &str) -> Reply {
    Reply::List(vec![text("message"), text("news"), text(payload)])
}

#[test]
fn only_complete_values_are_parsed() {
    let bytes = b"*3\r\n$7\r\nmessage\r\n:42\r\n%1\r\n+a\r\n_\r\n-ERR no\r\n";
    let list = Reply::List(vec![text("message"), Reply::Number(42), Reply::List(vec![text("a"), Reply::Nil])]);
    let end = bytes.len() - b"-ERR no\r\n".len();
    for length in 0..end {
        assert_eq!(parse(&bytes[..length]), None, "{length}");
    }
    assert_eq!(parse(bytes), Some((list, end)));
    assert_eq!(parse(&bytes[end..]), Some((Reply::Error("ERR no".to_owned()), 9)));
    assert_eq!(parse(b"$-1\r\n"), Some((Reply::Nil, 5)));
    assert_eq!(parse(b">2\r\n$0\r\n\r\n#t\r\n"), Some((Reply::List(vec![text(""), text("t")]), 14)));
}

#[tokio::test]
async fn a_redis_is_killed_restarted_empty_stopped_and_resumed() {
    let mut redis = Redis::start().await;
    redis.command(&["SET", "a", "1"]).await;
    assert_eq!(redis.keys().await, ["a"]);
    assert_eq!(redis.calls("set").await, 1);
    redis.kill();
    assert!(redis.try_command(&["PING"]).await.is_err());
    redis.restart().await;
    assert_eq!(redis.command(&["GET", "a"]).await, Reply::Nil);
    redis.hang();
    let asked = timeout(Duration::from_millis(100), execute(redis.address(), &[&["PING"]])).await;
    assert!(asked.is_err(), "a stopped server must not answer");
    redis.resume();
    assert_eq!(redis.command(&["PING"]).await, text("PONG"));
    // Dropping a stopped server ends it as well.
    redis.hang();
    let address = redis.address();
    drop(redis);
    assert!(execute(address, &[&["PING"]]).await.is_err());
}

#[tokio::test]
async fn a_redis_with_a_login_refuses_other_clients() {
    let redis = Redis::with_login("rollcall", "secret", &[]).await;
    assert_eq!(redis.command(&["PING"]).await, text("PONG"));
    assert!(matches!(execute(redis.address(), &[&["PING"]]).await, Ok(Reply::Error(_))));
}

#[tokio::test]
async fn a_replica_refuses_writes() {
    let master = Redis::start().await;
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    master.command(&["SET", "a", "1"]).await;
    replica.until(&["GET", "a"], |reply| *reply == text("1")).await;
    let refused = replica.try_command(&["SET", "a", "2"]).await.unwrap();
    assert!(matches!(&refused, Reply::Error(error) if error.starts_with("READONLY")), "{refused:?}");
}

#[tokio::test]
async fn a_proxy_forwards_delays_and_stalls() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let mut client = Client::through(&proxy).await;
    client.send(&["SET", "a", "1"]).await;
    assert_eq!(client.next().await, Some(text("OK")));
    let delay = Duration::from_millis(200);
    proxy.set(ProxyMode::Delay(delay));
    let started = Instant::now();
    client.send(&["GET", "a"]).await;
    assert_eq!(client.next().await, Some(text("1")));
    assert!(started.elapsed() >= delay * 2, "the delay must apply in both directions");
    proxy.set(ProxyMode::Stall);
    client.send(&["SET", "a", "2"]).await;
    assert!(timeout(delay, client.next()).await.is_err(), "a stalled proxy forwarded an answer");
    assert_eq!(redis.command(&["GET", "a"]).await, text("1"));
    proxy.set(ProxyMode::Forward);
    assert_eq!(client.next().await, Some(text("OK")), "the stalled command was not forwarded later");
    assert_eq!(redis.command(&["GET", "a"]).await, text("2"));
}

#[tokio::test]
async fn a_proxy_disconnects_refuses_and_forwards_again() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    for mode in [ProxyMode::Disconnect, ProxyMode::Refuse] {
        let mut client = Client::through(&proxy).await;
        client.send(&["PING"]).await;
        assert_eq!(client.next().await, Some(text("PONG")));
        proxy.set(ProxyMode::Stall);
        client.send(&["SET", "a", "1"]).await;
        proxy.set(mode);
        assert_eq!(client.next().await, None, "{mode:?}");
        assert!(execute(proxy.address(), &[&["PING"]]).await.is_err(), "{mode:?}");
        proxy.set(ProxyMode::Forward);
        let deadline = Instant::now() + DEADLINE;
        while execute(proxy.address(), &[&["PING"]]).await.is_err() {
            assert!(Instant::now() < deadline, "the proxy does not forward after {mode:?}");
        }
        assert_eq!(
            redis.command(&["GET", "a"]).await,
            Reply::Nil,
            "a stalled command must be lost when the proxy disconnects"
        );
    }
}

#[tokio::test]
async fn a_proxy_drops_whole_events_and_nothing_else() {
    let redis = Redis::start().await;
    let proxy = Proxy::to(redis.address()).await;
    let mut subscriber = Client::through(&proxy).await;
    let mut other = Client::through(&proxy).await;
    subscriber.send(&["SUBSCRIBE", "news"]).await;
    let subscribed = Reply::List(vec![text("subscribe"), text("news"), Reply::Number(1)]);
    assert_eq!(subscriber.next().await, Some(subscribed));
    let long = "x".repeat(200_000);
    for (payload, dropping) in [("one", false), (&long, false), (&long, true), ("two", true), ("three", false)] {
        let before = proxy.dropped_events();
        proxy.drop_events(dropping);
        redis.command(&["PUBLISH", "news", payload]).await;
        if dropping {
            let deadline = Instant::now() + DEADLINE;
            while proxy.dropped_events() == before {
                assert!(Instant::now() < deadline, "{payload:.10} was not dropped");
                tokio::task::yield_now().await;
            }
        } else {
            assert_eq!(subscriber.next().await, Some(message(payload)));
        }
        other.send(&["ECHO", "hello"]).await;
        assert_eq!(other.next().await, Some(text("hello")));
    }
    assert_eq!(proxy.dropped_events(), 2);
    proxy.drop_events(true);
    subscriber.send(&["PING"]).await;
    assert_eq!(subscriber.next().await, Some(Reply::List(vec![text("pong"), text("")])));
}

#[tokio::test]
async fn a_redis_cluster_replaces_a_master_by_its_replica() {
    let mut cluster = RedisCluster::start().await;
    let master = cluster.master_of("{0}a").await;
    let set = cluster.servers[master].command(&["SET", "{0}a", "1"]).await;
    assert_eq!(set, text("OK"));
    assert_eq!(cluster.servers[master].command(&["WAIT", "1", "60000"]).await, Reply::Number(1));
    let elsewhere = cluster.servers[(master + 1) % 3].try_command(&["GET", "{0}a"]).await.unwrap();
    assert!(matches!(&elsewhere, Reply::Error(error) if error.starts_with("MOVED")), "{elsewhere:?}");
    assert_eq!(cluster.keys().await, ["{0}a"]);
    cluster.fail_over(master).await;
    let replica = &cluster.servers[master + 3];
    assert_eq!(replica.command(&["GET", "{0}a"]).await, text("1"));
}

#[tokio::test]
#[should_panic(expected = "saw alice leave (closed)")]
async fn room_observers_fail_on_a_leave_that_is_not_allowed() {
    let node = Node::with_flags("alone", &[]).await;
    let mut observers = RoomObservers::on(&[&node], "lobby").await;
    let alice = node.connect_to("alice", "lobby").await;
    observers.wait_for_members(&[&node], &["alice"]).await;
    alice.close(1000);
    observers.wait_for_members(&[&node], &[]).await;
}

#[tokio::test]
async fn room_observers_record_joins_and_leaves() {
    let node = Node::with_flags("alone", &[]).await;
    let bob = node.connect_to("bob", "lobby").await;
    let mut observers = RoomObservers::on(&[&node, &node], "lobby").await;
    let alice = node.connect_to("alice", "lobby").await;
    observers.wait_for_members(&[&node], &["alice", "bob"]).await;
    observers.allow_leaves(&["alice"]);
    alice.close(1000);
    observers.wait_for_members(&[&node], &["bob"]).await;
    observers.assert_stable(&["bob"]);
    observers.assert_left_once("alice", &["closed"]);
    let changes = vec![
        MembershipChange::Joined("alice".to_owned()),
        MembershipChange::Left("alice".to_owned(), "closed".to_owned()),
    ];
    assert_eq!(observers.changes_of("alice"), [changes.clone(), changes]);
    drop(bob);
}

#[tokio::test]
async fn clients_can_verify_the_certificate_of_a_redis_with_tls() {
    let certificates = Certificates::make();
    let port = free_port().to_string();
    let redis = Redis::with_tls(&certificates, &port).await;
    let mut openssl = tokio::process::Command::new("openssl");
    let authority = certificates.path("ca.crt");
    openssl.args([
        "s_client",
        "-connect",
        &format!("127.0.0.1:{port}"),
        "-verify_return_error",
        "-verify_ip",
        "127.0.0.1",
    ]);
    openssl.args(["-CAfile", &authority]).stdin(std::process::Stdio::null());
    let output = timeout(DEADLINE, openssl.output()).await.expect("openssl ends").expect("openssl runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(redis.command(&["PING"]).await, text("PONG"));
}
