//! What the application is asked: the body of the request, and the cookies that travel with it.

use std::fmt;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::super::authenticator::{Credentials, Headers};
use crate::outgoing::Request;

/// Stands for a question wherever it is remembered: nothing of a cookie can be read from it.
pub(super) type Key = [u8; 32];

/// One question to the application.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Question {
    body: String,
    /// The value of the `Cookie` header.
    cookies: Option<Vec<u8>>,
    /// The only user that the answer may name.
    pub(super) user: Option<String>,
}

impl fmt::Debug for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Question").finish_non_exhaustive()
    }
}

impl Question {
    /// Asks who a client is. `cookies` are those of its handshake that the application wants.
    pub(super) fn who(credentials: &Credentials<'_>, cookies: Vec<u8>) -> Self {
        let mut body = Map::new();
        body.insert("protocol".to_owned(), credentials.protocol.into());
        body.insert("path".to_owned(), credentials.path.into());
        if let Some(user) = credentials.claimed_user {
            body.insert("claimed_user".to_owned(), user.into());
        }
        if let Some(origin) = credentials.headers.text("origin") {
            body.insert("origin".to_owned(), origin.into());
        }
        body.insert("ip".to_owned(), credentials.address.to_canonical().to_string().into());
        Self { body: Value::from(body).to_string(), cookies: Some(cookies), user: None }
    }

    /// Asks whether a user may stay.
    pub(super) fn still(user: &str, session: Option<&str>) -> Self {
        let mut body = json!({"recheck": true, "user": user});
        if let Some(session) = session {
            body["session"] = session.into();
        }
        Self { body: body.to_string(), cookies: None, user: Some(user.to_owned()) }
    }

    /// The request that asks it.
    pub(super) fn request(&self) -> Request {
        let request = Request::post(self.body.clone());
        match &self.cookies {
            Some(cookies) => request.and("cookie", cookies),
            None => request,
        }
    }

    /// The same for equal questions only. The salt makes it worthless outside of this process.
    pub(super) fn key(&self, salt: u128) -> Key {
        let mut hash = Sha256::new();
        hash.update(salt.to_le_bytes());
        for part in [self.body.as_bytes(), self.cookies.as_deref().unwrap_or_default()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// The cookies of these names, as the client sent them: `a=1; b=2`. `None` if there are none.
pub(super) fn named_cookies(headers: &dyn Headers, names: &[String]) -> Option<Vec<u8>> {
    let lines = headers.values("cookie");
    let cookies = lines.iter().flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let is_named = |cookie: &&[u8]| {
        let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default();
        cookie.len() > name.len() && names.iter().any(|known| known.as_bytes() == name)
    };
    let named: Vec<&[u8]> = cookies.filter(is_named).collect();
    (!named.is_empty()).then(|| named.join(&b"; "[..]))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::auth::authenticator::tests::Lines;

    fn who(user: Option<&str>, lines: &[(&str, &str)], address: &str) -> Question {
        let credentials = Credentials {
            protocol: "native",
            subprotocol: None,
            counted: None,
            address: address.parse::<IpAddr>().unwrap(),
            path: "/v1/connect",
            query: "user=x&token=sesame",
            claimed_user: user,
            may_use_cookies: false,
            headers: &Lines(lines),
            unix_ms: 0,
        };
        Question::who(&credentials, b"a=1".to_vec())
    }

    #[test]
    fn the_body_says_what_is_known_of_the_client() {
        let lines = [("origin", "https://a.example"), ("user-agent", "sesame"), ("authorization", "sesame")];
        let body = who(Some("al\"ice"), &lines, "::ffff:10.0.0.1").body;
        let body: Value = serde_json::from_str(&body).unwrap();
        let want = json!({"protocol": "native", "path": "/v1/connect", "claimed_user": "al\"ice",
            "origin": "https://a.example", "ip": "10.0.0.1"});
        assert_eq!(body, want);
        let body: Value = serde_json::from_str(&who(None, &[], "2001:db8::1").body).unwrap();
        assert_eq!(body, json!({"protocol": "native", "path": "/v1/connect", "ip": "2001:db8::1"}));
        let body: Value = serde_json::from_str(&Question::still("alice", Some("s")).body).unwrap();
        assert_eq!(body, json!({"recheck": true, "user": "alice", "session": "s"}));
        let body: Value = serde_json::from_str(&Question::still("alice", None).body).unwrap();
        assert_eq!(body, json!({"recheck": true, "user": "alice"}));
    }

    #[test]
    fn only_named_cookies_travel() {
        let check = |lines: &[&str], want: Option<&str>| {
            let lines: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            let got = named_cookies(&Lines(&lines), &["sid".to_owned(), "tenant".to_owned()]);
            assert_eq!(got.map(|got| String::from_utf8(got).unwrap()).as_deref(), want, "{lines:?}");
        };
        check(&[], None);
        check(&["theme=dark; xsid=1; sidx=2; SID=3; sid"], None);
        check(&["theme=dark; sid=1=2; other=x"], Some("sid=1=2"));
        check(&["sid=", "theme=dark;tenant=\"t\" ;sid=2"], Some("sid=; tenant=\"t\"; sid=2"));
    }

    #[test]
    fn equal_questions_have_one_key_and_different_ones_have_several() {
        let key = |question: &Question| question.key(7);
        let one = who(Some("a"), &[], "10.0.0.1");
        assert_eq!(key(&one), key(&who(Some("a"), &[], "10.0.0.1")));
        let other_cookie = Question { cookies: Some(b"a=2".to_vec()), ..one.clone() };
        for other in [who(Some("b"), &[], "10.0.0.1"), who(Some("a"), &[], "10.0.0.2"), other_cookie] {
            assert_ne!(key(&one), key(&other));
        }
        assert_ne!(one.key(7), one.key(8));
        assert!(!format!("{one:?}").contains("a=1"));
    }
}
