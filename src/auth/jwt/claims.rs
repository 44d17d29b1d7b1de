//! The claims of a token (RFC 7519, 4): which ones are read, and what must hold for them.
//!
//! Unknown claims are ignored. A known claim of another JSON type than documented is an error, never as if it were
//! missing: otherwise `"exp":"never"` would mean a token without an end.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::denied::{Denied, Reason};
use super::super::{Grant, Permissions, Renewal};
use super::SharedPermissions;
use crate::config::TokenRules;
use crate::presence::{Info, is_id};

/// The limit of `info`, as compact JSON.
const MAX_INFO_BYTES: usize = 1024;
/// A token that was issued further in the future than clocks differ would escape revocations that name a time.
const MAX_ISSUED_AHEAD_S: u64 = 60;
/// Issuers may date a token back by this much, in case clocks differ.
const MAX_ISSUED_BEFORE_S: u64 = 60;

/// The user of a token and what the token grants, if its claims hold at this time.
pub(super) fn check(
    claims: &Map<String, Value>,
    key_id: Option<&Arc<str>>,
    rules: &TokenRules,
    shared: &SharedPermissions,
    unix_ms: u64,
) -> Result<(String, Grant), Denied> {
    let now = unix_ms / 1000;
    let subject = text(claims, "sub")?.ok_or_else(|| invalid("the token has no `sub`, which names its user"))?;
    if !is_id(subject) {
        return Err(invalid("the token's `sub` is not a valid user id: 1 to 128 bytes of visible UTF-8 in NFC"));
    }
    let expires_at = time(claims, "exp")?.ok_or_else(|| invalid("the token has no `exp`, the time when it expires"))?;
    let (not_before, issued_at) = (time(claims, "nbf")?, time(claims, "iat")?);
    let (issuer, token_id) = (text(claims, "iss")?, text(claims, "jti")?);
    let is_for_us = audience(claims, &rules.audiences)?;
    let permissions = shared.of(claims.get("caps"), claims.get("watch")).map_err(Denied::invalid)?;
    // A token that does not say when it was issued counts as issued now, or its info would lose to that of every other.
    let info = claims.get("info").map(|claim| info(claim, issued_at.unwrap_or(now))).transpose()?;
    if !rules.issuers.is_empty() && !issuer.is_some_and(|issuer| rules.issuers.iter().any(|known| known == issuer)) {
        return Err(invalid("the token's `iss` is not an issuer that this server accepts"));
    }
    if !is_for_us {
        return Err(invalid("the token's `aud` does not name this server"));
    }
    let other_users = || invalid("the token's `sub` begins with the prefix of another issuer's users");
    let user = rules.user(issuer, subject).ok_or_else(other_users)?;
    if !is_id(&user) {
        return Err(invalid("the token's `sub` is too long with the prefix of its issuer"));
    }
    let (leeway, longest) = (rules.leeway.as_secs(), rules.max_age.as_secs());
    if issued_at.is_some_and(|issued_at| issued_at > now + MAX_ISSUED_AHEAD_S) {
        return Err(invalid("the token's `iat` is in the future"));
    }
    if not_before.is_some_and(|not_before| not_before > now + leeway) {
        return Err(invalid("the token is not valid yet: its `nbf` is in the future"));
    }
    if expires_at > now + leeway + longest {
        return Err(invalid("the token's `exp` is too far in the future: see --jwt-max-age"));
    }
    // It would become valid later, when the revocations of the time when it was issued have ended.
    let lifetime = issued_at.map_or(0, |issued_at| expires_at.saturating_sub(issued_at));
    if lifetime > longest + leeway + MAX_ISSUED_BEFORE_S {
        return Err(invalid("the token is valid for too long after its `iat`: see --jwt-max-age"));
    }
    if expires_at.saturating_add(leeway) <= now {
        return Err(Denied::new(Reason::Expired, "the token has expired"));
    }
    let grant = Grant {
        permissions,
        expires_at: Some(expires_at),
        info,
        issued_at,
        issuer: issuer.map(Arc::from),
        key_id: key_id.cloned(),
        token_id: token_id.map(Arc::from),
        renewal: Renewal::Token,
    };
    Ok((user.into_owned(), grant))
}

fn invalid(message: &'static str) -> Denied {
    Denied::new(Reason::Invalid, message)
}

fn wrong_type(name: &str, wanted: &str) -> Denied {
    Denied::invalid(format!("the token's `{name}` must be {wanted}"))
}

/// A claim that is a string.
fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Denied> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| wrong_type(name, "a string"))
}

/// A claim that is a time, in whole seconds since the Unix epoch. Issuers write fractions as well (RFC 7519, 2).
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Denied> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = match value.as_u64() {
        Some(seconds) => Some(seconds),
        // Casting cuts the fraction; a number beyond the range becomes the largest one.
        None => value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64),
    };
    seconds.map(Some).ok_or_else(|| wrong_type(name, "a number of seconds since 1970"))
}

/// Whether `aud` names one of these audiences, or none is required. It is a string or a list of strings.
fn audience(claims: &Map<String, Value>, accepted: &[String]) -> Result<bool, Denied> {
    let wrong = || wrong_type("aud", "a string or a list of strings");
    let named: Vec<&str> = match claims.get("aud") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => {
            several.iter().map(|one| one.as_str().ok_or_else(wrong)).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong()),
    };
    Ok(accepted.is_empty() || named.iter().any(|one| accepted.iter().any(|known| known == one)))
}

fn info(value: &Value, issued_at: u64) -> Result<Info, Denied> {
    if !value.is_object() {
        return Err(wrong_type("info", "an object"));
    }
    let compact = value.to_string();
    match compact.len() {
        ..=MAX_INFO_BYTES => Ok(Info::new(&compact, issued_at)),
        length => {
            Err(Denied::invalid(format!("the token's `info` is {length} bytes of JSON; the limit is {MAX_INFO_BYTES}")))
        }
    }
}

impl Denied {
    pub(super) fn invalid(message: String) -> Self {
        Self::new(Reason::Invalid, message)
    }
}

impl SharedPermissions {
    /// The permissions of these claims.
    pub(in crate::auth) fn of(&self, caps: Option<&Value>, watch: Option<&Value>) -> Result<Arc<Permissions>, String> {
        if caps.is_none() && watch.is_none() {
            return Ok(Arc::clone(self.default()));
        }
        Ok(self.share(Permissions::from_claims(caps, watch, self.default())?))
    }
}
