//! A room as a client knows it: built from snapshots, diffs and counts alone, with every rule of the native
//! protocol about them asserted on the way.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Who is there, each with a state or without.
pub(crate) type Members = BTreeMap<String, Option<Value>>;

/// More members than this come in pages.
pub(crate) const PAGE_LIMIT: usize = 1000;

const REASONS: [&str; 5] = ["left", "closed", "timeout", "node_lost", "kicked"];

#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    pub(crate) epoch: String,
    pub(crate) seq: u64,
    pub(crate) count: u64,
    pub(crate) members: Members,
    /// True once a whole snapshot or a first count is there.
    pub(crate) attached: bool,
    pub(crate) snapshots: usize,
    pub(crate) diffs: usize,
    pub(crate) counts: usize,
    /// The pages of a snapshot that is still coming.
    paging: Option<Paging>,
}

#[derive(Clone, Debug)]
struct Paging {
    epoch: String,
    seq: u64,
    count: u64,
    pages: u64,
    /// The page that came last.
    page: u64,
    members: Members,
    /// Diffs that came between the pages; they apply on top.
    diffs: Vec<Value>,
}

impl Room {
    pub(crate) fn apply_snapshot(&mut self, message: &Value) {
        assert_keys(message, &["type", "room", "epoch", "seq", "count", "members", "page", "pages"], &[]);
        let (page, pages) = (number(message, "page"), number(message, "pages"));
        let epoch = string(message, "epoch");
        let (seq, count) = (number(message, "seq"), number(message, "count"));
        let listed = message["members"].as_array().expect("members are a list");
        assert!(listed.len() <= PAGE_LIMIT, "a page has {} members", listed.len());
        assert!(1 <= page && page <= pages, "page {page} of {pages}");
        assert_eq!(pages > 1, count > PAGE_LIMIT as u64, "{count} members in {pages} pages");
        if self.attached && epoch == self.epoch {
            assert!(seq >= self.seq, "a snapshot goes back from {} to {seq}", self.seq);
        }
        if page == 1 {
            let (members, diffs) = (Members::new(), Vec::new());
            self.paging = Some(Paging { epoch, seq, count, pages, page: 0, members, diffs });
        }
        let paging = self.paging.as_mut().expect("the first page comes first");
        let same = (paging.seq, paging.count, paging.pages) == (seq, count, pages);
        assert!(same && paging.epoch == string(message, "epoch"), "pages agree: {message}");
        assert_eq!(page, paging.page + 1, "pages come in order");
        paging.page = page;
        let members = members_of(&message["members"]);
        if let (Some((last, _)), Some((first, _))) = (paging.members.last_key_value(), members.first_key_value()) {
            assert!(last < first, "sorted over the pages: {last:?} before {first:?}");
        }
        paging.members.extend(members);
        if page == pages {
            self.complete_snapshot();
        }
    }

    fn complete_snapshot(&mut self) {
        let paging = self.paging.take().expect("only called with pages");
        assert_eq!(paging.members.len() as u64, paging.count, "the count is that of the members");
        self.epoch = paging.epoch;
        self.seq = paging.seq;
        self.count = paging.count;
        self.members = paging.members;
        self.attached = true;
        self.snapshots += 1;
        for diff in &paging.diffs {
            self.apply_diff(diff);
        }
    }

    pub(crate) fn apply_diff(&mut self, message: &Value) {
        if let Some(paging) = &mut self.paging {
            paging.diffs.push(message.clone());
            return;
        }
        assert_keys(message, &["type", "room", "seq", "count"], &["joined", "updated", "left"]);
        assert!(self.attached, "a diff before a snapshot: {message}");
        assert_eq!(number(message, "seq"), self.seq + 1, "a gap: {message}");
        self.seq += 1;
        self.diffs += 1;
        let (joined, updated, left) =
            (entries(message, "joined"), entries(message, "updated"), entries(message, "left"));
        let changes = joined.len() + updated.len() + left.len();
        assert!(changes > 0, "a diff without a change is not sent: {message}");
        for entry in left {
            assert_keys(entry, &["user", "reason"], &[]);
            let reason = string(entry, "reason");
            assert!(REASONS.contains(&reason.as_str()), "{entry}");
            assert!(self.members.remove(&string(entry, "user")).is_some(), "{entry} was not here");
        }
        for entry in joined {
            let (user, state) = member(entry);
            assert!(self.members.insert(user, state).is_none(), "{entry} was here: {message}");
        }
        for entry in updated {
            let (user, state) = member(entry);
            assert!(self.members.insert(user, state).is_some(), "{entry} was not here: {message}");
        }
        self.count = number(message, "count");
        assert_eq!(self.count, self.members.len() as u64, "the count is that of the members");
    }

    pub(crate) fn apply_count(&mut self, message: &Value) {
        assert_keys(message, &["type", "room", "seq", "count"], &[]);
        let (seq, count) = (number(message, "seq"), number(message, "count"));
        assert!(seq >= self.seq, "counts go back from {} to {seq}", self.seq);
        self.seq = seq;
        self.count = count;
        self.counts += 1;
        self.attached = true;
    }
}

/// A list of members as a map; the list has to be sorted and free of repetitions.
pub(crate) fn members_of(list: &Value) -> Members {
    let list = list.as_array().expect("members are a list");
    let members: Vec<_> = list.iter().map(member).collect();
    assert!(members.is_sorted_by(|a, b| a.0 < b.0), "sorted by user, each once: {list:?}");
    members.into_iter().collect()
}

fn member(entry: &Value) -> (String, Option<Value>) {
    assert_keys(entry, &["user"], &["state"]);
    if let Some(state) = entry.get("state") {
        assert!(state.is_object(), "a state is an object: {entry}");
    }
    (string(entry, "user"), entry.get("state").cloned())
}

/// The entries of a part of a diff. A part that is there is not empty and names nobody twice.
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
