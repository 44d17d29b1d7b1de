//! Signing in and out with `--dev-login`, and `POST /v1/users/{user}/kick` with `--api-key`.

use serde_json::{Value, json};

use crate::common::http::{self, Response};
use crate::common::{Frame, Mirror, RawClient, TestServer, raw};

const DEV: [&str; 1] = ["--dev-login"];
/// What the browser sends with the requests of a page of this server.
const OWN_PAGE: (&str, &str) = ("origin", "http://localhost");
const TOKEN: &str = "a token for tests only";

/// A browser, which keeps its cookie.
struct Browser<'a> {
    server: &'a TestServer,
    cookie: Option<String>,
}

impl<'a> Browser<'a> {
    fn new(server: &'a TestServer) -> Self {
        Self { server, cookie: None }
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> Response {
        let mut headers = vec![("content-type", "application/json"), OWN_PAGE];
        headers.extend(self.cookie.as_deref().map(|cookie| ("cookie", cookie)));
        let response = http::request(self.server.address(), method, path, &headers, body.as_bytes()).await;
        if let Some(set) = response.header("set-cookie") {
            let cookie = set.split(';').next().unwrap().to_owned();
            self.cookie = Some(cookie).filter(|_| !set.contains("Max-Age=0"));
        }
        response
    }

    async fn sign_in(&mut self, user: &str) {
        let response = self.send("POST", "/login", &json!({ "user": user }).to_string()).await;
        assert_eq!((response.status, response.json()), (200, json!({ "user": user })));
    }

    async fn sign_out(&mut self) {
        let response = self.send("POST", "/logout", "").await;
        assert_eq!((response.status, response.json()), (200, json!({ "user": null })));
    }

    async fn user(&mut self) -> Value {
        self.send("POST", "/login/session", "").await.json()["user"].clone()
    }

    /// A native connection of the user who is signed in, in the lobby.
    async fn connect(&self) -> RawClient {
        let cookie = self.cookie.as_deref().expect("signed in");
        let path = "/v1/connect?room=lobby";
        let (mut client, _) =
            RawClient::open_with(self.server.address(), path, &[("cookie", cookie), OWN_PAGE], b"").await;
        client.json_of_type("snapshot").await;
        client
    }
}

/// A client that watches these users and has received their status.
async fn watcher(server: &TestServer, users: &[&str]) -> Mirror {
    let mut mirror = server.observe("watcher", "lobby").await;
    mirror.send(&json!({"type": "watch", "users": users}));
    mirror.wait_until("the status", |mirror| mirror.watched.len() == users.len()).await;
    mirror
}

fn is(user: &str, online: bool) -> impl Fn(&Mirror) -> bool {
    let user = user.to_owned();
    move |mirror| mirror.watched[&user]["online"] == online
}

#[tokio::test]
async fn signing_out_takes_the_connections_of_a_login_offline() {
    let server = TestServer::start(&DEV);
    let mut watching = watcher(&server, &["alice"]).await;
    let mut browser = Browser::new(&server);
    assert_eq!(browser.user().await, json!(null));
    browser.sign_in("alice").await;
    assert_eq!(browser.user().await, "alice");
    assert_eq!(server.count("lobby").await, 0, "a login alone does not make a user online");
    let mut tabs = [browser.connect().await, browser.connect().await];
    watching.wait_until("alice", is("alice", true)).await;
    // A tab that was lost a moment ago is in its grace period, which ends with the others.
    drop(browser.connect().await);
    let old_cookie = browser.cookie.clone().unwrap();
    browser.sign_out().await;
    // The answer comes after the leave is announced.
    assert!(!server.members("lobby").await.contains_key("alice"));
    watching.wait_until("alice offline", is("alice", false)).await;
    assert_eq!(watching.reason("lobby", "alice").as_deref(), Some("left"));
    for tab in &mut tabs {
        assert_eq!(tab.wait_for_close().await, Some(1008));
    }
    assert_eq!(browser.user().await, json!(null));
    // A copy of the cookie is no longer valid.
    let refused = raw::refused_upgrade(server.address(), "/v1/connect", &[("cookie", &old_cookie), OWN_PAGE]).await;
    assert!(refused.error(401).contains("/login"));
    browser.sign_out().await;
    server.stop().await;
}

#[tokio::test]
async fn each_browser_has_its_own_login() {
    let server = TestServer::start(&DEV);
    let mut watching = watcher(&server, &["alice"]).await;
    let (mut here, mut there) = (Browser::new(&server), Browser::new(&server));
    here.sign_in("alice").await;
    there.sign_in("alice").await;
    let (mut first, mut second) = (here.connect().await, there.connect().await);
    // A connection of the same user that does not come from this login stays.
    let mut named = server.raw("alice").await;
    watching.wait_until("alice", is("alice", true)).await;
    here.sign_out().await;
    assert_eq!(first.wait_for_close().await, Some(1008));
    assert!(second.is_served().await && named.is_served().await);
    assert_eq!(there.user().await, "alice");
    watching.barrier().await;
    assert!(is("alice", true)(&watching), "alice is still online");
    // Another user signs in with that browser, so alice is signed out.
    there.sign_in("bob").await;
    assert_eq!(second.wait_for_close().await, Some(1008));
    watching.wait_until("alice offline", is("alice", false)).await;
    assert_eq!(there.user().await, "bob");
    // Signing in as the same user keeps the login, and its connections stay open.
    let mut open = there.connect().await;
    there.sign_in("bob").await;
    assert!(open.is_served().await);
    assert_eq!(there.send("GET", "/login/users", "").await.json(), json!({"users": ["alice", "bob"]}));
    server.stop().await;
}

#[tokio::test]
async fn scripts_and_pages_of_other_origins_cannot_use_the_cookie() {
    let server = TestServer::start(&["--dev-login", "--open"]);
    let response = server.post_form("/login", "user=M%C3%BCller+%26+S%C3%B6hne").await;
    assert_eq!(response.json(), json!({"user": "Müller & Söhne"}));
    let set = response.header("set-cookie").expect("a cookie");
    for part in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    let cookie = set.split(';').next().unwrap();
    let own_page = [("cookie", cookie), OWN_PAGE];
    let (mut client, _) = RawClient::open_with(server.address(), "/v1/connect", &own_page, b"").await;
    assert_eq!(client.json().await["user"], "Müller & Söhne");
    // The query may still name another user: there is no authentication.
    let named = RawClient::open_with(server.address(), "/v1/connect?user=eve", &own_page, b"").await;
    let mut named = named.0;
    assert_eq!(named.json().await["user"], "eve");
    let other_page = [("cookie", cookie), ("origin", "http://evil.example")];
    for page in [&other_page[..], &other_page[..1]] {
        raw::refused_upgrade(server.address(), "/v1/connect", page).await.error(401);
    }
    let session = http::request(server.address(), "POST", "/login/session", &other_page[..1], b"").await;
    assert_eq!(session.json(), json!({"user": null}), "without an origin the cookie does not count");
    for path in ["/login", "/logout"] {
        let body = br#"{"user":"eve"}"#;
        let own = [("cookie", cookie), ("content-type", "application/json"), ("origin", "http://localhost")];
        let foreign = [own[0], own[1], other_page[1]];
        http::request(server.address(), "POST", path, &foreign, body).await.error(403);
        let response = http::request(server.address(), "POST", path, &own, body).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn forged_cookies_are_ignored() {
    let server = TestServer::start(&DEV);
    let mut browser = Browser::new(&server);
    browser.sign_in("alice").await;
    let good = browser.cookie.clone().unwrap();
    for bad in
        [good.replace("alice", "admin"), good[..good.len() - 2].into(), "rollcall_session=alice".into(), "x".into()]
    {
        let refused = raw::refused_upgrade(server.address(), "/v1/connect", &[("cookie", &bad), OWN_PAGE]).await;
        refused.error(401);
        browser.cookie = Some(bad);
        assert_eq!(browser.user().await, json!(null));
    }
    // Cookies of another server are ignored unless both servers have the same key.
    let key = "one key for two servers, 32 bytes or more";
    let keyed = [
        TestServer::start(&["--dev-login", "--session-key", key]),
        TestServer::start(&["--dev-login", "--session-key", key]),
    ];
    let mut at_first = Browser::new(&keyed[0]);
    at_first.sign_in("carol").await;
    let mut at_second = Browser { server: &keyed[1], cookie: at_first.cookie.clone() };
    assert_eq!(at_second.user().await, "carol");
    let mut at_other = Browser { server: &server, cookie: at_first.cookie.clone() };
    assert_eq!(at_other.user().await, json!(null));
    for server in keyed {
        server.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn bad_logins_are_refused_and_the_message_names_the_field() {
    let server = TestServer::start(&DEV);
    let long = "x".repeat(129);
    let bodies =
        ["", "{", "user", "user=", "name=alice", "{}", r#"{"user":null}"#, r#"{"user":["a"]}"#, r#"{"user":""}"#];
    for body in bodies.into_iter().map(str::to_owned).chain([format!("user={long}"), r#"{"user":"a\nb"}"#.into()]) {
        let response = http::request(server.address(), "POST", "/login", &[], body.as_bytes()).await;
        assert!(response.error(400).contains("user"), "{body}");
        assert_eq!(response.header("set-cookie"), None);
    }
    for (method, path) in
        [("GET", "/logout"), ("GET", "/login/session"), ("POST", "/login/users"), ("DELETE", "/login")]
    {
        let response = http::request(server.address(), method, path, &[], b"").await;
        response.error(405);
        assert!(response.header("allow").is_some());
    }
    assert_eq!(server.get("/login/users").await.json(), json!({"users": []}));
    server.stop().await;
}

#[tokio::test]
async fn without_the_flags_the_paths_are_404_and_the_message_names_the_flag() {
    let server = TestServer::start(&[]);
    for (method, path, flag) in
        [("POST", "/login", "--dev-login"), ("POST", "/logout", "--dev-login"), ("GET", "/login/users", "--dev-login")]
    {
        let response = http::request(server.address(), method, path, &[], b"user=alice").await;
        assert!(response.error(404).contains(flag), "{path}");
    }
    assert_eq!(server.post_form("/login/session", "").await.json(), json!({"user": null, "enabled": false}));
    raw::refused_upgrade(server.address(), "/v1/connect", &[]).await.error(400);
    server.stop().await;
}

async fn kick(server: &TestServer, user: &str, authorization: Option<&str>) -> Response {
    let headers: Vec<_> = authorization.map(|value| ("authorization", value)).into_iter().collect();
    http::request(server.address(), "POST", &format!("/v1/users/{user}/kick"), &headers, b"").await
}

#[tokio::test]
async fn a_kick_closes_the_connections_of_a_user_in_every_protocol() {
    let server = TestServer::start(&["--api-key", TOKEN]);
    let bearer = format!("Bearer {TOKEN}");
    let mut watching = watcher(&server, &["7", "8"]).await;
    let mut chat = server.chat("7").await;
    let mut native = server.connect_to("7", "lobby").await;
    let mut list = server.online_users("7").await;
    let mut status = server.online_status("7").await;
    server.rest_heartbeat("7").await;
    server.connect_to("7", "kitchen").await.drop_connection();
    drop(server.online_users("7").await);
    let mut other = server.connect_to("8", "lobby").await;
    watching.wait_until("both users online", |mirror| is("7", true)(mirror) && is("8", true)(mirror)).await;
    kick(&server, &"x".repeat(129), Some(&bearer)).await.error(400);
    assert_eq!(http::request(server.address(), "GET", "/v1/users/7/kick", &[], b"").await.status, 405);
    native.heartbeat().await;
    let done = kick(&server, "7", Some(&bearer)).await;
    assert_eq!((done.status, done.json()), (200, json!({"user": "7"})));
    let known = server.post_json("/v1/users/status", &json!({"users": ["7", "8"]})).await.json();
    assert_eq!((&known["users"][0]["online"], &known["users"][1]["online"]), (&json!(false), &json!(true)));
    watching.wait_until("7 offline", is("7", false)).await;
    assert_eq!(watching.reason("lobby", "7").as_deref(), Some("kicked"));
    assert_eq!(native.wait_for_close().await, Some(1008));
    list.wait_until("the close", |list| list.closed == Some(Some(1008))).await;
    assert_eq!(status.wait_for_close().await, Some(1008));
    assert_eq!(chat.wait_for_close().await, Some(1008));
    other.heartbeat().await;
    assert!(is("8", true)(&watching));
    // The user can connect again at once, and kicking an unknown user succeeds.
    assert_eq!(kick(&server, "nobody", Some(&bearer)).await.status, 200);
    let _again = server.connect_to("7", "lobby").await;
    server.rest_heartbeat("7").await;
    watching.wait_until("7 again", is("7", true)).await;
    server.stop().await;
}

#[tokio::test]
async fn a_kicked_client_that_stays_connected_is_ignored() {
    let server = TestServer::start(&["--api-key", TOKEN, "--workers", "1"]);
    let mut observer = server.observe("observer", "lobby").await;
    let mut kicked = server.raw("kicked").await;
    kicked.send_json(&json!({"type": "join", "room": "lobby"})).await;
    observer.wait_until("the join", |observer| observer.has("lobby", "kicked")).await;
    assert_eq!(kick(&server, "kicked", Some(&format!("bearer {TOKEN}"))).await.status, 200);
    // The client does not answer the close frame and continues.
    kicked.send_frame(&Frame::text("heartbeat")).await;
    kicked.send_json(&json!({"type": "join", "room": "lobby"})).await;
    kicked.send_json(&json!({"type": "message", "room": "lobby", "data": "I am still here"})).await;
    observer.barrier().await;
    observer.barrier().await;
    assert!(!observer.has("lobby", "kicked") && observer.since(0, "message", "").is_empty());
    assert_eq!(kicked.wait_for_close().await, Some(1008));
    server.stop().await;
}
