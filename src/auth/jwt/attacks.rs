//! Tokens that must be refused, and what makes a token valid.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::keys::testing::{hmac, sign};
use super::*;

const NOW: u64 = 1_700_000_000;
const SECRET: &[u8] = b"the secret of the application in these tests";
const RSA_PEM: &str = include_str!("test_keys/rsa.pem");

/// A set of one key with an id, and of keys without one.
#[derive(Debug)]
struct Fixed(Vec<Arc<Key>>);

impl KeySet for Fixed {
    fn find<'a>(&'a self, wanted: &Wanted<'_>) -> Found<'a> {
        let fits = |key: &&Arc<Key>| key.id.is_none() || key.id.as_deref() == wanted.key_id;
        Found::Now(self.0.iter().filter(fits).cloned().collect())
    }
}

/// The keys of an issuer that cannot be reached.
#[derive(Debug)]
struct Down;

impl KeySet for Down {
    fn find<'a>(&'a self, _: &Wanted<'_>) -> Found<'a> {
        Found::Later(Box::pin(std::future::ready(Err(Unavailable))))
    }
}

fn rules() -> TokenRules {
    let (max_age, leeway) = (Duration::from_secs(3600), Duration::from_secs(5));
    TokenRules { issuers: Vec::new(), audiences: Vec::new(), user_prefixes: Vec::new(), max_age, leeway }
}

fn verifier(rules: TokenRules, keys: Vec<Key>) -> Verifier {
    let keys = Fixed(keys.into_iter().map(Arc::new).collect());
    Verifier::new(rules, vec![Arc::new(keys)], Permissions::everything())
}

fn encode(header: &str, payload: &str, secret: &[u8], algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    format!("{message}.{}", sign(&message, secret, algorithm))
}

fn hs256(claims: &Value) -> String {
    encode(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), SECRET, Algorithm::HS256)
}

/// Valid claims with these instead. A claim that is missing in `changes` stays.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({"sub": "alice", "exp": NOW + 60, "iat": NOW});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn verify(verifier: &Verifier, token: &str) -> Result<Verified, Denied> {
    let waiting = std::pin::pin!(verifier.verify(token, NOW * 1000));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(result) = waiting.poll(&mut context) else { panic!("nothing to wait for") };
    if let Some(at_once) = verifier.verify_now(token, NOW * 1000) {
        assert_eq!(at_once, result, "both ways agree");
    }
    result
}

/// Verifies with the secret and an RSA key with an id; returns the reason and the message of a refusal.
fn refusal(token: &str) -> (Reason, String) {
    let rsa = Key::from_pem(RSA_PEM).unwrap().remove(0).with_id("rsa-1");
    let refused = verify(&verifier(rules(), vec![hmac(SECRET), rsa]), token);
    let denied = refused.expect_err(token);
    (denied.reason, denied.message.into_owned())
}

fn with_rules(change: impl FnOnce(&mut TokenRules), changes: &Value) -> Result<String, String> {
    let mut rules = rules();
    change(&mut rules);
    let verified = verify(&verifier(rules, vec![hmac(SECRET)]), &hs256(&claims(changes)));
    verified.map(|(user, _)| user).map_err(|denied| denied.message.into_owned())
}

fn accepted(changes: &Value) -> Grant {
    let token = hs256(&claims(changes));
    verify(&verifier(rules(), vec![hmac(SECRET)]), &token).unwrap_or_else(|denied| panic!("{changes}: {denied:?}")).1
}

fn refused_claims(changes: &Value) -> (Reason, String) {
    refusal(&hs256(&claims(changes)))
}

