//! How the clients of a cluster prove who they are, and the server that decides: the publisher of a key set, or the
//! application. A test ends that server and starts it again.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header as TokenHeader, encode};
use serde_json::{Value, json};

use super::signing_key::{SigningKey, key_set};
use super::token::{now, subprotocols};
use super::upstream::Seen;
use super::{Does, Node, Upstream};

/// Reads the HTTP API of nodes that require identity.
const API_KEY: &str = "a key that reads everything";
const ORIGIN: &str = "https://app.example";
/// The user whose session the application has to confirm again all the time.
pub(crate) const BRIEF_USER: &str = "both";
const BRIEF_MS: u64 = 2_000;

pub(crate) type Header = (&'static str, String);

type HeadersOf = dyn Fn(&str) -> Vec<Header> + Send + Sync;

/// The headers with which a user proves who it is. Without any for open nodes.
#[derive(Clone, Default)]
pub(crate) struct Credentials(Option<Arc<HeadersOf>>);

impl Credentials {
    pub(crate) fn of(&self, user: &str) -> Vec<Header> {
        self.0.as_ref().map(|make| make(user)).unwrap_or_default()
    }
}

#[derive(Clone)]
enum Identity {
    /// Clients claim who they are.
    Open,
    /// Tokens that a published key has signed.
    Tokens(Arc<SigningKey>),
    /// Cookies of the application, `sid=USER`.
    Sessions,
}

pub(crate) struct FrontDoor {
    identity: Identity,
    flags: Vec<String>,
    /// Where the publisher or the application is.
    address: SocketAddr,
    /// `None` while it is dead.
    upstream: Option<Upstream>,
}

impl FrontDoor {
    pub(crate) fn open() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { identity: Identity::Open, flags: Vec::new(), address, upstream: None }
    }

    /// Tokens, verified with keys that an HTTP server publishes. A node also starts without keys.
    pub(crate) async fn tokens() -> Self {
        let identity = Identity::Tokens(Arc::new(SigningKey::new("one")));
        let upstream = Upstream::start(identity.handler()).await;
        let url = upstream.url("/keys");
        Self::with(identity, upstream, &["--jwks-url", &url, "--jwks-optional"])
    }

    /// Sessions of an application. They outlive its outages.
    pub(crate) async fn sessions() -> Self {
        let upstream = Upstream::start(Identity::Sessions.handler()).await;
        let url = upstream.url("/auth");
        let flags = ["--auth-url", &url, "--auth-cookie", "sid", "--auth-stale", "1h", "--origin", ORIGIN];
        Self::with(Identity::Sessions, upstream, &flags)
    }

    fn with(identity: Identity, upstream: Upstream, flags: &[&str]) -> Self {
        let flags = flags.iter().chain(&["--api-key", API_KEY]).map(|&flag| flag.to_owned()).collect();
        Self { identity, flags, address: upstream.address, upstream: Some(upstream) }
    }

    /// The flags of nodes behind this door, and these.
    pub(crate) fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.flags.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    /// Gives the clients of a node their credentials.
    pub(crate) fn before(&self, node: Node) -> Node {
        node.with_credentials(self.credentials())
    }

    fn credentials(&self) -> Credentials {
        match self.identity.clone() {
            Identity::Open => Credentials::default(),
            Identity::Tokens(key) => {
                let headers =
                    move |user: &str| vec![("authorization", format!("Bearer {}", key.token(user, &json!({}))))];
                Credentials(Some(Arc::new(headers)))
            }
            Identity::Sessions => Credentials(Some(Arc::new(|user: &str| with_cookie(user)))),
        }
    }

    /// Whether clients can connect while the publisher or the application is dead.
    pub(crate) fn admits_without_upstream(&self) -> bool {
        !matches!(self.identity, Identity::Sessions)
    }

    /// A message that renews the token of a user, if there are tokens.
    pub(crate) fn renewal(&self, user: &str) -> Option<Value> {
        let Identity::Tokens(key) = &self.identity else { return None };
        Some(json!({"type": "auth", "token": key.token(user, &json!({}))}))
    }

    /// The publisher or the application ends.
    pub(crate) async fn die(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.die().await;
        }
    }

    /// It is back, at the same address.
    pub(crate) async fn revive(&mut self) {
        if !matches!(self.identity, Identity::Open) && self.upstream.is_none() {
            self.upstream = Some(Upstream::start_again(self.address, self.identity.handler()).await);
        }
    }

    /// Waits until a node admits clients, which it may not do before it has keys.
    pub(crate) async fn wait_until_admitted(&self, node: &Node) {
        let headers = self.credentials().of("early");
        node.wait_until("admission", async || super::intruders::is_welcome(node.address, "early", &headers).await)
            .await;
    }

    /// Whether a node that has just started refuses everybody as long as the publisher is dead.
    pub(crate) async fn assert_closed_without_keys(&self, node: &Node) {
        if let Identity::Tokens(_) = self.identity {
            let headers = self.credentials().of("early");
            let is_welcome = super::intruders::is_welcome(node.address, "early", &headers).await;
            assert!(!is_welcome, "{} has no keys and admits a client", node.id);
        }
    }

    /// What must not open the door for the user `intruder`.
    pub(crate) fn forgeries(&self) -> Vec<Vec<Header>> {
        match &self.identity {
            Identity::Open => Vec::new(),
            Identity::Sessions => vec![Vec::new(), with_cookie("unknown"), vec![("cookie", "sid=intruder".to_owned())]],
            Identity::Tokens(key) => {
                forged_tokens(key).iter().map(|token| as_subprotocol(token)).chain([Vec::new()]).collect()
            }
        }
    }
}

