//! Property: whatever bytes a client sends, the server still serves others, sends only well-formed frames, and sends
//! observers only consistent messages. The cases are the same in every run.

use std::cell::RefCell;
use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Runtime;

use crate::common::raw::upgrade_request;
use crate::common::{Frame, Mirror, RawClient, TestServer};

/// Enough to reach every branch of the decoders many times within a few seconds.
const CASES: u32 = 400;

/// Something a client sends.
#[derive(Clone, Debug)]
enum Chunk {
    /// Bytes that are not a frame.
    Bytes(Vec<u8>),
    Frame(Frame),
    /// A frame whose header claims the wrong length.
    WrongLength(Frame, u64),
    /// A valid or almost valid message.
    Message(String),
}

impl Chunk {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Frame(frame) => frame.encode(),
            Self::WrongLength(frame, length) => {
                let mut bytes = frame.header(*length);
                bytes.extend_from_slice(&frame.payload);
                bytes
            }
            Self::Message(text) => Frame::text(text).encode(),
        }
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let payload = prop_oneof![vec(any::<u8>(), 0..140), "[ -~]{0,40}".prop_map(String::into_bytes)];
    (prop::bool::weighted(0.8), prop::bool::weighted(0.05), 0..16u8, prop::bool::weighted(0.97), payload).prop_map(
        |(fin, reserved, opcode, masked, payload)| {
            let rsv = u8::from(reserved) * (1 + opcode % 7);
            // Mostly opcodes that exist, so that connections live long enough to reach deeper states.
            let opcode = if opcode < 11 { [0, 1, 1, 1, 9, 10, 0, 1, 8, 2, opcode][usize::from(opcode)] } else { 1 };
            Frame { fin, rsv, opcode, masked, payload }
        },
    )
}

