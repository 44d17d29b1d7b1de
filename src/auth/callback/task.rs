//! Asks the application, on the thread for outgoing requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tracing::debug;

use super::ask::Ask;
use super::asker::{Asked, Asker};
use super::question::{Key, Question};
use super::{Undecided, Verdict, answer};
use crate::auth::jwt::SharedPermissions;
use crate::config::Secrets;
use crate::log_limit::warn_limited;
use crate::metrics::CallbackCounters;
use crate::os::unix_ms;
use crate::outgoing::Endpoint;

/// What a request needs besides its question.
pub(super) struct Application {
    pub(super) endpoint: Endpoint,
    /// The first one proves to the application who asks.
    pub(super) secrets: Option<Secrets>,
    /// What answers allow, with the default for those without `caps`.
    pub(super) permissions: SharedPermissions,
    pub(super) counters: Arc<CallbackCounters>,
}

/// Where questions come from.
pub(super) struct Questions {
    pub(super) newcomers: mpsc::Receiver<Ask>,
    pub(super) rechecks: mpsc::Receiver<Ask>,
}

/// Answers questions until nobody can ask any more.
pub(super) async fn run(application: Arc<Application>, mut questions: Questions, mut asker: Asker) {
    let mut requests = JoinSet::new();
    // A request that panics has no result; its place must become free all the same.
    let mut keys: HashMap<Id, Key> = HashMap::new();
    let counters = Arc::clone(&application.counters);
    loop {
        while let Some((key, question)) = asker.next() {
            let application = Arc::clone(&application);
            let request = requests.spawn(async move { application.ask(&question).await });
            keys.insert(request.id(), key);
        }
        counters.callback_waiting.set(asker.waiting() as u64);
        counters.callback_running.set(asker.running() as u64);
        let deadline = asker.next_deadline().map(tokio::time::Instant::from_std);
        tokio::select! {
            Some(done) = requests.join_next_with_id() => {
                let (id, verdict) = match done {
                    Ok((id, verdict)) => (id, verdict),
                    Err(error) => (error.id(), Verdict::Undecided(Undecided::Failed)),
                };
                if let Some(key) = keys.remove(&id) {
                    asker.done(key, &verdict, valid_for(&verdict), Instant::now());
                }
            }
            ask = questions.rechecks.recv() => match ask {
                Some(ask) => take(&mut asker, ask, &counters),
                None => return,
            },
            ask = questions.newcomers.recv() => match ask {
                Some(ask) => take(&mut asker, ask, &counters),
                None => return,
            },
            () = sleep_until(deadline) => {
                let expired = asker.expire(Instant::now());
                counters.callback_turned_away.add(expired);
                if expired > 0 {
                    warn_limited!(
                        "the application at --auth-url is too slow: new clients that waited for 5 s were refused"
                    );
                }
            }
        }
    }
}

/// How long an accepted identity is valid.
fn valid_for(verdict: &Verdict) -> Duration {
    match verdict {
        Verdict::Accepted { grant, .. } => Duration::from_millis(grant.expires_in_ms(unix_ms()).unwrap_or(0)),
        Verdict::Refused(_) | Verdict::Undecided(_) => Duration::ZERO,
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn take(asker: &mut Asker, ask: Ask, counters: &CallbackCounters) {
    match asker.ask(ask, Instant::now()) {
        Asked::Queued => {}
        Asked::Shared => counters.callback_shared.add(1),
        Asked::TurnedAway => {
            counters.callback_turned_away.add(1);
            warn_limited!("too many new clients wait for the application at --auth-url; some were refused");
        }
    }
}

impl Application {
    /// Sends a question, and reads the answer.
    async fn ask(&self, question: &Question) -> Verdict {
        let (begun, asked_ms, counters) = (Instant::now(), unix_ms(), &self.counters);
        let secret = self.secrets.as_ref().and_then(|secrets| secrets.current().first().cloned());
        let mut request = question.request();
        if let Some(secret) = secret {
            request = request.and("authorization", &[b"Bearer ", secret.as_bytes()].concat());
        }
        let answer = self.endpoint.send(&request).await;
        counters.callback_requests.add(1);
        counters.callback.observe(begun.elapsed());
        let verdict = answer
            .map_err(|failure| failure.to_string())
            .and_then(|answer| answer::verdict(&answer, question.user.as_deref(), &self.permissions, asked_ms));
        match &verdict {
            Ok(Verdict::Refused(reason)) => {
                counters.callback_refused.add(1);
                debug!(%reason, "the application refuses a client");
            }
            Ok(_) => counters.callback_accepted.add(1),
            Err(why) => {
                counters.callback_failed.add(1);
                warn_limited!(url = %self.endpoint.target(), "the application at --auth-url gave no usable answer: {why}");
            }
        }
        verdict.unwrap_or(Verdict::Undecided(Undecided::Failed))
    }
}
