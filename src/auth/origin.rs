//! Origins: which page a request comes from (RFC 6454).

use super::authenticator::Headers;

/// Whether a request comes from a page of this server, or from a client that is not a browser: browsers send the origin
/// with every request that could do harm (RFC 6454, 7).
#[must_use]
pub fn is_same_origin(headers: &dyn Headers) -> bool {
    let Some(origin) = headers.text("origin") else { return true };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.zip(headers.text("host")).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::authenticator::tests::Lines;

    #[test]
    fn only_an_origin_that_equals_the_host_is_the_same() {
        let check = |origin: Option<&str>, host: Option<&str>, want: bool| {
            let lines: Vec<_> = [("origin", origin), ("host", host)]
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect();
            assert_eq!(is_same_origin(&Lines(&lines)), want, "{origin:?} to {host:?}");
        };
        check(None, Some("here:8000"), true);
        check(Some("http://here:8000"), Some("here:8000"), true);
        check(Some("https://Here"), Some("here"), true);
        check(Some("http://here:8001"), Some("here:8000"), false);
        check(Some("http://there"), Some("here"), false);
        check(Some("http://here.there"), Some("here"), false);
        check(Some("null"), Some("null"), false);
        check(Some("http://here"), None, false);
        check(Some(""), Some(""), false);
    }
}
