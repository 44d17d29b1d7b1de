//! Asks the application who a client is (`--auth-url`): for applications with session cookies.
//!
//! The application is asked once per connection, and again before the identity expires. It receives the cookies that it
//! has named, and nothing else of the client's headers. While it does not answer, new clients are refused; users
//! who are connected stay until their identity expires and for a while longer.

mod answer;
mod ask;
mod asker;
mod memory;
mod question;
mod queue;
mod task;

use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::authenticator::{Authentication, Authenticator, Credentials, Identity};
use super::jwt::SharedPermissions;
use super::rejections::Rejections;
use super::{Denied, Grant, Permissions, Reason, credential};
use crate::config::CallbackOptions;
use crate::metrics::{CallbackCounters, CallbackTotals};
use crate::os::random;
use crate::outgoing::Sender;
use crate::peer::PeerAddress;
use crate::revocations::Revocations;
use crate::websocket::Refusal;
use ask::Ask;
use asker::Asker;
use question::{Question, named_cookies};
use task::{Application, Questions, run};

/// Questions on their way to the thread that asks them. It takes each within microseconds.
const MAX_HANDED_OVER: usize = 1024;
/// A client that sends heartbeats over HTTP is asked about this often.
const HEARTBEAT_REUSE: Duration = Duration::from_secs(30);

/// What the application says about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is this user.
    Accepted {
        /// The user id.
        user: Arc<str>,
        /// What the user may do, and until when.
        grant: Arc<Grant>,
    },
    /// It may not use the server, for this reason.
    Refused(Arc<str>),
    /// Nothing: the application is not there.
    Undecided(Undecided),
}

/// Why the application has not decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undecided {
    /// Too many clients wait for it.
    Busy,
    /// It did not answer, or not as documented.
    Failed,
}

/// The application, as this node asks it.
pub struct Callback {
    cookies: Vec<String>,
    stale: Duration,
    /// Makes the hashes of cookies worthless outside of this process.
    salt: u128,
    newcomers: mpsc::Sender<Ask>,
    rechecks: mpsc::Sender<Ask>,
    counters: Arc<CallbackCounters>,
    rejections: Arc<Rejections>,
    revocations: Arc<Revocations>,
    /// Taken at the start.
    work: Mutex<Option<Work>>,
}

/// What the thread for outgoing requests gets.
struct Work {
    application: Application,
    questions: Questions,
    asker: Asker,
}

impl fmt::Debug for Callback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Callback").finish_non_exhaustive()
    }
}

impl Callback {
    /// An application that is not asked yet. Its answers without `caps` allow `default`.
    #[must_use]
    pub fn new(options: &CallbackOptions, default: Permissions, rejections: Arc<Rejections>) -> Self {
        let (newcomers, asked) = mpsc::channel(MAX_HANDED_OVER);
        let (rechecks, asked_again) = mpsc::channel(MAX_HANDED_OVER);
        let counters = Arc::new(CallbackCounters::default());
        let application = Application {
            endpoint: options.endpoint.clone(),
            secrets: options.secrets.clone(),
            permissions: SharedPermissions::new(default),
            counters: Arc::clone(&counters),
        };
        let questions = Questions { newcomers: asked, rechecks: asked_again };
        let work = Mutex::new(Some(Work { application, questions, asker: Asker::new(options.concurrency) }));
        let salt = u128::from(random()) << 64 | u128::from(random());
        let (cookies, stale) = (options.cookies.clone(), options.stale);
        Self { cookies, stale, salt, newcomers, rechecks, counters, rejections, revocations: Arc::default(), work }
    }

    /// The same, refusing what is revoked.
    #[must_use]
    pub fn with_revocations(self, revocations: &Arc<Revocations>) -> Self {
        Self { revocations: Arc::clone(revocations), ..self }
    }

    /// Starts to ask, on the thread for outgoing requests.
    pub fn start(&self, sender: &Sender) {
        if let Some(Work { application, questions, asker }) = self.work.lock().take() {
            sender.spawn(run(Arc::new(application), questions, asker));
        }
    }

    /// What it has done.
    #[must_use]
    pub fn totals(&self) -> CallbackTotals {
        CallbackTotals::of(&self.counters)
    }

    /// How long a user stays connected whose identity has expired, while the application does not answer.
    #[must_use]
    pub fn stale(&self) -> Duration {
        self.stale
    }

    /// Asks whether a user may stay connected, as the application named the session. At most a quarter of the requests
    /// wait behind newcomers.
    pub async fn recheck(&self, user: &str, session: Option<&str>) -> Verdict {
        let question = Question::still(user, session);
        let (reply, answer) = oneshot::channel();
        let ask = Ask { key: question.key(self.salt), question, address: None, reuse: Duration::ZERO, reply };
        let failed = Verdict::Undecided(Undecided::Failed);
        match self.rechecks.send(ask).await {
            Ok(()) => answer.await.unwrap_or(failed),
            Err(_) => failed,
        }
    }

