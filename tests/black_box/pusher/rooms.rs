//! `--pusher-rooms`: presence channels of one application are rooms of all protocols.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::process::{command, run_to_exit};
use crate::common::pusher::APP;
use crate::common::pusher_api::Call;
use crate::common::token::{SECRET, now, token};
use crate::common::{EventClient, Mirror, PusherClient, TestServer, http};

const CHANNEL: &str = "presence-den";
const API_KEY: &str = "an api key for tests";
/// The flags of a server with an application that shares its rooms.
pub(crate) const ROOMS_FLAGS: [&str; 6] =
    ["--jwt-secret", SECRET, "--pusher-app", "1:app-key:app-secret,client-messages", "--pusher-rooms", "1"];

fn flags<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&ROOMS_FLAGS[..], &["--api-key", API_KEY, "--grace", "600s"], more].concat()
}

fn start(more: &[&str]) -> TestServer {
    TestServer::start(&flags(more))
}

/// A native client of this user, with further claims in its token.
async fn native(server: &TestServer, user: &str, rooms: &[&str], claims: &Value) -> Mirror {
    let headers = [("authorization", format!("Bearer {}", token(user, claims)))];
    Mirror::connect_with(server.address(), user, rooms, &headers).await
}

async fn pusher(server: &TestServer) -> PusherClient {
    PusherClient::connect(server.address(), APP).await
}

/// What the application signs for a member.
fn member(user: &str, info: &Value) -> String {
    json!({"user_id": user, "user_info": info}).to_string()
}

/// Members with their infos; null stands for none.
type Shown = BTreeMap<String, Value>;

fn shown(members: &[(&str, Value)]) -> Shown {
    members.iter().map(|(user, info)| ((*user).to_owned(), info.clone())).collect()
}

fn shown_by_native(mirror: &Mirror) -> Shown {
    let info = |user: &String| mirror.room("den").infos.get(user).cloned().unwrap_or_default();
    mirror.members("den").into_keys().map(|user| (user.clone(), info(&user))).collect()
}

fn shown_by_pusher(client: &PusherClient) -> Shown {
    let members = &client.channels[CHANNEL].members;
    assert!(members.iter().all(|(user, (id, _))| id == user), "ids are strings: {members:?}");
    members.iter().map(|(user, (_, info))| (user.clone(), info.clone())).collect()
}

/// Waits until both clients show exactly these members, and asks the server.
async fn agree(server: &TestServer, mirror: &mut Mirror, client: &mut PusherClient, members: &[(&str, Value)]) {
    let expected = shown(members);
    mirror.wait_until("the members", |mirror| shown_by_native(mirror) == expected).await;
    client.wait_until("the members", |client| shown_by_pusher(client) == expected).await;
    let known: Vec<_> =
        server.get("/v1/rooms/den/members").await.json()["members"].as_array().cloned().expect("a list");
    assert_eq!(known.len(), expected.len(), "{known:?}");
    assert!(known.iter().all(|member| member["info"] == expected[member["user"].as_str().expect("a user")]));
}

