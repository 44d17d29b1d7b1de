//! The dependency order of the modules of `src/`, as ARCHITECTURE.md states it, and no import cycles between files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::exceptions::{self, Violation};
use super::sources::{self, Source};

/// The order is the first code block of ARCHITECTURE.md after these words.
const STATED_AFTER: &str = "\nDependency order";

/// Files that import from files: `(from, to)`.
type Edge = (String, String);

fn stated_order() -> Vec<String> {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("the map");
    let (_, after) = text.split_once(STATED_AFTER).expect("ARCHITECTURE.md states the dependency order");
    let block = after.split("```").nth(1).expect("the order stands in a code block");
    block.split('←').map(|module| module.trim().to_owned()).collect()
}

fn server() -> Vec<Source> {
    sources::of_crate("src", "lib", "rollcall")
}

fn generator() -> Vec<Source> {
    sources::of_crate("loadtest/src", "main", "loadtest")
}

#[test]
fn architecture_states_the_order_of_all_modules() {
    let stated: BTreeSet<_> = stated_order().into_iter().collect();
    let modules: BTreeSet<_> = server().iter().map(|source| source.top().to_owned()).collect();
    let unknown: Vec<_> = stated.difference(&modules).collect();
    assert!(unknown.is_empty(), "ARCHITECTURE.md orders modules that do not exist: {unknown:?}");
    exceptions::check("modules without a place");
}

pub(crate) fn unordered() -> Vec<Violation> {
    let stated = stated_order();
    let modules: BTreeSet<_> = server().iter().map(|source| source.top().to_owned()).collect();
    let missing = modules.into_iter().filter(|name| !name.is_empty() && !stated.contains(name));
    missing.map(|name| (name.clone(), format!("ARCHITECTURE.md does not order the module {name}"))).collect()
}

#[test]
fn lib_rs_lists_the_modules_in_the_stated_order() {
    let order = stated_order();
    let text = fs::read_to_string("src/lib.rs").expect("the root");
    let mut last = 0;
    // rustfmt sorts each block of lines by name, so only the order of the blocks is checked.
    for block in text.split("\n\n") {
        let names = block.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
        let places: Vec<_> = names.filter_map(|name| order.iter().position(|stated| stated == name)).collect();
        let (Some(&first), Some(&end)) = (places.iter().min(), places.iter().max()) else { continue };
        assert!(first >= last, "src/lib.rs lists {} later than ARCHITECTURE.md does", order[first]);
        last = end;
    }
}

#[test]
fn files_import_only_from_earlier_modules_and_in_no_cycle() {
    exceptions::check("imports");
}

/// Imports against the order, exceptions included, and those that close a cycle. Of a cycle that is new, one import is
/// named and the whole cycle with it.
pub(crate) fn violations() -> Vec<Violation> {
    let mut violations = against_the_order();
    for sources in [server(), generator()] {
        let (excepted, mut edges): (Vec<_>, Vec<_>) = edges(&sources).into_iter().partition(is_excepted);
        while let Some(cycle) = cycle(&edges) {
            let closing = (cycle[cycle.len() - 1].clone(), cycle[0].clone());
            violations.push((key(&closing), format!("a cycle, each imports from the next: {}", cycle.join(" → "))));
            edges.retain(|edge| *edge != closing);
        }
        // An exception is needed as long as it would close a cycle.
        for edge in excepted {
            edges.push(edge.clone());
            if cycle(&edges).is_some() {
                violations.push((key(&edge), String::new()));
                edges.pop();
            }
        }
    }
    violations
}

fn key((from, to): &Edge) -> String {
    format!("{from} → {to}")
}

fn is_excepted(edge: &Edge) -> bool {
    exceptions::IMPORTS.contains(&key(edge).as_str())
}

fn against_the_order() -> Vec<Violation> {
    let order = stated_order();
    let place = |module: &str| order.iter().position(|stated| stated == module);
    let mut violations = Vec::new();
    for source in &server() {
        for import in &source.imports {
            let other = import.module.first().and_then(|module| place(module));
            if let (Some(own), Some(other)) = (place(source.top()), other)
                && other > own
            {
                let text = format!("against the order in ARCHITECTURE.md: {} imports {}", source.path, import.item);
                violations.push((key(&(source.path.clone(), import.file.clone())), text));
            }
        }
    }
    violations
}

/// What imports from what. A file may use what the `mod.rs` of a folder around it defines, and that may use its
/// children: together they are one noun. So imports from a `mod.rs` by files below it are left out; those between its
/// children count.
fn edges(sources: &[Source]) -> Vec<Edge> {
    let mut edges = BTreeSet::new();
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        let counted = source.imports.iter().filter(|import| !source.module.starts_with(&import.module));
        edges.extend(counted.map(|import| (source.path.clone(), import.file.clone())));
    }
    edges.into_iter().collect()
}

/// A cycle, if there is one: each file imports from the next, and the last from the first.
fn cycle(edges: &[Edge]) -> Option<Vec<String>> {
    let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges {
        targets.entry(from).or_default().push(to);
    }
    let mut done = BTreeSet::new();
    let found = targets.keys().find_map(|file| visit(file, &targets, &mut Vec::new(), &mut done));
    found.map(|cycle| cycle.into_iter().map(str::to_owned).collect())
}

fn visit<'a>(
    file: &'a str,
    targets: &BTreeMap<&'a str, Vec<&'a str>>,
    path: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(begin) = path.iter().position(|other| *other == file) {
        return Some(path[begin..].to_vec());
    }
    if done.contains(file) {
        return None;
    }
    path.push(file);
    let found = targets.get(file).into_iter().flatten().find_map(|next| visit(next, targets, path, done));
    path.pop();
    done.insert(file);
    found
}

#[test]
fn a_cycle_is_found() {
    let find = |pairs: &[(&str, &str)]| {
        let edges: Vec<_> = pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        cycle(&edges)
    };
    assert_eq!(find(&[("a", "b"), ("b", "c"), ("a", "c")]), None);
    assert_eq!(find(&[("a", "b"), ("b", "c"), ("c", "b")]), Some(vec!["b".to_owned(), "c".to_owned()]));
}
