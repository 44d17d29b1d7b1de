//! Logins for development (`--dev-login`): any visitor signs in under any name. Applications use their own accounts.
//!
//! A login is a signed cookie. The server remembers which users signed in since its start and which logins have ended.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cookie::time::Duration;
use cookie::{Cookie, CookieJar, Key, SameSite};
use parking_lot::Mutex;

use super::authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
use crate::config::{Derived, Secret, Secrets};
use crate::os::new_incarnation;
use crate::presence::check_id;
use crate::websocket::Refusal;

/// The protocol in which a login can replace the user id. In other protocols the client names its user.
const LOGIN_PROTOCOL: &str = "native";

/// The name of the cookie.
const COOKIE: &str = "rollcall_session";
/// A login is valid for a week.
const LIFETIME_MS: u64 = 7 * 24 * 3600 * 1000;
/// The limit of remembered users. The user whose last login is oldest is forgotten first.
const MAX_KNOWN_USERS: usize = 10_000;
/// The limit of remembered ended logins. The oldest is forgotten first: its browser has deleted the cookie.
const MAX_ENDED_LOGINS: usize = 100_000;

/// A user who is signed in with one browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Unique, also among the logins of one user.
    pub id: u64,
    /// The user id.
    pub user: String,
}

/// The logins of this server.
pub struct Logins {
    keys: Keys,
    next_id: AtomicU64,
    ended: Mutex<Ended>,
    /// Each user who signed in since the start, with the id of its last login.
    known: Mutex<BTreeMap<Arc<str>, u64>>,
}

#[derive(Debug, Default)]
struct Ended {
    ids: HashSet<u64>,
    oldest_first: VecDeque<u64>,
}

/// The keys of cookies: the first one signs, all verify.
enum Keys {
    Random(Arc<[Key]>),
    Given(Derived<Key>),
}

impl Keys {
    fn current(&self) -> Arc<[Key]> {
        match self {
            Self::Random(keys) => Arc::clone(keys),
            Self::Given(keys) => keys.current(),
        }
    }
}

impl std::fmt::Debug for Logins {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Logins").finish_non_exhaustive()
    }
}

