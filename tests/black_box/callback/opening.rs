//! Identities that end before their connections are open.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{ORIGIN, flags, refused};
use crate::common::{Does, TestServer, Upstream};

#[tokio::test]
async fn an_identity_that_is_over_when_the_connection_opens_is_refused_behind_the_response() {
    // Identities end with the second in which they began.
    let application = Upstream::start(|_| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_millis() as u64;
        Does::json(200, &json!({"user": "alice", "expires_at": now - now % 1000 + 999}))
    })
    .await;
    let url = application.url("/");
    let server = TestServer::start(&[&flags(&url)[..], &["--auth-stale", "0s"]].concat());
    let cookie = [ORIGIN, ("cookie", "sid=alice")];
    let reason = loop {
        let (code, reason) = refused(&server, "/ws/alice", &cookie).await;
        assert_eq!(code, 1013);
        // Otherwise the second ended before the answer was read.
        if !reason.contains("cannot be asked") {
            break reason;
        }
    };
    assert_eq!(reason, "the application did not confirm the session");
    server.wait_for_stat("connections", 0).await;
    assert!(server.members("lobby").await.is_empty(), "nobody has joined");
    server.stop().await;
}
