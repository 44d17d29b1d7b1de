//! The keys of a published set. Keys that cannot be used are skipped, so that one of them does not cost the others.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::jwt::{Algorithm, Key, Keys};
use crate::outside::shown;

/// The limit of keys of a set.
const MAX_KEYS: usize = 100;

/// The usable keys of a set, at least one.
#[derive(Debug)]
pub(super) struct Set {
    keys: Vec<Arc<Key>>,
    /// Why others are skipped, for the log.
    pub(super) skipped: Vec<String>,
}

impl Set {
    /// The keys in a JSON text.
    ///
    /// # Errors
    /// If it is not a set, or has no usable key.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "its answer is not JSON".to_owned())?;
        let list = set.get("keys").and_then(Value::as_array);
        let list = list.ok_or("its answer is not a key set: an object with a list `keys`")?;
        if list.len() > MAX_KEYS {
            return Err(format!("its set has {} keys; the limit is {MAX_KEYS}", list.len()));
        }
        let (mut keys, mut skipped): (Vec<Arc<Key>>, _) = (Vec::new(), Vec::new());
        for (number, value) in list.iter().enumerate() {
            match key(value) {
                Ok(key) if key.id.is_some() && keys.iter().any(|known| known.id == key.id) => {
                    skipped.push(format!("key {}: another key has the same `kid`", number + 1));
                }
                Ok(key) => keys.push(Arc::new(key)),
                Err(why) => skipped.push(format!("key {}: {}", number + 1, shown(&why))),
            }
        }
        match keys.is_empty() {
            true => Err(format!("its set has no usable key: {}", skipped.first().map_or("it is empty", |why| why))),
            false => Ok(Self { keys, skipped }),
        }
    }

    /// The keys that may have signed a token. `None` if they may be in a newer set: the key of this id is unknown.
    pub(super) fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Option<Keys> {
        let allows = |key: &&Arc<Key>| key.allows(algorithm);
        match key_id {
            Some(id) => {
                let key = self.keys.iter().find(|key| key.id.as_deref() == Some(id))?;
                Some(Some(key).filter(allows).cloned().into_iter().collect())
            }
            // Without an id exactly one must fit: trying all of them would be work that a client causes.
            None => {
                let mut fitting = self.keys.iter().filter(allows);
                let only = fitting.next().filter(|_| fitting.next().is_none());
                Some(only.cloned().into_iter().collect())
            }
        }
    }

    /// The ids of the keys, for the log.
    pub(super) fn ids(&self) -> String {
        let ids = self.keys.iter().map(|key| key.id.as_deref().unwrap_or("(none)"));
        shown(&ids.collect::<Vec<_>>().join(" "))
    }
}

