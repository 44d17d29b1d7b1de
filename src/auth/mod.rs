//! Authentication: finds the user of a WebSocket.
//!
//! A new authentication method is a file here that implements [`Authenticator`], and a line in [`Auth::new`]. These
//! files do not know hyper or workers: they receive [`Credentials`] and return an [`Identity`] or a refusal.

mod anonymous;
mod apps;
mod authenticator;
pub mod callback;
mod credential;
mod denied;
pub mod dev_login;
mod grant;
mod held;
pub mod jwks;
pub mod jwt;
mod keys;
mod names;
mod origin;
pub mod permissions;
mod rejections;
mod renewal;
pub mod strict_json;
mod tokens;

use std::sync::{Arc, OnceLock};

use crate::config::Config;
use crate::metrics::Metric;
use crate::outgoing::Sender;
use crate::peer::PeerAddress;
use crate::revocations::Revocations;
use crate::store::Unavailable;
use crate::websocket::Refusal;
use anonymous::Anonymous;
use callback::Callback;
use dev_login::Logins;
use jwks::KeySets;
use rejections::Rejections;

pub use apps::{App, Apps, CountedConnection};
pub use authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
pub use credential::of_headers as bearer;
pub use denied::{Denied, Reason};
pub use grant::{Grant, Renewal};
pub use held::Held;
pub use keys::{ApiKeys, Caller, KeyName};
pub use names::{Names, Pattern};
pub use origin::may_use_cookies;
pub use permissions::{Action, Permissions};
pub use renewal::{NextCredential, RenewalRequest, Renewed};
pub use tokens::Tokens;

/// How this node authenticates. Made from the settings at startup; read by each handshake.
#[derive(Debug, Default)]
pub struct Auth {
    /// Checks handshakes. Without one, the user id that a client claims to have is accepted.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// The logins of `--dev-login`, for the routes that sign users in and out.
    pub dev_login: Option<Arc<Logins>>,
    /// Checks the tokens of handshakes and of HTTP requests.
    pub tokens: Option<Arc<Tokens>>,
    /// The keys of applications.
    pub keys: ApiKeys,
    /// The applications whose clients speak the Pusher protocol.
    pub apps: Apps,
    /// Credentials that are revoked.
    pub revocations: Arc<Revocations>,
    /// The rejected identities.
    pub rejections: Arc<Rejections>,
    /// The application that says who clients are.
    pub callback: Option<Arc<Callback>>,
    /// What visitors without a credential may do, if there may be any.
    pub anonymous: Option<Arc<Grant>>,
    /// Sends requests, if there are any to send.
    outgoing: OnceLock<Sender>,
}

impl Auth {
    /// The authentication that the settings require.
    ///
    /// # Errors
    /// If a setting is not valid, as a sentence.
    pub fn new(config: &Config, unix_ms: u64) -> Result<Self, String> {
        let dev_login = config.login.dev_login.then(|| Logins::new(config.login.session_key.clone(), unix_ms));
        let dev_login = dev_login.map(Arc::new);
        let rejections = Arc::new(Rejections::new(config.quotas.failures_per_address));
        let revocations = Arc::new(revocations(config));
        let callback = match &config.callback {
            Some(options) => {
                let default = tokens::default_permissions(options.default_caps.as_deref())?;
                Some(Arc::new(Callback::new(options, default, Arc::clone(&rejections)).with_revocations(&revocations)))
            }
            None => None,
        };
        let tokens = config.tokens.clone().map(|tokens| Tokens::new(tokens, callback.clone(), Arc::clone(&rejections)));
        let tokens = tokens.transpose()?.map(|tokens| Arc::new(tokens.with_revocations(&revocations)));
        let logins = dev_login.clone().map(|logins| logins as Arc<dyn Authenticator>);
        let applications = callback.clone().map(|callback| callback as _);
        let authenticator: Option<Arc<dyn Authenticator>> =
            tokens.clone().map(|tokens| tokens as _).or(applications).or(logins);
        let anonymous = anonymous::grant(&config.anonymous)?;
        let authenticator = match (authenticator, &anonymous) {
            (Some(others), Some(grant)) => {
                Some(Arc::new(Anonymous::new(Arc::clone(grant), callback.clone(), others)) as Arc<dyn Authenticator>)
            }
            (authenticator, _) => authenticator,
        };
        let keys = ApiKeys::new(&config.keys);
        Ok(Self {
            authenticator,
            dev_login,
            tokens,
            keys,
            apps: Apps::new(&config.pusher, config.limits.workers),
            revocations,
            rejections,
            callback,
            anonymous,
            outgoing: OnceLock::new(),
        })
    }

