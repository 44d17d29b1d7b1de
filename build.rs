//! Prepares the files that the server serves: puts the fragments of the pages in place, refers to files by their
//! version, and compresses them. `src/http/pages.rs` includes the result.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::Path;
use std::{env, fs};

use flate2::Compression;
use flate2::write::GzEncoder;

const FOLDER: &str = "src/web";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TYPES: &str = "application/typescript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// Path and source of each page.
const PAGES: [(&str, &str); 7] = [
    ("/", "pages/index.html"),
    ("/chat", "pages/chat.html"),
    ("/status", "pages/status.html"),
    ("/login", "pages/login.html"),
    ("/dashboard", "pages/dashboard.html"),
    ("/debug", "pages/debug.html"),
    REFERENCE_PAGE,
];

/// The page of the HTTP API.
const REFERENCE_PAGE: (&str, &str) = ("/docs", "pages/docs.html");

/// The files of that page, and the document that it shows. They load only each other, because `--pages client` and
/// `--internal-listen` serve them without the other pages.
const REFERENCE: [(&str, &str, &[&str]); 8] = [
    ("openapi.json", JSON, &["openapi.json"]),
    ("style.css", STYLE, &["pages/tokens.css", "pages/style.css", "pages/header.css", "pages/dialog.css"]),
    ("docs.css", STYLE, &["pages/docs.css"]),
    ("docs.js", SCRIPT, &["pages/docs.js"]),
    ("docs-elements.js", SCRIPT, &["pages/docs-elements.js"]),
    ("docs-schema.js", SCRIPT, &["pages/docs-schema.js"]),
    ("docs-try.js", SCRIPT, &["pages/docs-try.js"]),
    ("favicon.svg", IMAGE, &["pages/favicon.svg"]),
];

/// Fragments that replace `{{name}}` in the pages.
const FRAGMENTS: [&str; 5] = ["head", "header", "notice", "name-dialog", "body-end"];

/// What pages of other sites use: served with `--pages client` too.
const CLIENT: [(&str, &str, &[&str]); 8] = [
    ("presence.js", SCRIPT, &["client/presence.js"]),
    ("presence.d.ts", TYPES, &["client/presence.d.ts"]),
    ("embed.js", SCRIPT, &["embed/embed.js"]),
    ("embed.d.ts", TYPES, &["embed/embed.d.ts"]),
    ("embed-style.js", SCRIPT, &["embed/embed-style.js"]),
    ("names.js", SCRIPT, &["pages/names.js"]),
    ("dom.js", SCRIPT, &["pages/dom.js"]),
    ("roster.js", SCRIPT, &["pages/roster.js"]),
];

/// What only the pages of this server use.
const FILES: [(&str, &str, &[&str]); 19] = [
    ("online-users.css", STYLE, &["pages/online-users.css"]),
    ("chat.css", STYLE, &["pages/chat.css"]),
    ("status.css", STYLE, &["pages/status.css"]),
    ("login.css", STYLE, &["pages/login.css"]),
    ("dashboard.css", STYLE, &["pages/dashboard.css"]),
    ("debug.css", STYLE, &["pages/debug.css"]),
    ("online-users.js", SCRIPT, &["pages/online-users.js"]),
    ("page.js", SCRIPT, &["pages/page.js"]),
    ("name-dialog.js", SCRIPT, &["pages/name-dialog.js"]),
    ("reconnecting-socket.js", SCRIPT, &["pages/reconnecting-socket.js"]),
    ("chat.js", SCRIPT, &["pages/chat.js"]),
    ("status.js", SCRIPT, &["pages/status.js"]),
    ("login.js", SCRIPT, &["pages/login.js"]),
    ("dashboard.js", SCRIPT, &["pages/dashboard.js"]),
    ("counters.js", SCRIPT, &["pages/counters.js"]),
    ("chart.js", SCRIPT, &["pages/chart.js"]),
    ("demo-users.js", SCRIPT, &["pages/demo-users.js"]),
    ("debug.js", SCRIPT, &["pages/debug.js"]),
    ("debug-protocols.js", SCRIPT, &["pages/debug-protocols.js"]),
];

