//! A room as a client knows it. It uses the mirror of the crate `wire`, like the load generator, and asserts every rule
//! of the native protocol about snapshots, diffs and counts.

use std::collections::BTreeMap;
use std::ops::Deref;

use serde::Deserialize as _;
use serde_json::{Map, Value};
use wire::room::{Diff, RoomMirror, Snapshot};

pub(crate) use wire::room::Members;

/// A snapshot of more members comes in pages.
pub(crate) const PAGE_LIMIT: usize = 1000;

const REASONS: [&str; 5] = ["left", "closed", "timeout", "node_lost", "kicked"];

/// Dereferences to the mirror: `epoch`, `seq`, `count` and `members`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    mirror: RoomMirror,
    /// The infos of the members that have one.
    pub(crate) infos: BTreeMap<String, Value>,
    /// Whether a complete snapshot or a first count has been received.
    pub(crate) attached: bool,
    /// Complete snapshots.
    pub(crate) snapshots: usize,
    pub(crate) diffs: usize,
    pub(crate) counts: usize,
    /// The last member on the previous page of an incomplete snapshot.
    last_listed: Option<String>,
}

impl Deref for Room {
    type Target = RoomMirror;

    fn deref(&self) -> &RoomMirror {
        &self.mirror
    }
}

impl Room {
    pub(crate) fn apply_snapshot(&mut self, message: &Value) {
        assert_keys(message, &["type", "room", "epoch", "seq", "count", "members", "page", "pages"], &[]);
        let (page, pages) = (number(message, "page"), number(message, "pages"));
        let (seq, count) = (number(message, "seq"), number(message, "count"));
        let members = members_of(&message["members"]);
        assert!(members.len() <= PAGE_LIMIT, "a page has {} members", members.len());
        assert!(1 <= page && page <= pages, "page {page} of {pages}");
        assert_eq!(pages > 1, count > PAGE_LIMIT as u64, "{count} members in {pages} pages");
        if self.attached && string(message, "epoch") == self.epoch {
            assert!(seq >= self.seq, "a snapshot goes back from {} to {seq}", self.seq);
        }
        let previous = self.last_listed.take().filter(|_| page > 1);
        if let (Some(last), Some((first, _))) = (previous, members.first_key_value()) {
            assert!(last < *first, "sorted over the pages: {last:?} before {first:?}");
        }
        if page == 1 {
            self.infos.clear();
        }
        self.apply_infos(message["members"].as_array().expect("members are a list"));
        self.last_listed = members.last_key_value().map(|(user, _)| user.clone());
        let snapshot = Snapshot::deserialize(message).expect("a snapshot");
        if self.mirror.apply_page(&snapshot).unwrap_or_else(|error| panic!("{error}: {message}")) {
            self.attached = true;
            self.snapshots += 1;
        }
    }

    pub(crate) fn apply_diff(&mut self, message: &Value) {
        assert_keys(message, &["type", "room", "seq", "count"], &["joined", "updated", "left"]);
        assert!(self.attached || self.is_paging(), "a diff before a snapshot: {message}");
        self.diffs += 1;
        let (joined, updated, left) =
            (entries(message, "joined"), entries(message, "updated"), entries(message, "left"));
        let changes = joined.len() + updated.len() + left.len();
        assert!(changes > 0, "a diff without a change is not sent: {message}");
        for entry in left {
            assert_keys(entry, &["user", "reason"], &[]);
            let reason = string(entry, "reason");
            assert!(REASONS.contains(&reason.as_str()), "{entry}");
        }
        joined.iter().chain(updated).for_each(|entry| drop(member(entry)));
        left.iter().for_each(|entry| drop(self.infos.remove(&string(entry, "user"))));
        [joined, updated].into_iter().for_each(|entries| self.apply_infos(entries));
        let diff = Diff::deserialize(message).expect("a diff");
        self.mirror.apply_diff(&diff).unwrap_or_else(|error| panic!("{error}: {message}"));
    }

    /// Remembers the infos of these members. An update without one leaves it as it is, and null removes it.
    fn apply_infos(&mut self, entries: &[Value]) {
        for entry in entries {
            match entry.get("info") {
                None => {}
                Some(Value::Null) => drop(self.infos.remove(&string(entry, "user"))),
                Some(info) => drop(self.infos.insert(string(entry, "user"), info.clone())),
            }
        }
    }

    pub(crate) fn apply_count(&mut self, message: &Value) {
        assert_keys(message, &["type", "room", "seq", "count"], &[]);
        let (seq, count) = (number(message, "seq"), number(message, "count"));
        assert!(seq >= self.seq, "counts go back from {} to {seq}", self.seq);
        self.mirror.seq = seq;
        self.mirror.count = count;
        self.counts += 1;
        self.attached = true;
    }
}

/// A list of members as a map. The list must be sorted, and each user must be listed once.
pub(crate) fn members_of(list: &Value) -> Members {
    let list = list.as_array().expect("members are a list");
    let members: Vec<_> = list.iter().map(member).collect();
    assert!(members.is_sorted_by(|a, b| a.0 < b.0), "sorted by user, each once: {list:?}");
    members.into_iter().collect()
}

fn member(entry: &Value) -> (String, Option<Value>) {
    assert_keys(entry, &["user"], &["state", "info"]);
    if let Some(state) = entry.get("state") {
        assert!(state.is_object(), "a state is an object: {entry}");
    }
    (string(entry, "user"), entry.get("state").cloned())
}

/// The entries of a part of a diff. A part must not be empty and must list each user once.
fn entries<'a>(message: &'a Value, part: &str) -> &'a [Value] {
    let Some(list) = message.get(part) else { return &[] };
    let list = list.as_array().expect("a part of a diff is a list");
    assert!(!list.is_empty(), "an empty {part} is left out: {message}");
    let mut users: Vec<_> = list.iter().map(|entry| string(entry, "user")).collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), list.len(), "each user once: {message}");
    list
}

/// Checks that a message has all the fields it must have and none that the protocol does not know.
pub(crate) fn assert_keys(message: &Value, required: &[&str], optional: &[&str]) {
    let object: &Map<String, Value> = message.as_object().unwrap_or_else(|| panic!("an object: {message}"));
    for key in required {
        assert!(object.contains_key(*key), "{key} is missing: {message}");
    }
    for key in object.keys() {
        let known = required.contains(&key.as_str()) || optional.contains(&key.as_str());
        assert!(known, "{key} is unknown: {message}");
    }
}

pub(crate) fn number(message: &Value, key: &str) -> u64 {
    message[key].as_u64().unwrap_or_else(|| panic!("{key} is a whole number: {message}"))
}

pub(crate) fn string(message: &Value, key: &str) -> String {
    message[key].as_str().unwrap_or_else(|| panic!("{key} is a string: {message}")).to_owned()
}