fn as_subprotocol(token: &str) -> Vec<Header> {
    vec![("sec-websocket-protocol", subprotocols(token))]
}

fn with_cookie(user: &str) -> Vec<Header> {
    vec![("origin", ORIGIN.to_owned()), ("cookie", format!("sid={user}"))]
}

/// Expired; another user's; of an unknown key; of another key with a known id; with the public key as a secret;
/// unsigned.
fn forged_tokens(key: &SigningKey) -> [String; 6] {
    let (none, other) = (json!({}), SigningKey::new("one"));
    let claims = json!({"sub": "intruder", "exp": now() + 600});
    let public = key.published()["x"].as_str().expect("text").to_owned();
    let header = TokenHeader { kid: Some("one".to_owned()), ..TokenHeader::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(public.as_bytes()).expect("a key");
    let confused = encode(&header, &claims, &secret).expect("a token");
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    [
        key.token("intruder", &json!({"iat": now() - 900, "exp": now() - 300})),
        key.token("alice", &none),
        key.token_with(Some("unknown"), "intruder", &none),
        other.token("intruder", &none),
        confused,
        format!("{}.{}.", part(json!({"alg": "none", "kid": "one"})), part(claims)),
    ]
}

impl Identity {
    fn handler(&self) -> impl FnMut(&Seen) -> Does + Send + 'static {
        let identity = self.clone();
        move |seen| match &identity {
            Identity::Tokens(key) => key_set(&[key]),
            Identity::Sessions => decide(seen),
            Identity::Open => unreachable!("open nodes ask nobody"),
        }
    }
}

/// The application: `sid=USER` is the session of USER, and `unknown` has none.
fn decide(seen: &Seen) -> Does {
    let cookie = seen.header("cookie").and_then(|cookie| cookie.strip_prefix("sid=")).map(str::to_owned);
    let user = cookie.or_else(|| seen.json()["user"].as_str().map(str::to_owned));
    match user.filter(|user| user != "unknown") {
        Some(user) if user == BRIEF_USER => {
            Does::json(200, &json!({"user": user, "expires_at": now() * 1000 + BRIEF_MS}))
        }
        Some(user) => Does::json(200, &json!({ "user": user })),
        None => Does::json(401, &json!({})),
    }
}
