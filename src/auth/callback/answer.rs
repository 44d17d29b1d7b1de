//! What the application answers, strictly: an answer that is not of the documented form decides nothing.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::jwt::SharedPermissions;
use super::super::{Grant, Renewal, strict_json};
use super::Verdict;
use crate::outgoing::Answer;
use crate::outside::{shown, shown_within};
use crate::presence::{Info, is_id};

/// How long an identity is valid if the application does not say.
const DEFAULT_LIFETIME_MS: u64 = 10 * 60 * 1000;
/// The longest time until the application is asked again.
const MAX_LIFETIME_MS: u64 = 24 * 3600 * 1000;
/// The limit of `info`, as compact JSON.
const MAX_INFO_BYTES: usize = 1024;
/// The limit of `session`.
const MAX_SESSION_BYTES: usize = 64;
/// The limit of the reason in a close frame (RFC 6455, 5.5).
const MAX_REASON_BYTES: usize = 123;
/// The reason if the application gives none.
const REFUSED: &str = "the application refuses this client";

/// What an answer to a question of this time means. `expected` is the only user that may be named.
///
/// # Errors
/// If it decides nothing: why not, for the log.
pub(super) fn verdict(
    answer: &Answer,
    expected: Option<&str>,
    shared: &SharedPermissions,
    unix_ms: u64,
) -> Result<Verdict, String> {
    match answer.status {
        200 => {
            let fields = strict_json::object(&answer.body)
                .ok_or_else(|| "its answer is not a JSON object without repeated members".to_owned())?;
            accepted(&fields, expected, shared, unix_ms)
        }
        401 | 403 => Ok(Verdict::Refused(reason(&answer.body))),
        _ => Err(answer.unexpected_status()),
    }
}

fn accepted(
    fields: &Map<String, Value>,
    expected: Option<&str>,
    shared: &SharedPermissions,
    unix_ms: u64,
) -> Result<Verdict, String> {
    let user = text(fields, "user")?.ok_or("its answer has no `user`")?;
    if !is_id(user) {
        return Err(
            "the `user` in its answer is not a valid user id: 1 to 128 bytes of visible UTF-8 in NFC".to_owned()
        );
    }
    if expected.is_some_and(|expected| expected != user) {
        // The session now belongs to another user.
        return Ok(Verdict::Refused(REFUSED.into()));
    }
    let session = text(fields, "session")?;
    if session.is_some_and(|session| session.len() > MAX_SESSION_BYTES) {
        return Err(format!("the `session` in its answer is longer than {MAX_SESSION_BYTES} bytes"));
    }
    let (caps, watch) = (field(fields, "caps"), field(fields, "watch"));
    let permissions = shared.of(caps, watch);
    let permissions = permissions.map_err(|error| format!("its answer is not valid: {}", shown(&error)))?;
    let now = unix_ms / 1000;
    let grant = Grant {
        permissions,
        expires_at: Some(expires_at_ms(fields, unix_ms)? / 1000),
        info: field(fields, "info").map(|value| info(value, now)).transpose()?,
        // A revocation of before does not concern it. One that came after the question does, whenever the application
        // answered: it may have decided before.
        issued_at: Some(now),
        issuer: None,
        key_id: None,
        token_id: None,
        renewal: Renewal::Recheck { session: session.map(Arc::from) },
    };
    Ok(Verdict::Accepted { user: user.into(), grant: Arc::new(grant) })
}

/// A field that is not null: many applications write absent values as null.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    let Some(value) = field(fields, name) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| format!("the `{name}` in its answer is not a string"))
}

fn expires_at_ms(fields: &Map<String, Value>, unix_ms: u64) -> Result<u64, String> {
    let Some(value) = field(fields, "expires_at") else { return Ok(unix_ms + DEFAULT_LIFETIME_MS) };
    // Some languages have no whole numbers; a fraction of a millisecond does not matter.
    let at = value.as_u64().or_else(|| value.as_f64().filter(|at| *at >= 0.0).map(|at| at as u64));
    let at = at.ok_or("the `expires_at` in its answer is not a number of milliseconds")?;
    if at <= unix_ms {
        return Err("the `expires_at` in its answer is in the past; it must be milliseconds since 1970".to_owned());
    }
    if at > unix_ms + MAX_LIFETIME_MS {
        return Err("the `expires_at` in its answer is more than 24 hours ahead".to_owned());
    }
    Ok(at)
}

fn info(value: &Value, now: u64) -> Result<Info, String> {
    if !value.is_object() {
        return Err("the `info` in its answer is not an object".to_owned());
    }
    let compact = value.to_string();
    match compact.len() {
        ..=MAX_INFO_BYTES => Ok(Info::new(&compact, now)),
        length => Err(format!("the `info` in its answer is {length} bytes of JSON; the limit is {MAX_INFO_BYTES}")),
    }
}

