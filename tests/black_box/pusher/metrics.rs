//! What `/metrics` counts of each application.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::json;

use super::connecting::OTHER;
use crate::common::pusher::APP;
use crate::common::pusher_api::Call;
use crate::common::{EventClient, Process, PusherClient, http};

/// The metrics of an application, by name.
async fn metrics(address: SocketAddr, app: u64) -> BTreeMap<String, u64> {
    let text = http::request(address, "GET", "/metrics", &[], b"").await.body.to_vec();
    let text = String::from_utf8(text).expect("text");
    let label = format!("{{app=\"{app}\"}} ");
    let of_app = text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("rollcall_pusher_")?.split_once(&label)?;
        assert!(text.contains(&format!("# TYPE rollcall_pusher_{name} ")), "{name}");
        Some((name.to_owned(), value.parse().expect("a number")))
    });
    of_app.collect()
}

fn named(values: &[(&str, u64)]) -> BTreeMap<String, u64> {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[tokio::test]
async fn each_application_has_its_metrics_as_long_as_it_is_configured() {
    let file = std::env::temp_dir().join(format!("rollcall-apps-{}", std::process::id()));
    let (app, other) = ("1:app-key:app-secret,client-messages,max-connections=1", "22:other-key:other-secret");
    std::fs::write(&file, format!("{app}\n{other}\n")).expect("a file");
    let path = file.to_str().expect("a path");
    let mut process = Process::start(&["--open", "--tick", "10ms", "--pusher-app-file", path]);
    let address = process.address();
    let mut client = PusherClient::connect(address, APP).await;
    let mut others = PusherClient::connect(address, OTHER).await;
    client.join("private-a", None).await;
    client.join("news", None).await;
    for channel in ["private-a", "private-b", "news"] {
        client.trigger(channel, "client-a", &json!({}));
    }
    client.subscribe("a b", None);
    client.sync().await;
    let body = json!({"name": "e", "data": "", "channels": ["news", "private-a", "empty"]});
    Call::post(APP, "/apps/1/events", &body).ok(address).await;
    let mut third = EventClient::connect(address, "/app/app-key?protocol=7").await;
    assert_eq!(third.wait_for_close().await, Some(4100));
    let all = named(&[
        ("connections", 1),
        ("connections_opened_total", 1),
        ("connections_refused_total", 1),
        ("subscriptions_total", 2),
        ("subscriptions_refused_total", 1),
        ("client_events_total", 1),
        ("client_events_refused_total", 2),
        ("events_published_total", 3),
    ]);
    assert_eq!(metrics(address, 1).await, all);
    let only_opened = |(name, value): (&String, &u64)| {
        *value == u64::from(name.starts_with("connections") && !name.contains("refused"))
    };
    let of_others = metrics(address, 22).await;
    assert!(of_others.len() == all.len() && of_others.iter().all(only_opened), "{of_others:?}");
    // One that is not configured any more has none; the other ones keep theirs.
    std::fs::write(&file, app).expect("a file");
    process.signal("HUP");
    process.wait_for_line("SIGHUP: reloading");
    assert_eq!(metrics(address, 1).await, all);
    assert_eq!(metrics(address, 22).await, BTreeMap::new());
    // Its clients are sent away with their next message.
    others.send_text("{\"event\":\"pusher:ping\"}");
    assert_eq!(others.wait_for_close().await, Some(4001));
    // A mistake is logged at once, and the applications stay as they were.
    std::fs::write(&file, "nonsense").expect("a file");
    process.signal("HUP");
    process.wait_for_line("--pusher-app-file is not reloaded: --pusher-app: value 1 must be");
    client.sync().await;
    std::fs::write(&file, "1:app-key:app-secret,disabled").expect("a file");
    process.signal("HUP");
    while client.closed.is_none() {
        let pongs = client.of("pusher:pong").len();
        client.send_text("{\"event\":\"pusher:ping\"}");
        let is_answered = |client: &PusherClient| client.closed.is_some() || client.of("pusher:pong").len() > pongs;
        client.wait_until("an answer", is_answered).await;
    }
    assert_eq!(client.closed, Some(Some(4003)));
    drop(process);
    std::fs::remove_file(&file).expect("a file");
}
