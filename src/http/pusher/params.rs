//! The query of a request that an application signs, and its signature.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::query::{NotUtf8, Query};
use crate::signature::is_signature;

/// The parameters of a query: names in lower case, values decoded.
#[derive(Debug)]
pub(super) struct Params(BTreeMap<String, String>);

impl Params {
    /// Reads a query. Each can be read in one way only from the text that is signed: names have no `&` and no `=`, and
    /// values no `&`.
    pub(super) fn read(raw_query: &str) -> Result<Self, &'static str> {
        let mut params = BTreeMap::new();
        for pair in Query::new(raw_query).pairs() {
            let (name, value) = pair.map_err(|NotUtf8| "the query must be percent-encoded UTF-8")?;
            if name.contains(['&', '=']) || value.contains('&') {
                return Err("names and values of query parameters must not contain &, and names no =");
            }
            if params.insert(name.to_ascii_lowercase(), value.into_owned()).is_some() {
                return Err("the query has the same parameter twice");
            }
        }
        Ok(Self(params))
    }

    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether this is the signature of a request with these parameters. Libraries sign the path as they know it; their
    /// HTTP clients may escape it, so the decoded path counts as well.
    pub(super) fn are_signed(&self, signature: &str, secret: &[u8], method: &str, path: &str) -> bool {
        let is_of = |path: &str| is_signature(signature, secret, &[self.signed_text(method, path).as_bytes()]);
        is_of(path) || decoded(path).is_some_and(|path| is_of(&path))
    }

    fn signed_text(&self, method: &str, path: &str) -> String {
        let signed = self.0.iter().filter(|(name, _)| *name != "auth_signature");
        let pairs: Vec<_> = signed.map(|(name, value)| format!("{name}={value}")).collect();
        format!("{method}\n{path}\n{}", pairs.join("&"))
    }
}

/// The path without escapes, if it has any. It has none that could stand for a part of another signed text.
fn decoded(path: &str) -> Option<String> {
    let decoded = percent_decode_str(path).decode_utf8().ok().filter(|decoded| **decoded != *path)?;
    let is_plain = !decoded.contains(|letter: char| letter == '%' || letter.is_control());
    is_plain.then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{md5, sign};

    /// The vector of Pusher's documentation.
    const SECRET: &[u8] = b"7ad3773142a6692b25b8";
    const BODY: &str = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const PATH: &str = "/apps/3/events";
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&\
                         body_md5=ec365a775a4cd0599faeb73354201b6f&\
                         auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";

    fn is_signed(query: &str, secret: &[u8], method: &str, path: &str) -> bool {
        let params = Params::read(query).unwrap();
        params.get("auth_signature").is_some_and(|signature| params.are_signed(signature, secret, method, path))
    }

    #[test]
    fn the_documented_request_is_signed() {
        assert_eq!(md5(BODY.as_bytes()), Params::read(QUERY).unwrap().get("body_md5").unwrap());
        assert_eq!(md5(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert!(is_signed(QUERY, SECRET, "POST", PATH));
        // The order of parameters and the case of their names do not matter.
        let mut parts: Vec<_> = QUERY.split('&').collect();
        parts.reverse();
        let reversed =
            parts.join("&").replace("auth_key", "Auth_KEY").replace("auth_version=1.0", "auth_version=1%2E0");
        assert!(is_signed(&reversed, SECRET, "POST", PATH));
    }

    #[test]
    fn any_other_request_is_not_signed() {
        for (method, path) in [("GET", PATH), ("post", PATH), ("POST", "/apps/4/events"), ("POST", "/apps/3/events/")] {
            assert!(!is_signed(QUERY, SECRET, method, path), "{method} {path}");
        }
        assert!(!is_signed(QUERY, b"another secret", "POST", PATH));
        let without_signature = QUERY.split_once("&auth_signature").unwrap().0;
        for query in [
            &QUERY.replace("1353088179", "1353088180"),
            &QUERY.replace("auth_version=1.0&", ""),
            &QUERY.replace("ec365a", "ec365b"),
            &QUERY.replace("da4548", "DA4548"),
            &QUERY.replace("da4548", "da4549"),
            &QUERY[..QUERY.len() - 1],
            &format!("{QUERY}0"),
            &format!("{QUERY}&more=1"),
            &format!("{without_signature}&auth_signature="),
            without_signature,
        ] {
            assert!(!is_signed(query, SECRET, "POST", PATH), "{query}");
        }
    }

    #[test]
    fn values_are_signed_decoded_and_paths_either_way() {
        let signed = |path: &str, query: &str, text: &str| {
            let signature = sign(SECRET, &[text.as_bytes()]);
            is_signed(&format!("{query}&auth_signature={signature}"), SECRET, "GET", path)
        };
        let text = "GET\n/apps/3/channels/a\ninfo=user_count,subscription_count";
        assert!(signed("/apps/3/channels/a", "info=user_count,subscription_count", text));
        assert!(signed("/apps/3/channels/a", "info=user_count%2Csubscription_count", text));
        let text = "GET\n/users/Ann Lee ü/x\na=1";
        assert!(signed("/users/Ann%20Lee%20%C3%BC/x", "a=1", text));
        assert!(signed("/users/Ann%20Lee/x", "a=1", "GET\n/users/Ann%20Lee/x\na=1"));
        // A path that is escaped twice stands for another one.
        assert!(!signed("/users/a%252Fb/x", "a=1", "GET\n/users/a%2Fb/x\na=1"));
        assert!(!signed("/users/a%0Ab=1", "a=1", "GET\n/users/a\nb=1\na=1"));
    }

    #[test]
    fn a_query_that_could_be_read_in_two_ways_is_refused() {
        for query in ["a=1&a=2", "a=1&A=1", "a=1%26b=2", "a%26b=1", "a%3Db=1", "a=%FF", "%FF=1"] {
            assert!(Params::read(query).is_err(), "{query}");
        }
        let params = Params::read("a=b=c&d&&e=").unwrap();
        assert_eq!((params.get("a"), params.get("d"), params.get("e")), (Some("b=c"), Some(""), Some("")));
        assert_eq!(params.signed_text("GET", "/"), "GET\n/\na=b=c&d=&e=");
    }
}
