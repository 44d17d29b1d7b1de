//! A room as an observer knows it: a snapshot in pages, then diffs (native protocol).
//!
//! ```text
//! {"type":"snapshot","room":R,"epoch":E,"seq":N,"count":K,"members":[{"user":U,"state":{…}?},…],"page":1,"pages":1}
//! {"type":"diff","room":R,"seq":N,"count":K,"joined":[…]?,"updated":[…]?,"left":[{"user":U,"reason":…},…]?}
//! ```
//!
//! The mirror trusts nothing but the messages. A message that contradicts the mirror is an error; what callers do about
//! it differs: tests panic, the load generator counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

/// Users with their states, `None` for a user without one.
pub type Members = BTreeMap<String, Option<Value>>;

/// One page of a room's members; also an answer of `/v1/rooms/{room}/members`.
#[derive(Debug, Deserialize)]
pub struct Snapshot<'a> {
    /// The room's name.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// Changes when the server recreates the room; `seq` starts over then.
    #[serde(borrow)]
    pub epoch: Cow<'a, str>,
    /// The number of the last diff that the page includes.
    pub seq: u64,
    /// Members of the room, all pages together.
    pub count: u64,
    /// Members on this page.
    #[serde(borrow)]
    pub members: Vec<Member<'a>>,
    /// The number of this page, from 1.
    #[serde(default = "one")]
    pub page: u32,
    /// How many pages the snapshot has.
    #[serde(default = "one")]
    pub pages: u32,
    /// Only in answers of the HTTP API: the next page starts after this user.
    #[serde(default, borrow)]
    pub next: Option<Cow<'a, str>>,
}

/// What changed in a room from `seq - 1` to `seq`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Diff<'a> {
    /// The room's name.
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    /// Grows by one per diff.
    pub seq: u64,
    /// Members of the room after the diff.
    pub count: u64,
    /// Users who are new in the room.
    #[serde(default, borrow)]
    pub joined: Vec<Member<'a>>,
    /// Users whose state changed.
    #[serde(default, borrow)]
    pub updated: Vec<Member<'a>>,
    /// Users who are no longer in the room.
    #[serde(default, borrow)]
    pub left: Vec<LeftMember<'a>>,
}

/// A user in a room.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Member<'a> {
    /// The user's id.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// What the user set as its state.
    #[serde(default)]
    pub state: Option<Value>,
}

/// A user who left a room.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct LeftMember<'a> {
    /// The user's id.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
}

/// One observer's mirror of a room.
#[derive(Clone, Debug, Default)]
pub struct RoomMirror {
    /// Of the last complete snapshot.
    pub epoch: String,
    /// Of the last snapshot or diff that was applied.
    pub seq: u64,
    /// As the server stated it last.
    pub count: u64,
    /// After the last snapshot or diff that was applied.
    pub members: Members,
    /// A snapshot of which some pages are still missing; until it is complete the fields above stay as they are.
    paging: Option<Paging>,
}

#[derive(Clone, Debug)]
struct Paging {
    epoch: String,
    seq: u64,
    count: u64,
    pages: u32,
    /// The page that came last.
    page: u32,
    members: Members,
    /// Diffs that came between the pages. They apply to the complete snapshot.
    diffs: Vec<Diff<'static>>,
}

impl RoomMirror {
    /// Whether a snapshot has begun and is not complete.
    pub fn is_paging(&self) -> bool {
        self.paging.is_some()
    }

    /// Adds a page of a snapshot. The first page starts a new snapshot, the last one replaces the room with it. Returns
    /// whether the snapshot is complete.
    pub fn apply_page(&mut self, page: &Snapshot<'_>) -> Result<bool, String> {
        if page.page == 1 {
            self.paging = Some(Paging::new(page));
        }
        let Some(mut paging) = self.paging.take() else {
            return Err(format!("page {} of a snapshot came without the first page", page.page));
        };
        paging.add(page)?;
        if paging.page < paging.pages {
            self.paging = Some(paging);
            return Ok(false);
        }
        if paging.members.len() as u64 != paging.count {
            return Err(format!("the snapshot counts {} members and lists {}", paging.count, paging.members.len()));
        }
        let Paging { epoch, seq, count, members, diffs, .. } = paging;
        *self = Self { epoch, seq, count, members, paging: None };
        diffs.iter().try_for_each(|diff| self.apply_diff(diff))?;
        Ok(true)
    }

