//! The files of the pages and of the client for browsers. `build.rs` prepares them: see there for the list.

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::context::Context;
use super::reply::Reply;
use crate::config::Pages;

/// Pages load nothing from other hosts and run nothing inline, only their own files.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The pages of `--internal-listen`: of these, the router admits requests for the reference only.
pub(super) const INTERNAL_PAGES: Pages = Pages::Client;

/// For a file that is requested by its version: it never changes.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// A file, whole and compressed.
struct File {
    path: &'static str,
    media_type: &'static str,
    /// The entity tag. It is weak, since it stands for both encodings.
    tag: &'static str,
    audience: Audience,
    plain: &'static [u8],
    gzip: &'static [u8],
}

/// The pages that use a file. The setting `--pages` decides which files are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// The pages of this server, for trying it out.
    Pages,
    /// Pages of other sites.
    Client,
    /// The reference of the HTTP API. Its page exists twice: with links to the other pages, and without.
    Reference,
}

include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Shown to browsers in place of a page that does not exist.
const NOT_FOUND: &str = include_str!("../web/pages/not-found.html");

/// The paths of all files, each once; each answers GET.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    let is_first = |at: usize| FILES[..at].iter().all(|file| file.path != FILES[at].path);
    (0..FILES.len()).filter(move |at| is_first(*at)).map(|at| FILES[at].path)
}

/// `GET` of one of [`paths`].
pub(super) async fn file(context: Context) -> Result<Reply, Reply> {
    let path = &context.target.path;
    let pages = context.node().config.pages;
    // The internal address serves the reference in any case.
    let file = find(path, pages).or_else(|| find(path, INTERNAL_PAGES)).ok_or_else(|| Reply::not_found(path))?;
    context.charge_short(|| file.reply(&context.target.raw_query, context.headers()))
}

/// 404 as a page for people, if the server has pages. Its links are relative, like the links of the other pages.
pub(super) fn not_found(pages: Pages, path: &str) -> Option<Reply> {
    let root = "../".repeat(path.matches('/').count().saturating_sub(1));
    let page = NOT_FOUND.replace("{{root}}", if root.is_empty() { "./" } else { &root });
    let reply = Reply::text("text/html; charset=utf-8", page).with_status(StatusCode::NOT_FOUND).with_code("not_found");
    let reply = reply.and(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    (pages == Pages::All).then(|| reply.and(header::REFERRER_POLICY, "no-referrer"))
}

/// Whether the file at this path is served.
pub(super) fn is_served(path: &str, pages: Pages) -> bool {
    find(path, pages).is_some()
}

/// Whether the file at this path is a part of the reference.
pub(super) fn is_reference(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path && file.audience == Audience::Reference)
}

fn find(path: &str, pages: Pages) -> Option<&'static File> {
    let is_served = |file: &File| match pages {
        Pages::All => true,
        Pages::Client => file.audience != Audience::Pages,
        Pages::Off => false,
    };
    FILES.iter().find(|file| file.path == path && is_served(file))
}

impl File {
    fn reply(&self, query: &str, headers: &HeaderMap) -> Reply {
        let reply = if is_known(headers, self.tag) {
            Reply::empty(StatusCode::NOT_MODIFIED)
        } else if accepts_gzip(headers) {
            Reply::file(self.media_type, self.gzip).and(header::CONTENT_ENCODING, "gzip")
        } else {
            Reply::file(self.media_type, self.plain)
        };
        // Another version was requested if nodes of two versions serve the pages: then only this once.
        let is_versioned = query.strip_prefix("v=") == Some(VERSION);
        let reply = reply.and(header::CACHE_CONTROL, if is_versioned { FOREVER } else { "no-cache" });
        let reply = reply.and(header::ETAG, self.tag).and(header::VARY, "Accept-Encoding");
        let reply = reply.and(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        let reply = reply.and(header::REFERRER_POLICY, "no-referrer");
        // Browsers fetch modules with CORS: with this header, pages of other sites can import them.
        let is_page = !self.path.contains('.');
        if is_page { reply } else { reply.and(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*") }
    }
}

/// The parts of all headers of this name.
fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value: &HeaderValue| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether the client has this version already (RFC 9110, section 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
    list(headers, header::IF_NONE_MATCH).any(|known| known == "*" || opaque(known) == opaque(tag))
}

/// Whether the client accepts gzip (RFC 9110, section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut accepted = None;
    for coding in list(headers, header::ACCEPT_ENCODING) {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_accepted = weight.is_none_or(|weight| weight.parse().is_ok_and(|weight: f32| weight > 0.0));
        match &*name {
            "gzip" | "x-gzip" => return is_accepted,
            "*" => accepted = Some(is_accepted),
            _ => {}
        }
    }
    accepted.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &File) -> &'static str {
        std::str::from_utf8(file.plain).unwrap()
    }

    fn is_page(file: &File) -> bool {
        file.media_type.starts_with("text/html")
    }

    #[test]
    fn pages_have_all_fragments_and_mark_the_link_to_themselves() {
        for file in FILES.iter().filter(|file| is_page(file)) {
            let (path, page) = (file.path, text(file));
            assert!(!page.contains("{{") && !page.contains("}}"), "{path} has an unknown fragment");
            assert_eq!(page.matches("aria-current=\"page\"").count(), 1, "{path}");
            assert!(page.contains(&format!(" href=\".{path}\" aria-current=\"page\">")), "{path}");
        }
    }

    #[test]
    fn files_load_only_files_that_this_server_has_and_by_their_version() {
        let version = format!("?v={VERSION}");
        for file in FILES.iter().filter(|file| !file.path.ends_with(".d.ts") && !file.path.ends_with(".json")) {
            let (path, text) = (file.path, text(file));
            let words = text.split('"').filter(|word| !word.contains(char::is_whitespace));
            let names = words.filter(|word| word.starts_with(['/', '.']) && word.trim_start_matches('.').contains('.'));
            for word in names.filter(|word| is_page(file) || word.contains(".js")) {
                let name = word.strip_prefix('.').and_then(|word| word.strip_suffix(&version));
                let found = name.and_then(|name| find(name, Pages::All));
                let found = found.filter(|found| file.audience == Audience::Pages || found.audience == file.audience);
                assert!(found.is_some(), "{path} names {word}");
            }
            assert!(!text.contains("@import") && !text.contains("url(http"), "{path} loads from elsewhere");
        }
    }

    #[test]
    fn gzip_is_sent_to_clients_that_accept_it() {
        let check = |accepted: &'static str, want: bool| {
            let headers = [(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))].into_iter().collect();
            assert_eq!(accepts_gzip(&headers), want, "{accepted}");
        };
        for accepted in ["gzip", "deflate, gzip, br", "GZIP;q=0.5", "br;q=1.0,gzip;q=0.001", "*", "*;q=0, gzip"] {
            check(accepted, true);
        }
        for refused in ["", "br", "identity", "gzip;q=0", "gzip; q=0.0, *", "*;q=0", "gzipped", "gzip;q=x"] {
            check(refused, false);
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_known_version_is_not_sent_again() {
        let check = |tags: &'static str, want: bool| {
            let headers = [(header::IF_NONE_MATCH, HeaderValue::from_static(tags))].into_iter().collect();
            assert_eq!(is_known(&headers, "W/\"abc\""), want, "{tags}");
        };
        for tags in ["W/\"abc\"", "\"abc\"", "\"x\", W/\"abc\"", "*"] {
            check(tags, true);
        }
        for tags in ["", "\"ab\"", "abc", "W/\"x\", \"y\""] {
            check(tags, false);
        }
    }
}
