//! Rules of the code base that no lint knows.

use std::fs;
use std::path::{Path, PathBuf};

/// Only these may name an outside library (ARCHITECTURE.md, code map).
const OWNERS: [(&str, &[&str]); 10] = [
    ("redis", &["src/store/redis/link.rs", "src/config/", "src/server/mod.rs"]),
    ("hyper", &["src/http/"]),
    ("fastwebsockets", &["src/websocket/"]),
    ("simd_json", &["src/json.rs", "src/protocol/", "src/http/"]),
    ("dashmap", &["src/presence/"]),
    ("cookie", &["src/auth/dev_login.rs"]),
    ("subtle", &["src/http/login.rs"]),
    ("clap", &["src/config/"]),
    ("humantime", &["src/config/", "src/server/mod.rs", "src/protocol/online_status.rs"]),
    ("rustix", &["src/os.rs"]),
];

/// Longer than this a file holds more than one noun.
const MAX_LINES: usize = 500;

fn sources(folder: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(path.to_str().unwrap(), found),
            false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
            false => {}
        }
    }
}

fn each_source(folders: &[&str], mut check: impl FnMut(&Path, &str)) {
    let mut files = Vec::new();
    folders.iter().for_each(|folder| sources(folder, &mut files));
    assert!(files.len() > 10);
    for file in files {
        check(&file, &fs::read_to_string(&file).unwrap());
    }
}

#[test]
fn each_outside_library_is_known_to_one_module() {
    each_source(&["src"], |path, text| {
        for (library, owners) in OWNERS {
            let uses = text.contains(&format!("{library}::"));
            let owner = owners.iter().any(|owner| path.to_str().unwrap().starts_with(owner));
            assert!(!uses || owner, "{} must not know {library}", path.display());
        }
    });
}

#[test]
fn each_file_says_what_it_is_for_and_is_about_one_thing() {
    each_source(&["src", "tests", "benches", "loadtest/src"], |path, text| {
        assert!(text.starts_with("//!"), "{} has no module documentation", path.display());
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
    });
}

#[test]
fn the_map_fits_on_three_screens() {
    assert!(fs::read_to_string("ARCHITECTURE.md").unwrap().lines().count() <= 120);
}
