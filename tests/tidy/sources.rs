//! The files of the project.

use std::fs;
use std::path::Path;

use super::imports::{self, Import};
use super::scanner;

/// A file as git lists it, with `/` between the parts of its path.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The files below these folders, or these files, in the order of their names.
pub(crate) fn files(roots: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    roots.iter().for_each(|root| collect(Path::new(root), &mut found));
    found.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!found.is_empty(), "{roots:?} are empty: cargo runs this test where Cargo.toml is");
    found
}

/// The Rust files below these folders.
pub(crate) fn rust(roots: &[&str]) -> Vec<File> {
    files(roots).into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

fn collect(path: &Path, found: &mut Vec<File>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if ["target", "node_modules", "__pycache__"].contains(&name.as_str()) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder of the project") {
            collect(&entry.expect("an entry of it").path(), found);
        }
    } else if let Ok(text) = fs::read_to_string(path) {
        found.push(File { path: path.to_str().expect("a plain name").to_owned(), text });
    } // Else it is an image.
}

/// A Rust file of a crate, without its comments, its texts and its unit tests.
pub(crate) struct Source {
    pub(crate) path: String,
    /// The path of its module below the crate: empty for the root.
    pub(crate) module: Vec<String>,
    /// The files of this crate whose items it names, each with the name of the item.
    pub(crate) imports: Vec<Import>,
    /// Each path of several parts that its code writes, as written.
    pub(crate) paths: Vec<Vec<String>>,
}

impl Source {
    /// The module below `src/` that it belongs to.
    pub(crate) fn top(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }
}

/// All sources below a folder whose root module is `root` (lib.rs or main.rs), known to other targets as `name`.
pub(crate) fn of_crate(folder: &str, root: &str, name: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for file in rust(&[folder]) {
        let inner = file.path.trim_start_matches(folder).trim_start_matches('/').trim_end_matches(".rs");
        if inner.split('/').any(|part| part == "tests") {
            continue; // Unit tests, in a file or a folder.
        }
        let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        module.pop_if(|last| last == "mod" || inner == root);
        let code = scanner::without_tests(&scanner::code(&file.text));
        sources.push((Source { path: file.path, module, imports: Vec::new(), paths: Vec::new() }, code));
    }
    imports::resolve(sources, name)
}
