//! A new protocol is a new file in `src/protocol/` and an edit of its `mod.rs`: no other file names a protocol, except
//! those of its HTTP API in `src/http/NAME/`.

use std::collections::BTreeSet;
use std::fs;

use super::exceptions::{self, Violation};
use super::sources;

/// Files in `src/protocol/` that all protocols share.
const SHARED: [&str; 6] = ["mod", "client", "command", "event", "handshake", "tests"];

#[test]
fn only_the_protocol_folder_names_a_protocol() {
    exceptions::check("names of protocols");
}

pub(crate) fn violations() -> Vec<Violation> {
    let (modules, variants) = (modules(), variants());
    let mut violations = Vec::new();
    let sources = sources::of_crate("src", "lib", "rollcall");
    for source in sources.iter().filter(|source| source.top() != "protocol") {
        for import in &source.imports {
            if let [top, name, ..] = &import.module[..]
                && top == "protocol"
                && modules.contains(name)
                && !source.path.starts_with(&format!("src/http/{name}/"))
            {
                violations.push((source.path.clone(), format!("{} imports protocol::{name}", source.path)));
            }
        }
        for pair in source.paths.iter().flat_map(|path| path.windows(2)) {
            if pair[0] == "Protocol" && variants.contains(&pair[1]) {
                violations.push((source.path.clone(), format!("{} names Protocol::{}", source.path, pair[1])));
            }
        }
    }
    violations
}

/// The files that are one protocol each.
fn modules() -> BTreeSet<String> {
    let files = sources::rust(&["src/protocol"]).into_iter();
    let inner = files.map(|file| file.path["src/protocol/".len()..].trim_end_matches(".rs").to_owned());
    let names = inner.map(|name| name.split('/').next().expect("a name").to_owned());
    names.filter(|name| !SHARED.contains(&name.as_str())).collect()
}

fn variants() -> BTreeSet<String> {
    let text = fs::read_to_string("src/protocol/mod.rs").expect("the protocols");
    let (_, after) = text.split_once("pub enum Protocol {").expect("an enum of all protocols");
    let body = after.split('}').next().expect("its end");
    let variants = body.lines().map(str::trim).filter(|line| line.starts_with(|char: char| char.is_ascii_uppercase()));
    let names: BTreeSet<_> = variants.map(|line| line.trim_end_matches(',').to_owned()).collect();
    assert!(names.contains("Native") && names.len() > 3, "{names:?}");
    names
}
