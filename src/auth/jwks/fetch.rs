//! Fetches a key set again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use super::set::Set;
use super::{FETCH_INTERVAL, PublishedKeys, START_TIME, Status};
use crate::log_limit::{error_limited, warn_limited};
use crate::outgoing::Request;
use crate::outside::shown;

/// When a set is fetched again, if its server does not say.
const REFRESH: Duration = Duration::from_secs(600);
/// The limits within which its server may say so.
const MIN_REFRESH: Duration = Duration::from_secs(60);
const MAX_REFRESH: Duration = Duration::from_secs(3600);
/// The pause after a fetch that failed.
const RETRY: Duration = Duration::from_secs(30);
/// The same while the server starts and waits for its first set.
const START_RETRY: Duration = Duration::from_millis(500);
/// A set that is older is an error: an operator has to act.
const OLD: Duration = Duration::from_secs(3600);

/// Keeps a set fresh, as long as the thread for outgoing requests runs.
pub(super) async fn keep_fresh(keys: Arc<PublishedKeys>) {
    let started = Instant::now();
    loop {
        let began = Instant::now();
        keys.status.send_modify(|status| (status.is_running, status.began) = (true, Some(began)));
        let fetched = fetch(&keys).await;
        keys.counters.jwks_fetches.add(1);
        let pause = match &fetched {
            Ok(pause) => *pause,
            Err(why) => {
                keys.counters.jwks_failures.add(1);
                report(&keys, why);
                let has_set = keys.status.borrow().has_set;
                if !has_set && started.elapsed() < START_TIME { START_RETRY } else { RETRY }
            }
        };
        keys.status.send_modify(|status| {
            *status = Status {
                done: status.done + 1,
                has_set: status.has_set || fetched.is_ok(),
                is_running: false,
                began: Some(began),
                failure: fetched.err().map(Arc::from),
            };
        });
        // A token with an unknown key may end the pause, but not too early.
        let demanded = async {
            keys.demand.notified().await;
            tokio::time::sleep(FETCH_INTERVAL.saturating_sub(began.elapsed())).await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = demanded => debug!(url = %keys.endpoint.target(), "a token names an unknown key"),
        }
    }
}

/// Fetches a set once. Returns when it is to be fetched again.
async fn fetch(keys: &PublishedKeys) -> Result<Duration, String> {
    let answer = keys.endpoint.send(&Request::get()).await.map_err(|failure| failure.to_string())?;
    if answer.status != 200 {
        return Err(answer.unexpected_status());
    }
    let set = Set::parse(&answer.body)?;
    let (url, ids) = (keys.endpoint.target(), set.ids());
    if !set.skipped.is_empty() {
        debug!(%url, skipped = shown(&set.skipped.join("; ")), "keys of a set cannot be used");
    }
    debug!(%url, ids, "fetched a key set");
    *keys.last_good.write() = Some((Arc::new(set), Instant::now()));
    Ok(refresh(answer.header("cache-control")))
}

/// Logs a failure. What happens next depends on the age of the last good set.
fn report(keys: &PublishedKeys, why: &str) {
    let url = keys.endpoint.target();
    let age = keys.last_good.read().as_ref().map(|(_, since)| since.elapsed());
    match age {
        Some(age) if age > keys.max_stale => {
            error_limited!(%url, "the keys at --jwks-url cannot be fetched and the last ones are too old: {why}");
        }
        Some(age) if age > OLD => {
            let (minutes, limit) = (age.as_secs() / 60, keys.max_stale.as_secs() / 60);
            error_limited!(%url, "the keys at --jwks-url are {minutes} minutes old (limit {limit}): {why}");
        }
        Some(_) => warn_limited!(%url, "the keys at --jwks-url cannot be fetched; the last ones stay valid: {why}"),
        None => warn_limited!(%url, "the keys at --jwks-url cannot be fetched: {why}"),
    }
}

/// When to fetch again, by the `Cache-Control` of the answer (RFC 9111, 5.2.2).
fn refresh(cache_control: Option<&str>) -> Duration {
    let mut directives = cache_control.unwrap_or_default().split(',').map(str::trim);
    let is = |directive: &str, name: &str| directive.eq_ignore_ascii_case(name);
    let mut all = directives.clone();
    if all.any(|directive| is(directive, "no-store") || is(directive, "no-cache")) {
        return MIN_REFRESH;
    }
    let age = directives.find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        if is(name.trim(), "max-age") { seconds.trim().trim_matches('"').parse().ok() } else { None }
    });
    age.map_or(REFRESH, |seconds| Duration::from_secs(seconds).clamp(MIN_REFRESH, MAX_REFRESH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_control_moves_the_refresh_within_limits() {
        let check = |header: Option<&str>, seconds| {
            assert_eq!(refresh(header), Duration::from_secs(seconds), "{header:?}");
        };
        check(None, 600);
        check(Some(""), 600);
        check(Some("public"), 600);
        check(Some("max-age=never"), 600);
        check(Some("s-maxage=100"), 600);
        check(Some("public, Max-Age=300, must-revalidate"), 300);
        check(Some("max-age=\"900\""), 900);
        check(Some("max-age=0"), 60);
        check(Some("max-age=86400"), 3600);
        check(Some("max-age=99999999999999999999"), 600);
        check(Some("no-cache, max-age=900"), 60);
        check(Some("No-Store"), 60);
    }
}