    /// Whose request this is that reads rooms or statuses. `None` if clients need no credential: it may read everything
    /// then. Visitors without one may only read rooms.
    ///
    /// # Errors
    /// If the request has no valid credential.
    pub async fn identify_reader(
        &self,
        headers: &dyn Headers,
        address: Option<PeerAddress>,
        unix_ms: u64,
        reads_room: bool,
    ) -> Result<Option<Identity>, Refusal> {
        if let Some(grant) = self.anonymous.as_ref().filter(|_| reads_room && anonymous::has_no_token(headers)) {
            return Ok(Some(anonymous::visitor(grant)));
        }
        match (&self.tokens, &self.callback) {
            (Some(tokens), _) => tokens.identify_request(headers, address, unix_ms).await.map(Some),
            (None, Some(_)) => {
                let (reason, message) = match anonymous::has_no_token(headers) {
                    true => (Reason::Missing, "a key of this server is required"),
                    false => (Reason::WrongKey, "the key is wrong"),
                };
                Err(self.rejections.record(Denied::new(reason, message), address, unix_ms).of_request())
            }
            (None, None) => Ok(None),
        }
    }

    /// Starts what asks other servers.
    ///
    /// # Errors
    /// If that cannot be started, or keys that are needed cannot be fetched.
    pub async fn start(&self) -> Result<(), Unavailable> {
        if self.callback.is_none() && self.published().is_none() {
            return Ok(());
        }
        let sender =
            Sender::start("outgoing").map_err(|error| Unavailable(format!("cannot start a thread: {error}")))?;
        let sender = self.outgoing.get_or_init(|| sender);
        if let Some(callback) = &self.callback {
            callback.start(sender);
        }
        if let Some(published) = self.published() {
            published.start(sender).await.map_err(Unavailable)?;
        }
        Ok(())
    }

    /// The user that an HTTP request speaks for, if clients must have an identity. The credentials claim a user. Not
    /// for GET, which cookies never identify: other pages can cause one.
    ///
    /// # Errors
    /// If the request does not speak for that user.
    pub async fn identify_request(&self, credentials: &Credentials<'_>) -> Result<Option<Identity>, Refusal> {
        let has_token = !matches!(credential::of_headers(credentials.headers), Ok(None));
        let tokens = self.tokens.as_ref().filter(|_| has_token || self.callback.is_none());
        let identity = match (tokens, &self.callback) {
            (Some(tokens), _) => {
                let (counted, unix_ms) = (credentials.counted, credentials.unix_ms);
                tokens.identify_request(credentials.headers, counted, unix_ms).await?
            }
            (None, Some(callback)) => callback.identify_request(credentials).await?,
            (None, None) => return Ok(None),
        };
        if credentials.claimed_user != identity.user.as_deref() {
            let denied = Denied::new(Reason::OtherUser, "the request names another user than its credential");
            return Err(self.rejections.record(denied, credentials.counted, credentials.unix_ms).of_request());
        }
        Ok(Some(identity))
    }

    /// Whether clients must have an identity that can be revoked.
    #[must_use]
    pub fn has_identity(&self) -> bool {
        self.tokens.is_some() || self.callback.is_some()
    }

    /// Refuses an address with too many failed authentications, before a key is compared.
    ///
    /// # Errors
    /// If the address has to wait.
    pub fn check_failures(&self, address: Option<PeerAddress>, unix_ms: u64) -> Result<(), Refusal> {
        let reject = |denied| self.rejections.record(denied, address, unix_ms).of_request();
        self.rejections.check(address, unix_ms).map_err(reject)
    }

    /// Counts a key that no application has.
    pub fn reject_key(&self, address: Option<PeerAddress>, unix_ms: u64) {
        self.rejections.record(Denied::new(Reason::WrongKey, "the key is wrong"), address, unix_ms);
    }

    /// Counts a request that no application has signed.
    pub fn reject_signature(&self, address: Option<PeerAddress>, unix_ms: u64) {
        self.rejections.record(Denied::new(Reason::Invalid, "the signature is wrong"), address, unix_ms);
    }

    /// Counts a credential that was revoked while its client arrived.
    pub fn reject_revoked(&self, address: Option<PeerAddress>, unix_ms: u64) -> Refusal {
        self.rejections.record(Denied::revoked(), address, unix_ms).of_request()
    }

    /// Counters of what asks other servers.
    pub fn counters(&self) -> impl Iterator<Item = Metric> {
        let callback = self.callback.iter().flat_map(|callback| callback.totals().fields());
        callback.chain(self.published().into_iter().flat_map(|published| published.totals().fields()))
    }

    fn published(&self) -> Option<&KeySets> {
        self.tokens.as_ref()?.published()
    }
}

/// A list whose entries live as long as tokens can. The leeway counts twice: a token may be valid for that much longer
/// than `max_age`, and is accepted for that long after it has expired.
fn revocations(config: &Config) -> Revocations {
    let revocations = match &config.tokens {
        Some(tokens) => Revocations::new(tokens.rules.max_age + 2 * tokens.rules.leeway),
        None => Revocations::default(),
    };
    revocations.with_capacity(config.limits.max_revocations)
}
