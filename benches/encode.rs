//! Encoding of changes and rooms as complete frames.
//!
//! Throughput is in members or changes per second, for strings in bytes per second. For strings, serde_json's writer is
//! measured as well; a derived encoder would use it.

mod common;

use std::hint::black_box;

use bytes::BytesMut;
use common::{ROOM, diff_of, json_of, room_of, user_name};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::json;
use rollcall::presence::Room;
use rollcall::protocol::{native, online_users};

/// Rooms whose snapshot has less than a page, exactly one page, and many pages.
const MEMBERS: [usize; 3] = [10, 1_000, 10_000];

fn diff(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode_diff");
    let room = room_of(1);
    for changes in [1, 10, 100, 1_000] {
        let diff = diff_of(changes);
        let json = json_of(&native::encode_diff(&room, 7, 1_234, &diff));
        assert_eq!((&json["type"], &json["room"]), (&"diff".into(), &ROOM.into()));
        assert_eq!((&json["seq"], &json["count"]), (&7.into(), &1_234.into()));
        let listed = |field: &str| json.get(field).map_or(0, |list| list.as_array().unwrap().len());
        assert_eq!(
            [listed("joined"), listed("updated"), listed("left")],
            [diff.joined.len(), diff.updated.len(), diff.left.len()]
        );
        group.throughput(Throughput::Elements(changes as u64));
        group.bench_function(BenchmarkId::from_parameter(changes), |bencher| {
            bencher.iter(|| native::encode_diff(&room, 7, 1_234, black_box(&diff)));
        });
    }
    group.finish();
}

/// The whole room, for the three kinds of observers.
fn rooms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode_room");
    for members in MEMBERS {
        let room = room_of(members);
        check_room(&room, members);
        group.throughput(Throughput::Elements(members as u64));
        group.bench_function(BenchmarkId::new("snapshot", members), |bencher| {
            bencher.iter(|| native::encode_snapshot(black_box(&room)));
        });
        group.bench_function(BenchmarkId::new("user_list", members), |bencher| {
            bencher.iter(|| user_list(black_box(&room)));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("count", members), |bencher| {
            bencher.iter(|| native::encode_count(black_box(&room), 7, members));
        });
    }
    group.finish();
}

fn strings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode_string");
    for bytes in [12, 128, 1_024] {
        for (kind, pattern) in
            [("plain", "user-name "), ("some_escapes", "a \"quoted\" word\n"), ("escapes", "\"\\\n\u{1}")]
        {
            let text: String = pattern.chars().cycle().take(bytes).collect();
            let mut buffer = BytesMut::with_capacity(6 * bytes + 2);
            json::put_string(&mut buffer, &text);
            assert_eq!(serde_json::from_slice::<String>(&buffer).unwrap(), text);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(format!("put_string/{kind}"), bytes), |bencher| {
                bencher.iter(|| {
                    buffer.clear();
                    json::put_string(&mut buffer, black_box(&text));
                    buffer.len()
                });
            });
            let mut written = Vec::with_capacity(6 * bytes + 2);
            group.bench_function(BenchmarkId::new(format!("serde_json/{kind}"), bytes), |bencher| {
                bencher.iter(|| {
                    written.clear();
                    serde_json::to_writer(&mut written, black_box(&text)).unwrap();
                    written.len()
                });
            });
        }
    }
    group.finish();
}

fn user_list(room: &Room) -> bytes::Bytes {
    room.read(|roster| online_users::encode_list(roster.members_after(None).map(|(user, _)| user)))
}

fn check_room(room: &Room, members: usize) {
    let mut expected: Vec<String> = (0..members).map(user_name).collect();
    expected.sort_unstable();
    let pages: Vec<_> = native::encode_snapshot(room).iter().map(|page| json_of(page)).collect();
    assert!(pages.iter().all(|page| page["count"] == members && page["pages"] == pages.len()));
    let listed: Vec<_> = pages.iter().flat_map(|page| page["members"].as_array().unwrap()).collect();
    assert!(listed.iter().map(|member| member["user"].as_str().unwrap()).eq(&expected));
    assert_eq!(listed.iter().filter(|member| member.get("state").is_some()).count(), members / 2);
    assert_eq!(json_of(&user_list(room))["users"], serde_json::json!(expected));
    assert_eq!(json_of(&native::encode_count(room, 7, members))["count"], members);
}

criterion_group! { name = benches; config = common::criterion(); targets = diff, rooms, strings }
criterion_main!(benches);