/// The `reason` in the body of a refusal, in one line and without invisible characters, if there is one.
fn reason(body: &[u8]) -> Arc<str> {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    let reason = body.as_ref().and_then(|body| body.get("reason")?.as_str()).unwrap_or_default();
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = shown_within(&line, MAX_REASON_BYTES);
    if line.is_empty() { REFUSED.into() } else { line.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn shared() -> SharedPermissions {
        SharedPermissions::new(crate::auth::Permissions::everything())
    }

    fn of(status: u16, body: &(impl ToString + ?Sized)) -> Result<Verdict, String> {
        let answer = Answer::for_tests(status, body.to_string());
        verdict(&answer, None, &shared(), NOW)
    }

    #[test]
    fn answers_with_repeated_members_decide_nothing() {
        for body in [
            r#"{"user":"alice","user":"admin"}"#,
            r#"{"user":"alice","us\u0065r":"admin"}"#,
            r#"{"user":"alice","caps":[{"rooms":["a"],"rooms":["*"],"allow":["join"]}]}"#,
        ] {
            let error = of(200, body).unwrap_err();
            assert_eq!(error, "its answer is not a JSON object without repeated members", "{body}");
        }
    }

    fn grant(body: &Value) -> Arc<Grant> {
        match of(200, body) {
            Ok(Verdict::Accepted { grant, .. }) => grant,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn an_answer_with_a_user_is_an_identity() {
        let everything = grant(&json!({"user": "alice", "info": null, "expires_at": null, "unknown": 1}));
        assert!(everything.permissions.is_everything() && everything.info.is_none());
        assert_eq!(everything.expires_at, Some((NOW + DEFAULT_LIFETIME_MS) / 1000));
        assert_eq!(everything.renewal, Renewal::Recheck { session: None });
        let some = grant(&json!({"user": "alice", "info": {"name": "Alice"}, "expires_at": NOW as f64 + 2000.5,
            "caps": [{"rooms": ["a"], "allow": ["join"]}], "session": "s"}));
        assert_eq!(some.info.as_ref().map(Info::as_str), Some("{\"name\":\"Alice\"}"));
        assert_eq!(some.expires_at, Some(NOW / 1000 + 2));
        assert_eq!(some.renewal, Renewal::Recheck { session: Some("s".into()) });
        assert!(!some.permissions.is_everything() && !some.permissions.allow_watch("bob"));
    }

    #[test]
    fn an_answer_of_another_form_decides_nothing() {
        let of_field = |name: &str, value: Value| {
            let mut body = json!({"user": "alice"});
            body[name] = value;
            assert!(of(200, &body).is_err(), "{body}");
        };
        for user in [json!(""), json!(7), json!(null), json!("a\u{301}"), json!(" a"), json!("a".repeat(129))] {
            of_field("user", user);
        }
        let (past, far) = (json!(NOW), json!(NOW + MAX_LIFETIME_MS + 1));
        for at in [past, far, json!("2026-01-01"), json!(-1), json!(NOW / 1000), json!({})] {
            of_field("expires_at", at);
        }
        for info in [json!("x"), json!([]), json!({"a": "x".repeat(MAX_INFO_BYTES)})] {
            of_field("info", info);
        }
        of_field("caps", json!("x"));
        of_field("watch", json!("*"));
        of_field("session", json!(1));
        of_field("session", json!("s".repeat(MAX_SESSION_BYTES + 1)));
        for body in ["", "alice", "[]", "{}", "{\"user\":\"alice\"", "null"] {
            assert!(of(200, body).is_err(), "{body}");
        }
        for status in [100, 201, 204, 302, 400, 404, 429, 500, 503] {
            assert!(of(status, "{\"user\":\"alice\"}").is_err(), "{status}");
        }
    }

    #[test]
    fn a_refusal_has_a_reason_of_one_short_line() {
        let check = |body: &str, want: &str| {
            assert_eq!(of(401, body), Ok(Verdict::Refused(want.into())), "{body}");
            assert_eq!(of(403, body), of(401, body));
        };
        check("", REFUSED);
        check("<html>", REFUSED);
        check("{\"reason\":7}", REFUSED);
        check("{\"reason\":\" \"}", REFUSED);
        check("{\"reason\":\"sign in\\nfirst\"}", "sign in first");
        check("{\"reason\":\"\\u202eevil\\u001b[31m\\u200b\"}", "\\u{202e}evil\\u{1b}[31m\\u{200b}");
        check(&json!({"reason": "ü".repeat(100)}).to_string(), &"ü".repeat(61));
    }

    #[test]
    fn a_session_of_another_user_is_refused() {
        let answer = Answer::for_tests(200, "{\"user\":\"bob\"}".to_owned());
        let got = verdict(&answer, Some("alice"), &shared(), NOW);
        assert_eq!(got, Ok(Verdict::Refused(REFUSED.into())));
        assert!(matches!(verdict(&answer, Some("bob"), &shared(), NOW), Ok(Verdict::Accepted { .. })));
    }
}
