//! Logins for development (`--dev-login`): anybody may sign in under any name. Applications have accounts of their own.
//!
//! A login is a signed cookie. The server keeps who has signed in since its start, and which logins were ended. It alone knows the
//! cookie library.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cookie::time::Duration;
use cookie::{Cookie, CookieJar, Key, SameSite};
use parking_lot::Mutex;

use super::authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
use super::origin::is_same_origin;
use crate::os::new_incarnation;
use crate::websocket::Refusal;

/// The path where a login may take the place of a user id. At the others the client names its user.
const LOGIN_PATH: &str = "/v1/connect";

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

    /// The login in the `Cookie` headers of a request, if there is a good one.
    pub fn find(&self, headers: &dyn Headers, unix_ms: u64) -> Option<Login> {
        let cookies = headers.values("cookie").into_iter().map(|value| String::from_utf8_lossy(value).into_owned());
        let cookies = cookies.flat_map(Cookie::split_parse_encoded).flatten();
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

    /// The user that a handshake names, or else the one who is signed in.
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Option<Identity>, Refusal> {
        let claimed = credentials.claimed_user.map(str::to_owned);
        if credentials.path != LOGIN_PATH {
            return Ok(claimed.map(|user| Identity { user, login: None }));
        }
        // A page of another server may not speak for the user who is signed in here.
        let login = is_same_origin(credentials.headers).then(|| self.find(credentials.headers, credentials.unix_ms));
        let login = login.flatten();
        let user = claimed.or_else(|| login.as_ref().map(|login| login.user.clone())).ok_or_else(|| {
            let message = "nobody is signed in: POST /login, or name a user: /v1/connect?user=NAME";
            Refusal::http(401, "not_signed_in", message)
        })?;
        let login = login.filter(|login| login.user == user).map(|login| login.id);
        Ok(Some(Identity { user, login }))
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

impl Authenticator for Logins {
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
        Box::pin(ready(self.identify(credentials)))
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
    use crate::auth::authenticator::tests::Lines;

    const NOW: u64 = 1_700_000_000_000;
    const SECRET: &str = "a secret of more than 32 bytes, for tests";

    /// What a browser sends back.
    fn sent(set_cookie: &str) -> String {
        set_cookie.split(';').next().unwrap().to_owned()
    }

    fn find(logins: &Logins, cookie: &str, now: u64) -> Option<String> {
        logins.find(&Lines(&[("cookie", cookie)]), now).map(|login| login.user)
    }

    #[test]
    fn a_login_is_good_until_it_is_ended_or_too_old() {
        let logins = Logins::new(None, NOW);
        for user in ["alice", "a.b=c; d", "Ünïcode \"quoted\" 😀"] {
            let cookie = sent(&logins.sign_in(user, NOW));
            assert_eq!(find(&logins, &cookie, NOW).as_deref(), Some(user));
            assert_eq!(find(&logins, &format!("theme=dark; {cookie}; x=y"), NOW).as_deref(), Some(user));
            assert_eq!(find(&logins, &cookie, NOW + LIFETIME_MS), None, "too old");
            let login = logins.find(&Lines(&[("cookie", &cookie)]), NOW).unwrap();
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
    fn a_login_names_the_user_at_one_path_and_for_pages_of_this_server_only() {
        let logins = Logins::new(None, NOW);
        let cookie = sent(&logins.sign_in("alice", NOW));
        let login = logins.find(&Lines(&[("cookie", &cookie)]), NOW).unwrap().id;
        let check = |path, claimed_user, lines: &[(&str, &str)], want: Result<Option<(&str, Option<u64>)>, u16>| {
            let credentials = Credentials { path, query: "", claimed_user, headers: &Lines(lines), unix_ms: NOW };
            let got = logins.identify(&credentials);
            let got = got.map(|identity| identity.map(|identity| (identity.user, identity.login)));
            let got = got.map_err(|refusal| match refusal {
                Refusal::Http { status, .. } => status,
                Refusal::Close { code, .. } => code,
            });
            let want = want.map(|identity| identity.map(|(user, login)| (user.to_owned(), login)));
            assert_eq!(got, want, "{path} {claimed_user:?} {lines:?}");
        };
        let signed_in = [("cookie", &*cookie), ("host", "here")];
        let from = |origin| [signed_in[0], signed_in[1], ("origin", origin)];
        check(LOGIN_PATH, None, &signed_in, Ok(Some(("alice", Some(login)))));
        check(LOGIN_PATH, None, &from("http://here"), Ok(Some(("alice", Some(login)))));
        check(LOGIN_PATH, None, &from("http://there"), Err(401));
        check(LOGIN_PATH, None, &[], Err(401));
        check(LOGIN_PATH, Some("alice"), &signed_in, Ok(Some(("alice", Some(login)))));
        check(LOGIN_PATH, Some("alice"), &from("http://there"), Ok(Some(("alice", None))));
        check(LOGIN_PATH, Some("bob"), &signed_in, Ok(Some(("bob", None))));
        check("/ws", None, &signed_in, Ok(None));
        check("/ws/alice", Some("alice"), &signed_in, Ok(Some(("alice", None))));
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
