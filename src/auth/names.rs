//! Patterns of names, as `caps`, `watch` and the settings have them, and sets of names.

pub use crate::pattern::Pattern;

/// A set of names: literal ones, which are found in a sorted list, and patterns, which are tried one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Names {
    exact: Box<[Box<str>]>,
    /// With at least one `*` each.
    patterns: Box<[Pattern]>,
}

impl Names {
    /// The names that fit one of the patterns or equal one of the literal names.
    #[must_use]
    pub fn new<'a>(patterns: impl IntoIterator<Item = Pattern>, exact: impl IntoIterator<Item = &'a str>) -> Self {
        let (patterns, literal): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|pattern| pattern.stars() > 0);
        let literal = literal.into_iter().map(Pattern::into_text);
        let mut exact: Vec<Box<str>> = exact.into_iter().map(Into::into).chain(literal).collect();
        exact.sort_unstable();
        exact.dedup();
        Self { exact: exact.into(), patterns: patterns.into() }
    }

    /// All names.
    #[must_use]
    pub fn all() -> Self {
        Self::new([Pattern::any()], [])
    }

    /// Whether a name is in the set.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.exact.binary_search_by(|exact| (**exact).cmp(name)).is_ok()
            || self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether every name is in the set.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.patterns.iter().any(Pattern::is_any)
    }

    /// The least text from `from` on at which a name of the set may stand: no name between the two is in the set.
    #[must_use]
    pub fn next_from<'a>(&'a self, from: &'a str) -> Option<&'a str> {
        let exact = self.exact.get(self.exact.partition_point(|name| **name < *from)).map(|name| &**name);
        let starts = self.patterns.iter().filter_map(|pattern| match pattern.start() {
            start if start > from => Some(start),
            start => from.starts_with(start).then_some(from),
        });
        starts.chain(exact).min()
    }

    /// The number of names and patterns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.patterns.len()
    }

    /// Whether no name is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of `*` in all patterns. Each may cost a search in the name.
    #[must_use]
    pub fn stars(&self) -> usize {
        self.patterns.iter().map(Pattern::stars).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let check = |pattern: &str, name: &str, want: bool| {
            assert_eq!(Pattern::new(pattern).unwrap().matches(name), want, "{pattern} {name}");
        };
        for (pattern, name) in
            [("*", ""), ("*", "any"), ("a*", "a"), ("a*b", "ab"), ("a*b*c", "a-b-b-c"), ("**", "x"), ("*ü*", "aüb")]
        {
            check(pattern, name, true);
        }
        for (pattern, name) in
            [("a", "b"), ("a*", "b"), ("a*a", "a"), ("ab*bc", "abc"), ("a*b*c", "a-c"), ("*x*", "y"), ("a?", "ab")]
        {
            check(pattern, name, false);
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_a_simple_search_does(pattern in "[ab*]{1,8}", name in "[ab]{0,8}") {
            fn simple(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|at| simple(rest, &name[at..])),
                    Some((byte, rest)) => name.first() == Some(byte) && simple(rest, &name[1..]),
                }
            }
            let expected = simple(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&name), expected);
        }
    }

    fn names(patterns: &[&str], exact: &[&str]) -> Names {
        Names::new(patterns.iter().map(|text| Pattern::new(text).unwrap()), exact.iter().copied())
    }

    #[test]
    fn a_set_contains_literal_names_and_those_that_fit_a_pattern() {
        let names = names(&["team-*", "lobby"], &["dm-*", "dm-7"]);
        for name in ["team-", "team-1", "lobby", "dm-*", "dm-7"] {
            assert!(names.contains(name), "{name}");
        }
        for name in ["", "team", "lobby2", "dm-8"] {
            assert!(!names.contains(name), "{name}");
        }
        assert_eq!((names.len(), names.stars(), names.is_all()), (4, 1, false));
        assert!(Names::all().is_all() && Names::all().contains("") && !Names::default().contains(""));
    }

    proptest! {
        #[test]
        fn no_name_of_the_set_is_before_the_next_possible_one(
            patterns in prop::collection::vec("[ab*]{1,4}", 0..4),
            exact in prop::collection::vec("[ab]{1,4}", 0..4),
            from in "[ab]{0,4}",
            name in "[ab]{0,5}",
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let exact: Vec<&str> = exact.iter().map(String::as_str).collect();
            let names = names(&patterns, &exact);
            if names.contains(&name) && *name >= *from {
                let next = names.next_from(&from);
                prop_assert!(next.is_some_and(|next| *next <= *name && *next >= *from), "{:?}", next);
            }
        }
    }
}
