//! What a user shows in a room: a state and an info, both JSON objects.

use std::fmt;
use std::sync::Arc;

use crate::quota::Held;

/// The longest state, in bytes of compact JSON.
pub const MAX_STATE_BYTES: usize = 1024;

/// What a member shows in a room: the state, which the client sets, and the info, which the application vouches for.
///
/// One pointer wide, where an `Arc<str>` has two: many members show neither, and each has room for one in three places
/// (session, membership, roster). Two are equal if their JSON is equal, whenever they were written.
#[derive(Clone)]
pub struct State(Arc<Text>);

#[derive(Clone)]
struct Text {
    /// Milliseconds since the Unix epoch, by the clock of the node that accepted it; 0 if the client has set no state.
    /// If several nodes have a state of the same member, the latest one is shown.
    written_unix_ms: u64,
    /// Empty if the client has set no state, or has cleared it.
    json: Box<str>,
    info: Option<Info>,
    /// Its part of the limit of states, if a client of this node set it.
    held: Option<Held>,
}

/// What the application says about a user, such as a name and a picture: a JSON object that the client cannot change.
/// All rooms of the user share one.
#[derive(Clone)]
pub struct Info(Arc<InfoText>);

struct InfoText {
    /// Seconds since the Unix epoch. Of several credentials of a user, the one that was issued last counts.
    issued_at: u64,
    /// Empty if that credential says nothing.
    json: Box<str>,
}

impl Info {
    /// Compact JSON of an object, or nothing, in a credential that was issued at this time.
    #[must_use]
    pub fn new(json: &str, issued_at: u64) -> Self {
        Self(Arc::new(InfoText { issued_at, json: json.into() }))
    }

    /// The JSON; empty if the last credential says nothing.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.json
    }

    /// When the credential was issued, in seconds since the Unix epoch.
    #[must_use]
    pub fn issued_at(&self) -> u64 {
        self.0.issued_at
    }

    /// Orders infos by their age. The order of two of the same time is the same on every node.
    pub(super) fn age_key(&self) -> (u64, &str) {
        (self.0.issued_at, &self.0.json)
    }
}

impl PartialEq for Info {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.json == other.0.json
    }
}

impl Eq for Info {}

impl fmt::Debug for Info {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The info that was issued last.
pub(super) fn latest_info<'a>(infos: impl Iterator<Item = &'a Info>) -> Option<&'a Info> {
    infos.max_by_key(|info| info.age_key())
}

impl State {
    /// States are counted in units of this many bytes.
    pub const UNIT_BYTES: u64 = 64;

    /// A state that a node accepted at this time. Empty text means that the state was cleared.
    #[must_use]
    pub fn written(json: &str, written_unix_ms: u64) -> Self {
        Self(Arc::new(Text { written_unix_ms, json: json.into(), info: None, held: None }))
    }

    /// Only the info: the client has set no state.
    #[must_use]
    pub fn of_info(info: Info) -> Self {
        Self(Arc::new(Text { written_unix_ms: 0, json: "".into(), info: Some(info), held: None }))
    }

    /// The same state with another info.
    #[must_use]
    pub fn with_info(mut self, info: Option<Info>) -> Self {
        if self.0.info.is_some() || info.is_some() {
            Arc::make_mut(&mut self.0).info = info;
        }
        self
    }

    /// The same state, counted until its last copy is dropped.
    #[must_use]
    pub fn held(mut self, held: Held) -> Self {
        Arc::make_mut(&mut self.0).held = Some(held);
        self
    }

