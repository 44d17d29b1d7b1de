//! Rules of HTTP that clients, proxies and load balancers rely on (RFC 9110, RFC 9112): hosts, methods, paths, forms,
//! errors, and clients that close their sending side.

use serde_json::json;

use crate::common::raw::upgrade_request;
use crate::common::{DEADLINE, RawClient, TestServer, http};

/// The answer to these bytes on a connection of their own. The server must close it.
async fn exchange(server: &TestServer, bytes: &str) -> http::Response {
    http::Response::parse(&http::exchange(server.address(), bytes.as_bytes()).await)
}

#[tokio::test]
async fn a_request_has_one_valid_host() {
    let server = TestServer::start(&[]);
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: http://a/\r\n", "Host: a,b\r\n"] {
        let answer = exchange(&server, &format!("GET /livez HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert!(answer.error(400).contains("Host"), "{hosts:?}: {answer:?}");
        // The same rule on the way that does without hyper.
        let handshake = String::from_utf8(upgrade_request("/v1/connect?user=a", &[])).expect("text");
        let handshake = handshake.replace("host: localhost\r\n", &format!("{hosts}connection: close\r\n"));
        exchange(&server, &handshake).await.error(400);
    }
    for hosts in ["Host:\r\n", "Host: example.com:443\r\n", "Host: [::1]:8000\r\n", "hOST: a\r\n"] {
        let answer = exchange(&server, &format!("GET /livez HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{hosts:?}");
    }
    let old = http::exchange(server.address(), b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with(b"HTTP/1.0 200 "), "HTTP/1.0 needs none: {:?}", String::from_utf8_lossy(&old));
    server.stop().await;
}

#[tokio::test]
async fn unusual_forms_of_a_request_line_are_understood() {
    let server = TestServer::start(&[]);
    // The absolute form, and empty lines before the request line (RFC 9112, 3.2.2 and 2.2).
    for start in
        ["GET http://example.com/livez HTTP/1.1\r\n", "\r\nGET /livez HTTP/1.1\r\n", "GET /livez? HTTP/1.1\r\n"]
    {
        let answer = exchange(&server, &format!("{start}Host: example.com\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{start:?}");
    }
    let handshake = String::from_utf8(upgrade_request("http://localhost/v1/connect?user=a", &[])).expect("text");
    for handshake in [handshake.clone(), format!("\r\n{handshake}")] {
        let mut client = RawClient::tcp(server.address()).await;
        client.send(handshake.as_bytes()).await;
        assert_eq!(client.head().await.status, 101, "{handshake:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn options_names_the_methods_of_each_path() {
    let server = TestServer::start(&[]);
    let cases = [
        ("/v1/connect", "GET, OPTIONS"),
        ("/v1/connect?user=a", "GET, OPTIONS"),
        ("/ws/a", "GET, OPTIONS"),
        ("/v1/rooms/lobby/members", "GET, HEAD, OPTIONS"),
        ("/heartbeat", "POST, OPTIONS"),
        ("/login", "GET, HEAD, POST, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
    ];
    for (path, allow) in cases {
        let answer = http::exchange(server.address(), &http::request_text("OPTIONS", path, &[], b"")).await;
        let answer = http::Response::parse(&answer);
        assert_eq!((answer.status, answer.header("allow")), (204, Some(allow)), "{path}: {answer:?}");
        assert!(answer.body.is_empty() && answer.header("access-control-allow-origin").is_none(), "{answer:?}");
    }
    http::request(server.address(), "OPTIONS", "/nothing", &[], b"").await.error(404);
    server.stop().await;
}

#[tokio::test]
async fn the_plain_health_check_of_haproxy_succeeds() {
    let server = TestServer::start(&[]);
    for check in ["OPTIONS / HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"] {
        let status = http::exchange(server.address(), check.as_bytes()).await;
        assert!(status.windows(5).any(|part| part == b" 204 "), "{check}: {:?}", String::from_utf8_lossy(&status));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slash_too_many_is_redirected_without_it() {
    let server = TestServer::start(&[]);
    for (method, path, location) in [
        ("GET", "/livez/", "../livez"),
        ("HEAD", "/chat/", "../chat"),
        ("POST", "/heartbeat/", "../heartbeat"),
        ("GET", "/v1/rooms/?limit=5", "../rooms?limit=5"),
        ("GET", "/v1/rooms/a%2Fb/members/", "../members"),
    ] {
        let answer = http::request(server.address(), method, path, &[], b"").await;
        assert_eq!((answer.status, answer.header("location")), (308, Some(location)), "{method} {path}");
    }
    for path in ["//", "/nothing/", "/livez//", "/ws/a/b/"] {
        server.get(path).await.error(404);
    }
    // WebSocket clients do not follow redirects: the message says what is wrong.
    for path in ["/v1/connect/", "/ws/alice/"] {
        assert!(server.get(path).await.error(404).contains("without the slash"), "{path}");
    }
    assert!(server.get("/ws/").await.error(400).contains("the user id must not be empty"));
    server.stop().await;
}

#[tokio::test]
async fn forms_are_read_in_each_format_of_browsers() {
    let server = TestServer::start(&["--dev-login"]);
    let multipart = |name: &str, user: &str| {
        format!("------b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{user}\r\n------b--\r\n")
    };
    let post = async |path: &str, kind: &str, body: String| {
        http::request(server.address(), "POST", path, &[("content-type", kind)], body.as_bytes()).await
    };
    let boundary = "multipart/form-data; boundary=----b";
    let form = "application/x-www-form-urlencoded";
    for (kind, body) in [
        (boundary, multipart("user", "Jos\u{e9} & co")),
        (form, "user=Jos%C3%A9+%26+co".to_owned()),
        ("application/json", json!({"user": "Jos\u{e9} & co"}).to_string()),
    ] {
        let answer = post("/login", kind, body).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"user": "Jos\u{e9} & co"})), "{kind}");
    }
    assert_eq!(post("/heartbeat", boundary, multipart("user_id", "dora")).await.status, 200);
    server.wait_for_member("lobby", "dora", true).await;
    post("/heartbeat", boundary, multipart("user", "dora")).await.error(422);
    post("/login", boundary, multipart("user", "")).await.error(400);
    server.stop().await;
}

#[tokio::test]
async fn a_percent_sign_without_two_digits_stands_for_itself() {
    let server = TestServer::start(&[]);
    let mut alice = RawClient::open(server.address(), "/v1/connect?user=100%&room=%zz").await;
    assert_eq!(alice.json().await["user"], "100%");
    for path in ["/v1/rooms/%zz/members", "/v1/rooms/%25zz/members"] {
        let answer = server.get(path).await.json();
        assert_eq!((&answer["room"], &answer["epoch"] != ""), (&json!("%zz"), true), "{path}: {answer}");
    }
    assert_eq!(server.post_form("/heartbeat", "user_id=%zz").await.status, 200);
    server.wait_for_member("lobby", "%zz", true).await;
    server.stop().await;
}

#[tokio::test]
async fn people_get_a_page_and_programs_get_json_for_unknown_paths() {
    let server = TestServer::start(&[]);
    let get = async |accept: &str| http::request(server.address(), "GET", "/nothing", &[("accept", accept)], b"").await;
    for accept in ["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Text/HTML"] {
        let page = get(accept).await;
        let kind = page.header("content-type").unwrap_or_default();
        assert_eq!((page.status, kind), (404, "text/html; charset=utf-8"), "{accept}");
        let text = String::from_utf8_lossy(&page.body);
        assert!(text.contains("nothing here") && text.contains("href=\"./style.css\""), "{text}");
    }
    let deep = http::request(server.address(), "GET", "/a/b/c", &[("accept", "text/html")], b"").await;
    assert!(String::from_utf8_lossy(&deep.body).contains("href=\"../../style.css\""), "{deep:?}");
    for accept in ["*/*", "application/json", "text/plain, */*"] {
        get(accept).await.error(404);
    }
    let post = http::request(server.address(), "POST", "/nothing", &[("accept", "text/html")], b"").await;
    post.error(404);
    server.stop().await;
}

#[tokio::test]
async fn errors_of_the_transport_have_the_error_object_too() {
    let server = TestServer::start(&[]);
    let many = "x: y\r\n".repeat(65);
    let long = format!("x: {}\r\n", "y".repeat(20_000));
    for (bytes, status, says) in [
        ("GET /livez HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400, "not valid HTTP"),
        ("nonsense\r\n\r\n".to_owned(), 400, "not valid HTTP"),
        (format!("GET /livez HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431, "64 headers"),
        (format!("GET /livez HTTP/1.1\r\nHost: a\r\n{long}\r\n"), 431, "16 KiB"),
    ] {
        for first in ["", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let answers = http::exchange(server.address(), format!("{first}{bytes}").as_bytes()).await;
            let answers = String::from_utf8(answers).expect("text");
            let at = answers.rfind("HTTP/1.1 ").expect("an answer");
            let refused = http::Response::parse(&answers.as_bytes()[at..]);
            assert!(refused.error(status).contains(says), "{refused:?}");
            let length = refused.header("content-length").and_then(|length| length.parse().ok());
            assert_eq!(length, Some(refused.body.len()), "{refused:?}");
            assert_eq!(refused.header("connection"), Some("close"), "{refused:?}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn each_mistake_in_a_status_request_has_its_own_message() {
    let server = TestServer::start(&[]);
    for (body, says) in [
        ("{\"users\":[\"a\"", "not a JSON object"),
        ("[\"a\"]", "not a JSON object"),
        ("{\"user\":\"a\"}", "users is missing"),
        ("{\"users\":\"a\"}", "users must be a list"),
        ("{\"users\":[\"a\",7]}", "users[1] must be a string"),
        ("{\"users\":[\"a\",\"b\",\"\"]}", "users[2] must not be empty"),
    ] {
        let headers = [("content-type", "application/json")];
        let answer = http::request(server.address(), "POST", "/v1/users/status", &headers, body.as_bytes()).await;
        let message = answer.error(400);
        assert!(message.contains(says), "{body}: {message}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_is_answered() {
    let server = TestServer::start(&[]);
    let form = "POST /heartbeat HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nuser_id=bob";
    let chunked =
        "POST /heartbeat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nuser_id=eve\r\n0\r\n\r\n";
    let kept = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/rooms HTTP/1.1\r\nHost: a\r\n\r\n";
    // Several times: whether the end arrives with the request or behind it must not matter.
    for _ in 0..20 {
        for (request, answers) in [(form, 1), (chunked, 1), ("GET /livez HTTP/1.0\r\n\r\n", 1), (kept, 2)] {
            let mut client = RawClient::tcp(server.address()).await;
            client.send(request.as_bytes()).await;
            let bytes = client.shut_down_undecoded().await;
            let text = String::from_utf8_lossy(&bytes);
            assert_eq!(text.matches(" 200 OK\r\n").count(), answers, "{request:?}: {text:?}");
        }
    }
    // A body that will never be complete is refused, not waited for.
    let mut client = RawClient::tcp(server.address()).await;
    client.send(b"POST /heartbeat HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nuser_id").await;
    let bytes = client.shut_down_undecoded().await;
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&bytes));
    server.wait_for_stat("sockets", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_still_sending_a_body_can_read_the_answer() {
    let server = TestServer::start(&["--dev-login"]);
    // Refused before the body is read, and when more than its limit has arrived.
    for (head, begun, status) in [
        ("POST /nothing HTTP/1.1\r\n", 0, 404),
        ("POST /livez HTTP/1.1\r\n", 10, 405),
        ("POST /login HTTP/1.1\r\nOrigin: https://example.com\r\n", 10, 403),
        ("POST /heartbeat HTTP/1.1\r\n", 262_145, 413),
    ] {
        let mut client = RawClient::tcp(server.address()).await;
        client.send(format!("{head}Host: localhost\r\nContent-Length: 1000000\r\n\r\n").as_bytes()).await;
        client.send(&vec![b'x'; begun]).await;
        let answer = client.head().await;
        assert_eq!(answer.status, status, "{head}");
        // The server has sent all of its answer. Had it closed, the first of these would be answered with a reset.
        let length = answer.header("content-length").and_then(|length| length.parse().ok()).expect("a length");
        client.skip(length).await;
        client.read_to_end().await;
        for _ in 0..3 {
            assert!(client.send_if_taken(b"the rest", DEADLINE).await, "{head}: the connection is closed");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_long_is_refused_before_it_is_sent() {
    let server = TestServer::start(&[]);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = RawClient::tcp(server.address()).await;
        let length = 256 * 1024 + 1;
        let head = format!("POST /heartbeat HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: {length}\r\n\r\n");
        client.send(head.as_bytes()).await;
        assert_eq!(client.head().await.status, 413, "{expect:?}");
    }
    // Of others the limit is noticed when it has arrived.
    let mut client = RawClient::tcp(server.address()).await;
    client.send(b"POST /heartbeat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40001\r\n").await;
    client.send(&vec![b'x'; 0x40001]).await;
    assert_eq!(client.head().await.status, 413);
    server.stop().await;
}

/// A request without a key, which is refused before its body is read; more requests may follow on the connection.
fn refused_request(headers: &str, body: &str) -> String {
    format!("POST /v1/users/a/messages HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_skipped_or_ends_the_connection_and_the_answer_says_so() {
    let server = TestServer::start(&[]);
    let next = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let short = "x".repeat(1000);
    let chunk = format!("{:x}\r\n{short}\r\n0\r\n\r\n", short.len());
    for (headers, body) in [("Content-Length: 1000\r\n", &short), ("Transfer-Encoding: chunked\r\n", &chunk)] {
        let request = refused_request(headers, body);
        let answers = http::exchange(server.address(), format!("{request}{request}{next}").as_bytes()).await;
        let answers = String::from_utf8_lossy(&answers).into_owned();
        assert_eq!(answers.matches("HTTP/1.1 401 ").count(), 2, "{headers}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 1, "{headers}: {answers}");
        assert_eq!(answers.matches("connection: close").count(), 1, "only the client's own: {answers}");
    }
    let long = "x".repeat(300_000);
    for (headers, body) in [
        ("Content-Length: 300000\r\n", &*long),
        // It never comes, or only after a 100 that the server does not send.
        ("Content-Length: 1000\r\n", ""),
        ("Content-Length: 1000\r\nExpect: 100-continue\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
    ] {
        let answer = exchange(&server, &refused_request(headers, body)).await;
        answer.error(401);
        assert_eq!(answer.header("connection"), Some("close"), "{headers}: {answer:?}");
    }
    // Bodies that handlers refuse.
    let long = format!("POST /heartbeat HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n{long}");
    let answer = exchange(&server, &long).await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")), "{answer:?}");
    let handshake = String::from_utf8(upgrade_request("/v1/connect?user=a", &[("content-length", "5")])).expect("text");
    let answer = exchange(&server, &handshake).await;
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{answer:?}");
    server.stop().await;
}

#[tokio::test]
async fn wrong_paths_of_the_api_get_json_whatever_the_client_accepts() {
    let server = TestServer::start(&["--pusher-app", "1:app-key:app-secret"]);
    for path in ["/apps/1/nothing", "/apps/1", "/apps/1/channels/a/b/c", "/v1/nothing", "/users/1/nothing"] {
        for method in ["GET", "POST"] {
            let headers = [("accept", "text/html,*/*;q=0.8")];
            http::request(server.address(), method, path, &headers, b"").await.error(404);
        }
    }
    server.stop().await;
}