    /// Applies a diff. Between the pages of a snapshot it is kept until the last page.
    pub fn apply_diff(&mut self, diff: &Diff<'_>) -> Result<(), String> {
        if let Some(paging) = &mut self.paging {
            paging.diffs.push(diff.to_static());
            return Ok(());
        }
        check_seq(diff.seq, self.seq)?;
        self.seq = diff.seq;
        self.count = diff.count;
        apply(&mut self.members, diff)
    }
}

impl Paging {
    fn new(first: &Snapshot<'_>) -> Self {
        Self {
            epoch: first.epoch.as_ref().to_owned(),
            seq: first.seq,
            count: first.count,
            pages: first.pages,
            page: 0,
            members: Members::new(),
            diffs: Vec::new(),
        }
    }

    fn add(&mut self, page: &Snapshot<'_>) -> Result<(), String> {
        let continues = page.page == self.page + 1 && page.pages == self.pages && page.page <= page.pages;
        if !continues || page.seq != self.seq || page.count != self.count || *page.epoch != *self.epoch {
            return Err(format!(
                "page {} of {} of the snapshot at seq {} does not continue page {} of {} at seq {}",
                page.page, page.pages, page.seq, self.page, self.pages, self.seq
            ));
        }
        self.page = page.page;
        self.members.extend(page.members.iter().map(Member::to_entry));
        Ok(())
    }
}

impl Diff<'_> {
    /// How many members joined, changed or left.
    pub fn changes(&self) -> u32 {
        u32::try_from(self.joined.len() + self.updated.len() + self.left.len()).unwrap_or(u32::MAX)
    }

    fn to_static(&self) -> Diff<'static> {
        let member = |member: &Member<'_>| {
            let (user, state) = member.to_entry();
            Member { user: user.into(), state }
        };
        let left = |member: &LeftMember<'_>| LeftMember { user: member.user.clone().into_owned().into() };
        Diff {
            room: self.room.clone().into_owned().into(),
            seq: self.seq,
            count: self.count,
            joined: self.joined.iter().map(member).collect(),
            updated: self.updated.iter().map(member).collect(),
            left: self.left.iter().map(left).collect(),
        }
    }
}

impl Member<'_> {
    /// As an entry of [`Members`].
    pub fn to_entry(&self) -> (String, Option<Value>) {
        (self.user.clone().into_owned(), self.state.clone())
    }
}

/// Within an epoch, `seq` grows by exactly one per diff.
pub fn check_seq(seq: u64, before: u64) -> Result<(), String> {
    if seq == before + 1 { Ok(()) } else { Err(format!("seq {seq} follows seq {before}")) }
}

/// Applies a whole diff, and reports everything in it that contradicts `members`. A correct server sends no such diff.
pub fn apply(members: &mut Members, diff: &Diff<'_>) -> Result<(), String> {
    let mut wrong = String::new();
    for left in &diff.left {
        if members.remove(&*left.user).is_none() {
            let _ = write!(wrong, "{} left and was not in the room; ", left.user);
        }
    }
    for member in &diff.joined {
        let (user, state) = member.to_entry();
        if members.insert(user, state).is_some() {
            let _ = write!(wrong, "{} joined and was already in the room; ", member.user);
        }
    }
    for member in &diff.updated {
        let (user, state) = member.to_entry();
        if members.insert(user, state).is_none() {
            let _ = write!(wrong, "{} was updated and was not in the room; ", member.user);
        }
    }
    if members.len() as u64 != diff.count {
        let _ = write!(wrong, "its count is {}, the mirror has {}; ", diff.count, members.len());
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("diff {}: {}", diff.seq, wrong.trim_end_matches("; "))) }
}