#[test]
fn a_valid_token_grants_what_it_says() {
    let grant = accepted(&json!({"jti": "t-1", "iss": "app", "info": {"name": "Alice"}, "other": [1], "nbf": NOW + 5}));
    assert_eq!((grant.expires_at, grant.issued_at), (Some(NOW + 60), Some(NOW)));
    assert_eq!((grant.token_id.as_deref(), grant.issuer.as_deref()), (Some("t-1"), Some("app")));
    assert_eq!(grant.info.unwrap().as_str(), r#"{"name":"Alice"}"#);
    assert!(grant.permissions.is_everything() && grant.renewal == crate::auth::Renewal::Token);
    let grant = accepted(&json!({"exp": NOW as f64 + 60.9, "iat": NOW as f64 + 0.5, "caps": []}));
    assert_eq!((grant.expires_at, grant.issued_at), (Some(NOW + 60), Some(NOW)), "fractions are cut");
    assert!(!grant.permissions.allow_watch("bob"), "caps without watch");
}

#[test]
fn unsigned_tokens_are_refused() {
    let payload = URL_SAFE_NO_PAD.encode(claims(&json!({})).to_string());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": name}).to_string());
        for signature in ["", "AAAA"] {
            let (reason, message) = refusal(&format!("{header}.{payload}.{signature}"));
            assert!(reason == Reason::Invalid && message.contains("`alg`"), "{message}");
        }
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    assert_eq!(refusal(&format!("{header}.{payload}.")).1, NO_KEY);
    assert_eq!(refusal(&format!("{header}.{payload}")).0, Reason::Invalid);
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    let der: String = RSA_PEM.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
    let payload = claims(&json!({})).to_string();
    for secret in [RSA_PEM.as_bytes(), RSA_PEM.trim().as_bytes(), &der] {
        for header in [r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","kid":"rsa-1"}"#] {
            assert_eq!(refusal(&encode(header, &payload, secret, Algorithm::HS256)).1, NO_KEY);
        }
        let only_public = verifier(rules(), Key::from_pem(RSA_PEM).unwrap());
        let token = encode(r#"{"alg":"HS256"}"#, &payload, secret, Algorithm::HS256);
        assert_eq!(verify(&only_public, &token).unwrap_err().message, NO_KEY);
    }
}

#[test]
fn the_header_does_not_choose_the_key_or_another_algorithm() {
    let payload = claims(&json!({})).to_string();
    // The signature is an HMAC of the right secret, under the name of another algorithm.
    for name in ["RS256", "PS256", "ES256", "EdDSA", "HS384", "HS512"] {
        let header = json!({"alg": name}).to_string();
        assert_eq!(refusal(&encode(&header, &payload, SECRET, Algorithm::HS256)).1, NO_KEY, "{name}");
    }
    for name in ["ES512", "ES256K", "HS1", "RSA1_5", "A128KW", "dir", "hs256", " HS256"] {
        let header = json!({"alg": name}).to_string();
        assert!(refusal(&encode(&header, &payload, SECRET, Algorithm::HS256)).1.contains("`alg`"), "{name}");
    }
    // A key id is a name and nothing else.
    for key_id in ["../../../dev/null", "rsa-1' OR '1'='1", "http://127.0.0.1/key", "\u{0}", "|id"] {
        let header = json!({"alg": "HS256", "kid": key_id}).to_string();
        assert_eq!(refusal(&encode(&header, &payload, b"another secret", Algorithm::HS256)).1, NO_KEY);
        assert_eq!(refusal(&encode(&header, &payload, b"\0", Algorithm::HS256)).1, NO_KEY);
    }
}

#[test]
fn keys_that_a_token_brings_along_and_critical_extensions_are_refused() {
    let payload = claims(&json!({})).to_string();
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("the key of the attacker")});
    for secret in [SECRET, b"the key of the attacker"] {
        let header = json!({"alg": "HS256", "jwk": jwk}).to_string();
        assert!(refusal(&encode(&header, &payload, secret, Algorithm::HS256)).1.contains("`jwk`"));
    }
    for header in [
        json!({"alg": "HS256", "crit": ["exp"], "exp": 1}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": false}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "crit": null}),
    ] {
        let (_, message) = refusal(&encode(&header.to_string(), &payload, SECRET, Algorithm::HS256));
        assert!(message.contains("`crit`"), "{message}");
    }
    // Addresses of keys are not followed.
    let header = json!({"alg": "HS256", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}).to_string();
    assert_eq!(refusal(&encode(&header, &payload, b"the key of the attacker", Algorithm::HS256)).1, NO_KEY);
}

#[test]
fn members_that_occur_twice_are_refused() {
    let exp = NOW + 60;
    for payload in [
        format!(r#"{{"sub":"eve","sub":"alice","exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"caps":[{{"allow":[],"allow":["join"]}}]}}"#),
    ] {
        let (_, message) = refusal(&encode(r#"{"alg":"HS256"}"#, &payload, SECRET, Algorithm::HS256));
        assert!(message.contains("payload"), "{message}");
    }
    let payload = claims(&json!({})).to_string();
    let (_, message) = refusal(&encode(r#"{"alg":"none","alg":"HS256"}"#, &payload, SECRET, Algorithm::HS256));
    assert!(message.contains("header"), "{message}");
}

#[test]
fn a_known_claim_of_another_type_is_an_error_and_never_missing() {
    for (name, wrong) in [
        ("sub", json!([1, true, null, ["alice"], {}])),
        ("exp", json!(["1700000060", true, null, [], {}, -1])),
        ("nbf", json!(["0", false, null, [], -1.5])),
        ("iat", json!(["0", false, null, {}])),
        ("jti", json!([1, null, []])),
        ("iss", json!([1, null, ["app"]])),
        ("aud", json!([1, null, {}, ["a", 1], [["a"]]])),
        ("info", json!(["x", null, [], 1])),
        ("caps", json!(["x", null, {}, 1, [1]])),
        ("watch", json!(["*", null, {}, [1]])),
    ] {
        for value in wrong.as_array().unwrap() {
            let (reason, message) = refused_claims(&json!({name: value}));
            let names_it = message.contains(name) || name == "caps" && message.contains("allow");
            assert!(reason == Reason::Invalid && names_it, "{name} {value}: {message}");
        }
    }
    for (name, wrong) in [("kid", json!(7)), ("typ", json!(null)), ("alg", json!(["HS256"]))] {
        let mut header = json!({"alg": "HS256"});
        header[name] = wrong;
        let token = encode(&header.to_string(), &claims(&json!({})).to_string(), SECRET, Algorithm::HS256);
        assert!(refusal(&token).1.contains(name), "{name}");
    }
}

#[test]
fn the_user_must_be_a_valid_id_and_is_never_changed() {
    for user in ["", " alice", "alice ", "a\nb", "e\u{301}", "\u{200b}", &"a".repeat(129)] {
        assert!(refused_claims(&json!({"sub": user})).1.contains("`sub`"), "{user:?}");
    }
    for user in ["\u{e9}", "Alice B", &"a".repeat(128), "0042"] {
        assert_eq!(with_rules(|_| {}, &json!({"sub": user})).as_deref(), Ok(user));
    }
    let without = json!({"exp": NOW + 60});
    assert!(refusal(&hs256(&without)).1.contains("`sub`"));
}

#[test]
fn times_must_fit_and_clocks_may_differ_a_little() {
    assert!(refusal(&hs256(&json!({"sub": "alice"}))).1.contains("no `exp`"));
    assert_eq!(refused_claims(&json!({"exp": NOW - 5})).0, Reason::Expired);
    accepted(&json!({"exp": NOW - 4}));
    assert_eq!(refused_claims(&json!({"exp": 0})).0, Reason::Expired);
    accepted(&json!({"exp": NOW + 3600}));
    for exp in [json!(NOW + 3606), json!(u64::MAX), json!(1e300)] {
        assert!(refused_claims(&json!({"exp": exp})).1.contains("too far"), "{exp}");
    }
    assert!(refused_claims(&json!({"nbf": NOW + 6})).1.contains("not valid yet"));
    accepted(&json!({"iat": NOW + 60}));
    for iat in [json!(NOW + 61), json!(u64::MAX)] {
        assert!(refused_claims(&json!({"iat": iat})).1.contains("`iat`"), "{iat}");
    }
    accepted(&json!({"iat": NOW - 3600 - 5, "exp": NOW + 60}));
    let long = refused_claims(&json!({"iat": NOW - 3600 - 6, "exp": NOW + 60}));
    assert!(long.1.contains("for too long after its `iat`"), "{long:?}");
}

#[test]
fn issuer_and_audience_are_checked_if_they_are_set() {
    let issuer = |rules: &mut TokenRules| rules.issuers = vec!["app".to_owned(), "other".to_owned()];
    assert!(with_rules(issuer, &json!({})).unwrap_err().contains("`iss`"));
    assert!(with_rules(issuer, &json!({"iss": "App"})).unwrap_err().contains("`iss`"));
    assert!(with_rules(issuer, &json!({"iss": "other"})).is_ok());
    let audience = |rules: &mut TokenRules| rules.audiences = vec!["rollcall".to_owned()];
    for other in [json!({}), json!({"aud": "shop"}), json!({"aud": []}), json!({"aud": ["shop", "Rollcall"]})] {
        assert!(with_rules(audience, &other).unwrap_err().contains("`aud`"), "{other}");
    }
    for ours in [json!({"aud": "rollcall"}), json!({"aud": ["shop", "rollcall"]})] {
        assert!(with_rules(audience, &ours).is_ok(), "{ours}");
        assert!(with_rules(|_| {}, &ours).is_ok(), "{ours}: nothing is required");
    }
}

#[test]
fn info_is_at_most_1_kib_of_compact_json() {
    let info = |length: usize| json!({"info": {"a": "x".repeat(length - r#"{"a":""}"#.len())}});
    assert_eq!(accepted(&info(1024)).info.unwrap().as_str().len(), 1024);
    assert!(refused_claims(&info(1025)).1.contains("1025 bytes"));
}

#[test]
fn texts_that_are_no_tokens_are_refused() {
    let token = hs256(&claims(&json!({})));
    let large = hs256(&claims(&json!({"x": "x".repeat(MAX_TOKEN_BYTES)})));
    assert_eq!(refusal(&large).0, Reason::Malformed);
    let parts: Vec<&str> = token.split('.').collect();
    for bad in [
        "".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        format!("{token}.{}", parts[2]),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{}.{}=.{}", parts[0], parts[1], parts[2]),
        format!("{}..{}", parts[0], parts[2]),
        format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        token.replacen('.', "%2e", 1),
    ] {
        assert_eq!(refusal(&bad).0, Reason::Invalid, "{bad:?}");
    }
}

#[test]
fn without_the_keys_of_an_issuer_only_tokens_of_other_keys_are_decided() {
    let secrets = Arc::new(Fixed(vec![Arc::new(hmac(SECRET))]));
    let verifier = Verifier::new(rules(), vec![Arc::new(Down), secrets], Permissions::everything());
    assert!(verify(&verifier, &hs256(&claims(&json!({})))).is_ok());
    assert_eq!(verify(&verifier, &hs256(&claims(&json!({"exp": 0})))).unwrap_err().reason, Reason::Expired);
    let unknown = encode(r#"{"alg":"HS256"}"#, &claims(&json!({})).to_string(), b"another", Algorithm::HS256);
    assert_eq!(verify(&verifier, &unknown).unwrap_err().reason, Reason::Undecided);
}
