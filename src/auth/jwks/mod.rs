//! Key sets that issuers publish (RFC 7517), as `--jwks-url` names them.
//!
//! A set is fetched at the start and again every few minutes, and when a token names a key that is not in it. The last
//! good set serves while its server does not answer, so nobody whose token is valid notices.

mod fetch;
mod set;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use super::jwt::{Algorithm, Found, KeySet, Keys, Unavailable, Wanted};
use crate::config::JwksOptions;
use crate::deadline::timeout;
use crate::metrics::{JwksCounters, JwksTotals};
use crate::outgoing::{Endpoint, Sender};
use set::Set;

/// Connections that may wait until a set is fetched.
const MAX_WAITING: usize = 256;
/// How long each of them waits.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Tokens with unknown keys start at most one fetch in this time.
const FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// How long the start waits for a first set.
const START_TIME: Duration = Duration::from_secs(10);

/// The sets of all URLs.
#[derive(Debug)]
pub struct KeySets {
    sets: Vec<Arc<PublishedKeys>>,
    counters: Arc<JwksCounters>,
    is_optional: bool,
}

impl KeySets {
    /// Sets that are not fetched yet.
    #[must_use]
    pub fn new(options: &JwksOptions) -> Self {
        let (counters, waiting) = (Arc::new(JwksCounters::default()), Arc::new(AtomicUsize::new(0)));
        let set = |(issuer, endpoint): &(Option<String>, Endpoint)| {
            Arc::new(PublishedKeys {
                issuer: issuer.clone(),
                endpoint: endpoint.clone(),
                max_stale: options.max_stale,
                last_good: RwLock::new(None),
                status: watch::Sender::new(Status::default()),
                demand: Notify::new(),
                waiting: Arc::clone(&waiting),
                counters: Arc::clone(&counters),
            })
        };
        Self { sets: options.sources.iter().map(set).collect(), counters, is_optional: options.is_optional }
    }

    /// The sets, to find keys in.
    pub fn sets(&self) -> impl Iterator<Item = Arc<dyn KeySet>> {
        self.sets.iter().map(|set| Arc::clone(set) as _)
    }

    /// What was fetched.
    #[must_use]
    pub fn totals(&self) -> JwksTotals {
        let age = |set: &Arc<PublishedKeys>| set.last_good.read().as_ref().map(|(_, since)| since.elapsed().as_secs());
        let oldest = self.sets.iter().filter_map(age).max();
        JwksTotals { jwks_age_seconds: oldest.unwrap_or(0), ..JwksTotals::of(&self.counters) }
    }

    /// Fetches all sets, and keeps them fresh from then on.
    ///
    /// # Errors
    /// If one of them cannot be fetched within some seconds, unless they are optional.
    pub async fn start(&self, sender: &Sender) -> Result<(), String> {
        for set in &self.sets {
            sender.spawn(fetch::keep_fresh(Arc::clone(set)));
        }
        let deadline = tokio::time::Instant::now() + START_TIME;
        for set in &self.sets {
            let mut status = set.status.subscribe();
            let first = status.wait_for(|status| status.has_set || (self.is_optional && status.done > 0));
            let is_there = matches!(tokio::time::timeout_at(deadline, first).await, Ok(Ok(_)));
            if !is_there && !self.is_optional {
                let (url, why) = (set.endpoint.target(), set.status.borrow().failure.clone());
                return Err(format!(
                    "the keys at --jwks-url {url} cannot be fetched: {}; with --jwks-optional the server starts all the \
                     same",
                    why.as_deref().unwrap_or("there is no answer yet")
                ));
            }
        }
        Ok(())
    }
}

/// The keys at one URL.
struct PublishedKeys {
    /// The only issuer whose tokens they verify, if one is given.
    issuer: Option<String>,
    endpoint: Endpoint,
    max_stale: Duration,
    /// Written by the task that fetches; read by each check of a token.
    last_good: RwLock<Option<(Arc<Set>, Instant)>>,
    /// Written by the task that fetches.
    status: watch::Sender<Status>,
    /// Raised by a token with an unknown key.
    demand: Notify,
    /// Connections that wait for any set.
    waiting: Arc<AtomicUsize>,
    counters: Arc<JwksCounters>,
}

impl fmt::Debug for PublishedKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PublishedKeys").field("url", self.endpoint.target()).finish_non_exhaustive()
    }
}

/// What became of the fetches of a set.
#[derive(Debug, Clone, Default)]
struct Status {
    /// Fetches that have ended.
    done: u64,
    has_set: bool,
    is_running: bool,
    /// When the last one began.
    began: Option<Instant>,
    /// Why the last one failed, if it did.
    failure: Option<Arc<str>>,
}

impl KeySet for PublishedKeys {
    fn find<'a>(&'a self, wanted: &Wanted<'_>) -> Found<'a> {
        // A secret that any client can fetch is not secret.
        let is_hmac = matches!(wanted.algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        if is_hmac || self.issuer.as_deref().is_some_and(|issuer| wanted.issuer != Some(issuer)) {
            return Found::Now(Keys::new());
        }
        if let Some(keys) = self.set().and_then(|set| set.find(wanted.key_id, wanted.algorithm)) {
            return Found::Now(keys);
        }
        let (key_id, algorithm) = (wanted.key_id.map(str::to_owned), wanted.algorithm);
        Found::Later(Box::pin(async move {
            self.fetched().await?;
            let set = self.set().ok_or(Unavailable)?;
            Ok(set.find(key_id.as_deref(), algorithm).unwrap_or_default())
        }))
    }
}

impl PublishedKeys {
    /// The last good set, if it is not too old.
    fn set(&self) -> Option<Arc<Set>> {
        let last_good = self.last_good.read();
        let (set, since) = last_good.as_ref()?;
        (since.elapsed() <= self.max_stale).then(|| Arc::clone(set))
    }

    /// Has the set fetched again, and waits for it. An error if that may not be done now, or fails.
    async fn fetched(&self) -> Result<(), Unavailable> {
        let _place = Place::take(&self.waiting).ok_or(Unavailable)?;
        let mut status = self.status.subscribe();
        let done = {
            let now = status.borrow();
            let is_too_early = now.began.is_some_and(|began| began.elapsed() < FETCH_INTERVAL);
            if is_too_early && !now.is_running {
                return Err(Unavailable);
            }
            now.done
        };
        self.demand.notify_one();
        let is_good = async {
            let status = status.wait_for(|status| status.done > done).await;
            status.is_ok_and(|status| status.failure.is_none())
        };
        match timeout(MAX_WAIT, is_good).await {
            Ok(true) => Ok(()),
            _ => Err(Unavailable),
        }
    }
}

/// A connection that waits.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_connections_may_wait_and_no_more() {
        let waiting = AtomicUsize::new(0);
        let mut places: Vec<_> = (0..MAX_WAITING).map(|_| Place::take(&waiting).unwrap()).collect();
        assert!(Place::take(&waiting).is_none());
        places.pop();
        assert!(Place::take(&waiting).is_some());
        drop(places);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
