//! Files and functions are short, and each file says what it is for.

use super::exceptions::{self, Violation};
use super::scanner;
use super::sources;

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_MAP_LINES: usize = 120;
const RUST: [&str; 4] = ["src", "tests", "benches", "loadtest"];

#[test]
fn each_file_says_what_it_is_for() {
    for file in sources::rust(&RUST) {
        assert!(file.text.starts_with("//!"), "{} has no module documentation", file.path);
    }
}

#[test]
fn files_are_short() {
    exceptions::check("long files");
}

#[test]
fn functions_are_short() {
    exceptions::check("long functions");
}

pub(crate) fn long_files() -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in sources::rust(&RUST) {
        let lines = file.text.lines().count();
        if lines > MAX_FILE_LINES {
            let text = format!("{} has {lines} lines; the limit is {MAX_FILE_LINES}", file.path);
            violations.push((file.path, text));
        }
    }
    violations
}

pub(crate) fn long_functions() -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in sources::rust(&RUST) {
        for (name, first, lines) in scanner::functions(&scanner::code(&file.text)) {
            if lines > MAX_FUNCTION_LINES {
                let text =
                    format!("{}:{first}: {name} has {lines} lines; the limit is {MAX_FUNCTION_LINES}", file.path);
                violations.push((format!("{} {name}", file.path), text));
            }
        }
    }
    violations
}

#[test]
fn the_map_is_short() {
    let lines = std::fs::read_to_string("ARCHITECTURE.md").expect("the map").lines().count();
    assert!(lines <= MAX_MAP_LINES, "ARCHITECTURE.md has {lines} lines; the limit is {MAX_MAP_LINES}");
}
