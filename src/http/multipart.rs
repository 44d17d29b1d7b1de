//! Reads a field of a form in the format of `FormData` (multipart/form-data, RFC 7578). The bodies are short: they were
//! read whole.

use hyper::header::{self, HeaderMap};

/// The type of such a body.
const TYPE: &str = "multipart/form-data";

/// The boundary between the parts of a body, if it is such a form.
pub(super) fn boundary(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (kind, parameters) = value.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case(TYPE) {
        return None;
    }
    parameter(parameters, "boundary").filter(|boundary| !boundary.is_empty())
}

/// The value of the first field with this name.
pub(super) fn field<'a>(body: &'a [u8], boundary: &str, name: &str) -> Option<&'a [u8]> {
    let (first, delimiter) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    // Text before the first part is ignored.
    let mut rest = body.strip_prefix(first.as_bytes()).or_else(|| Some(split(body, delimiter.as_bytes())?.1))?;
    // The last delimiter is followed by two hyphens.
    while !rest.starts_with(b"--") {
        let (part, after) = split(rest, delimiter.as_bytes())?;
        let (head, value) = split(part, b"\r\n\r\n")?;
        if is_named(head, name) {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// Whether the headers of a part name this field.
fn is_named(head: &[u8], name: &str) -> bool {
    let head = String::from_utf8_lossy(head);
    head.lines().any(|line| {
        let Some((header, value)) = line.split_once(':') else { return false };
        let Some((_, parameters)) = value.split_once(';') else { return false };
        header.trim().eq_ignore_ascii_case("content-disposition") && parameter(parameters, "name") == Some(name)
    })
}

/// The value of a parameter such as `name="user"`, without its quotes. Escapes are not decoded: no name here has any.
fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    let pairs = parameters.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(known, _)| known.trim().eq_ignore_ascii_case(name))?;
    let value = value.trim();
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// What stands before and after the first occurrence of a separator.
fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_boundary_is_a_parameter_of_the_content_type() {
        let check = |value: &'static str, want: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(boundary(&headers), want, "{value}");
        };
        check("multipart/form-data; boundary=----x1", Some("----x1"));
        check("Multipart/Form-Data;charset=utf-8; Boundary=\"a b\"", Some("a b"));
        check("multipart/form-data", None);
        check("multipart/form-data; boundary=", None);
        check("application/x-www-form-urlencoded; boundary=x", None);
        assert_eq!(boundary(&HeaderMap::new()), None);
    }

    #[test]
    fn a_field_is_found_among_others() {
        let part = |disposition: &str, value: &str| format!("--x\r\n{disposition}\r\n\r\n{value}\r\n");
        let check = |body: &str, want: Option<&str>| {
            let got = field(body.as_bytes(), "x", "user").map(|value| String::from_utf8_lossy(value).into_owned());
            assert_eq!(got.as_deref(), want, "{body:?}");
        };
        let user = part("Content-Disposition: form-data; name=\"user\"", "Jos\u{e9} & co");
        let file = part(
            "Content-Disposition: form-data; name=\"f\"; filename=\"user\"\r\nContent-Type: text/plain",
            "x\r\n-- y",
        );
        check(&format!("{user}--x--\r\n"), Some("Jos\u{e9} & co"));
        check(&format!("{file}{user}--x--"), Some("Jos\u{e9} & co"));
        check(&format!("preamble\r\n{user}--x--"), Some("Jos\u{e9} & co"));
        check(&format!("{}--x--", part("content-disposition: form-data; name=user", "")), Some(""));
        check(&format!("{file}--x--"), None);
        // Cut off, or with another boundary.
        check(user.trim_end(), None);
        check("--y\r\n\r\n", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in any::<Vec<u8>>(), glue in "(--x|\r\n|name=user|;|:| ){0,20}") {
            let body = [glue.as_bytes(), &body, glue.as_bytes()].concat();
            let _ = field(&body, "x", "user");
        }
    }
}
