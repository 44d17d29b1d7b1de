//! `POST /v1/revoke`: an application takes credentials back before they expire.

use std::sync::Arc;

use bytes::BufMut;
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::context::Context;
use super::kick::TICKS_UNTIL_GONE;
use super::reply::{Reply, thousands};
use crate::auth::{Caller, strict_json};
use crate::deadline::timeout;
use crate::log_limit::used_key;
use crate::presence::check_id;
use crate::revocations::{Full, MAX_ID_BYTES, Target};
use crate::store::RevocationsIn;

/// Times ahead of this server's clock by more than this are a mistake, such as milliseconds.
const MAX_AHEAD_S: u64 = 60;
/// How long an answer waits until Redis has the entry.
const MAX_STORE_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Closes matching connections on all nodes, and refuses matching credentials from now on.
pub(super) async fn revoke(context: Context) -> Result<Reply, Reply> {
    if !context.node().auth.has_identity() {
        let message = "this server checks no credentials, so there is nothing to revoke";
        return Err(Reply::error(StatusCode::NOT_FOUND, "not_found", message));
    }
    let body = context.body().await?;
    let node = context.node();
    // Of now, not of the last tick: it may be a second old.
    let now_s = crate::os::unix_ms() / 1000;
    let revocations = Arc::clone(&node.auth.revocations);
    let default = revocations.now_of_issuers(now_s);
    let (target, issued_before) = parse(&body, now_s, default).map_err(|why| Reply::bad_request(&why))?;
    let what = target.to_string();
    let change = revocations.add(target, issued_before, now_s).map_err(|Full| {
        let limit = thousands(revocations.capacity());
        let message = format!("the limit is {limit} revocations that have not ended; entries end with --jwt-max-age");
        Reply::error(StatusCode::SERVICE_UNAVAILABLE, "too_many_revocations", &message)
    })?;
    if let Caller::Application(key) = context.caller {
        used_key(key, "revoke", &what);
    }
    let is_stored = match node.store.revocations() {
        RevocationsIn::Memory => None,
        RevocationsIn::Redis => {
            node.store.revoked();
            Some(timeout(MAX_STORE_WAIT, revocations.wait_until_stored(change)).await.is_ok())
        }
    };
    context.wait_for_ticks(TICKS_UNTIL_GONE).await;
    let stored = if is_stored == Some(true) { "redis" } else { "memory" };
    let reply = Reply::json(|buffer| {
        buffer.put_slice(br#"{"stored":""#);
        buffer.put_slice(stored.as_bytes());
        buffer.put_slice(br#""}"#);
    });
    // Redis gets it when it is back.
    Ok(if is_stored == Some(false) { reply.with_status(StatusCode::ACCEPTED) } else { reply })
}

/// What a body revokes, and before which time: the default if it names none.
fn parse(body: &[u8], now_s: u64, default: u64) -> Result<(Target, u64), String> {
    let forms = "send one of {\"user\"}, {\"user\",\"issued_before\"}, {\"jti\"}, {\"kid\"} and {\"issued_before\"}";
    let fields = strict_json::object(body);
    let fields = fields.ok_or_else(|| format!("the body is not a JSON object without repeated members; {forms}"))?;
    let has = |name: &str| fields.contains_key(name);
    let issued_before = match fields.get("issued_before") {
        None => default,
        Some(value) => time(value).ok_or("`issued_before` must be a number of seconds since 1970, like `iat`")?,
    };
    if issued_before > now_s + MAX_AHEAD_S {
        return Err("`issued_before` is more than a minute ahead; it is in seconds, like `iat`".to_owned());
    }
    let id = |name: &str| match fields.get(name).and_then(Value::as_str) {
        Some(id) if (1..=MAX_ID_BYTES).contains(&id.len()) => Ok(Arc::from(id)),
        _ => Err(format!("`{name}` must be a string of 1 to {MAX_ID_BYTES} bytes")),
    };
    let target = match (fields.len(), has("issued_before")) {
        (1, _) if has("user") => user(&fields)?,
        (2, true) if has("user") => user(&fields)?,
        (1, true) => Target::Everybody,
        (1, _) if has("jti") => Target::Token(id("jti")?),
        (1, _) if has("kid") => Target::Key(id("kid")?),
        _ => return Err(forms.to_owned()),
    };
    let issued_before = if target.has_time() { issued_before } else { 0 };
    Ok((target, issued_before))
}

fn user(fields: &Map<String, Value>) -> Result<Target, String> {
    let user = fields.get("user").and_then(Value::as_str).ok_or("`user` must be a string")?;
    let user = check_id(user).map_err(|error| format!("`user` {error}"))?;
    Ok(Target::User(user.as_ref().into()))
}

fn time(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn a_body_has_one_of_the_documented_forms() {
        let alice = || Target::User("alice".into());
        let check = |body: Value, want: Option<(Target, u64)>| {
            assert_eq!(parse(body.to_string().as_bytes(), NOW, NOW + 5).ok(), want, "{body}");
        };
        check(json!({"user": "alice"}), Some((alice(), NOW + 5)));
        check(json!({"user": "alice", "issued_before": 7}), Some((alice(), 7)));
        check(json!({"user": "alice", "issued_before": 7.5}), Some((alice(), 7)));
        check(json!({"jti": "x"}), Some((Target::Token("x".into()), 0)));
        check(json!({"kid": "x"}), Some((Target::Key("x".into()), 0)));
        check(json!({"issued_before": NOW + 60}), Some((Target::Everybody, NOW + 60)));
        for body in [
            json!({}),
            json!([]),
            json!({"issued_before": NOW + 61}),
            json!({"issued_before": NOW * 1000}),
            json!({"issued_before": -1}),
            json!({"issued_before": "now"}),
            json!({"issued_before": null}),
            json!({"user": 7}),
            json!({"user": ""}),
            json!({"user": "alice", "jti": "x"}),
            json!({"user": "alice", "issued-before": 7}),
            json!({"jti": "x", "issued_before": 7}),
            json!({"kid": ""}),
            json!({"kid": "x".repeat(257)}),
            json!({"everybody": true}),
        ] {
            check(body, None);
        }
        for body in ["", r#"{"user":"a","user":"b"}"#, r#"{"user":"a","\u0075ser":"a"}"#] {
            assert!(parse(body.as_bytes(), NOW, NOW).is_err(), "{body}");
        }
    }
}
