//! Pages of which origins may use the server (`--origin`), and how browsers are told (CORS).

use crate::common::TestServer;
use crate::common::http::{self, Response};
use crate::common::raw::{RawClient, refused_upgrade};

const ORIGINS: [&str; 5] =
    ["--open", "--origin", "https://app.example.com,https://*.example.org", "--origin", "capacitor://localhost"];
const ALLOWED: [&str; 5] = [
    "https://app.example.com",
    "https://app.example.com:443",
    "https://a.b.example.org",
    "https://APP.example.org",
    "capacitor://localhost",
];
const OTHERS: [&str; 9] = [
    "http://app.example.com",
    "https://app.example.com:8443",
    "https://example.org",
    "https://app.example.com.evil.example",
    "https://evilexample.org",
    "http://localhost",
    "null",
    "garbage",
    "",
];

async fn send(server: &TestServer, method: &str, path: &str, origin: &str) -> Response {
    let bytes = http::request_text(method, path, &[("origin", origin)], b"");
    Response::parse(&http::exchange(server.address(), &bytes).await)
}

#[tokio::test]
async fn upgrades_and_api_requests_of_other_origins_are_refused() {
    let server = TestServer::start(&ORIGINS);
    for origin in OTHERS {
        for path in ["/v1/connect?user=eve", "/ws/eve", "/ws", "/ws-online-status?userId=eve"] {
            let refused = refused_upgrade(server.address(), path, &[("origin", origin)]).await;
            assert!(refused.error(403).contains("--origin"), "{path} {origin}: {refused:?}");
        }
        for (method, path) in [("GET", "/v1/rooms"), ("GET", "/online_users"), ("POST", "/heartbeat")] {
            let refused = send(&server, method, path, origin).await;
            refused.error(403);
            assert_eq!(refused.header("access-control-allow-origin"), None, "{path} {origin}");
        }
    }
    let two = [("origin", ALLOWED[0]), ("origin", OTHERS[0])];
    refused_upgrade(server.address(), "/v1/connect?user=eve", &two).await.error(403);
    server.stop().await;
}

#[tokio::test]
async fn pages_of_the_origins_and_programs_without_one_are_served() {
    let server = TestServer::start(&ORIGINS);
    for origin in ALLOWED {
        let path = "/v1/connect?user=a";
        let (mut client, _) = RawClient::open_with(server.address(), path, &[("origin", origin)], b"").await;
        assert!(client.is_served().await, "{origin}");
        let answer = send(&server, "GET", "/v1/rooms", origin).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    assert!(server.raw("program").await.is_served().await);
    let answer = server.get("/v1/rooms").await;
    assert_eq!((answer.header("vary"), answer.header("access-control-allow-origin")), (Some("Origin"), None));
    server.stop().await;
}

#[tokio::test]
async fn errors_can_be_read_by_the_pages_that_caused_them() {
    let server = TestServer::start(&ORIGINS);
    for (method, path, status) in
        [("GET", "/v1/rooms?limit=x", 400), ("GET", "/nothing", 404), ("PUT", "/v1/rooms", 405)]
    {
        let answer = send(&server, method, path, ALLOWED[0]).await;
        answer.error(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some(ALLOWED[0]), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn files_may_be_used_by_all_pages() {
    let server = TestServer::start(&ORIGINS);
    for origin in [ALLOWED[0], OTHERS[0]] {
        for path in ["/presence.js", "/embed.js"] {
            let answer = send(&server, "GET", path, origin).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")), "{path}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn preflights_are_answered_for_the_origins_only() {
    let server = TestServer::start(&ORIGINS);
    let preflight = async |path: &str, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        Response::parse(&http::exchange(server.address(), &http::request_text("OPTIONS", path, &headers, b"")).await)
    };
    let answer = preflight("/v1/users/a/kick", ALLOWED[0]).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(ALLOWED[0]));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization, content-type"));
    assert_eq!((answer.header("vary"), answer.header("access-control-allow-credentials")), (Some("Origin"), None));
    let refused = preflight("/v1/users/a/kick", OTHERS[0]).await;
    assert!(refused.status == 403 && refused.header("access-control-allow-origin").is_none(), "{refused:?}");
    preflight("/nothing", ALLOWED[0]).await.error(404);
    server.stop().await;
}

#[tokio::test]
async fn without_origins_pages_of_all_origins_may_use_an_open_server() {
    let server = TestServer::start(&["--open"]);
    let answer = send(&server, "GET", "/v1/rooms", "https://anywhere.example").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://anywhere.example"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    server.stop().await;
}

#[tokio::test]
async fn a_guarded_server_serves_pages_of_its_origins() {
    let server = TestServer::start(&["--origin", "https://app.example.com"]);
    let served = [("origin", "https://app.example.com")];
    let (mut client, _) = RawClient::open_with(server.address(), "/v1/connect?user=a", &served, b"").await;
    assert!(client.is_served().await);
    refused_upgrade(server.address(), "/v1/connect?user=a", &[("origin", "https://b.example.com")]).await.error(403);
    server.stop().await;
}