/// The first few differences of a mirror from the expected members. `None`: there are none.
pub fn difference(mirror: &Members, expected: &Members) -> Option<String> {
    const SHOWN: usize = 3;
    let ghosts = mirror.keys().filter(|user| !expected.contains_key(*user)).map(|user| format!("{user} is a ghost"));
    let missing = expected.keys().filter(|user| !mirror.contains_key(*user)).map(|user| format!("{user} is missing"));
    let stale = mirror.iter().filter(|(user, state)| expected.get(*user).is_some_and(|other| other != *state));
    let stale = stale.map(|(user, _)| format!("{user} has another state"));
    let all: Vec<String> = ghosts.chain(missing).chain(stale).collect();
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match all.len() {
        0 => None,
        1..=SHOWN => Some(shown),
        more => Some(format!("{shown} and {} more", more - SHOWN)),
    }
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> Members {
        names.iter().map(|name| ((*name).to_owned(), None)).collect()
    }

    fn check(before: &[&str], diff: &str, after: Result<&[&str], &str>) {
        let mut room = members(before);
        let result = apply(&mut room, &serde_json::from_str(diff).unwrap());
        match after {
            Ok(names) => {
                assert_eq!(result, Ok(()), "{diff}");
                assert!(room.keys().eq(names), "{room:?}");
            }
            Err(words) => assert!(result.as_ref().unwrap_err().contains(words), "{result:?}"),
        }
    }

    #[test]
    fn a_diff_that_contradicts_the_mirror_is_an_error() {
        let diff = r#"{"room":"r","seq":2,"count":2,"joined":[{"user":"c","state":{"a":1}}],"left":[{"user":"a"}]}"#;
        check(&["a", "b"], diff, Ok(&["b", "c"]));
        check(&["b"], diff, Err("a left and was not in the room"));
        check(&["a", "b", "c"], diff, Err("c joined and was already in the room"));
        check(&["a", "b", "d"], diff, Err("its count is 2, the mirror has 3"));
        let update = r#"{"room":"r","seq":2,"count":1,"updated":[{"user":"b","state":null}]}"#;
        check(&["b"], update, Ok(&["b"]));
        check(&["a"], update, Err("b was updated and was not in the room"));
    }

    #[test]
    fn differences_name_the_first_three_and_count_the_rest() {
        let expected = members(&["a", "b", "c"]);
        assert_eq!(difference(&expected, &expected), None);
        let mut mirror = members(&["a", "x"]);
        mirror.insert("a".to_owned(), Some(Value::from(1)));
        let shown = difference(&mirror, &expected).unwrap();
        assert_eq!(shown, "x is a ghost, b is missing, c is missing and 1 more");
    }

    fn page(number: u32, user: &str, seq: u64) -> String {
        format!(
            r#"{{"room":"r","epoch":"e","seq":{seq},"count":2,"members":[{{"user":"{user}"}}],"page":{number},"pages":2}}"#
        )
    }

    fn apply_page(mirror: &mut RoomMirror, page: &str) -> Result<bool, String> {
        mirror.apply_page(&serde_json::from_str(page).unwrap())
    }

    #[test]
    fn a_snapshot_replaces_the_room_when_its_last_page_is_here() {
        let mut mirror = RoomMirror { members: members(&["old"]), ..RoomMirror::default() };
        assert_eq!(apply_page(&mut mirror, &page(1, "a", 4)), Ok(false));
        let diff = r#"{"room":"r","seq":5,"count":1,"left":[{"user":"a"}]}"#;
        assert_eq!(mirror.apply_diff(&serde_json::from_str(diff).unwrap()), Ok(()));
        assert!(mirror.is_paging() && mirror.members == members(&["old"]));
        assert_eq!(apply_page(&mut mirror, &page(2, "b", 4)), Ok(true));
        assert_eq!((mirror.seq, mirror.count, &mirror.members), (5, 1, &members(&["b"])));
        let late = r#"{"room":"r","seq":7,"count":0,"left":[{"user":"b"}]}"#;
        assert_eq!(mirror.apply_diff(&serde_json::from_str(late).unwrap()), Err("seq 7 follows seq 5".to_owned()));
    }

    #[test]
    fn pages_must_continue_each_other() {
        let mut mirror = RoomMirror::default();
        assert!(apply_page(&mut mirror, &page(2, "b", 4)).unwrap_err().contains("without the first"));
        for wrong in [page(2, "b", 5), page(3, "b", 4), page(2, "b", 4).replace(r#""pages":2"#, r#""pages":3"#)] {
            assert_eq!(apply_page(&mut mirror, &page(1, "a", 4)), Ok(false));
            assert!(apply_page(&mut mirror, &wrong).unwrap_err().contains("does not continue"), "{wrong}");
        }
        assert_eq!(apply_page(&mut mirror, &page(1, "a", 4)), Ok(false));
        assert!(apply_page(&mut mirror, &page(2, "a", 4)).unwrap_err().contains("counts 2 members and lists 1"));
    }
}
