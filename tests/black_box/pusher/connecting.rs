//! Handshakes, pings, and who may use a server with applications.

use serde_json::json;

use super::{client, last_error};
use crate::common::pusher::{APP, APP_FLAGS, App};
use crate::common::{EventClient, PusherClient, TestServer, http};

async fn close_code(server: &TestServer, path: &str) -> Option<u16> {
    EventClient::connect(server.address(), path).await.wait_for_close().await
}

#[tokio::test]
async fn the_first_message_has_a_socket_id_of_its_own() {
    let server = TestServer::start(&APP_FLAGS);
    let (one, other) = (client(&server).await, client(&server).await);
    assert_eq!(one.log[0]["data"]["activity_timeout"], 120);
    assert_ne!(one.socket_id, other.socket_id);
    for id in [&one.socket_id, &other.socket_id] {
        let parts: Vec<&str> = id.split('.').collect();
        assert!(parts.len() == 2 && parts[0].parse::<u32>().is_ok() && parts[1].parse::<u64>().is_ok(), "{id}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_handshake_that_cannot_work_is_closed_with_a_code_that_clients_know() {
    let flags = [
        "--open",
        "--pusher-app",
        "1:app-key:app-secret",
        "--pusher-app",
        "2:off:s,disabled",
        "--pusher-app",
        "3:safe:s,tls-only",
        "--pusher-app",
        "4:full:s,max-connections=0",
    ];
    let server = TestServer::start(&flags);
    for (path, code) in [
        ("/app/unknown?protocol=7", 4001),
        ("/app/?protocol=7", 4001),
        ("/app/off?protocol=7", 4003),
        ("/app/safe?protocol=7", 4000),
        ("/app/full?protocol=7", 4100),
        ("/app/app-key", 4008),
        ("/app/app-key?protocol=4", 4007),
        ("/app/app-key?protocol=8", 4007),
        ("/app/app-key?protocol=x", 4007),
        ("/app/app-key?protocol=", 4007),
    ] {
        assert_eq!(close_code(&server, path).await, Some(code), "{path}");
    }
    for path in ["/app/app-key?protocol=5", "/app/app-key?flash=false&protocol=6&unknown=%zz"] {
        let mut client = PusherClient::open(server.address(), APP, path).await;
        client.wait_until("the connection", |client| !client.socket_id.is_empty()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_proxy_says_whether_its_client_speaks_tls() {
    let flags = ["--open", "--trust-proxy", "127.0.0.0/8", "--pusher-app", "3:safe:s,tls-only"];
    let server = TestServer::start(&flags);
    let headers = |proto| [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", proto)];
    for (proto, is_open) in [("https", true), ("http", false)] {
        // Some proxies say nothing else about the client.
        for headers in [&headers(proto)[..], &headers(proto)[1..]] {
            let path = "/app/safe?protocol=7";
            let (mut client, _) = crate::common::RawClient::open_with(server.address(), path, headers, b"").await;
            match is_open {
                true => assert_eq!(client.json().await["event"], "pusher:connection_established", "{headers:?}"),
                false => assert_eq!(client.wait_for_close().await, Some(4000), "{headers:?}"),
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_ping_is_answered_and_other_messages_are_errors_that_close_nothing() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    for text in ["", "no json", "[]", "7", "{}", "{\"event\":7}", "{\"event\":\"pusher:unknown\"}"] {
        client.send_text(text);
        client.sync().await;
        assert!(last_error(&client).0.is_null(), "{text}");
    }
    assert_eq!(client.of("pusher:error").len(), 7);
    assert_eq!(client.of("pusher:pong").last().unwrap()["data"], json!({}));
    client.send_text(&format!("{{\"event\":\"{}\"}}", "x".repeat(70_000)));
    client.sync().await;
    assert!(last_error(&client).1.contains("65536"), "{:?}", last_error(&client));
    server.stop().await;
}

#[tokio::test]
async fn a_server_with_applications_only_refuses_all_other_clients() {
    const KEY: &str = "a key for the HTTP API";
    let server = TestServer::start(&["--pusher-app", "1:app-key:app-secret", "--api-key", KEY]);
    let mut pusher = client(&server).await;
    pusher.join("news", None).await;
    let get = async |path: &str, headers: &[(&str, &str)]| {
        http::request(server.address(), "GET", path, headers, b"").await.status
    };
    for path in ["/online_users", "/v1/rooms", "/v1/stats", "/metrics"] {
        assert_eq!(get(path, &[]).await, 401, "{path}");
        assert_eq!(get(path, &[("authorization", &format!("Bearer {KEY}"))]).await, 200, "{path}");
    }
    for path in ["/v1/connect?user=a", "/ws", "/ws/a", "/ws-online-status?userId=1"] {
        let upgrade = crate::common::raw::UPGRADE;
        assert_eq!(get(path, &upgrade).await, 403, "{path}");
    }
    let closed = TestServer::start(&["--pusher-app", "1:app-key:app-secret"]);
    for path in ["/online_users", "/v1/rooms", "/v1/stats", "/login/users"] {
        let refused = http::request(closed.address(), "GET", path, &[], b"").await;
        assert!(refused.status == 403 && refused.json()["error"]["code"] == "not_open", "{path}: {refused:?}");
    }
    closed.stop().await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(path, &[]).await, 200, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_of_applications_need_no_token_and_come_from_any_host() {
    let secret = "the secret of the application in these tests";
    let server = TestServer::start(&["--jwt-secret", secret, "--pusher-app", "1:app-key:app-secret"]);
    client(&server).await.join("news", None).await;
    server.stop().await;
    let server = TestServer::start(&["--origin", "https://a.com", "--pusher-app", "1:app-key:app-secret"]);
    let status = async |headers: &[(&str, &str)]| {
        let upgrade = crate::common::raw::UPGRADE;
        let headers: Vec<_> = upgrade.iter().chain(headers).copied().collect();
        http::exchange(server.address(), &http::request_text("GET", "/app/x?protocol=7", &headers, b"")).await
    };
    let other = status(&[("host", "app.example.com"), ("origin", "https://b.com")]).await;
    assert!(other.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&other));
    let own = status(&[("host", "app.example.com"), ("origin", "https://a.com")]).await;
    assert!(own.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&own));
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_not_authorized_in_time_is_closed() {
    let server = TestServer::start(&["--open", "--pusher-app", "1:app-key:app-secret,authorized-within=1s"]);
    let (mut silent, mut public) = (client(&server).await, client(&server).await);
    let mut private = client(&server).await;
    private.join("private-a", None).await;
    public.join("news", None).await;
    assert_eq!((silent.wait_for_close().await, public.wait_for_close().await), (Some(4009), Some(4009)));
    // The private one came last, and its time is over as well soon: a later connection shows it.
    let mut later = client(&server).await;
    assert_eq!(later.wait_for_close().await, Some(4009));
    private.sync().await;
    server.stop().await;
}

#[tokio::test]
async fn the_transport_without_websockets_is_a_404_that_says_what_to_use() {
    let server = TestServer::start(&APP_FLAGS);
    for path in ["/pusher/app/app-key/1/abc/xhr_streaming?protocol=7", "/pusher/app"] {
        let answer = server.get(path).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["code"]), (404, &json!("no_http_transport")), "{answer:?}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains("enabledTransports")));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_has_its_clients_come_back() {
    let server = TestServer::start(&APP_FLAGS);
    let mut client = client(&server).await;
    let ending = server.begin_stop();
    assert_eq!(client.wait_for_close().await, Some(4100));
    ending.await.expect("the server does not panic").expect("a stop is not an error");
}

/// An application that no server of these tests has.
pub(super) const OTHER: App = App { key: "other-key", secret: "other-secret" };
