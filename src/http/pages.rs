//! The files of the pages, embedded in the binary. Fragments that all pages share are inserted once, at the first
//! request.

use std::sync::LazyLock;

use hyper::header;

use super::context::Context;
use super::reply::Reply;

/// Pages load nothing from other hosts and run nothing inline, only their own files.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TYPES: &str = "application/typescript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! web {
    ($file:literal) => {
        include_str!(concat!("../web/", $file))
    };
}

/// Path and source of each page.
const PAGES: [(&str, &str); 5] = [
    ("/", web!("pages/index.html")),
    ("/chat", web!("pages/chat.html")),
    ("/status", web!("pages/status.html")),
    ("/login", web!("pages/login.html")),
    ("/dashboard", web!("pages/dashboard.html")),
];

/// Fragments that replace `{{name}}` in the pages.
const FRAGMENTS: [(&str, &str); 5] = [
    ("{{head}}", web!("pages/head.html")),
    ("{{header}}", web!("pages/header.html")),
    ("{{notice}}", web!("pages/notice.html")),
    ("{{name-dialog}}", web!("pages/name-dialog.html")),
    ("{{body-end}}", web!("pages/body-end.html")),
];

/// Path, media type and content of each other file.
const FILES: &[(&str, &str, &str)] = &[
    (
        "/style.css",
        STYLE,
        concat!(web!("pages/tokens.css"), web!("pages/style.css"), web!("pages/header.css"), web!("pages/dialog.css")),
    ),
    ("/online-users.css", STYLE, web!("pages/online-users.css")),
    ("/chat.css", STYLE, web!("pages/chat.css")),
    ("/status.css", STYLE, web!("pages/status.css")),
    ("/login.css", STYLE, web!("pages/login.css")),
    ("/dashboard.css", STYLE, web!("pages/dashboard.css")),
    ("/online-users.js", SCRIPT, web!("pages/online-users.js")),
    ("/presence.js", SCRIPT, web!("client/presence.js")),
    ("/presence.d.ts", TYPES, web!("client/presence.d.ts")),
    ("/names.js", SCRIPT, web!("pages/names.js")),
    ("/dom.js", SCRIPT, web!("pages/dom.js")),
    ("/roster.js", SCRIPT, web!("pages/roster.js")),
    ("/page.js", SCRIPT, web!("pages/page.js")),
    ("/name-dialog.js", SCRIPT, web!("pages/name-dialog.js")),
    ("/reconnecting-socket.js", SCRIPT, web!("pages/reconnecting-socket.js")),
    ("/chat.js", SCRIPT, web!("pages/chat.js")),
    ("/status.js", SCRIPT, web!("pages/status.js")),
    ("/login.js", SCRIPT, web!("pages/login.js")),
    ("/dashboard.js", SCRIPT, web!("pages/dashboard.js")),
    ("/counters.js", SCRIPT, web!("pages/counters.js")),
    ("/chart.js", SCRIPT, web!("pages/chart.js")),
    ("/demo-users.js", SCRIPT, web!("pages/demo-users.js")),
    ("/embed.js", SCRIPT, web!("embed/embed.js")),
    ("/embed-style.js", SCRIPT, web!("embed/embed-style.js")),
    ("/favicon.svg", "image/svg+xml", web!("pages/favicon.svg")),
];

static WHOLE_PAGES: LazyLock<Vec<(&str, String)>> =
    LazyLock::new(|| PAGES.iter().map(|(path, source)| (*path, whole(path, source))).collect());

/// The paths of all files; each answers GET.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|(path, _)| *path).chain(FILES.iter().map(|(path, ..)| *path))
}

/// `GET` of one of [`paths`].
pub(super) async fn file(context: Context) -> Result<Reply, Reply> {
    find(&context.target.path).ok_or_else(|| Reply::not_found(&context.target.path))
}

fn find(path: &str) -> Option<Reply> {
    if let Some((_, page)) = WHOLE_PAGES.iter().find(|(known, _)| *known == path) {
        return Some(reply(HTML, page));
    }
    let (_, media_type, body) = FILES.iter().find(|(known, ..)| *known == path)?;
    // Browsers fetch modules with CORS: with this header, pages of other sites can import them.
    Some(reply(media_type, body).and(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
}

fn reply(media_type: &'static str, body: &'static str) -> Reply {
    let reply = Reply::file(media_type, body.as_bytes()).and(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    reply.and(header::REFERRER_POLICY, "no-referrer")
}

/// A page with its fragments, and the link to itself marked.
fn whole(path: &str, source: &str) -> String {
    let link = format!("<a href=\"{path}\">");
    let marked = format!("<a href=\"{path}\" aria-current=\"page\">");
    let page =
        FRAGMENTS.iter().fold(source.to_owned(), |page, (name, fragment)| page.replace(name, fragment.trim_end()));
    page.replace(&link, &marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_all_fragments_and_mark_the_link_to_themselves() {
        for (path, page) in WHOLE_PAGES.iter() {
            assert!(!page.contains("{{") && !page.contains("}}"), "{path} has an unknown fragment");
            assert_eq!(page.matches("aria-current=\"page\"").count(), 1, "{path}");
            assert!(page.contains(&format!("<a href=\"{path}\" aria-current=\"page\">")), "{path}");
        }
    }

    #[test]
    fn pages_load_only_files_that_this_server_has() {
        let is_file = |path: &str| find(path).is_some();
        for (path, page) in WHOLE_PAGES.iter() {
            assert!(is_file(path), "{path}");
            let named = page.split('"').filter(|word| word.starts_with('/') && word.contains('.'));
            named.for_each(|word| assert!(is_file(word), "{path} names {word}"));
        }
        for (path, _, text) in FILES {
            let imports =
                text.lines().filter(|line| line.starts_with("import ")).filter_map(|line| line.split('"').nth(1));
            imports.for_each(|file| assert!(is_file(file.trim_start_matches('.')), "{path} imports {file}"));
            assert!(!text.contains("@import") && !text.contains("url(http"), "{path} loads from elsewhere");
        }
    }
}
