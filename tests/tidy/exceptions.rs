//! What breaks a rule today. Entries are removed, never added: an entry that is no longer needed is named by
//! `cargo test --test tidy -- --ignored`.

use std::collections::BTreeSet;

use super::{layers, lengths, protocols, text};

/// Modules that the order in ARCHITECTURE.md leaves out.
const UNORDERED: &[&str] = &[];

/// An import against the dependency order, or one that closes a cycle of files: who imports, and from where.
pub(crate) const IMPORTS: &[&str] = &[];

/// Files outside `src/protocol/` that name a protocol.
const NAME_A_PROTOCOL: &[&str] = &[];

const LONG_FILES: &[&str] = &[];

/// Each with its file.
const LONG_FUNCTIONS: &[&str] = &[];

const WIDE_DOCUMENTS: &[&str] = &[];

/// Folders with comments that are too wide.
const WIDE_COMMENTS: &[&str] = &[];

/// Files that refer to documents that are not in the project.
const OLD_WORDS: &[&str] = &[];

/// A violation of a rule: what an exception would name, and what there is to read.
pub(crate) type Violation = (String, String);

/// A rule: its name, today's exceptions, and how to find what violates it.
type Rule = (&'static str, &'static [&'static str], fn() -> Vec<Violation>);

const RULES: [Rule; 8] = [
    ("modules without a place", UNORDERED, layers::unordered),
    ("imports", IMPORTS, layers::violations),
    ("names of protocols", NAME_A_PROTOCOL, protocols::violations),
    ("long files", LONG_FILES, lengths::long_files),
    ("long functions", LONG_FUNCTIONS, lengths::long_functions),
    ("wide documents", WIDE_DOCUMENTS, text::wide_lines),
    ("wide comments", WIDE_COMMENTS, text::wide_comments),
    ("old words", OLD_WORDS, text::old_words),
];

/// Fails unless each violation of this rule is a known exception.
pub(crate) fn check(rule: &str) {
    let (_, exceptions, violations) = RULES.iter().find(|(name, ..)| *name == rule).expect("a rule");
    let wrong = violations().into_iter().filter(|(key, _)| !exceptions.contains(&key.as_str()));
    let wrong: BTreeSet<_> = wrong.map(|(_, text)| text).collect();
    let wrong: Vec<_> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
}

#[test]
#[ignore = "run it to see which exceptions to remove"]
fn every_exception_is_needed() {
    let mut unneeded = Vec::new();
    for (rule, exceptions, violations) in RULES {
        let found: BTreeSet<_> = violations().into_iter().map(|(key, _)| key).collect();
        unneeded.extend(exceptions.iter().filter(|key| !found.contains(**key)).map(|key| format!("{rule}: {key}")));
    }
    assert!(unneeded.is_empty(), "remove from tests/tidy/exceptions.rs:\n{}", unneeded.join("\n"));
}