fn any_message() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        "join",
        "leave",
        "state",
        "observe",
        "unobserve",
        "resync",
        "heartbeat",
        "watch",
        "x",
    ]);
    let field = prop_oneof![
        Just(r#""room":"lobby""#.to_owned()),
        Just(r#""room":"other""#.to_owned()),
        Just(r#""state":{"a":[1,{"b":null}],"c":"ü\ud83d\ude00"}"#.to_owned()),
        Just(r#""detail":"count""#.to_owned()),
        Just(r#""observe":false"#.to_owned()),
        Just(r#""resume":{"epoch":"x","seq":1}"#.to_owned()),
        Just(r#""ack":true"#.to_owned()),
        ("[a-z]{1,6}", any::<f64>()).prop_map(|(name, value)| format!("\"{name}\":{value}")),
        any::<String>().prop_map(|text| format!("\"room\":{}", serde_json::Value::from(text))),
    ];
    (kind, vec(field, 0..4), prop::option::weighted(0.2, 0..80usize)).prop_map(|(kind, fields, cut)| {
        let mut text = format!("{{\"type\":\"{kind}\"");
        for field in fields {
            text.push(',');
            text.push_str(&field);
        }
        text.push('}');
        if let Some(cut) = cut {
            let end = text.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(text.len());
            text.truncate(end);
        }
        text
    })
}

fn any_chunk() -> impl Strategy<Value = Chunk> {
    prop_oneof![
        1 => vec(any::<u8>(), 0..200).prop_map(Chunk::Bytes),
        4 => any_frame().prop_map(Chunk::Frame),
        1 => (any_frame(), any::<u64>(), 0..64u32)
            .prop_map(|(frame, length, shift)| Chunk::WrongLength(frame, length >> shift)),
        6 => any_message().prop_map(Chunk::Message),
    ]
}

fn runner() -> TestRunner {
    let config = Config { cases: Config::default().cases.max(CASES), failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Runs the cases against one server, and checks one observer after each.
fn check<S, F>(strategy: &S, mut case: impl FnMut(S::Value, SocketAddr) -> F)
where
    S: Strategy,
    F: Future<Output = ()>,
{
    let runtime = Runtime::new().expect("a runtime");
    let (server, observer) = runtime.block_on(async {
        let server = TestServer::start(&[]);
        let observer = server.connect_to("observer", "lobby").await;
        (server, observer)
    });
    let address = server.address();
    let observer = RefCell::new(observer);
    let case = RefCell::new(&mut case);
    let outcome = runner().run(strategy, |value| {
        runtime.block_on((case.borrow_mut())(value, address));
        let mut observer = observer.borrow_mut();
        runtime.block_on(check_observer(&mut observer));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(async {
        let mut observer = observer.into_inner();
        let members = server.wait_for_agreement("lobby", std::slice::from_mut(&mut observer)).await;
        assert!(members.contains_key("observer"));
        server.stop().await;
    });
}

async fn check_observer(observer: &mut Mirror) {
    observer.heartbeat().await;
    observer.log.clear();
}

#[test]
fn any_frames_leave_others_unaffected() {
    // The chunks, and the number of bytes per write.
    let strategy = (vec(any_chunk(), 0..20), 1..400usize);
    check(&strategy, |(chunks, write), address| async move {
        let bytes: Vec<u8> = chunks.iter().flat_map(Chunk::bytes).collect();
        let mut client = RawClient::open(address, "/v1/connect?user=random&room=lobby").await;
        for part in bytes.chunks(write) {
            client.send(part).await;
        }
        client.shut_down().await;
    });
}

#[test]
fn any_online_users_text_leaves_others_unaffected() {
    let strategy = vec(prop_oneof![any::<String>(), Just("heartbeat".to_owned())], 0..10);
    check(&strategy, |texts, address| async move {
        let mut client = RawClient::open(address, "/ws/random").await;
        for text in &texts {
            client.send_frame(&Frame::text(text)).await;
            let answer = if text == "heartbeat" { "heartbeat_ack" } else { "error" };
            client.json_of_type(answer).await;
        }
        client.shut_down().await;
    });
}

#[test]
fn any_chat_text_leaves_others_unaffected() {
    let known = || {
        ["msg", "join", "ping", "leave"].map(|kind| format!("{{\"type\":\"{kind}\",\"payload\":{{\"text\":\"x\"}}}}"))
    };
    let strategy = vec(prop_oneof![any::<String>(), proptest::sample::select(known().to_vec())], 0..10);
    check(&strategy, |texts, address| async move {
        let mut client = RawClient::open(address, "/ws").await;
        client.send_frame(&Frame::text(r#"{"type":"join","payload":{"user":"random"}}"#)).await;
        for text in &texts {
            client.send_frame(&Frame::text(text)).await;
        }
        client.send_frame(&Frame::text(r#"{"type":"ping"}"#)).await;
        client.json_of_type("pong").await;
        client.shut_down().await;
    });
}

#[test]
fn any_request_bytes_leave_others_unaffected() {
    // A valid request with some bytes changed and cut somewhere, or arbitrary bytes.
    let good = upgrade_request("/v1/connect?user=random&room=lobby", &[]);
    let length = good.len();
    let changed = (vec((0..length, any::<u8>()), 0..4), 0..=length).prop_map(move |(changes, end)| {
        let mut bytes = good.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(end);
        bytes
    });
    let strategy = prop_oneof![3 => changed, 1 => vec(any::<u8>(), 0..300)];
    check(&strategy, |bytes, address| async move {
        let mut client = RawClient::tcp(address).await;
        client.send(&bytes).await;
        let answer = client.shut_down_undecoded().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
    });
}

#[test]
fn any_request_body_leaves_others_unaffected() {
    let body = prop_oneof![
        vec(any::<u8>(), 0..200),
        any_message().prop_map(String::into_bytes),
        any::<String>().prop_map(|text| format!("user_id={text}").into_bytes()),
    ];
    let kind = prop::sample::select(vec!["application/json", "application/x-www-form-urlencoded", "x"]);
    let path = prop::sample::select(vec!["/heartbeat", "/v1/users/status"]);
    check(&(path, kind, body), |(path, kind, body), address| async move {
        let response = crate::common::http::request(address, "POST", path, &[("content-type", kind)], &body).await;
        assert!(matches!(response.status, 200 | 400 | 415 | 422), "{response:?}");
    });
}
