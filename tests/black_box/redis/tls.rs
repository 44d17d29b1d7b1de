//! Redis behind TLS: which certificates are accepted, and what a node says about others.

use super::starting::{UNAVAILABLE, USAGE, check_refused};
use crate::common::redis::free_port;
use crate::common::tls::Certificates;
use crate::common::{Node, Redis, RoomObservers};

/// A Redis with a certificate, and its URL.
async fn redis_with(certificates: &Certificates, name: &str, auth_clients: &str) -> (Redis, String) {
    let port = free_port().to_string();
    let redis = Redis::with_certificate(certificates, &port, name, auth_clients).await;
    (redis, format!("rediss://127.0.0.1:{port}"))
}

#[tokio::test]
async fn redis_can_be_reached_through_tls_and_its_certificate_is_checked() {
    let certificates = Certificates::make();
    let (redis, url) = redis_with(&certificates, "redis", "no").await;
    check_refused(&["--redis", &url], UNAVAILABLE, &["UnknownIssuer", "--redis-ca"]).await;
    let authority = certificates.path("ca.crt");
    let environment = [("SSL_CERT_FILE", authority.as_str())];
    let a = Node::with_environment("a", &["--redis", &url], &environment).await;
    let b = Node::start("b", &url, &["--redis-ca", &authority]).await;
    let c = Node::start("c", &redis.url(), &[]).await;
    let (_alice, _bob) = (a.connect_to("alice", "lobby").await, b.connect_to("bob", "lobby").await);
    let mut observers = RoomObservers::on(&[&a, &b, &c], "lobby").await;
    observers.wait_for_members(&[&a, &b, &c], &["alice", "bob"]).await;
}

#[tokio::test]
async fn a_refused_certificate_is_explained() {
    let certificates = Certificates::make();
    // As the first search result for a self-signed certificate makes it.
    certificates.sign_itself("usual", "-addext subjectAltName=IP:127.0.0.1");
    let (_redis, url) = redis_with(&certificates, "usual", "no").await;
    let usual = certificates.path("usual.crt");
    check_refused(&["--redis", &url, "--redis-ca", &usual], UNAVAILABLE, &["openssl req -x509", "CA:FALSE"]).await;
    certificates.sign_itself("other", "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:other");
    let (_redis, url) = redis_with(&certificates, "other", "no").await;
    let other = certificates.path("other.crt");
    check_refused(&["--redis", &url, "--redis-ca", &other], UNAVAILABLE, &["subjectAltName"]).await;
    let redis = Redis::start().await;
    let plain = format!("rediss://{}", redis.address());
    check_refused(&["--redis", &plain, "--redis-ca", &other], UNAVAILABLE, &["does not speak TLS"]).await;
    let secure = url.replace("rediss:", "redis:");
    check_refused(&["--redis", &secure], UNAVAILABLE, &["rediss://"]).await;
}

#[tokio::test]
async fn the_certificate_that_the_explanation_asks_for_is_accepted() {
    let certificates = Certificates::make();
    let arguments = "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1";
    certificates.sign_itself("own", arguments);
    let (_redis, url) = redis_with(&certificates, "own", "no").await;
    let node = Node::start("a", &url, &["--redis-ca", &certificates.path("own.crt")]).await;
    node.wait_until_degraded(false).await;
}

#[tokio::test]
async fn a_node_shows_its_certificate_to_a_redis_that_asks_for_one() {
    let certificates = Certificates::make();
    certificates.sign_client();
    let (_redis, url) = redis_with(&certificates, "redis", "yes").await;
    let [authority, client, key] = ["ca.crt", "client.crt", "client.key"].map(|name| certificates.path(name));
    let trust = ["--redis", &url, "--redis-ca", &authority];
    check_refused(&trust, UNAVAILABLE, &["--redis-cert"]).await;
    let flags = [&trust[..], &["--redis-cert", &client, "--redis-key", &key]].concat();
    Node::with_flags("a", &flags).await.wait_until_degraded(false).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_exit_64() {
    let certificates = Certificates::make();
    let [authority, key] = ["ca.crt", "ca.key"].map(|name| certificates.path(name));
    let url = "rediss://127.0.0.1:1";
    check_refused(&["--redis", url, "--redis-ca", "/nowhere/ca.crt"], USAGE, &["--redis-ca", "/nowhere/ca.crt"]).await;
    check_refused(&["--redis", url, "--redis-ca", &key], USAGE, &["--redis-ca", "no certificate"]).await;
    check_refused(&["--redis", url, "--redis-cert", &authority], USAGE, &["--redis-cert", "--redis-key"]).await;
    check_refused(&["--redis", url, "--redis-key", &key], USAGE, &["--redis-cert", "--redis-key"]).await;
    let swapped = ["--redis", url, "--redis-cert", &key, "--redis-key", &authority];
    check_refused(&swapped, USAGE, &["--redis-cert", "no certificate"]).await;
    let no_key = ["--redis", url, "--redis-cert", &authority, "--redis-key", &authority];
    check_refused(&no_key, USAGE, &["certificates"]).await;
    check_refused(&["--redis", "redis://127.0.0.1:1", "--redis-ca", &authority], USAGE, &["rediss://"]).await;
    check_refused(&["--redis-ca", &authority], USAGE, &["--redis-ca", "--redis"]).await;
}