struct File {
    path: String,
    media_type: &'static str,
    text: String,
    /// A variant of `Audience` in `src/http/pages.rs`.
    audience: &'static str,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={FOLDER}");
    let mut files: Vec<File> = PAGES.iter().map(|(path, source)| page(path, source)).collect();
    // Without links to pages that are not served.
    let (path, source) = REFERENCE_PAGE;
    files.push(File { audience: "Reference", text: without_links(&page(path, source).text), ..page(path, source) });
    for (list, audience) in [(&CLIENT[..], "Client"), (&REFERENCE[..], "Reference"), (&FILES[..], "Pages")] {
        files.extend(list.iter().map(|(name, media_type, sources)| {
            let text: String = sources.iter().map(|source| read(source)).collect();
            let text = match *name {
                "presence.js" => without_comments(&text),
                "openapi.json" => text.replace("{{version}}", env!("CARGO_PKG_VERSION")),
                _ => text,
            };
            File { path: format!("/{name}"), media_type, text, audience }
        }));
    }
    let version = hash(&files.iter().map(|file| &*file.text).collect::<String>());
    let names: Vec<_> = files.iter().map(|file| file.path.clone()).filter(|path| path.contains('.')).collect();
    let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut table = format!("const VERSION: &str = \"{version}\";\nstatic FILES: [File; {}] = [\n", files.len());
    for file in &mut files {
        let names = if [HTML, SCRIPT].contains(&file.media_type) { &*names } else { &[] };
        for name in names {
            // Relative, so that a proxy can serve everything below a prefix.
            for written in [format!("\"{name}\""), format!("\".{name}\"")] {
                file.text = file.text.replace(&written, &format!("\".{name}?v={version}\""));
            }
        }
        put(&mut table, file, Path::new(&folder));
    }
    table.push_str("];\n");
    write(&Path::new(&folder).join("files.rs"), table.as_bytes());
}

/// A page with its fragments, and the link to itself marked.
fn page(path: &str, source: &str) -> File {
    let mut text = read(source);
    for name in FRAGMENTS {
        text = text.replace(&format!("{{{{{name}}}}}"), read(&format!("pages/{name}.html")).trim_end());
    }
    let text = text.replace(&format!("<a href=\"{path}\">"), &format!("<a href=\"{path}\" aria-current=\"page\">"));
    let text = text.replace("href=\"/", "href=\"./").replace("src=\"/", "src=\"./");
    File { path: path.to_owned(), media_type: HTML, text, audience: "Pages" }
}

/// A page without the links of its header to other pages.
fn without_links(page: &str) -> String {
    let (before, rest) = page.split_once("<nav class=\"pages\"").expect("pages have links");
    let (_, after) = rest.split_once("</nav>").expect("the links end");
    let before =
        before.replace("<a class=\"brand\" href=\"./\">", "<a class=\"brand\" href=\"./docs\" aria-current=\"page\">");
    format!("{}{}", before.trim_end(), after)
}

/// Writes the file, plain and compressed, and appends it to the table.
fn put(table: &mut String, file: &File, folder: &Path) {
    let File { path, media_type, text, audience } = file;
    // Two pages may have one path.
    let plain = folder.join(format!("{}-{audience}", if path == "/" { "index" } else { &path[1..] }));
    let gzip = plain.with_added_extension("gz");
    write(&plain, text.as_bytes());
    write(&gzip, &compressed(text.as_bytes()));
    let tag = hash(text);
    writeln!(
        table,
        "    File {{ path: {path:?}, media_type: {media_type:?}, tag: \"W/\\\"{tag}\\\"\", \
         audience: Audience::{audience}, plain: include_bytes!({plain:?}), gzip: include_bytes!({gzip:?}) }},"
    )
    .expect("writing to a string cannot fail");
}

/// A script without its indentation, and without the lines that are empty or comments.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("writing to memory cannot fail");
    encoder.finish().expect("writing to memory cannot fail")
}

/// Changes with the text. It need not be the same on other machines.
fn hash(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:012x}", hasher.finish() >> 16)
}

fn read(source: &str) -> String {
    let path = Path::new(FOLDER).join(source);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
