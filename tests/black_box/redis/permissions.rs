//! A user of Redis with the permissions that docs/redis.md lists, and no others.

use serde_json::json;

use crate::common::http;
use crate::common::token::SECRET_FLAG;
use crate::common::{EventClient, Node, Redis, RoomObservers, SHORT_TTL_FLAG, Store};

const TOKEN: &str = "a token for tests only";

on_both!(
    a_user_with_the_documented_permissions_can_do_everything,
    a_user_with_the_documented_permissions_can_store_revocations,
);

/// The rule in the documentation.
fn documented_rule() -> Vec<String> {
    let text = include_str!("../../../docs/redis.md");
    let (_, rule) = text.split_once("ACL SETUSER rollcall ").expect("the rule is documented");
    let (rule, _) = rule.split_once("```").expect("it is in a block");
    let words = rule.split_whitespace().filter(|word| *word != "\\");
    words.map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// Adds the user to all servers of the store, and returns them.
async fn with_the_user(store: &Store) -> Vec<&Redis> {
    let servers: Vec<&Redis> = match store {
        Store::Single(redis) => vec![redis],
        Store::Cluster(cluster) => cluster.servers.iter().collect(),
    };
    let rule = documented_rule();
    let rule: Vec<_> = rule.iter().map(String::as_str).collect();
    for server in &servers {
        server.command(&[&["ACL", "SETUSER", "rollcall"], &rule[..]].concat()).await;
    }
    servers
}

async fn assert_nothing_was_denied(servers: &[&Redis]) {
    for server in servers {
        let denied = server.command(&["ACL", "LOG"]).await;
        assert!(!format!("{denied:?}").contains("\"rollcall\""), "{denied:?}");
    }
}

async fn a_user_with_the_documented_permissions_can_do_everything(store: Store) {
    let servers = with_the_user(&store).await;
    let url = format!("redis://rollcall:PASSWORD@{}", servers[0].address());
    // On the command line, secrets would cause warnings.
    let secrets = [("ROLLCALL_REDIS", &*url), ("ROLLCALL_API_KEY", TOKEN)];
    let mut flags = SHORT_TTL_FLAG.to_vec();
    if servers.len() > 1 {
        flags.push("--redis-cluster");
    }
    let start = |id| Node::with_environment(id, &flags, &secrets);
    let (a, b) = tokio::join!(start("a"), start("b"));
    let c = start("c").await;
    let mut observers = RoomObservers::on(&[&a, &b], "lobby").await;
    observers.allow_leaves(&["alice", "carol", "dora", "erin"]);
    let mut alice = a.connect_to("alice", "lobby").await;
    let _bob = b.connect_to("bob", "lobby").await;
    let _carol = c.connect_to("carol", "lobby").await;
    observers.wait_for_members(&[&a, &b], &["alice", "bob", "carol"]).await;
    alice.send(&json!({"type": "state", "room": "lobby", "state": {"k": 1}}));
    observers.wait_for_state("alice", &json!({"k": 1})).await;
    // The history of the chat is written, and read by a node that starts.
    let dora = a.chat("dora").await;
    dora.send(&json!({"type": "msg", "payload": {"text": "hello"}}));
    store.until_key(":history:lobby").await;
    let d = start("d").await;
    let mut erin = d.chat("erin").await;
    let has_message = |client: &EventClient| client.log.iter().any(|message| message.to_string().contains("hello"));
    erin.wait_until("the message", has_message).await;
    drop((dora, erin));
    assert_eq!(d.terminate().await.code(), Some(0));
    // A dead node is deleted, and a kick is passed on.
    c.kill();
    observers.wait_for_members(&[&a, &b], &["alice", "bob"]).await;
    let bearer = format!("Bearer {TOKEN}");
    let kick = http::request(b.address, "POST", "/v1/users/alice/kick", &[("authorization", &bearer)], b"").await;
    assert_eq!(kick.status, 200, "{kick:?}");
    assert_eq!(alice.wait_for_close().await, Some(1008));
    observers.wait_for_members(&[&a, &b], &["bob"]).await;
    for node in [&a, &b] {
        node.wait_until_degraded(false).await;
        assert!(node.warnings().is_empty(), "{:#?}", node.warnings());
    }
    assert_nothing_was_denied(&servers).await;
    assert_eq!(a.terminate().await.code(), Some(0));
}

async fn a_user_with_the_documented_permissions_can_store_revocations(store: Store) {
    let servers = with_the_user(&store).await;
    let url = format!("redis://rollcall:PASSWORD@{}", servers[0].address());
    let mut flags = [&["--redis", &*url, "--api-key", TOKEN], &SECRET_FLAG[..]].concat();
    flags.extend((servers.len() > 1).then_some("--redis-cluster"));
    let node = Node::with_flags("a", &flags).await;
    for issued_before in [1, 2] {
        let what = json!({"user": "alice", "issued_before": issued_before});
        let response = node.post_json("/v1/revoke", &what).await;
        assert_eq!((response.status, response.json()), (200, json!({"stored": "redis"})));
    }
    assert_nothing_was_denied(&servers).await;
}