impl Logins {
    /// No user is signed in. The first secret signs the cookies; without one, logins end when the server stops.
    #[must_use]
    pub fn new(secrets: Option<Secrets>, unix_ms: u64) -> Self {
        let derive = |secret: &Secret| Key::derive_from(secret.as_bytes());
        let keys = secrets.map(|secrets| Keys::Given(secrets.derive(derive)));
        // A secret keeps logins of earlier runs valid: their ids are smaller. Other nodes have other ids.
        Self {
            keys: keys.unwrap_or_else(|| Keys::Random(Arc::new([Key::generate()]))),
            next_id: AtomicU64::new(new_incarnation(unix_ms, 20)),
            ended: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Signs a user in. Returns the value of `Set-Cookie`.
    pub fn sign_in(&self, user: &str, unix_ms: u64) -> String {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.record(&Login { id, user: user.to_owned() });
        let mut jar = CookieJar::new();
        // There is always a first key. Without a signature, the cookie would be no login.
        if let Some(key) = self.keys.current().first() {
            jar.signed_mut(key).add((COOKIE, format!("{id:x}.{unix_ms:x}.{user}")));
        }
        let signed = jar.get(COOKIE).map(|signed| signed.value().to_owned()).unwrap_or_default();
        set_cookie(signed, Duration::milliseconds(LIFETIME_MS as i64))
    }

    /// Remembers the user of a login.
    pub fn record(&self, login: &Login) {
        let mut known = self.known.lock();
        known.insert(login.user.as_str().into(), login.id);
        if known.len() > MAX_KNOWN_USERS
            && let Some(oldest) = known.iter().min_by_key(|(_, id)| **id).map(|(user, _)| Arc::clone(user))
        {
            known.remove(&oldest);
        }
    }

    /// The login in the `Cookie` headers of a request, if there is a valid one.
    pub fn find(&self, headers: &dyn Headers, unix_ms: u64) -> Option<Login> {
        let cookies = headers.values("cookie").into_iter().map(|value| String::from_utf8_lossy(value).into_owned());
        let cookies = cookies.flat_map(Cookie::split_parse_encoded).flatten();
        // Another server on this host may have set a cookie of the same name: the valid one counts, wherever it stands.
        cookies.filter(|cookie| cookie.name() == COOKIE).find_map(|cookie| self.read(cookie, unix_ms))
    }

    fn read(&self, cookie: Cookie<'static>, unix_ms: u64) -> Option<Login> {
        let mut jar = CookieJar::new();
        jar.add_original(cookie);
        let login = self.keys.current().iter().find_map(|key| jar.signed(key).get(COOKIE))?;
        let mut parts = login.value().splitn(3, '.');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (id, since) = (number()?, number()?);
        // An earlier version may have signed the name in another form.
        let user = check_id(parts.next()?).ok()?.into_owned();
        let is_valid = unix_ms < since.saturating_add(LIFETIME_MS) && !self.ended.lock().ids.contains(&id);
        is_valid.then_some(Login { id, user })
    }

    /// The user that a handshake names, or else the one who is signed in.
    fn identify(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let claimed = credentials.claimed_user.map(str::to_owned);
        if credentials.protocol != LOGIN_PROTOCOL {
            return Ok(Identity { user: claimed, ..Identity::default() });
        }
        // A page of another server may not speak for the user who is signed in here.
        let login = credentials.may_use_cookies.then(|| self.find(credentials.headers, credentials.unix_ms));
        let login = login.flatten();
        let user = claimed.or_else(|| login.as_ref().map(|login| login.user.clone())).ok_or_else(|| {
            let message = "no user is signed in: POST /login, or name a user: /v1/connect?user=NAME";
            Refusal::http(401, "not_signed_in", message)
        })?;
        let login = login.filter(|login| login.user == user).map(|login| login.id);
        Ok(Identity { user: Some(user), login, grant: None })
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

    /// The value of `Set-Cookie` that makes a browser delete its login.
    #[must_use]
    pub fn clear_cookie() -> String {
        set_cookie(String::new(), Duration::ZERO)
    }

    /// The users who signed in since the start, sorted.
    pub fn known_users(&self) -> Vec<Arc<str>> {
        self.known.lock().keys().cloned().collect()
    }
}

impl Authenticator for Logins {
    fn authenticate<'a>(&'a self, credentials: &Credentials<'_>) -> Authentication<'a> {
        Box::pin(ready(self.identify(credentials)))
    }
}

/// Scripts cannot read the cookie, and requests from pages of other sites do not carry it.
fn set_cookie(value: String, lifetime: Duration) -> String {
    let cookie = Cookie::build((COOKIE, value)).path("/").http_only(true).same_site(SameSite::Lax).max_age(lifetime);
    cookie.build().encoded().to_string()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::Config;
    use crate::auth::authenticator::tests::Lines;

    const NOW: u64 = 1_700_000_000_000;

    /// The `Cookie` header that a browser sends back.
    fn sent(set_cookie: &str) -> String {
        set_cookie.split(';').next().unwrap().to_owned()
    }

    fn find(logins: &Logins, cookie: &str, now: u64) -> Option<String> {
        logins.find(&Lines(&[("cookie", cookie)]), now).map(|login| login.user)
    }

    #[test]
    fn a_login_is_valid_until_it_ends_or_expires() {
        let logins = Logins::new(None, NOW);
        for user in ["alice", "a.b=c; d", "Ünïcode \"quoted\" 😀"] {
            let cookie = sent(&logins.sign_in(user, NOW));
            assert_eq!(find(&logins, &cookie, NOW).as_deref(), Some(user));
            assert_eq!(find(&logins, &format!("theme=dark; {cookie}; x=y"), NOW).as_deref(), Some(user));
            assert_eq!(find(&logins, &cookie, NOW + LIFETIME_MS), None, "expired");
            let login = logins.find(&Lines(&[("cookie", &cookie)]), NOW).unwrap();
            let again = sent(&logins.sign_in(user, NOW));
            logins.end(login.id);
            assert_eq!(find(&logins, &cookie, NOW), None, "ended");
            assert_eq!(find(&logins, &again, NOW).as_deref(), Some(user), "another login of the same user");
        }
    }

    #[test]
    fn cookies_of_other_keys_and_changed_cookies_are_not_logins() {
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
    }

    #[test]
    fn with_a_secret_a_login_survives_a_restart_also_while_the_secret_is_replaced() {
        let logins = |secrets: &[&str]| {
            let words = secrets.iter().flat_map(|secret| ["--session-key", secret]);
            let config = Config::from_args(["rollcall", "--dev-login"].into_iter().chain(words)).unwrap();
            Logins::new(config.login.session_key, NOW)
        };
        let (old, new) = ("the first secret of logins, 32 bytes", "the second secret of logins, 32 bytes");
        let cookie = sent(&logins(&[old]).sign_in("alice", NOW));
        for (secrets, want) in [(&[old][..], Some("alice")), (&[new, old], Some("alice")), (&[new], None)] {
            assert_eq!(find(&logins(secrets), &cookie, NOW).as_deref(), want, "{secrets:?}");
        }
        let cookie = sent(&logins(&[new, old]).sign_in("alice", NOW));
        assert_eq!(find(&logins(&[new]), &cookie, NOW).as_deref(), Some("alice"), "the first secret signs");
    }

    #[test]
    fn a_login_names_the_user_of_one_protocol_and_for_pages_of_this_server_only() {
        let logins = Logins::new(None, NOW);
        let cookie = sent(&logins.sign_in("alice", NOW));
        let login = logins.find(&Lines(&[("cookie", &cookie)]), NOW).unwrap().id;
        type Expected<'a> = Result<(Option<&'a str>, Option<u64>), u16>;
        let check = |protocol, claimed_user, lines: &[(&str, &str)], want: Expected<'_>| {
            let (address, headers) = (Ipv4Addr::LOCALHOST.into(), &Lines(lines));
            let (path, query, unix_ms) = ("", "", NOW);
            let may_use_cookies = lines.contains(&("origin", "http://here"));
            let credentials = Credentials {
                protocol,
                subprotocol: None,
                address,
                counted: None,
                path,
                query,
                claimed_user,
                may_use_cookies,
                headers,
                unix_ms,
            };
            let got = logins.identify(&credentials).map(|identity| (identity.user, identity.login));
            let got = got.map_err(|refusal| match refusal {
                Refusal::Http { status, .. } => status,
                Refusal::Close { code, .. } => code,
            });
            let want = want.map(|(user, login)| (user.map(str::to_owned), login));
            assert_eq!(got, want, "{protocol} {claimed_user:?} {lines:?}");
        };
        let signed_in = [("cookie", &*cookie), ("host", "here")];
        let from = |origin| [signed_in[0], signed_in[1], ("origin", origin)];
        check(LOGIN_PROTOCOL, None, &from("http://here"), Ok((Some("alice"), Some(login))));
        check(LOGIN_PROTOCOL, None, &from("http://there"), Err(401));
        check(LOGIN_PROTOCOL, None, &signed_in, Err(401));
        check(LOGIN_PROTOCOL, None, &[], Err(401));
        check(LOGIN_PROTOCOL, Some("alice"), &from("http://here"), Ok((Some("alice"), Some(login))));
        check(LOGIN_PROTOCOL, Some("alice"), &from("http://there"), Ok((Some("alice"), None)));
        check(LOGIN_PROTOCOL, Some("bob"), &from("http://here"), Ok((Some("bob"), None)));
        check("online_status", None, &signed_in, Ok((None, None)));
        check("online_users", Some("alice"), &signed_in, Ok((Some("alice"), None)));
    }

    #[test]
    fn remembered_users_and_ended_logins_are_bounded() {
        let logins = Logins::new(None, NOW);
        for n in 0..MAX_KNOWN_USERS + 5 {
            logins.sign_in(&format!("user-{n}"), NOW);
            logins.sign_in("regular", NOW);
        }
        let known = logins.known_users();
        assert_eq!(known.len(), MAX_KNOWN_USERS);
        assert!(
            known.is_sorted() && known.iter().any(|user| **user == *"regular"),
            "the users whose last login is oldest are forgotten, not the first who signed in"
        );
        for id in 0..MAX_ENDED_LOGINS as u64 + 5 {
            logins.end(id);
        }
        assert_eq!(logins.ended.lock().ids.len(), MAX_ENDED_LOGINS);
    }
}
