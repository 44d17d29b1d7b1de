//! Users who are connected are asked about again. Here no server is around what asks.

use rollcall::Config;
use rollcall::auth::callback::{Undecided, Verdict};
use rollcall::auth::{Auth, Authenticator, Credentials, Headers, Renewal};
use serde_json::json;

use super::{ORIGIN, SECRET, flags};
use crate::common::{Does, Upstream};

/// What asks the application at this URL, without a server around it.
async fn started(url: &str, more: &[&str]) -> Auth {
    let config = Config::from_args([&["rollcall"], &flags(url)[..], more].concat()).expect("valid flags");
    let auth = Auth::new(&config, 0).expect("valid settings");
    auth.start().await.expect("a thread");
    auth
}

#[tokio::test]
async fn a_recheck_names_the_user_and_the_session_and_no_cookie() {
    let application = Upstream::start(|seen| match seen.json()["session"].as_str() {
        Some("gone") => Does::json(401, &json!({})),
        Some("other") => Does::json(200, &json!({"user": "bob"})),
        _ => Does::json(200, &json!({"user": "alice", "session": "next"})),
    })
    .await;
    let auth = started(&application.url("/"), &[]).await;
    let callback = auth.callback.as_ref().expect("--auth-url");
    let Verdict::Accepted { user, grant } = callback.recheck("alice", Some("first")).await else { panic!("accepted") };
    assert_eq!((&*user, &grant.renewal), ("alice", &Renewal::Recheck { session: Some("next".into()) }));
    assert!(matches!(callback.recheck("alice", None).await, Verdict::Accepted { .. }));
    assert!(matches!(callback.recheck("alice", Some("gone")).await, Verdict::Refused(_)));
    assert!(matches!(callback.recheck("alice", Some("other")).await, Verdict::Refused(_)));
    let seen = application.seen();
    assert_eq!(seen[0].json(), json!({"recheck": true, "user": "alice", "session": "first"}));
    assert_eq!(seen[1].json(), json!({"recheck": true, "user": "alice"}));
    assert!(seen.iter().all(|seen| seen.header("cookie").is_none()));
    assert_eq!(seen[0].header("authorization"), Some(&*format!("Bearer {SECRET}")));
    application.die().await;
    assert_eq!(callback.recheck("alice", None).await, Verdict::Undecided(Undecided::Failed));
}

#[tokio::test]
async fn a_flood_of_newcomers_does_not_delay_a_recheck() {
    let application = Upstream::start(|seen| match seen.json()["recheck"].as_bool() {
        Some(true) => Does::json(200, &json!({"user": "alice"})),
        _ => Does::Hold(200, String::new()),
    })
    .await;
    let auth = started(&application.url("/"), &["--auth-concurrency", "4"]).await;
    let callback = auth.callback.as_ref().expect("--auth-url");
    let newcomers = (0..50).map(|number| {
        let cookie = format!("sid={number}");
        let headers =
            Lines(vec![("host", "localhost".to_owned()), ("origin", ORIGIN.1.to_owned()), ("cookie", cookie)]);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        async move {
            let credentials = Credentials {
                protocol: "native",
                subprotocol: None,
                address,
                counted: None,
                path: "/v1/connect",
                query: "",
                claimed_user: None,
                may_use_cookies: true,
                headers: &headers,
                unix_ms: 0,
            };
            callback.authenticate(&credentials).await.map(drop)
        }
    });
    let mut newcomers = futures_util::future::join_all(newcomers);
    let recheck = async {
        application.wait_for_held(3).await;
        callback.recheck("alice", None).await
    };
    tokio::select! {
        _ = &mut newcomers => panic!("they are held"),
        verdict = recheck => assert!(matches!(verdict, Verdict::Accepted { .. })),
    }
}

/// Headers as lines of names and values.
struct Lines(Vec<(&'static str, String)>);

impl Headers for Lines {
    fn values(&self, name: &'static str) -> Vec<&[u8]> {
        self.0.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.as_bytes()).collect()
    }
}