    /// Whether a request has a cookie by which the application may know its user.
    #[must_use]
    pub fn has_cookie(&self, credentials: &Credentials<'_>) -> bool {
        credentials.may_use_cookies && named_cookies(credentials.headers, &self.cookies).is_some()
    }

    /// Asks who a client is. Equal requests reuse an identity for the time of `reuse`. `None` if the request has no
    /// cookie that the application knows.
    pub fn who(
        &self,
        credentials: &Credentials<'_>,
        reuse: Duration,
    ) -> Option<impl Future<Output = Verdict> + use<'_>> {
        let cookies = credentials.may_use_cookies.then(|| named_cookies(credentials.headers, &self.cookies));
        let question = Question::who(credentials, cookies.flatten()?);
        let address = Some(PeerAddress::of(credentials.address));
        Some(async move {
            let (reply, answer) = oneshot::channel();
            let ask = Ask { key: question.key(self.salt), question, address, reuse, reply };
            match self.newcomers.try_send(ask) {
                Ok(()) => answer.await.unwrap_or(Verdict::Undecided(Undecided::Failed)),
                Err(_) => Verdict::Undecided(Undecided::Busy),
            }
        })
    }
}

impl Callback {
    /// The user of an HTTP request that a client repeats every few seconds: a verdict on an equal one is reused.
    pub fn identify_request<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
        let token = credential::of_headers(credentials.headers);
        let found = token.map(|token| (token.is_some(), true)).map_err(|denied| (denied, true));
        self.identify(credentials, found, HEARTBEAT_REUSE, |denied, _| denied.of_request())
    }

    /// Refuses an identity that was revoked: the application was asked before.
    fn unless_revoked(&self, identity: Identity) -> Result<Identity, Denied> {
        let revoked = identity.user.as_deref().zip(identity.grant.as_ref());
        match revoked.is_some_and(|(user, grant)| grant.is_revoked(user, &self.revocations)) {
            true => Err(Denied::revoked()),
            false => Ok(identity),
        }
    }

    /// `found` says whether the request has a token, and whether its client reads HTTP errors.
    fn identify<'a>(
        &'a self,
        credentials: &Credentials<'_>,
        found: Result<(bool, bool), (Denied, bool)>,
        reuse: Duration,
        refusal: fn(Denied, bool) -> Refusal,
    ) -> Authentication<'a> {
        let (address, unix_ms) = (credentials.counted, credentials.unix_ms);
        let reject =
            move |(denied, reads_errors)| Err(refusal(self.rejections.record(denied, address, unix_ms), reads_errors));
        let found = match self.rejections.check(address, unix_ms) {
            Ok(()) => found,
            Err(denied) => Err((denied, true)),
        };
        match found {
            Ok((false, _)) => {}
            // A credential that cannot be checked is refused; it does not fall back to a cookie.
            Ok((true, reads_errors)) => {
                let denied = Denied::new(Reason::Invalid, "this server accepts no tokens");
                return Box::pin(ready(reject((denied, reads_errors))));
            }
            Err(refused) => return Box::pin(ready(reject(refused))),
        }
        let claimed = credentials.claimed_user.map(str::to_owned);
        let verdict = self.who(credentials, reuse);
        Box::pin(async move {
            let identified = match verdict {
                Some(verdict) => {
                    verdict.await.identify(claimed.as_deref()).and_then(|known| self.unless_revoked(known))
                }
                None => Err(Denied::new(Reason::Missing, NOT_SIGNED_IN)),
            };
            identified.or_else(|denied| reject((denied, false)))
        })
    }
}

impl Authenticator for Callback {
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
        let found = credential::of_handshake(credentials, credentials.subprotocol, false);
        let found = found.map(|found| (found.token.is_some(), found.has_authorization));
        self.identify(credentials, found, Duration::ZERO, Denied::of_handshake)
    }
}

const NOT_SIGNED_IN: &str = "not signed in: the request has no session cookie of a page of this server";
const OTHER_USER: &str = "the session belongs to another user";
const BUSY: &str = "too many clients wait to be admitted; try again later";
const FAILED: &str = "the application cannot be asked now; try again later";

impl Verdict {
    /// The identity of a client that claims to be this user.
    fn identify(self, claimed: Option<&str>) -> Result<Identity, Denied> {
        match self {
            Self::Accepted { user, .. } if claimed.is_some_and(|claimed| *claimed != *user) => {
                Err(Denied::new(Reason::OtherUser, OTHER_USER))
            }
            Self::Accepted { user, grant } => {
                Ok(Identity { user: Some((*user).to_owned()), login: None, grant: Some(grant) })
            }
            Self::Refused(reason) => Err(Denied::new(Reason::Forbidden, (*reason).to_owned())),
            Self::Undecided(Undecided::Busy) => Err(Denied::new(Reason::Undecided, BUSY)),
            Self::Undecided(Undecided::Failed) => Err(Denied::new(Reason::Undecided, FAILED)),
        }
    }
}
