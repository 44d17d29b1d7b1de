//! Which file imports from which. An item that a `mod.rs` re-exports counts as imported from the file that defines it,
//! so re-exporting is not importing. Method calls name no module and count as nothing.

use std::collections::HashMap;

use super::sources::Source;

/// An item of another file of the same crate.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    /// The file that defines it.
    pub(crate) file: String,
    /// The module that the file is.
    pub(crate) module: Vec<String>,
    /// The path of the item below the crate.
    pub(crate) item: String,
}

type Path = Vec<String>;

/// Fills in the imports of all sources of a crate.
pub(crate) fn resolve(sources: Vec<(Source, String)>, crate_name: &str) -> Vec<Source> {
    let modules: HashMap<Path, String> =
        sources.iter().map(|(source, _)| (source.module.clone(), source.path.clone())).collect();
    let mut exported = HashMap::new();
    let mut used = Vec::new();
    for (source, code) in &sources {
        let statements = Statements::read(&tokens(code));
        for path in &statements.exports {
            let target =
                absolute(path, &source.module, crate_name).unwrap_or_else(|| [&source.module[..], path].concat());
            let name = [&source.module[..], &path[path.len() - 1..]].concat();
            if name != target {
                exported.insert(name, target);
            }
        }
        used.push(statements.uses);
    }
    let resolve_one = |source: &Source, path: &Path| -> Option<Import> {
        let child = [&source.module[..], &path[..1]].concat();
        let below = || modules.contains_key(&child).then(|| [&source.module[..], path].concat());
        let item = follow(absolute(path, &source.module, crate_name).or_else(below)?, &exported, &modules);
        let module =
            (0..=item.len()).rev().map(|length| item[..length].to_vec()).find(|path| modules.contains_key(path))?;
        let file = modules[&module].clone();
        (file != source.path).then(|| Import { file, module, item: item.join("::") })
    };
    let mut resolved = Vec::new();
    for ((mut source, _), paths) in sources.into_iter().zip(used) {
        source.imports = paths.iter().filter_map(|path| resolve_one(&source, path)).collect();
        source.paths = paths;
        resolved.push(source);
    }
    resolved
}

/// The path below the crate; `None` if it does not say where it begins.
fn absolute(path: &[String], module: &[String], crate_name: &str) -> Option<Path> {
    match path[0].as_str() {
        first if first == "crate" || first == crate_name => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat())
        }
        _ => None,
    }
}

/// Where an item is defined, if modules on its way only pass it on.
fn follow(mut item: Path, exported: &HashMap<Path, Path>, modules: &HashMap<Path, String>) -> Path {
    // No chain is longer; a circle of re-exports would not compile.
    for _ in 0..8 {
        let prefixes = (1..=item.len()).map(|length| item[..length].to_vec());
        let Some(prefix) = prefixes.into_iter().find(|path| !modules.contains_key(path) && exported.contains_key(path))
        else {
            break;
        };
        item = [&exported[&prefix][..], &item[prefix.len()..]].concat();
    }
    item
}

fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        let length = match first {
            _ if is_word(first) => rest.find(|char| !is_word(char)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// What a file says of other modules.
#[derive(Default)]
struct Statements {
    /// Paths of `use`, and others of more than one part.
    uses: Vec<Path>,
    /// Paths of `pub use`, each ending with the name that it is given.
    exports: Vec<Path>,
}

impl Statements {
    fn read(tokens: &[&str]) -> Self {
        let mut statements = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "use" {
                let end = at + tokens[at..].iter().position(|token| *token == ";").unwrap_or(tokens.len() - at);
                let public = at > 0 && (tokens[at - 1] == "pub" || tokens[at - 1] == ")");
                let paths = if public { &mut statements.exports } else { &mut statements.uses };
                tree(&tokens[at + 1..end], &[], paths);
                at = end;
            } else if at + 1 < tokens.len() && tokens[at + 1] == "::" && is_name(tokens[at]) {
                let mut path = vec![tokens[at].to_owned()];
                at += 1;
                while at + 1 < tokens.len() && tokens[at] == "::" && is_name(tokens[at + 1]) {
                    path.push(tokens[at + 1].to_owned());
                    at += 2;
                }
                statements.uses.push(path);
            } else {
                at += 1;
            }
        }
        statements
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|char: char| char.is_alphabetic() || char == '_')
}

/// The paths of a `use`: one for each leaf of its braces.
fn tree(tokens: &[&str], before: &[String], paths: &mut Vec<Path>) {
    let mut path = before.to_vec();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            "::" => {}
            "as" => break,
            "{" => {
                let inner = &tokens[at + 1..tokens.len() - 1];
                branches(inner).for_each(|branch| tree(branch, &path, paths));
                return;
            }
            // `use a::{self, B}`
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    if !path.is_empty() {
        paths.push(path);
    }
}

/// The parts between the commas that stand in no further braces.
fn branches<'a, 'b>(tokens: &'a [&'b str]) -> impl Iterator<Item = &'a [&'b str]> {
    let mut depth = 0;
    tokens.split(move |token| {
        match *token {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        depth == 0 && *token == ","
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, module: &str, code: &str) -> (Source, String) {
        let module = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        (Source { path: path.to_owned(), module, imports: Vec::new(), paths: Vec::new() }, code.to_owned())
    }

    fn files(source: &Source) -> Vec<&str> {
        source.imports.iter().map(|import| import.file.as_str()).collect()
    }

    #[test]
    fn imports_lead_to_the_files_that_define_what_is_imported() {
        let sources = vec![
            source("lib.rs", "", "pub mod a; pub use a::A;"),
            source("a/mod.rs", "a", "mod b; pub(crate) use b::{B, C as D}; pub struct A; fn f() { b::g(); }"),
            source("a/b.rs", "a::b", "use std::fmt; use super::A; pub struct B; pub struct C;"),
            source("c.rs", "c", "use crate::{a::{self, B}, A}; fn f() { a::D::new(); crate::a::b::g(); }"),
        ];
        let sources = resolve(sources, "it");
        assert_eq!(files(&sources[1]), ["a/b.rs"]);
        assert_eq!(files(&sources[2]), ["a/mod.rs"]);
        assert_eq!(files(&sources[3]), ["a/mod.rs", "a/b.rs", "a/mod.rs", "a/b.rs"]);
    }
}
