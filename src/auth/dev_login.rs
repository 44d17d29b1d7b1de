//! Logins for development (`--dev-login`): anybody may sign in under any name. Applications have accounts of their own.
//!
//! A login is a signed cookie. The server keeps who has signed in since its start, and which logins were ended. It alone knows the
//! cookie library.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cookie::time::Duration;
use cookie::{Cookie, CookieJar, Key, SameSite};
use parking_lot::Mutex;

use crate::os::new_incarnation;

/// The cookie's name.
const COOKIE: &str = "rollcall_session";
/// How long a login is good: a week.
const LIFETIME_MS: u64 = 7 * 24 * 3600 * 1000;
/// Users of whom it is remembered that they have signed in; who has not for the longest goes first.
const MAX_KNOWN_USERS: usize = 10_000;
/// Ended logins that are remembered, the last ones; their browsers have forgotten them anyway.
const MAX_ENDED_LOGINS: usize = 100_000;

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Distinguishes it from every other login, also those of this user.
    pub id: u64,
    /// Who.
    pub user: String,
}

/// Who has signed in and out.
pub struct Logins {
    key: Key,
    next: AtomicU64,
    ended: Mutex<Ended>,
    /// Each user with the number of its last login.
    known: Mutex<BTreeMap<Arc<str>, u64>>,
}

#[derive(Debug, Default)]
struct Ended {
    ids: HashSet<u64>,
    oldest_first: VecDeque<u64>,
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Logins").finish_non_exhaustive()
    }
}

