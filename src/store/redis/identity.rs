//! What nodes on one Redis must agree on about the identity of clients: one open node would open all others.

use bytes::BytesMut;
use serde_json::Value;

use crate::json::{put_list, put_string};
use crate::outside;

/// The mode of nodes whose clients claim their ids. Leases of versions that knew no other do not name it.
const OPEN: &str = "open";

/// Where the identity of clients comes from. Contains no secrets, nor anything made from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityRules {
    mode: String,
    /// The accepted issuers, sorted; any if empty.
    issuers: Vec<String>,
    /// The accepted audiences, sorted; any if empty.
    audiences: Vec<String>,
    /// The numbers of the applications whose clients speak the Pusher protocol, sorted.
    apps: Vec<String>,
    /// The one of them whose presence channels are rooms of all protocols.
    rooms: Vec<String>,
}

impl Default for IdentityRules {
    fn default() -> Self {
        Self::new(OPEN, Vec::new(), Vec::new())
    }
}

impl IdentityRules {
    /// The rules of this mode. The order of issuers and audiences does not matter.
    #[must_use]
    pub fn new(mode: &str, mut issuers: Vec<String>, mut audiences: Vec<String>) -> Self {
        for list in [&mut issuers, &mut audiences] {
            list.sort();
            list.dedup();
        }
        Self { mode: mode.to_owned(), issuers, audiences, apps: Vec::new(), rooms: Vec::new() }
    }

    /// The same with these applications, and the one whose presence channels are rooms of all protocols.
    #[must_use]
    pub fn with_apps(self, apps: &[u64], sharing: Option<u64>) -> Self {
        let text = |id: &u64| id.to_string();
        self.with_app_texts(apps.iter().map(text).collect(), sharing.iter().map(text).collect())
    }

    fn with_app_texts(self, mut apps: Vec<String>, rooms: Vec<String>) -> Self {
        apps.sort();
        apps.dedup();
        Self { apps, rooms, ..self }
    }

    /// The fields of a lease.
    pub(super) fn fields(&self) -> String {
        let mut buffer = BytesMut::from(&br#""identity":"#[..]);
        put_string(&mut buffer, &self.mode);
        let lists = [&self.issuers, &self.audiences, &self.apps, &self.rooms];
        for (name, list) in ["issuers", "audiences", "apps", "rooms"].into_iter().zip(lists) {
            if !list.is_empty() {
                buffer.extend_from_slice(format!(",\"{name}\":[").as_bytes());
                put_list(&mut buffer, list.iter(), |buffer, text| put_string(buffer, text));
                buffer.extend_from_slice(b"]");
            }
        }
        // All parts are text.
        String::from_utf8(buffer.into()).unwrap_or_default()
    }

    /// Reads the fields of a lease. Without them, its node is open.
    pub(super) fn parse(lease: &str) -> Self {
        let lease: Value = serde_json::from_str(lease).unwrap_or_default();
        let mode = match &lease["identity"] {
            Value::Null => OPEN,
            // A mode that is not a text is none that this node has.
            mode => mode.as_str().unwrap_or("?"),
        };
        let list = |name: &str| {
            let texts = lease[name].as_array().into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self::new(mode, list("issuers"), list("audiences")).with_app_texts(list("apps"), list("rooms"))
    }

    /// Why a node with these rules cannot work with a node with others.
    pub(super) fn mismatch(&self, other: &Self) -> Option<String> {
        if self.mode != other.mode {
            return Some(format!(
                "other nodes use the identity mode {}, this node uses {}: all nodes must use the same, because one open \
                 node opens the others",
                shown(&other.mode),
                shown(&self.mode)
            ));
        }
        for (flag, own, other) in [
            ("--jwt-issuer", &self.issuers, &other.issuers),
            ("--jwt-audience", &self.audiences, &other.audiences),
            ("--pusher-app", &self.apps, &other.apps),
            ("--pusher-rooms", &self.rooms, &other.rooms),
        ] {
            if own != other {
                let (own, other) = (listed(own), listed(other));
                return Some(format!(
                    "other nodes use {flag} {other}, this node uses {own}: all nodes must use the same"
                ));
            }
        }
        None
    }
}

fn listed(texts: &[String]) -> String {
    if texts.is_empty() { "(not given)".to_owned() } else { shown(&texts.join(" ")) }
}

/// A text of another node, escaped and cut.
fn shown(text: &str) -> String {
    format!("\"{}\"", outside::shown(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(issuers: &[&str], audiences: &[&str]) -> IdentityRules {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        IdentityRules::new("tokens", owned(issuers), owned(audiences))
    }

    #[test]
    fn the_fields_of_a_lease_are_read_back() {
        for rules in [
            IdentityRules::default(),
            tokens(&[], &[]),
            tokens(&["https://a.example", "b\"c\\,]}\n", "é"], &["\"format\":9"]),
            IdentityRules::default().with_apps(&[7, 12], None),
            tokens(&[], &[]).with_apps(&[7, 12], Some(12)),
        ] {
            let lease = format!("{{\"node\":\"n\",{}}}", rules.fields());
            assert_eq!(IdentityRules::parse(&lease), rules, "{lease}");
        }
        for open in ["{\"node\":\"n\"}", "", "{\"identity\":\"open\",\"issuers\":7}"] {
            assert_eq!(IdentityRules::parse(open), IdentityRules::default(), "{open}");
        }
        assert_ne!(IdentityRules::parse("{\"identity\":7}"), IdentityRules::default());
    }

    #[test]
    fn nodes_must_have_the_same_mode_issuers_and_audiences_in_any_order() {
        let own = tokens(&["a", "b"], &["x"]);
        let check = |other: &IdentityRules, words: &[&str]| {
            let mismatch = own.mismatch(other);
            assert_eq!(mismatch.is_some(), !words.is_empty(), "{other:?}: {mismatch:?}");
            let mismatch = mismatch.unwrap_or_default();
            assert!(words.iter().all(|word| mismatch.contains(word)), "{other:?}: {mismatch}");
            assert!(mismatch.len() < 500, "{mismatch}");
        };
        check(&tokens(&["b", "a", "a"], &["x"]), &[]);
        check(&IdentityRules::default(), &["mode \"open\"", "uses \"tokens\""]);
        check(&tokens(&["a"], &["x"]), &["--jwt-issuer \"a\"", "uses \"a b\""]);
        check(&tokens(&["a", "b"], &[]), &["--jwt-audience (not given)", "uses \"x\""]);
        check(&tokens(&["a", "b"], &["x"]).with_apps(&[7], None), &["--pusher-app \"7\"", "uses (not given)"]);
        check(&tokens(&["a", "b"], &["x"]).with_apps(&[], Some(7)), &["--pusher-rooms \"7\"", "uses (not given)"]);
        check(&tokens(&["a\n\u{1b}", "b"], &["x"]), &["a\\n\\u{1b} b"]);
        check(&tokens(&["é".repeat(500).as_str()], &["x"]), &["éé"]);
    }
}
