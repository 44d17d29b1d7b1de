//! The files of the pages, embedded in the binary.

use super::reply::Reply;
use hyper::header;

/// Nothing from another host, nothing inline: what a page may do is what its own files do.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TYPES: &str = "application/typescript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, media type and content of each file.
const FILES: &[(&str, &str, &[u8])] = &[
    ("/", HTML, include_bytes!("../web/index.html")),
    ("/style.css", STYLE, include_bytes!("../web/style.css")),
    ("/online-users.js", SCRIPT, include_bytes!("../web/online-users.js")),
    ("/presence.js", SCRIPT, include_bytes!("../web/presence.js")),
    ("/presence.d.ts", TYPES, include_bytes!("../web/presence.d.ts")),
    ("/favicon.svg", "image/svg+xml", include_bytes!("../web/favicon.svg")),
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<Reply> {
    let (_, media_type, body) = FILES.iter().find(|(known, ..)| *known == path)?;
    let reply = Reply::file(media_type, body).and(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
    // Pages of other sites may import the client.
    let reply = reply.and(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    Some(reply.and(header::REFERRER_POLICY, "no-referrer"))
}