impl Logins {
    /// Nobody has signed in. Without a secret, which has at least 32 bytes, logins are good for this run of the server.
    #[must_use]
    pub fn new(secret: Option<&str>, unix_ms: u64) -> Self {
        let key = secret.map_or_else(Key::generate, |secret| Key::derive_from(secret.as_bytes()));
        // Numbers of an earlier run, which a kept secret makes good still, are smaller, and those of another node are others.
        Self {
            key,
            next: AtomicU64::new(new_incarnation(unix_ms, 20)),
            ended: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Signs a user in. Returns the value of `Set-Cookie`.
    pub fn sign_in(&self, user: &str, unix_ms: u64) -> String {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.note(&Login { id, user: user.to_owned() });
        let mut jar = CookieJar::new();
        jar.signed_mut(&self.key).add((COOKIE, format!("{id:x}.{unix_ms:x}.{user}")));
        let signed = jar.get(COOKIE).map(|signed| signed.value().to_owned()).unwrap_or_default();
        set_cookie(signed, Duration::milliseconds(LIFETIME_MS as i64))
    }

    /// Remembers that somebody has signed in.
    pub fn note(&self, login: &Login) {
        let mut known = self.known.lock();
        known.insert(login.user.as_str().into(), login.id);
        if known.len() > MAX_KNOWN_USERS
            && let Some(oldest) = known.iter().min_by_key(|(_, id)| **id).map(|(user, _)| Arc::clone(user))
        {
            known.remove(&oldest);
        }
    }

    /// The login in the values of `Cookie` headers, if there is a good one.
    pub fn find<'a>(&self, cookies: impl Iterator<Item = &'a str>, unix_ms: u64) -> Option<Login> {
        let cookies = cookies.flat_map(|cookies| Cookie::split_parse_encoded(cookies.to_owned())).flatten();
        // Another server on this host may have left one of the same name: the good one counts, wherever it stands.
        cookies.filter(|cookie| cookie.name() == COOKIE).find_map(|cookie| self.read(cookie, unix_ms))
    }

    fn read(&self, cookie: Cookie<'static>, unix_ms: u64) -> Option<Login> {
        let mut jar = CookieJar::new();
        jar.add_original(cookie);
        let login = jar.signed(&self.key).get(COOKIE)?;
        let mut parts = login.value().splitn(3, '.');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (id, since) = (number()?, number()?);
        let user = parts.next()?.to_owned();
        let good = unix_ms < since.saturating_add(LIFETIME_MS) && !self.ended.lock().ids.contains(&id);
        good.then_some(Login { id, user })
    }

    /// Ends the login of this id.
    pub fn end(&self, id: u64) {
        let mut ended = self.ended.lock();
        if ended.ids.insert(id) {
            ended.oldest_first.push_back(id);
        }
        if ended.oldest_first.len() > MAX_ENDED_LOGINS
            && let Some(oldest) = ended.oldest_first.pop_front()
        {
            ended.ids.remove(&oldest);
        }
    }

    /// The value of `Set-Cookie` that has a browser forget its login.
    #[must_use]
    pub fn forget() -> String {
        set_cookie(String::new(), Duration::ZERO)
    }

    /// Who has signed in since the start, sorted.
    pub fn known(&self) -> Vec<Arc<str>> {
        self.known.lock().keys().cloned().collect()
    }
}

/// Out of reach of scripts, and not sent along by pages of others.
fn set_cookie(value: String, lifetime: Duration) -> String {
    let cookie = Cookie::build((COOKIE, value)).path("/").http_only(true).same_site(SameSite::Lax).max_age(lifetime);
    cookie.build().encoded().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const SECRET: &str = "a secret of more than 32 bytes, for tests";

    /// What a browser sends back.
    fn sent(set_cookie: &str) -> String {
        set_cookie.split(';').next().unwrap().to_owned()
    }

    fn find(logins: &Logins, cookie: &str, now: u64) -> Option<String> {
        logins.find([cookie].into_iter(), now).map(|login| login.user)
    }

    #[test]
    fn a_login_is_good_until_it_is_ended_or_too_old() {
        let logins = Logins::new(None, NOW);
        for user in ["alice", "a.b=c; d", "Ünïcode \"quoted\" 😀"] {
            let cookie = sent(&logins.sign_in(user, NOW));
            assert_eq!(find(&logins, &cookie, NOW).as_deref(), Some(user));
            assert_eq!(find(&logins, &format!("theme=dark; {cookie}; x=y"), NOW).as_deref(), Some(user));
            assert_eq!(find(&logins, &cookie, NOW + LIFETIME_MS), None, "too old");
            let login = logins.find([&*cookie].into_iter(), NOW).unwrap();
            let again = sent(&logins.sign_in(user, NOW));
            logins.end(login.id);
            assert_eq!(find(&logins, &cookie, NOW), None, "ended");
            assert_eq!(find(&logins, &again, NOW).as_deref(), Some(user), "another login of the same user");
        }
    }

    #[test]
    fn what_was_not_signed_here_is_no_login() {
        let (logins, others) = (Logins::new(None, NOW), Logins::new(None, NOW));
        let cookie = sent(&logins.sign_in("alice", NOW));
        let foreign = sent(&others.sign_in("alice", NOW));
        let forged = cookie.replace("alice", "admin");
        assert_ne!(forged, cookie);
        for bad in [
            &*foreign,
            &forged,
            &cookie[..cookie.len() - 1],
            "rollcall_session=alice",
            "rollcall_session=",
            "",
            "=",
            ";;",
        ] {
            assert_eq!(find(&logins, bad, NOW), None, "{bad}");
        }
        let (kept, again) = (Logins::new(Some(SECRET), NOW), Logins::new(Some(SECRET), NOW + 1));
        let cookie = sent(&kept.sign_in("alice", NOW));
        assert_eq!(find(&again, &cookie, NOW).as_deref(), Some("alice"), "a kept secret outlives the server");
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let logins = Logins::new(None, NOW);
        for n in 0..MAX_KNOWN_USERS + 5 {
            logins.sign_in(&format!("user-{n}"), NOW);
            logins.sign_in("regular", NOW);
        }
        let known = logins.known();
        assert_eq!(known.len(), MAX_KNOWN_USERS);
        assert!(known.is_sorted() && known.iter().any(|user| **user == *"regular"), "and not the first to come");
        for id in 0..MAX_ENDED_LOGINS as u64 + 5 {
            logins.end(id);
        }
        assert_eq!(logins.ended.lock().ids.len(), MAX_ENDED_LOGINS);
    }
}