#[tokio::test]
async fn native_and_pusher_clients_of_one_room_agree_on_its_members() {
    let server = start(&[]);
    let info = |name: &str, ago: u64| json!({"info": {"name": name}, "iat": now() - ago});
    let mut ann = native(&server, "ann", &["den"], &info("Ann", 100)).await;
    // Members of other protocols are shown to Pusher clients, and their states are not.
    ann.send(&json!({"type": "state", "room": "den", "state": {"mood": "ok"}}));
    let mut bob = pusher(&server).await;
    bob.join(CHANNEL, Some(&member("bob", &json!({"name": "Bob"})))).await;
    let [by_ann, by_bob] = [("ann", json!({"name": "Ann"})), ("bob", json!({"name": "Bob"}))];
    agree(&server, &mut ann, &mut bob, &[by_ann.clone(), by_bob.clone()]).await;
    // A user id that is a number is its text, and is not shown as a state.
    let mut seven = pusher(&server).await;
    seven.join(CHANNEL, Some(r#"{"user_id":7,"user_info":null}"#)).await;
    agree(&server, &mut ann, &mut bob, &[by_ann, by_bob.clone(), ("7", Value::Null)]).await;
    assert!(ann.state("den", "7").is_none() && ann.state("den", "ann") == Some(&json!({"mood": "ok"})));
    // The info of the credential that was issued last counts, whichever protocol brought it.
    ann.send(&json!({"type": "auth", "token": token("ann", &info("Anna", 50))}));
    agree(&server, &mut ann, &mut bob, &[("ann", json!({"name": "Anna"})), by_bob.clone(), ("7", Value::Null)]).await;
    let mut of_ann = pusher(&server).await;
    of_ann.join(CHANNEL, Some(&member("ann", &json!({"name": "Annie"})))).await;
    let annie = ("ann", json!({"name": "Annie"}));
    agree(&server, &mut ann, &mut bob, &[annie.clone(), by_bob.clone(), ("7", Value::Null)]).await;
    ann.send(&json!({"type": "auth", "token": token("ann", &info("Ann", 20))}));
    // A lost connection is kept for the grace, and a user leaves with the last connection in any protocol.
    drop(seven);
    ann.send(&json!({"type": "leave", "room": "den"}));
    ann.send(&json!({"type": "observe", "room": "den"}));
    agree(&server, &mut ann, &mut bob, &[annie, by_bob.clone(), ("7", Value::Null)]).await;
    pusher(&server).await.join(CHANNEL, Some(r#"{"user_id":"7"}"#)).await;
    of_ann.close(1000);
    agree(&server, &mut ann, &mut bob, &[by_bob, ("7", Value::Null)]).await;
    assert_eq!(bob.of("pusher_internal:member_added").len(), 1);
    let updates: Vec<_> = bob.of("rollcall:member_updated").iter().map(|update| update["data"].to_string()).collect();
    let update = |name: &str| json!({"user_id": "ann", "user_info": {"name": name}}).to_string();
    assert_eq!(updates, ["Anna", "Annie"].map(update));
    server.stop().await;
}

#[tokio::test]
async fn half_of_an_emoji_in_an_info_is_replaced_so_that_every_client_can_read_it() {
    let server = start(&[]);
    let mut ann = native(&server, "ann", &["den"], &json!({})).await;
    let mut bob = pusher(&server).await;
    bob.join(CHANNEL, Some(r#"{"user_id":"bob","user_info":{"name":"Bob \ud83d","n":[1.5,"\u00e9"]}}"#)).await;
    let info = json!({"name": "Bob \u{fffd}", "n": [1.5, "é"]});
    agree(&server, &mut ann, &mut bob, &[("ann", Value::Null), ("bob", info)]).await;
    server.stop().await;
}

#[tokio::test]
async fn messages_do_not_cross_between_native_and_pusher_clients() {
    let server = start(&[]);
    let mut ann = native(&server, "ann", &["den"], &json!({})).await;
    let mut ann_too = native(&server, "ann", &["den"], &json!({})).await;
    let (mut bob, mut carl) = (pusher(&server).await, pusher(&server).await);
    bob.join(CHANNEL, Some(r#"{"user_id":8}"#)).await;
    carl.join(CHANNEL, Some(r#"{"user_id":"carl"}"#)).await;
    for mirror in [&mut ann, &mut ann_too] {
        mirror.wait_until("the members", |mirror| mirror.size("den") == 3).await;
    }
    ann.send(&json!({"type": "message", "room": "den", "data": "native"}));
    let answer = server.post_json("/v1/rooms/den/messages", &json!({"data": "of the application"})).await;
    assert_eq!(answer.status, 202);
    bob.trigger(CHANNEL, "client-event", &json!({"n": 1}));
    let event = json!({"name": "news", "data": "1", "channels": [CHANNEL]});
    Call::post(APP, "/apps/1/events", &event).ok(server.address()).await;
    for mirror in [&mut ann, &mut ann_too] {
        mirror.wait_until("both messages", |mirror| mirror.since(0, "message", "den").len() == 2).await;
    }
    for (client, events) in [(&mut bob, 0), (&mut carl, 1)] {
        client.wait_until("the event", |client| !client.of("news").is_empty()).await;
        let relayed = client.of("client-event");
        assert_eq!(relayed.len(), events);
        assert!(relayed.iter().all(|event| event["user_id"] == "8" && event["channel"] == CHANNEL), "{relayed:?}");
    }
    // One tick more: nothing else comes.
    ann.barrier().await;
    carl.sync().await;
    assert_eq!(ann.since(0, "message", "").len(), 2);
    let of_channel = carl.log.iter().filter(|message| message["channel"] == CHANNEL).map(|message| &message["event"]);
    let expected = ["pusher_internal:subscription_succeeded", "client-event", "news"];
    assert_eq!(of_channel.collect::<Vec<_>>(), expected);
    // A cache channel that is a shared room keeps its last event, and no message of another protocol.
    let event = json!({"name": "cached", "data": "1", "channels": ["presence-cache-den"]});
    Call::post(APP, "/apps/1/events", &event).ok(server.address()).await;
    server.post_json("/v1/rooms/cache-den/messages", &json!({"data": "later"})).await;
    ann.barrier().await;
    carl.join("presence-cache-den", Some(r#"{"user_id":"carl"}"#)).await;
    carl.wait_until("the last event", |carl| carl.of("cached").len() == 1).await;
    server.stop().await;
}

#[tokio::test]
async fn members_and_rooms_that_other_protocols_could_not_have_are_refused() {
    let server = start(&[]);
    let mut client = pusher(&server).await;
    let long = "é".repeat(65);
    let (nested, array) = (json!({"a": [[[[[[[[1]]]]]]]]}), json!([1]));
    let longest = format!("presence-{}", "x".repeat(128));
    let too_long = format!("{longest}x");
    let ann = member("ann", &json!({}));
    let refused = [
        (CHANNEL, member("e\u{301}", &json!({})), "NFC"),
        (CHANNEL, member(&long, &json!({})), "128 bytes"),
        (CHANNEL, member(" ann", &json!({})), "without spaces"),
        (CHANNEL, member("\u{0}pusher:1:ann", &json!({})), "user_id"),
        (CHANNEL, member("ann", &array), "JSON object"),
        (CHANNEL, member("ann", &nested), "8 levels"),
        (CHANNEL, member("ann", &json!({"a": "x".repeat(1024)})), "1024 bytes"),
        ("presence-", ann.clone(), "1 to 128 characters"),
        (&too_long, ann.clone(), "1 to 128 characters"),
    ];
    for (number, (channel, data, words)) in refused.iter().enumerate() {
        client.subscribe(channel, Some(data));
        client.wait_until("an error", |client| client.of("pusher:subscription_error").len() > number).await;
        let error = client.of("pusher:subscription_error")[number];
        assert!(error["channel"] == *channel && error["data"]["error"].as_str().unwrap().contains(words), "{error}");
    }
    client.join(&longest, Some(&ann)).await;
    client.join(CHANNEL, Some(&member("é", &json!({})))).await;
    assert!(client.channels.len() == 2 && server.count("den").await == 1);
    // A channel that cannot be a room is not asked about, and nothing is published to it.
    let path = format!("/apps/1/channels/{too_long}");
    assert!(Call::get(APP, &path).error(server.address(), 400).await.contains("1 to 128 characters"));
    let event = json!({"name": "e", "data": "", "channels": ["news", too_long]});
    Call::post(APP, "/apps/1/events", &event).error(server.address(), 400).await;
    client.unsubscribe(&too_long);
    client.sync().await;
    // The limit of connections is that of the user in all protocols.
    server.stop().await;
    let server = start(&["--connections-per-user", "2"]);
    let mut client = pusher(&server).await;
    client.join(CHANNEL, Some(&ann)).await;
    let _native = native(&server, "ann", &[], &json!({})).await;
    let mut third = pusher(&server).await;
    third.subscribe(CHANNEL, Some(&ann));
    third.wait_until("an error", |third| !third.of("pusher:subscription_error").is_empty()).await;
    server.stop().await;
}

#[tokio::test]
async fn a_kicked_user_loses_the_pusher_connections_and_watchers_see_who_is_online() {
    let server = start(&[]);
    let mut watcher = native(&server, "watcher", &["den"], &json!({"watch": ["*"]})).await;
    watcher.send(&json!({"type": "watch", "users": ["ann", "bob"]}));
    let online = |mirror: &Mirror, user: &str| mirror.watched.get(user).is_some_and(|status| status["online"] == true);
    let (mut ann, mut bob) = (pusher(&server).await, pusher(&server).await);
    ann.join(CHANNEL, Some(r#"{"user_id":"ann"}"#)).await;
    ann.join("private-ann", None).await;
    bob.join(CHANNEL, Some(r#"{"user_id":"bob"}"#)).await;
    watcher.wait_until("both", |watcher| online(watcher, "ann") && online(watcher, "bob")).await;
    let answer = server.post_json("/v1/users/ann/kick", &json!({})).await;
    assert_eq!(answer.status, 200);
    assert_eq!(ann.wait_for_close().await, Some(4009));
    watcher.wait_until("the leave", |watcher| !online(watcher, "ann") && !watcher.has("den", "ann")).await;
    bob.wait_until("the leave", |bob| bob.members(CHANNEL) == ["bob", "watcher"]).await;
    assert!(online(&watcher, "bob"));
    server.stop().await;
}

#[tokio::test]
async fn the_api_of_the_application_shows_native_rooms_as_presence_channels() {
    let server = start(&["--pusher-app", "2:other-key:other-secret"]);
    let get = async |path: &str, parameters: &[&str]| {
        let call = parameters.iter().fold(Call::get(APP, path), |call, parameter| call.with(parameter));
        call.ok(server.address()).await
    };
    let mut ann = native(&server, "ann", &["den", "a b"], &json!({})).await;
    ann.send(&json!({"type": "observe", "room": "only observed"}));
    ann.send(&json!({"type": "observe", "room": "observed"}));
    let mut bob = pusher(&server).await;
    bob.join(CHANNEL, Some(r#"{"user_id":"bob"}"#)).await;
    bob.join("news", None).await;
    ann.wait_until("all", |ann| ann.has("den", "bob") && ann.observes("observed")).await;
    assert_eq!(get("/apps/1/channels", &[]).await, json!({"channels": {"news": {}, "presence-den": {}}}));
    let of_prefix = get("/apps/1/channels", &["filter_by_prefix=presence-d", "info=user_count"]).await;
    assert_eq!(of_prefix, json!({"channels": {"presence-den": {"user_count": 2}}}));
    let counts = ["info=user_count,subscription_count"];
    let expected = json!({"occupied": true, "user_count": 2, "subscription_count": 2});
    assert_eq!(get("/apps/1/channels/presence-den", &counts).await, expected);
    let expected = json!({"occupied": false, "user_count": 0, "subscription_count": 1});
    assert_eq!(get("/apps/1/channels/presence-observed", &counts).await, expected);
    let users = get("/apps/1/channels/presence-den/users", &[]).await;
    assert_eq!(users, json!({"users": [{"id": "ann"}, {"id": "bob"}]}));
    let event = json!({"name": "e", "data": "", "channels": [CHANNEL], "info": "user_count"});
    let answer = Call::post(APP, "/apps/1/events", &event).ok(server.address()).await;
    assert_eq!(answer, json!({"channels": {"presence-den": {"user_count": 2}}}));
    let rooms = server.get("/v1/rooms").await.json();
    let den = rooms["rooms"].as_array().expect("rooms").iter().find(|room| room["room"] == "den");
    assert_eq!(den, Some(&json!({"room": "den", "count": 2, "observers": 2})));
    // Another application has its own channels.
    let other = super::connecting::OTHER;
    let mut carl = PusherClient::connect(server.address(), other).await;
    carl.join(CHANNEL, Some(r#"{"user_id":"carl"}"#)).await;
    assert_eq!(carl.members(CHANNEL), ["carl"]);
    let users = Call::get(other, "/apps/2/channels/presence-den/users").ok(server.address()).await;
    assert_eq!(users, json!({"users": [{"id": "carl"}]}));
    server.stop().await;
}

#[tokio::test]
async fn clients_of_the_older_protocols_see_pusher_members_of_the_lobby_and_no_events() {
    let server = start(&["--token-in-query"]);
    let path = |path: &str, user: &str| format!("{path}token={}", token(user, &json!({})));
    let mut chat = EventClient::connect(server.address(), &path("/ws?", "chat")).await;
    chat.send(&json!({"type": "join", "payload": {"user": "chat"}}));
    let mut status = EventClient::connect(server.address(), &path("/ws-online-status?userId=status&", "status")).await;
    let mut ann = pusher(&server).await;
    ann.join("presence-lobby", Some(r#"{"user_id":"ann"}"#)).await;
    let joined = |chat: &EventClient| chat.of("join").iter().any(|join| join["payload"]["user"] == "ann");
    chat.wait_until("ann", joined).await;
    status.wait_until("ann", |status| status.online.contains("\"ann\"")).await;
    ann.wait_until("all", |ann| ann.members("presence-lobby") == ["ann", "chat", "status"]).await;
    // What looks like a message of the chat is not one, and it is not in the history.
    ann.trigger("presence-lobby", "client-a", &json!({"text": "an event"}));
    chat.send(&json!({"type": "msg", "payload": {"text": "hello"}}));
    chat.wait_until("its message", |chat| !chat.of("msg").is_empty()).await;
    let mut later = EventClient::connect(server.address(), &path("/ws?", "later")).await;
    later.send(&json!({"type": "join", "payload": {"user": "later"}}));
    later.wait_until("the history", |later| !later.of("msg").is_empty()).await;
    ann.close(1000);
    let left = |chat: &EventClient| chat.of("leave").iter().any(|leave| leave["payload"]["user"] == "ann");
    chat.wait_until("the leave", left).await;
    status.wait_until("the leave", |status| !status.online.contains("\"ann\"")).await;
    assert!(chat.of("msg").len() == 1 && later.of("msg").len() == 1 && ann.of("msg").is_empty());
    let authorization = format!("Bearer {}", token("list", &json!({})));
    let headers = [("authorization", &*authorization)];
    let names = http::request(server.address(), "GET", "/online_users", &headers, b"").await.json();
    assert!(!names.to_string().contains("ann"), "{names}");
    server.stop().await;
}

#[test]
fn rooms_cannot_be_shared_by_an_unknown_application_or_with_clients_who_choose_their_names() {
    let app = ["--pusher-app", "1:app-key:sesame"];
    let secret = ["--jwt-secret", SECRET];
    for (flags, words) in [
        (vec!["--pusher-rooms", "1"], "--pusher-rooms is 1, and no --pusher-app has this ID"),
        ([&app[..], &secret, &["--pusher-rooms", "2"]].concat(), "--pusher-rooms is 2, and no --pusher-app"),
        ([&app[..], &["--pusher-rooms", "1"]].concat(), "neither tokens"),
        ([&app[..], &["--open", "--pusher-rooms", "1"]].concat(), "nor --auth-url"),
        ([&app[..], &["--dev-login", "--pusher-rooms", "1"]].concat(), "could take the names of members"),
        ([&app[..], &secret, &["--pusher-rooms", "x"]].concat(), "--pusher-rooms"),
    ] {
        let output = run_to_exit(command(&[&["--listen", "127.0.0.1:0"], &flags[..]].concat()));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{flags:?}: {text}");
        assert!(text.contains(words) && !text.contains("sesame"), "{flags:?}: {text}");
    }
}
