//! Whether the cookies of a request count. Browsers add them to requests of any page, so the page decides.

use super::authenticator::Headers;
use crate::config::Entry;
use crate::origin::Origin;

/// Whether a request comes from a page that may use the cookies of this server: one of `--origin`, or without it a page
/// of this server itself. Browsers send the origin with every request that could do harm (RFC 6454, 7); without one,
/// cookies do not count.
///
/// `is_https` says how the client reaches the server, if that is known. Otherwise the scheme is not compared: a proxy
/// may add TLS.
#[must_use]
pub fn may_use_cookies(headers: &dyn Headers, entry: &Entry, is_https: Option<bool>) -> bool {
    let Some(origin) = headers.text("origin").and_then(Origin::parse) else { return false };
    if headers.values("origin").len() > 1 {
        return false;
    }
    match entry.origins.is_empty() {
        true => headers.text("host").is_some_and(|host| origin.is_of_host(host, is_https)),
        false => entry.lists(origin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::authenticator::tests::Lines;
    use crate::config::Config;

    fn check_with(flags: &[&str], is_https: Option<bool>, lines: &[(&str, &str)], want: bool) {
        let entry = Config::from_args([&["rollcall"], flags].concat()).unwrap().entry;
        assert_eq!(may_use_cookies(&Lines(lines), &entry, is_https), want, "{flags:?} {lines:?}");
    }

    #[test]
    fn pages_of_this_server_may_use_cookies() {
        let check = |origin: &str, host: &str, want: bool| {
            check_with(&[], None, &[("origin", origin), ("host", host)], want);
        };
        let same = [
            ("http://here:8000", "here:8000"),
            ("https://Here", "here"),
            ("HTTPS://here", "HERE"),
            ("https://here", "here:443"),
            ("http://here", "here:80"),
            ("https://here:443", "here"),
            ("https://here", "here:"),
            ("http://[::1]:8000", "[::1]:8000"),
            ("https://[::1]", "[::1]:443"),
            ("http://[FE80::1]", "[fe80::1]"),
        ];
        let other = [
            ("http://here:8001", "here:8000"),
            ("http://here", "here:443"),
            ("https://here", "here:80"),
            ("https://here", "here:8000"),
            ("http://there", "here"),
            ("http://here.there", "here"),
            ("http://here@there", "here"),
            ("http://[::1]", "[::2]"),
            ("ftp://here", "here"),
            ("null", "null"),
            ("", ""),
            ("http://", ""),
            ("http://:80", ":80"),
        ];
        same.iter().for_each(|(origin, host)| check(origin, host, true));
        other.iter().for_each(|(origin, host)| check(origin, host, false));
        check_with(&[], None, &[("origin", "http://here")], false);
        check_with(&[], None, &[("origin", "http://here"), ("origin", "http://here"), ("host", "here")], false);
    }

    #[test]
    fn without_an_origin_cookies_do_not_count() {
        check_with(&[], None, &[("host", "here")], false);
        check_with(&["--origin", "https://a.com"], None, &[("host", "here")], false);
    }

    #[test]
    fn the_scheme_counts_if_it_is_known() {
        let page = |origin| [("origin", origin), ("host", "here")];
        check_with(&[], Some(true), &page("https://here"), true);
        check_with(&[], Some(true), &page("http://here"), false);
        check_with(&[], Some(false), &page("http://here"), true);
        check_with(&[], Some(false), &page("https://here"), false);
    }

    #[test]
    fn with_origins_their_pages_may_use_cookies_and_no_others() {
        let flags = ["--origin", "https://a.com"];
        check_with(&flags, None, &[("origin", "https://a.com"), ("host", "here")], true);
        check_with(&flags, None, &[("origin", "https://here"), ("host", "here")], false);
    }
}
