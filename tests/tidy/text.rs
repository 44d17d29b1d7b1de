//! Documents have short lines, no text refers to documents that are not in the project, and merges are complete.

use super::exceptions::{self, Violation};
use super::sources::{self, File};

const MAX_COLUMNS: usize = 120;

/// Where people read.
const TEXTS: [&str; 11] = [
    "src",
    "tests",
    "loadtest",
    "benches",
    "scripts",
    "docs",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
];

/// Lists all documents, in reading order.
const INDEX: &str = "docs/README.md";

/// Each refers to a document that is not in the project.
const FORBIDDEN: [&str; 4] = ["the seed", "the sketch", "DESIGN", "PROTOCOLS section"];

/// Documents that others wrote, kept as they are, and these rules themselves.
const EXEMPT: [&str; 2] = ["tests/clients/documents/", "tests/tidy/"];

#[test]
fn documents_are_wrapped() {
    exceptions::check("wide documents");
}

#[test]
fn comments_are_wrapped() {
    exceptions::check("wide comments");
}

#[test]
fn texts_refer_to_no_document_outside_the_project() {
    exceptions::check("old words");
}

#[test]
fn no_text_has_the_markers_of_a_merge_conflict() {
    for file in texts() {
        let marker = file.text.lines().find(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
        assert!(marker.is_none(), "{}: {marker:?}", file.path);
    }
}

#[test]
fn the_index_lists_every_document() {
    let index = std::fs::read_to_string(INDEX).expect("the index of the documents");
    for file in sources::files(&["docs"]) {
        let name = file.path.strip_prefix("docs/").filter(|name| name.ends_with(".md") && !name.contains('/'));
        let is_listed = |name: &str| name == "README.md" || index.contains(&format!("]({name})"));
        assert!(name.is_none_or(is_listed), "{INDEX} does not list {}", file.path);
    }
}

fn texts() -> impl Iterator<Item = File> {
    sources::files(&TEXTS).into_iter().filter(|file| !EXEMPT.iter().any(|exempt| file.path.starts_with(exempt)))
}

/// Lines of Markdown that are too long. Tables, code and lines without a space (a link) cannot be wrapped.
pub(crate) fn wide_lines() -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in texts().filter(|file| file.path.ends_with(".md")) {
        let mut in_code = false;
        for (number, line) in file.text.lines().enumerate() {
            let (trimmed, columns) = (line.trim(), line.chars().count());
            in_code ^= trimmed.starts_with("```");
            if columns > MAX_COLUMNS && !in_code && !trimmed.starts_with('|') && trimmed.contains(' ') {
                let text = format!("{}:{} has {columns} columns; the limit is {MAX_COLUMNS}", file.path, number + 1);
                violations.push((file.path.clone(), text));
            }
        }
    }
    violations
}

/// Comments that are too long; rustfmt wraps code only. An exception names a folder of the first two levels.
pub(crate) fn wide_comments() -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in sources::rust(&["src", "tests", "benches", "loadtest"]) {
        let folder = file.path.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        for (number, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > MAX_COLUMNS && line.trim_start().starts_with("//") {
                let text = format!("{}:{} has {columns} columns; the limit is {MAX_COLUMNS}", file.path, number + 1);
                violations.push((folder.clone(), text));
            }
        }
    }
    violations
}

pub(crate) fn old_words() -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in texts() {
        for (number, line) in file.text.lines().enumerate() {
            for words in FORBIDDEN.iter().filter(|words| mentions(line, words)) {
                let text = format!("{}:{}: name the protocol or the system, not {words}", file.path, number + 1);
                violations.push((file.path.clone(), text));
            }
        }
    }
    violations
}

/// Whether a line has these words: `the seed` also in `The seeds'`, but not where it is the seed of random numbers.
fn mentions(line: &str, words: &str) -> bool {
    let random = ["random", "SEED", "schedule"].iter().any(|context| line.contains(context));
    match words {
        "the seed" => !random && line.to_lowercase().contains(words),
        "the sketch" => line.to_lowercase().contains(words),
        _ => line.contains(words),
    }
}

#[test]
fn the_words_are_found() {
    assert!(mentions("as The Seeds' documents say", "the seed"));
    assert!(!mentions("the seed of the random numbers", "the seed"));
    assert!(mentions("(DESIGN 4)", "DESIGN") && !mentions("a design", "DESIGN"));
}
