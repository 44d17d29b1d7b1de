//! Visitors without any credential (`--anonymous`): they count or observe some rooms, and do nothing else.
//!
//! A request with a credential is never anonymous, however bad the credential is.

use std::future::ready;
use std::sync::Arc;

use super::authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
use super::callback::Callback;
use super::permissions::{Action, Permissions};
use super::{Grant, Pattern, credential};
use crate::config::AnonymousRule;
use crate::websocket::Refusal;

/// The protocol in which visitors observe rooms. Clients of the others join the lobby.
const PROTOCOL: &str = "native";

/// Admits visitors without a credential, and leaves all others to another authenticator.
#[derive(Debug)]
pub(super) struct Anonymous {
    grant: Arc<Grant>,
    callback: Option<Arc<Callback>>,
    others: Arc<dyn Authenticator>,
}

impl Anonymous {
    pub(super) fn new(grant: Arc<Grant>, callback: Option<Arc<Callback>>, others: Arc<dyn Authenticator>) -> Self {
        Self { grant, callback, others }
    }

    /// Whether a handshake names no user and has neither a token nor a cookie of the application.
    fn is_visitor(&self, credentials: &Credentials<'_>) -> bool {
        let has_no_token = || {
            let found = credential::of_handshake(credentials, credentials.subprotocol, true);
            found.is_ok_and(|found| found.token.is_none())
        };
        let has_cookie = || self.callback.as_ref().is_some_and(|callback| callback.has_cookie(credentials));
        credentials.protocol == PROTOCOL && credentials.claimed_user.is_none() && has_no_token() && !has_cookie()
    }
}

impl Authenticator for Anonymous {
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
        match self.is_visitor(credentials) {
            true => Box::pin(ready(Ok(visitor(&self.grant)))),
            false => self.others.authenticate(credentials),
        }
    }

    fn decide_now(&self, credentials: &Credentials<'_>) -> Option<Result<Identity, Refusal>> {
        // One who looks like a visitor may have a cookie that counts.
        if self.is_visitor(credentials) { None } else { self.others.decide_now(credentials) }
    }
}

/// The identity of visitors.
pub(super) fn visitor(grant: &Arc<Grant>) -> Identity {
    Identity { user: None, login: None, grant: Some(Arc::clone(grant)) }
}

/// Whether a request to the HTTP API carries no token.
pub(super) fn has_no_token(headers: &dyn Headers) -> bool {
    matches!(credential::of_headers(headers), Ok(None))
}

/// What visitors may do; `None` without rules.
///
/// # Errors
/// If a pattern is not valid, as a sentence.
pub(super) fn grant(rules: &[AnonymousRule]) -> Result<Option<Arc<Grant>>, String> {
    let mut all: Option<Permissions> = None;
    for AnonymousRule { observes, rooms } in rules {
        let action = if *observes { Action::Observe } else { Action::Count };
        let pattern = Pattern::new(rooms).map_err(|why| format!("--anonymous: {why}"))?;
        let one = Permissions::one(action, pattern);
        all = Some(match all {
            Some(all) => all.and(one),
            None => one,
        });
    }
    Ok(all.map(|permissions| Arc::new(Grant::anonymous(Arc::new(permissions)))))
}