    /// The JSON of the state; empty if there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.json
    }

    /// The JSON of the state, if there is one.
    #[must_use]
    pub fn json(&self) -> Option<&str> {
        Some(self.as_str()).filter(|json| !json.is_empty())
    }

    /// The info.
    #[must_use]
    pub fn info(&self) -> Option<&Info> {
        self.0.info.as_ref()
    }

    /// The bytes of JSON that it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.json.len() + self.info().map_or(0, |info| info.as_str().len())
    }

    /// The units of this many bytes.
    #[must_use]
    pub fn units(bytes: usize) -> u32 {
        (bytes as u64).div_ceil(Self::UNIT_BYTES) as u32
    }

    /// When it was written; 0 if that is not known.
    #[must_use]
    pub fn written_unix_ms(&self) -> u64 {
        self.0.written_unix_ms
    }

    /// The same state, written at this time. Without a state it stays as it is.
    pub(super) fn stamped(mut self, written_unix_ms: u64) -> Self {
        if !self.0.json.is_empty() || self.0.written_unix_ms > 0 {
            Arc::make_mut(&mut self.0).written_unix_ms = written_unix_ms;
        }
        self
    }

    /// Orders states by the time when they were written. The order of two states of the same time is the same on every
    /// node.
    pub(super) fn age_key(&self) -> (u64, &str) {
        (self.0.written_unix_ms, &self.0.json)
    }

    /// What a member shows who showed `former` before this was set: the state of this one if it has one, and the info
    /// that was issued last.
    pub(super) fn over(self, former: Option<&Self>) -> Self {
        let Some(former) = former else { return self };
        let info = latest_info(self.info().into_iter().chain(former.info())).cloned();
        let has_state = !self.0.json.is_empty() || self.0.written_unix_ms > 0;
        let state = if has_state { self } else { former.clone() };
        state.with_info(info)
    }

    /// What is shown if these are known of a member: the state that was set last, and the info that was issued last.
    pub(super) fn latest<'a>(known: impl Iterator<Item = &'a Self> + Clone) -> Option<Self> {
        let info = latest_info(known.clone().filter_map(Self::info)).filter(|info| !info.as_str().is_empty());
        let last = known.max_by_key(|state| state.age_key())?;
        match (last.json(), info) {
            (None, None) => None,
            (Some(_), info) if last.info() == info => Some(last.clone()),
            (Some(_), info) => Some(last.clone().with_info(info.cloned())),
            (None, Some(info)) => Some(Self::of_info(info.clone())),
        }
    }

    /// What observers need to know of `now` if they know `before`: the info only if it changed, and an empty one if
    /// there is none any more.
    pub(super) fn update(before: Option<&Self>, now: Option<&Self>) -> Option<Self> {
        let info = |state: Option<&Self>| state.and_then(Self::info).cloned();
        let changed = match (info(before), info(now)) {
            (before, now) if before == now => None,
            (Some(_), None) => Some(Info::new("", 0)),
            (_, now) => now,
        };
        match (now.filter(|now| now.json().is_some()), changed) {
            (Some(now), changed) => Some(now.clone().with_info(changed)),
            (None, changed) => changed.map(Self::of_info),
        }
    }
}

impl From<String> for State {
    fn from(json: String) -> Self {
        Self(Arc::new(Text { written_unix_ms: 0, json: json.into_boxed_str(), info: None, held: None }))
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.0.json == other.0.json && self.0.info == other.0.info
    }
}

impl Eq for State {}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())?;
        self.info().map_or(Ok(()), |info| write!(formatter, " info {info:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(json: &str, written: u64, info: Option<(&str, u64)>) -> State {
        State::written(json, written).with_info(info.map(|(json, issued)| Info::new(json, issued)))
    }

    #[test]
    fn the_latest_state_and_the_latest_info_are_shown() {
        let check = |known: &[State], want: Option<(&str, Option<&str>)>| {
            let shown = State::latest(known.iter());
            let shown = shown.as_ref().map(|state| (state.as_str(), state.info().map(Info::as_str)));
            assert_eq!(shown, want, "{known:?}");
            let shown = State::latest(known.iter().rev());
            assert_eq!(shown.as_ref().map(|state| (state.as_str(), state.info().map(Info::as_str))), want);
        };
        let (one, two) = (Some(("{\"n\":1}", 1)), Some(("{\"n\":2}", 2)));
        check(&[], None);
        check(&[state("", 5, None)], None);
        check(&[state("{}", 5, None)], Some(("{}", None)));
        check(&[state("", 0, one)], Some(("", Some("{\"n\":1}"))));
        check(&[state("{}", 5, two), state("{\"a\":1}", 6, one)], Some(("{\"a\":1}", Some("{\"n\":2}"))));
        check(&[state("{}", 5, None), state("", 0, one)], Some(("{}", Some("{\"n\":1}"))));
        check(&[state("{}", 5, one), state("", 6, None)], Some(("", Some("{\"n\":1}"))));
        check(&[state("{}", 5, one), state("", 0, Some(("", 3)))], Some(("{}", None)));
    }

    #[test]
    fn an_update_has_the_info_only_if_it_changed() {
        let (one, two) = (Some(("{\"n\":1}", 1)), Some(("{\"n\":2}", 2)));
        let check = |before: &State, now: Option<&State>, want: Option<(&str, Option<&str>)>| {
            let update = State::update(Some(before), now);
            assert_eq!(update.as_ref().map(|state| (state.as_str(), state.info().map(Info::as_str))), want);
        };
        check(&state("{}", 1, one), Some(&state("[]", 2, one)), Some(("[]", None)));
        check(&state("{}", 1, one), Some(&state("{}", 2, two)), Some(("{}", Some("{\"n\":2}"))));
        check(&state("{}", 1, one), Some(&state("{}", 2, None)), Some(("{}", Some(""))));
        check(&state("{}", 1, None), None, None);
        check(&state("{}", 1, one), Some(&state("", 0, one)), None);
        check(&state("", 0, one), None, Some(("", Some(""))));
    }
}
