//! The pages and the client for browsers: compression, caching, and what `--pages` serves.

use crate::common::TestServer;
use crate::common::http::{self, Response};

async fn get(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> Response {
    http::request(server.address(), "GET", path, headers, b"").await
}

/// The versioned names that a file refers to.
fn references(file: &Response) -> Vec<String> {
    let text = std::str::from_utf8(&file.body).expect("a text that is not compressed");
    let words = text.split('"').filter(|word| word.starts_with("./") && word.contains("?v="));
    words.map(|word| word[1..].to_owned()).collect()
}

#[tokio::test]
async fn scripts_are_compressed_for_clients_that_accept_it() {
    let server = TestServer::start(&[]);
    let plain = get(&server, "/presence.js", &[]).await;
    assert_eq!((plain.status, plain.header("content-encoding")), (200, None));
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    let gzip = get(&server, "/presence.js", &[("accept-encoding", "deflate, gzip, br")]).await;
    assert_eq!((gzip.status, gzip.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(gzip.header("vary"), Some("Accept-Encoding"));
    assert!(gzip.body.starts_with(b"\x1f\x8b") && gzip.body.len() < plain.body.len() / 2);
    let head = http::request(server.address(), "HEAD", "/presence.js", &[("accept-encoding", "gzip")], b"").await;
    assert_eq!(head.header("content-length"), Some(&*gzip.body.len().to_string()));
    server.stop().await;
}

#[tokio::test]
async fn a_script_that_the_browser_has_is_not_sent_again() {
    let server = TestServer::start(&[]);
    for path in ["/presence.js", "/embed.js", "/", "/style.css", "/presence.d.ts"] {
        let first = get(&server, path, &[]).await;
        assert_eq!((first.status, first.header("cache-control")), (200, Some("no-cache")), "{path}");
        let tag = first.header("etag").expect("an entity tag").to_owned();
        let again = get(&server, path, &[("if-none-match", &tag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), Some(&*tag), "{path}");
        let other = get(&server, path, &[("if-none-match", "\"other\"")]).await;
        assert_eq!((other.status, other.body), (200, first.body), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_and_embed_js_refer_to_versions_that_are_cached_for_a_year() {
    let server = TestServer::start(&[]);
    for (path, least) in [("/", 4), ("/chat", 4), ("/embed.js", 5)] {
        let found = references(&get(&server, path, &[]).await);
        assert!(found.len() >= least, "{path}: {found:?}");
        for reference in found {
            let file = get(&server, &reference, &[]).await;
            assert_eq!(file.status, 200, "{path}: {reference}");
            assert_eq!(file.header("cache-control"), Some("public, max-age=31536000, immutable"), "{reference}");
        }
    }
    // As of a page that another version of the server has sent.
    let other = get(&server, "/presence.js?v=000000000000", &[]).await;
    assert_eq!((other.status, other.header("cache-control")), (200, Some("no-cache")));
    server.stop().await;
}

#[tokio::test]
async fn the_flag_pages_chooses_what_is_served() {
    const CLIENT: [&str; 4] = ["/presence.js", "/presence.d.ts", "/embed.js", "/embed.d.ts"];
    const REFERENCE: [&str; 5] = ["/docs", "/docs.js", "/openapi.json", "/style.css", "/favicon.svg"];
    const PAGES: [&str; 8] = ["/", "/chat", "/status", "/login", "/dashboard", "/debug", "/debug.js", "/demo-users.js"];
    for (value, serves_client, serves_pages) in [("all", true, true), ("client", true, false), ("off", false, false)] {
        let server = TestServer::start(&["--pages", value]);
        for (paths, is_served) in
            [(&CLIENT[..], serves_client), (&REFERENCE[..], serves_client), (&PAGES[..], serves_pages)]
        {
            for path in paths {
                let status = get(&server, path, &[]).await.status;
                // Applications can still POST to /login.
                let missing = if *path == "/login" { 405 } else { 404 };
                assert_eq!(status, if is_served { 200 } else { missing }, "--pages {value}: {path}");
            }
        }
        if !serves_pages {
            assert!(server.get("/").await.error(404).contains("has no pages (--pages)"), "--pages {value}");
        }
        if serves_client {
            for module in references(&get(&server, "/embed.js", &[]).await) {
                assert_eq!(get(&server, &module, &[]).await.status, 200, "--pages {value}: {module}");
            }
        }
        for (path, status) in [("/presence.js", if serves_client { 405 } else { 404 }), ("/login", 404)] {
            let post = http::request(server.address(), "POST", path, &[], b"").await;
            assert_eq!(post.status, status, "--pages {value}: POST {path}");
        }
        assert_eq!(get(&server, "/v1/stats", &[]).await.status, 200, "--pages {value}");
        server.stop().await;
    }
}

#[tokio::test]
async fn pages_are_served_by_default_in_open_mode_only_and_the_client_always() {
    let secret = ["--jwt-secret", "the secret of the application in this test"];
    for (flags, page) in [(&[][..], 200), (&["--open"], 200), (&secret, 404)] {
        let server = TestServer::start(flags);
        assert_eq!(get(&server, "/", &[]).await.status, page, "{flags:?}");
        assert_eq!(get(&server, "/presence.js", &[]).await.status, 200, "{flags:?}");
        server.stop().await;
    }
}

/// The reference on the public address with these flags, or on the internal one.
async fn reference(flags: &[&str], is_internal: bool, path: &str) -> Response {
    let server = TestServer::start(flags);
    let address = if is_internal { server.internal_address() } else { server.address() };
    let answer = http::request(address, "GET", path, &[("accept", "text/html")], b"").await;
    server.stop().await;
    answer
}

#[tokio::test]
async fn the_reference_links_only_to_pages_that_are_served() {
    let secret = ["--jwt-secret", "the secret of the application in this test"];
    let internal = ["--pages", "off", "--internal-listen", "127.0.0.1:0"];
    for (flags, is_internal, links_to_chat) in
        [(&[][..], false, true), (&secret, false, false), (&internal, true, false)]
    {
        let page = reference(flags, is_internal, "/docs").await;
        assert_eq!(page.status, 200, "{flags:?}");
        let text = String::from_utf8_lossy(&page.body);
        assert_eq!(text.contains("href=\"./chat\""), links_to_chat, "{flags:?}");
        let server = TestServer::start(flags);
        let address = if is_internal { server.internal_address() } else { server.address() };
        let mut files = references(&page);
        files.extend(references(&http::request(address, "GET", "/docs.js", &[], b"").await));
        assert!(files.iter().any(|file| file.starts_with("/openapi.json?v=")), "{files:?}");
        for file in files {
            assert_eq!(http::request(address, "GET", &file, &[], b"").await.status, 200, "{flags:?}: {file}");
        }
        server.stop().await;
    }
    assert_eq!(reference(&internal, false, "/docs").await.status, 404);
    assert_eq!(reference(&internal, false, "/openapi.json").await.status, 404);
}

#[tokio::test]
async fn the_document_has_the_version_of_the_server_and_any_site_may_read_it() {
    let document = reference(&[], false, "/openapi.json").await;
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.header("access-control-allow-origin"), Some("*"));
    let document = document.json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["openapi"].as_str().expect("a version").starts_with("3.1."), "{document}");
}
