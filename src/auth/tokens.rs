//! Identity by token: the application signs who a client is and what the client may do.

use std::future::ready;
use std::sync::Arc;

use tracing::debug;

use super::Permissions;
use super::authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
use super::callback::Callback;
use super::credential;
use super::denied::{Denied, Reason};
use super::jwks::KeySets;
use super::jwt::{ConfiguredKeys, KeySet, Verified, Verifier};
use super::rejections::Rejections;
use crate::config;
use crate::peer::PeerAddress;
use crate::revocations::Revocations;
use crate::websocket::Refusal;

/// Authenticates by token.
#[derive(Debug)]
pub struct Tokens {
    verifier: Verifier,
    keys: Arc<ConfiguredKeys>,
    /// The keys that issuers publish.
    published: Option<KeySets>,
    in_query: bool,
    /// Asked about handshakes without a token.
    callback: Option<Arc<Callback>>,
    rejections: Arc<Rejections>,
}

impl Tokens {
    /// Reads the keys and the default permissions.
    ///
    /// # Errors
    /// If they are not valid, as a sentence.
    pub fn new(
        settings: config::Tokens,
        callback: Option<Arc<Callback>>,
        rejections: Arc<Rejections>,
    ) -> Result<Self, String> {
        let default = default_permissions(settings.default_caps.as_deref())?;
        let keys = Arc::new(ConfiguredKeys::new(settings.secrets, settings.public_keys)?);
        let mut sets = vec![Arc::clone(&keys) as Arc<dyn KeySet>];
        let published = settings.jwks.as_ref().map(KeySets::new);
        sets.extend(published.iter().flat_map(KeySets::sets));
        Ok(Self {
            verifier: Verifier::new(settings.rules, sets, default),
            keys,
            published,
            in_query: settings.in_query,
            callback,
            rejections,
        })
    }

    /// The same, refusing what is revoked.
    #[must_use]
    pub fn with_revocations(self, revocations: &Arc<Revocations>) -> Self {
        Self { verifier: self.verifier.with_revocations(Arc::clone(revocations)), ..self }
    }

    /// Reads the files of the keys again. False if there are none.
    ///
    /// # Errors
    /// If a file is not valid; then the present keys stay.
    pub fn reload(&self) -> Result<bool, String> {
        self.keys.reload()
    }

    /// The keys that issuers publish.
    #[must_use]
    pub fn published(&self) -> Option<&KeySets> {
        self.published.as_ref()
    }

    /// Checks a token.
    ///
    /// # Errors
    /// If it is not valid, or its key cannot be had now.
    pub async fn verify(&self, token: &str, unix_ms: u64) -> Result<Verified, Denied> {
        self.verifier.verify(token, unix_ms).await
    }

    /// The user of a request to the HTTP API, and what the user may do.
    ///
    /// # Errors
    /// If the request has no valid token.
    pub async fn identify_request(
        &self,
        headers: &dyn Headers,
        address: Option<PeerAddress>,
        unix_ms: u64,
    ) -> Result<Identity, Refusal> {
        let reject = |denied| self.rejections.record(denied, address, unix_ms).of_request();
        self.rejections.check(address, unix_ms).map_err(reject)?;
        let token = credential::of_headers(headers).map_err(reject)?;
        let missing = || Denied::new(Reason::Missing, "a token is required: Authorization: Bearer TOKEN");
        let token = token.ok_or_else(missing).map_err(reject)?;
        self.verifier.verify(&token, unix_ms).await.map(identity).map_err(reject)
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
        let (address, unix_ms) = (credentials.counted, credentials.unix_ms);
        let subprotocol = credentials.subprotocol;
        let reject = move |(denied, has_authorization)| {
            Err(self.rejections.record(denied, address, unix_ms).of_handshake(has_authorization))
        };
        let found = match self.rejections.check(address, unix_ms) {
            Ok(()) => credential::of_handshake(credentials, subprotocol, self.in_query),
            Err(denied) => Err((denied, true)),
        };
        let found = match found {
            Ok(found) => found,
            Err(refused) => return Box::pin(ready(reject(refused))),
        };
        let has_authorization = found.has_authorization;
        let Some(token) = found.token else {
            if let Some(callback) = &self.callback {
                return callback.authenticate(credentials);
            }
            let missing = Denied::new(Reason::Missing, "a token is required: see docs/authentication.md");
            return Box::pin(ready(reject((missing, has_authorization))));
        };
        let claimed = credentials.claimed_user.map(str::to_owned);
        Box::pin(async move {
            let verified = self.verifier.verify(&token, unix_ms).await;
            let verified = verified.and_then(|verified| check_user(verified, claimed.as_deref()));
            verified.map(identity).or_else(|denied| reject((denied, has_authorization)))
        })
    }

    fn decide_now(&self, credentials: &Credentials<'_>) -> Option<Result<Identity, Refusal>> {
        let (address, unix_ms) = (credentials.counted, credentials.unix_ms);
        let found = credential::of_handshake(credentials, credentials.subprotocol, self.in_query).ok()?;
        let token = found.token?;
        let verified = match self.rejections.check(address, unix_ms) {
            Ok(()) => self.verifier.verify_now(&token, unix_ms)?,
            Err(denied) => Err(denied),
        };
        let verified = verified.and_then(|verified| check_user(verified, credentials.claimed_user));
        let reject = |denied| self.rejections.record(denied, address, unix_ms).of_handshake(found.has_authorization);
        Some(verified.map(identity).map_err(reject))
    }
}

