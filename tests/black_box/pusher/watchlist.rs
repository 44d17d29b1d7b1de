//! Watchlists: which users are signed in, as the users who watch them are told.

use serde_json::json;

use super::connecting::OTHER;
use super::{client, last_error};
use crate::common::pusher::APP_FLAGS;
use crate::common::{PusherClient, TestServer};

#[tokio::test]
async fn a_watcher_is_told_the_present_state_and_then_the_changes() {
    let server = TestServer::start(&APP_FLAGS);
    let (mut ann, mut bob) = (client(&server).await, client(&server).await);
    bob.sign_in_as("bob", &[]).await;
    // Each user once, although the list has some twice.
    ann.sign_in_as("ann", &["carl", "bob", "carl", "bob"]).await;
    let log: Vec<_> = ann.log.iter().map(|message| message["event"].clone()).collect();
    assert_eq!(log[1], "pusher:signin_success", "before all watchlist events");
    ann.wait_for_watched(&["+bob", "-carl"]).await;
    let events = ann.of("pusher_internal:watchlist_events");
    assert!(events.len() == 1 && events[0].get("channel").is_none(), "{events:?}");
    // A member of a channel is not signed in.
    let mut member = client(&server).await;
    member.join("presence-room", Some(r#"{"user_id":"carl"}"#)).await;
    member.close(1000);
    // Users without a watchlist are online for others.
    let mut carl = client(&server).await;
    carl.sign_in_as("carl", &[]).await;
    ann.wait_for_watched(&["+bob", "-carl", "+carl"]).await;
    bob.close(1000);
    ann.wait_for_watched(&["+bob", "-carl", "+carl", "-bob"]).await;
    carl.sync().await;
    assert!(carl.watched().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_user_is_online_with_the_first_connection_until_the_last_one_ends() {
    let server = TestServer::start(&APP_FLAGS);
    let mut ann = client(&server).await;
    ann.sign_in_as("ann", &["bob", "end"]).await;
    ann.wait_for_watched(&["-bob", "-end"]).await;
    let (mut one, mut two) = (client(&server).await, client(&server).await);
    one.sign_in_as("bob", &[]).await;
    ann.wait_for_watched(&["-bob", "-end", "+bob"]).await;
    two.sign_in_as("bob", &["carl"]).await;
    one.close(1000);
    one.wait_until("the end", |one| one.ended).await;
    client(&server).await.sign_in_as("end", &[]).await;
    ann.wait_for_watched(&["-bob", "-end", "+bob", "+end"]).await;
    two.close(1000);
    ann.wait_until("the leave", |ann| ann.watched().contains(&"-bob".to_owned())).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_is_told_about_himself_unless_he_asks() {
    let server = TestServer::start(&APP_FLAGS);
    let mut ann = client(&server).await;
    ann.sign_in_as("ann", &["bob"]).await;
    ann.wait_for_watched(&["-bob"]).await;
    // Whom others watch is not told when he comes online.
    let mut bob = client(&server).await;
    bob.sign_in_as("bob", &["carl"]).await;
    ann.wait_for_watched(&["-bob", "+bob"]).await;
    let mut carl = client(&server).await;
    carl.sign_in_as("carl", &["carl", "ann"]).await;
    bob.wait_for_watched(&["-carl", "+carl"]).await;
    carl.wait_until("himself", |carl| carl.watched().contains(&"+carl".to_owned())).await;
    for client in [&mut ann, &mut bob] {
        client.sync().await;
    }
    assert!(ann.watched() == ["-bob", "+bob"] && bob.watched() == ["-carl", "+carl"]);
    server.stop().await;
}

#[tokio::test]
async fn a_reload_of_a_watched_user_is_not_told() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--grace", "600s"]].concat());
    let mut ann = client(&server).await;
    ann.sign_in_as("ann", &["bob", "end"]).await;
    ann.wait_for_watched(&["-bob", "-end"]).await;
    let mut bob = client(&server).await;
    bob.sign_in_as("bob", &[]).await;
    ann.wait_for_watched(&["-bob", "-end", "+bob"]).await;
    for is_lost in [true, false] {
        match is_lost {
            true => drop(bob),
            false => {
                bob.close(1001);
                bob.wait_until("the end", |bob| bob.ended).await;
            }
        }
        bob = client(&server).await;
        bob.sign_in_as("bob", &[]).await;
    }
    let mut end = client(&server).await;
    end.sign_in_as("end", &[]).await;
    ann.wait_for_watched(&["-bob", "-end", "+bob", "+end"]).await;
    server.stop().await;
}

#[tokio::test]
async fn signing_in_again_replaces_the_watchlist() {
    let server = TestServer::start(&APP_FLAGS);
    let mut ann = client(&server).await;
    ann.sign_in_as("ann", &["bob", "carl"]).await;
    ann.wait_for_watched(&["-bob", "-carl"]).await;
    ann.sign_in_as("ann", &["carl", "dora"]).await;
    ann.wait_for_watched(&["-bob", "-carl", "-carl", "-dora"]).await;
    let sign_in = async |user: &str| {
        let mut client = client(&server).await;
        client.sign_in_as(user, &[]).await;
        client
    };
    let (_bob, _carl) = (sign_in("bob").await, sign_in("carl").await);
    ann.wait_for_watched(&["-bob", "-carl", "-carl", "-dora", "+carl"]).await;
    ann.sign_in_as("ann", &[]).await;
    let _dora = sign_in("dora").await;
    // A last watchlist shows that nothing was told in the meantime.
    ann.sign_in_as("ann", &["dora"]).await;
    ann.wait_for_watched(&["-bob", "-carl", "-carl", "-dora", "+carl", "+dora"]).await;
    server.stop().await;
}

#[tokio::test]
async fn of_a_longer_watchlist_the_first_hundred_are_watched() {
    let server = TestServer::start(&APP_FLAGS);
    let names: Vec<String> = (0..101).map(|number| format!("u{number:03}")).collect();
    let mut list: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut ann, mut bob) = (client(&server).await, client(&server).await);
    // Duplicates do not count.
    let hundred = [&list[..100], &list[..100]].concat();
    bob.sign_in_as("bob", &hundred).await;
    let offline: Vec<String> = list[..100].iter().map(|user| format!("-{user}")).collect();
    bob.wait_until("all", |bob| bob.watched() == offline).await;
    assert!(bob.of("pusher:error").is_empty());
    list.reverse();
    ann.sign_in_as("ann", &list).await;
    ann.wait_until("an error", |ann| !ann.of("pusher:error").is_empty()).await;
    assert_eq!(last_error(&ann).0, 4302);
    ann.wait_until("all", |ann| ann.watched().len() >= 100).await;
    for user in ["u000", "u001"] {
        client(&server).await.sign_in_as(user, &[]).await;
    }
    ann.wait_until("a change", |ann| ann.watched().len() > 100).await;
    assert_eq!(ann.watched().last().map(String::as_str), Some("+u001"));
    assert!(!ann.watched().contains(&"-u000".to_owned()) && ann.watched().contains(&"-u100".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn watchlists_do_not_cross_applications_and_protocols() {
    let server = TestServer::start(&[&APP_FLAGS[..], &["--pusher-app", "2:other-key:other-secret"]].concat());
    let mut ann = client(&server).await;
    ann.sign_in_as("ann", &["bob", "#bob"]).await;
    ann.wait_for_watched(&["-#bob", "-bob"]).await;
    let mut other = PusherClient::connect(server.address(), OTHER).await;
    other.sign_in_as("bob", &["ann"]).await;
    other.wait_for_watched(&["-ann"]).await;
    // Native users of this name are others.
    let mut native = server.connect_to("bob", "lobby").await;
    native.send(&json!({"type": "watch", "users": ["ann", "#bob"]}));
    native.wait_until("the status", |native| native.watched.len() == 2).await;
    client(&server).await.sign_in_as("#bob", &[]).await;
    ann.wait_until("a change", |ann| ann.watched().len() > 2).await;
    assert_eq!(ann.watched()[2], "+#bob");
    native.barrier().await;
    assert!(native.watched.values().all(|status| status["online"] == false), "{:?}", native.watched);
    server.stop().await;
}
