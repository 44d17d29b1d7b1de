//! Which requests to the HTTP API of applications are accepted.

use serde_json::json;

use super::connecting::OTHER;
use crate::common::pusher::{APP, APP_FLAGS, App};
use crate::common::pusher_api::{Call, text_error};
use crate::common::{TestServer, http};

const EVENTS: &str = "/apps/1/events";

fn event() -> serde_json::Value {
    json!({"name": "e", "data": "x", "channels": ["news"]})
}

#[tokio::test]
async fn requests_are_accepted_as_libraries_sign_them() {
    // No flag opens the server, and none is needed.
    let server = TestServer::start(&APP_FLAGS[1..]);
    let address = server.address();
    Call::post(APP, EVENTS, &event()).ok(address).await;
    let mut spaced = Call::post(APP, EVENTS, &event());
    spaced.body = format!(" {}\n", spaced.body);
    spaced.ok(address).await;
    // Python signs the MD5 of the empty body as well.
    let channels = Call::get(APP, "/apps/1/channels");
    let with_md5 = Call { has_md5: true, ..channels.clone() };
    assert_eq!(with_md5.ok(address).await, channels.ok(address).await);
    // PHP escapes values after it has signed them.
    let call = Call::get(APP, "/apps/1/channels/presence-a").with("info=user_count,subscription_count");
    let target = call.target().replace("user_count,", "user%5Fcount%2C").replace("info", "Info");
    assert_eq!(http::request(address, "GET", &target, &[], b"").await.status, 200);
    // A clock may be wrong by ten minutes, less the time of the test.
    for offset in [-590, 590] {
        let now = Call::get(APP, "/apps/1/channels");
        let timestamp = now.timestamp.checked_add_signed(offset).unwrap();
        Call { timestamp, ..now }.ok(address).await;
    }
    let head = Call { method: "HEAD", ..channels };
    assert_eq!(head.send(address).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn other_requests_are_refused() {
    let flags = ["--pusher-app", "2:other-key:other-secret", "--pusher-app", "3:off-key:off-secret,disabled"];
    let server = TestServer::start(&[&APP_FLAGS[..], &flags].concat());
    let (address, good) = (server.address(), Call::post(APP, EVENTS, &event()));
    let body = good.body.clone();
    let send = async |method: &str, target: &str, body: &str| {
        http::request(address, method, target, &[], body.as_bytes()).await
    };
    let target = good.target();
    assert_eq!(send("POST", &target, &body).await.status, 200);
    let signature = target.split_once("auth_signature=").unwrap().1;
    let of_other = Call { app: OTHER, ..good.clone() }.target();
    let wrong_secret = Call { app: App { secret: "guess", ..APP }, ..good.clone() }.target();
    let wrong_targets = [
        EVENTS.to_owned(),
        target.split_once("&auth_signature").unwrap().0.to_owned(),
        target.replace(signature, ""),
        target.replace(signature, &signature.to_uppercase()),
        target.replace(signature, &signature[..63]),
        target.replace(signature, &signature.replace(['0', '1'], "2")),
        target.replace("auth_key=app-key", "auth_key=other-key"),
        target.replace("auth_key=app-key", "auth_key=nobody"),
        target.replace("auth_key", "key"),
        target.replace("auth_version=1.0", "auth_version=1.1"),
        target.replace("auth_timestamp", "timestamp"),
        target.replace("/apps/1/", "/apps/2/"),
        target.replace("/events", "/batch_events"),
        format!("{target}&info=x"),
        of_other,
        wrong_secret,
        Call { has_md5: false, ..good.clone() }.target(),
        Call { timestamp: good.timestamp - 610, ..good.clone() }.target(),
        Call { timestamp: good.timestamp + 610, ..good.clone() }.target(),
        Call { timestamp: 0, ..good.clone() }.target(),
    ];
    for wrong in wrong_targets {
        let text = text_error(&send("POST", &wrong, &body).await, 401);
        assert!(!text.contains(signature), "the right signature is never told: {text}");
    }
    for wrong in ["", "{}", &body.replace("news", "newt"), &format!("{body} ")] {
        text_error(&send("POST", &target, wrong).await, 401);
    }
    text_error(&send("POST", &format!("{target}&auth_version=1.0"), &body).await, 400);
    for unknown in ["/apps/9/events", "/apps/01/events", "/apps/x/events", "/apps//events", "/apps/%00/events"] {
        Call::post(APP, unknown, &event()).error(address, 404).await;
    }
    let off = App { key: "off-key", secret: "off-secret" };
    Call::post(off, "/apps/3/events", &event()).error(address, 403).await;
    assert_eq!(Call::get(APP, EVENTS).send(address).await.status, 405);
    server.stop().await;
}

#[tokio::test]
async fn wrong_signatures_are_failed_authentications_of_their_address() {
    let flags = ["--trust-proxy", "127.0.0.1", "--failures-per-address", "1"];
    let server = TestServer::start(&[&APP_FLAGS[..], &flags].concat());
    let (right, address) = (Call::get(APP, "/apps/1/channels"), server.address());
    let send = async |call: &Call<'_>, from: &str| {
        http::request(address, "GET", &call.target(), &[("x-forwarded-for", from)], b"").await
    };
    let wrong = Call { app: App { secret: "guess", ..APP }, ..right.clone() };
    let late = Call { timestamp: right.timestamp - 3600, ..right.clone() };
    for _ in 0..30 {
        // A wrong clock is not an attack.
        text_error(&send(&late, "203.0.113.1").await, 401);
    }
    let (failures, refused) = server
        .without_ticks(async || {
            let mut failures = 0;
            while send(&wrong, "203.0.113.1").await.status == 401 {
                failures += 1;
                assert!(failures < 100, "a wrong signature costs nothing");
            }
            (failures, send(&right, "203.0.113.1").await)
        })
        .await;
    assert_eq!(failures, 11, "ten at once, and the one that exceeds them");
    text_error(&refused, 429);
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{refused:?}");
    assert_eq!(send(&right, "203.0.113.2").await.status, 200, "another address");
    server.stop().await;
}