/// A key of a set (RFC 7517, 4), or why it is skipped.
fn key(value: &Value) -> Result<Key, String> {
    let fields = value.as_object().ok_or("it is not an object")?;
    if text(fields, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("its `use` is not `sig`".to_owned());
    }
    if let Some(operations) = fields.get("key_ops") {
        let operations = operations.as_array().ok_or("its `key_ops` is not a list")?;
        if !operations.iter().any(|operation| operation == "verify") {
            return Err("its `key_ops` do not include `verify`".to_owned());
        }
    }
    let need = |name: &str| text(fields, name)?.ok_or_else(|| format!("it has no `{name}`"));
    let key = match need("kty")? {
        "RSA" => Key::rsa(need("n")?, need("e")?)?,
        "EC" => Key::elliptic(need("crv")?, need("x")?, need("y")?)?,
        "OKP" if need("crv")? == "Ed25519" => Key::ed25519(need("x")?)?,
        _ => return Err("it must be an RSA, P-256, P-384 or Ed25519 key".to_owned()),
    };
    let key = match text(fields, "alg")? {
        Some(algorithm) => key.only_for(algorithm)?,
        None => key,
    };
    Ok(match text(fields, "kid")? {
        Some(id) => key.with_id(id),
        None => key,
    })
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| format!("its `{name}` is not a string"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The key of RFC 8037, appendix A.2.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn ed(further: &Value) -> Value {
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "x": ED});
        let fields = key.as_object_mut().unwrap();
        fields.extend(further.as_object().unwrap().clone());
        key
    }

    fn rsa(bytes: usize) -> Value {
        use base64::Engine;
        let modulus = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        json!({"kty": "RSA", "n": modulus, "e": "AQAB"})
    }

    fn parse(keys: &Value) -> Result<Set, String> {
        Set::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn unusable_keys_are_skipped_and_a_set_without_others_is_a_failure() {
        for key in [
            json!({"kty": "oct", "k": ED}),
            rsa(128),
            rsa(513),
            ed(&json!({"use": "enc"})),
            ed(&json!({"key_ops": ["sign"]})),
            ed(&json!({"key_ops": "verify"})),
            ed(&json!({"alg": "RS256"})),
            ed(&json!({"alg": "HS256"})),
            ed(&json!({"alg": 1})),
            ed(&json!({"kid": 1})),
            ed(&json!({"crv": "Ed448"})),
            ed(&json!({"x": "AAAA"})),
            json!({"kty": "EC", "crv": "P-521", "x": ED, "y": ED}),
            json!({"kty": "EC", "crv": "P-256", "x": ED}),
            json!({"kty": "RSA"}),
            json!({}),
            json!("key"),
        ] {
            let error = parse(&json!([key])).unwrap_err();
            assert!(error.contains("no usable key"), "{key}: {error}");
            let set = parse(&json!([key, ed(&json!({}))])).unwrap();
            assert_eq!((set.keys.len(), set.skipped.len()), (1, 1), "{key}");
        }
        assert!(parse(&json!([])).is_err());
        for key in [rsa(256), rsa(512), ed(&json!({"use": "sig", "alg": "EdDSA", "key_ops": ["verify"], "x5c": []}))] {
            assert!(parse(&json!([key])).is_ok(), "{key}");
        }
    }

    #[test]
    fn texts_that_are_no_set_are_failures() {
        for text in ["", "<html>", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[}", "null"] {
            assert!(Set::parse(text.as_bytes()).is_err(), "{text}");
        }
        let many = Value::Array((0..=MAX_KEYS).map(|id| ed(&json!({"kid": id.to_string()}))).collect());
        assert!(parse(&many).unwrap_err().contains("the limit is 100"));
    }

    #[test]
    fn a_key_is_found_by_its_id_and_without_one_if_no_other_fits() {
        let found = |set: &Set, id: Option<&str>, algorithm| set.find(id, algorithm).map(|keys| keys.len());
        let set = parse(&json!([ed(&json!({"kid": "a"})), ed(&json!({"kid": "b"})), rsa(256)])).unwrap();
        assert_eq!(found(&set, Some("a"), Algorithm::EdDSA), Some(1));
        assert_eq!(found(&set, Some("a"), Algorithm::RS256), Some(0), "the key decides about the algorithm");
        assert_eq!(found(&set, Some("c"), Algorithm::EdDSA), None, "it may be new");
        assert_eq!(found(&set, None, Algorithm::EdDSA), Some(0), "two fit");
        assert_eq!(found(&set, None, Algorithm::RS256), Some(1));
        assert_eq!(found(&set, None, Algorithm::ES256), Some(0));
    }

    #[test]
    fn of_keys_with_the_same_id_the_first_one_counts() {
        let set = parse(&json!([ed(&json!({"kid": "a"})), ed(&json!({"kid": "a", "alg": "EdDSA"}))])).unwrap();
        assert_eq!((set.keys.len(), set.skipped.len()), (1, 1));
        let set = parse(&json!([ed(&json!({})), ed(&json!({}))])).unwrap();
        assert_eq!(set.keys.len(), 2, "keys without ids are different keys");
    }
}