fn identity((user, grant): Verified) -> Identity {
    Identity { user: Some(user), login: None, grant: Some(Arc::new(grant)) }
}

/// A request may name its user, but no other one.
fn check_user(verified: Verified, claimed: Option<&str>) -> Result<Verified, Denied> {
    match claimed {
        Some(claimed) if claimed != verified.0 => {
            debug!("a request names another user than its token");
            Err(Denied::new(Reason::OtherUser, "the request names another user than the token's `sub`"))
        }
        _ => Ok(verified),
    }
}

/// What a credential without `caps` allows: what `--default-caps` says, or everything.
pub(super) fn default_permissions(caps: Option<&str>) -> Result<Permissions, String> {
    let Some(caps) = caps else { return Ok(Permissions::everything()) };
    let caps = serde_json::from_str(caps).map_err(|error| format!("--default-caps: it is not JSON: {error}"))?;
    // Without the claim `caps`, the client may watch all users.
    let anybody = serde_json::json!(["*"]);
    let permissions = Permissions::from_claims(Some(&caps), Some(&anybody), &Permissions::everything());
    permissions.map_err(|why| format!("--default-caps: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::Auth;
    use super::*;
    use crate::config::Config;
    use crate::revocations::Target;

    const SECRET: &str = "the secret of the application in these tests";
    const NOW: u64 = 1_800_000_000_000;

    struct Authorization(String);

    impl Headers for Authorization {
        fn values(&self, name: &'static str) -> Vec<&[u8]> {
            if name == "authorization" { vec![self.0.as_bytes()] } else { Vec::new() }
        }
    }

    #[test]
    fn a_good_token_of_an_address_with_too_many_failures_is_refused_at_once() {
        let config = Config::from_args(["rollcall", "--jwt-secret", SECRET]).unwrap();
        let auth = Auth::new(&config, NOW).unwrap();
        let tokens = auth.tokens.as_ref().unwrap();
        let decide = |token: &str, address: &str| {
            let (headers, address) = (Authorization(format!("Bearer {token}")), address.parse().unwrap());
            tokens.decide_now(&Credentials {
                protocol: "native",
                subprotocol: Some("presence.v1"),
                address,
                counted: Some(PeerAddress::of(address)),
                path: "/v1/connect",
                query: "",
                claimed_user: None,
                may_use_cookies: false,
                headers: &headers,
                unix_ms: NOW,
            })
        };
        let claims = serde_json::json!({"sub": "alice", "exp": NOW / 1000 + 60});
        let good = super::super::jwt::signed(&claims, SECRET);
        let bad = super::super::jwt::signed(&claims, "another secret of the application, unknown");
        let status = |token: &str| match decide(token, "203.0.113.1") {
            Some(Err(Refusal::Http { status, .. })) => status,
            other => panic!("{other:?}"),
        };
        assert!(matches!(decide(&good, "203.0.113.1"), Some(Ok(_))));
        assert_eq!((0..201).map(|_| status(&bad)).max(), Some(401));
        assert_eq!(status(&good), 429);
        assert!(matches!(decide(&good, "203.0.113.2"), Some(Ok(_))), "another address");
        assert_eq!(auth.rejections.counts().map(|(_, count)| count).sum::<u64>(), 202, "each is counted once");
    }

    #[tokio::test]
    async fn a_revocation_lives_as_long_as_the_tokens_that_it_refuses() {
        let (hour, leeway, now) = (3600, 300, NOW / 1000);
        let config = ["rollcall", "--jwt-secret", SECRET, "--jwt-max-age", "1h", "--jwt-leeway", "5m"];
        let auth = Auth::new(&Config::from_args(config).unwrap(), NOW).unwrap();
        let tokens = auth.tokens.as_ref().unwrap();
        // Issued by a clock that is ahead, dated back, and valid for as long as possible.
        let claims = serde_json::json!({"sub": "alice", "iat": now + 60, "exp": now + 60 + hour + leeway + 60});
        let last = super::super::jwt::signed(&claims, SECRET);
        let reason =
            async |token: &str, at: u64| tokens.verify(token, at * 1000).await.err().map(|denied| denied.reason);
        assert_eq!(reason(&last, now + 120).await, None, "it is accepted from then on");
        auth.revocations.add(Target::User("alice".into()), now + 60, now).unwrap();
        let mut at = now + 120;
        loop {
            auth.revocations.take_fresh(at);
            match reason(&last, at).await {
                Some(Reason::Revoked) => at += 10,
                ended => break assert_eq!(ended, Some(Reason::Expired), "{} s later", at - now),
            }
        }
        assert!(at > now + hour + 2 * leeway);
        // Later it would be like a token of then.
        let claims = serde_json::json!({"sub": "alice", "iat": now, "exp": now + 3 * hour});
        let long = super::super::jwt::signed(&claims, SECRET);
        for at in (now..now + 4 * hour).step_by(60) {
            auth.revocations.take_fresh(at);
            assert!(reason(&long, at).await.is_some(), "{} s later", at - now);
        }
    }
}
