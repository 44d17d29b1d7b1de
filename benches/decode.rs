//! Decoding of client messages into commands.
//!
//! `native` is the decoder of the server, `reader` its JSON reader alone, `simd_json` the crate with a reused tape and
//! reused buffers, `serde_json` a `Value`. The results differ in form (a `Value` allocates what a tape does not), so
//! this compares tools for the same task rather than parsers. All but serde_json copy their input first, because
//! simd-json modifies it.

mod common;

use std::hint::black_box;
use std::ops::ControlFlow;

use common::{Random, join_message, masked_frame};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::json::{self, Reader};
use rollcall::protocol::Command;
use rollcall::protocol::native::{self, Request};
use rollcall::websocket::decoder::{Limits, Message, decode_frames};
use simd_json::{Buffers, Tape};

/// A join without a state, with a short one, with a typical one, and with one near the limit.
const JOIN_BYTES: [usize; 4] = [30, 80, 300, 1000];
/// Heartbeats in one read: nearly always one, more if the worker was busy.
const FRAMES_PER_READ: [usize; 3] = [1, 16, 64];

/// The three forms of a heartbeat: bare text, the JSON text that is only compared, and JSON that is parsed.
fn heartbeat(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode_heartbeat");
    let mut reader = Reader::default();
    for (form, text, ack) in [
        ("bare", &b"heartbeat"[..], false),
        ("json", br#"{"type":"heartbeat"}"#, false),
        ("json_ack", br#"{"type":"heartbeat","ack":true}"#, true),
    ] {
        native::decode(&mut reader, text, |command| assert_eq!(command, Ok(Request::Heartbeat { ack })));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("native", form), |bencher| {
            bencher.iter(|| native::decode(&mut reader, black_box(text), |command| black_box(command).is_ok()));
        });
    }
    group.finish();
}

fn join(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode_join");
    let mut reader = Reader::default();
    let mut tapes = Tapes::default();
    for bytes in JOIN_BYTES {
        let text = join_message(&mut Random::new(), bytes);
        check_join(&mut reader, &mut tapes, &text);
        let text = text.as_bytes();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("native", bytes), |bencher| {
            bencher.iter(|| native::decode(&mut reader, black_box(text), |command| black_box(command).is_ok()));
        });
        group.bench_function(BenchmarkId::new("reader", bytes), |bencher| {
            bencher.iter(|| reader.read(black_box(text), |value| black_box(value).is_some()));
        });
        group.bench_function(BenchmarkId::new("simd_json", bytes), |bencher| {
            bencher.iter(|| tapes.nodes(black_box(text)));
        });
        group.bench_function(BenchmarkId::new("serde_json", bytes), |bencher| {
            bencher.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(text)).unwrap());
        });
    }
    group.finish();
}

/// From the bytes of a read to text messages, and on to commands. Frames are unmasked in place, so each iteration
/// copies the bytes first, as a read would.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode_frames");
    let mut random = Random::new();
    for count in FRAMES_PER_READ {
        let wire: Vec<u8> = (0..count).flat_map(|_| masked_frame(&mut random, b"heartbeat")).collect();
        let mut scratch = wire.clone();
        assert_eq!(count_texts(&wire, &mut scratch, |text| text == b"heartbeat"), count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("heartbeats", count), |bencher| {
            bencher.iter(|| count_texts(black_box(&wire), &mut scratch, |text| !black_box(text).is_empty()));
        });
        let mut reader = Reader::default();
        let mut is_heartbeat =
            |text: &[u8]| native::decode(&mut reader, text, |command| matches!(command, Ok(Request::Heartbeat { .. })));
        assert_eq!(count_texts(&wire, &mut scratch, &mut is_heartbeat), count);
        group.bench_function(BenchmarkId::new("heartbeats_decoded", count), |bencher| {
            bencher.iter(|| count_texts(black_box(&wire), &mut scratch, &mut is_heartbeat));
        });
    }
    for bytes in JOIN_BYTES {
        let message = join_message(&mut random, bytes);
        let wire = masked_frame(&mut random, message.as_bytes());
        let mut scratch = wire.clone();
        assert_eq!(count_texts(&wire, &mut scratch, |text| text == message.as_bytes()), 1);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("message", bytes), |bencher| {
            bencher.iter(|| count_texts(black_box(&wire), &mut scratch, |text| !black_box(text).is_empty()));
        });
    }
    group.finish();
}

/// Decodes all frames of `wire` and returns how many contain a text for which `counts` is true.
fn count_texts(wire: &[u8], scratch: &mut [u8], mut counts: impl FnMut(&[u8]) -> bool) -> usize {
    scratch.copy_from_slice(wire);
    let mut counted = 0;
    let done = decode_frames(scratch, &mut None, &Limits::PRESENCE, |message| {
        if let Message::Text(text) = message {
            counted += usize::from(counts(text));
        }
        ControlFlow::Continue(())
    });
    assert_eq!(done, Ok(wire.len()));
    counted
}

/// All parsers read the same message, and the decoder finds its join.
fn check_join(reader: &mut Reader, tapes: &mut Tapes, text: &str) {
    let expected: serde_json::Value = serde_json::from_str(text).unwrap();
    let read = reader.read(text.as_bytes(), |value| json::compact(&value.unwrap()));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read).unwrap(), expected);
    assert!(tapes.nodes(text.as_bytes()) > 2 * expected.as_object().unwrap().len());
    native::decode(reader, text.as_bytes(), |command| {
        let Ok(Request::Command(Command::Join { room, state, audience, resume })) = command else {
            panic!("{command:?}")
        };
        assert_eq!((room, audience), ("lobby", Some(native::MEMBERS)));
        assert_eq!(resume.map(|resume| resume.seq), expected["resume"]["seq"].as_u64());
        let state = state.map(|state| serde_json::from_str::<serde_json::Value>(state.as_str()).unwrap());
        assert_eq!(state.as_ref(), expected.get("state"));
    });
}

/// simd-json, reusing everything that can be reused.
struct Tapes {
    buffers: Buffers,
    tape: Tape<'static>,
    input: Vec<u8>,
}

impl Default for Tapes {
    fn default() -> Self {
        Self { buffers: Buffers::new(1024), tape: Tape(Vec::new()), input: Vec::new() }
    }
}

impl Tapes {
    /// Parses the text and returns the length of the tape.
    fn nodes(&mut self, text: &[u8]) -> usize {
        self.input.clear();
        self.input.extend_from_slice(text);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        simd_json::fill_tape(&mut self.input, &mut self.buffers, &mut tape).unwrap();
        let nodes = tape.0.len();
        self.tape = tape.reset();
        nodes
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = heartbeat, join, frames }
criterion_main!(benches);
