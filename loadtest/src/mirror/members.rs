//! Who is in a room, as somebody knows it, and how two such states differ.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::wire::{Diff, Member};

/// Users by name with their states; `Null` if there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Members(BTreeMap<Box<str>, Value>);

impl Members {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    /// Those whose names are wanted.
    pub(crate) fn filtered(&self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let wanted = self.0.iter().filter(|(name, _)| is_wanted(name));
        Self(wanted.map(|(name, state)| (name.clone(), state.clone())).collect())
    }

    pub(crate) fn contains(&self, user: &str) -> bool {
        self.0.contains_key(user)
    }

    /// False if the user was in already.
    pub(crate) fn insert(&mut self, user: &str, state: Value) -> bool {
        self.0.insert(user.into(), state).is_none()
    }

    pub(crate) fn extend(&mut self, members: Vec<Member<'_>>) {
        self.0.extend(members.into_iter().map(|member| (member.user.into(), member.state)));
    }

    /// Applies all of a diff, and says what in it cannot be: a true server never tells such a thing.
    pub(crate) fn apply(&mut self, diff: &Diff<'_>) -> Result<(), String> {
        let mut wrong = String::new();
        for gone in &diff.left {
            if self.0.remove(&*gone.user).is_none() {
                let _ = write!(wrong, "{} left without being there; ", gone.user);
            }
        }
        for member in &diff.joined {
            if !self.insert(&member.user, member.state.clone()) {
                let _ = write!(wrong, "{} joined and was there already; ", member.user);
            }
        }
        for member in &diff.updated {
            if self.insert(&member.user, member.state.clone()) {
                let _ = write!(wrong, "{} was updated without being there; ", member.user);
            }
        }
        if self.len() as u64 != diff.count {
            let _ = write!(wrong, "its count is {}, the mirror's {}; ", diff.count, self.len());
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("diff {}: {}", diff.seq, wrong.trim_end_matches("; "))) }
    }

    /// The first few differences, from the side of `self`; `None` if there are none.
    pub(crate) fn difference(&self, truth: &Self) -> Option<String> {
        const SHOWN: usize = 3;
        let phantom =
            self.0.keys().filter(|user| !truth.0.contains_key(*user)).map(|user| format!("{user} is a ghost"));
        let missing =
            truth.0.keys().filter(|user| !self.0.contains_key(*user)).map(|user| format!("{user} is missing"));
        let other = self.0.iter().filter(|(user, state)| truth.0.get(*user).is_some_and(|true_one| true_one != *state));
        let other = other.map(|(user, _)| format!("{user} has another state"));
        let all: Vec<String> = phantom.chain(missing).chain(other).collect();
        let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        match all.len() {
            0 => None,
            1..=SHOWN => Some(shown),
            more => Some(format!("{shown} and {} more", more - SHOWN)),
        }
    }
}

impl<'a> FromIterator<&'a str> for Members {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        Self(names.into_iter().map(|name| (name.into(), Value::Null)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::read;
    use super::*;

    fn check(before: &[&str], diff: &str, after: Result<&[&str], &str>) {
        let mut members: Members = before.iter().copied().collect();
        let result = members.apply(&read(diff.as_bytes(), true).unwrap());
        match after {
            Ok(names) => {
                assert_eq!(result, Ok(()), "{diff}");
                assert_eq!(members.names().collect::<Vec<_>>(), names);
            }
            Err(words) => assert!(result.as_ref().unwrap_err().contains(words), "{result:?}"),
        }
    }

    #[test]
    fn diffs_are_applied_and_judged() {
        let diff = r#"{"type":"diff","room":"r","seq":2,"count":2,"joined":[{"user":"c","state":{"a":1}}],"left":[{"user":"a","reason":"left"}]}"#;
        check(&["a", "b"], diff, Ok(&["b", "c"]));
        check(&["b"], diff, Err("a left without being there"));
        check(&["a", "b", "c"], diff, Err("c joined and was there already"));
        check(&["a", "b", "d"], diff, Err("its count is 2, the mirror's 3"));
        let update = r#"{"type":"diff","room":"r","seq":2,"count":1,"updated":[{"user":"b","state":null}]}"#;
        check(&["b"], update, Ok(&["b"]));
        check(&["a"], update, Err("b was updated without being there"));
    }

    #[test]
    fn differences_name_the_first_and_count_the_rest() {
        let truth: Members = ["a", "b", "c"].into_iter().collect();
        assert_eq!(truth.difference(&truth), None);
        let mut mirror: Members = ["a", "x"].into_iter().collect();
        mirror.insert("a", Value::from(1));
        let shown = mirror.difference(&truth).unwrap();
        assert_eq!(shown, "x is a ghost, b is missing, c is missing and 1 more");
    }
}
