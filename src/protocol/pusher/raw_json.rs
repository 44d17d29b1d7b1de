//! JSON whose parts are passed on as they are: numbers, escapes and the order of fields stay as the sender wrote them.
//!
//! The functions expect valid JSON, and do not panic if they are given other text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of an object in order, as they are written.
#[derive(Debug, Default)]
pub(super) struct Object<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Object<'a> {
    /// Splits an object into its fields; `None` if the text is not valid JSON, or not an object.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// A field. If an object repeats a field, the last one counts, as in JavaScript. Null counts as missing.
    pub(super) fn field(&self, name: &str) -> Option<&'a str> {
        self.value(name).filter(|value| *value != "null")
    }

    /// As [`Object::field`], and null is a value.
    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        let is_it = |(key, _): &&(&str, &str)| text(key).is_some_and(|key| key == name);
        self.0.iter().rev().find(is_it).map(|(_, value)| *value)
    }

    /// The text of a field; `None` if the field is not a string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.field(name)?)
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Object<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        // The keys as they are written, too: one that is not Unicode is no error.
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            fields.push((key.get(), value.get()));
        }
        Ok(Object(fields))
    }
}

/// The text of a JSON string; `None` if the value is not a string, or not Unicode.
pub(super) fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    match inner.contains('\\') {
        true => serde_json::from_str(value).ok().map(Cow::Owned),
        false => Some(Cow::Borrowed(inner)),
    }
}

/// The texts of a list of JSON strings; `None` if the value is anything else.
pub(super) fn texts(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

/// The value without the spaces and line ends between its parts.
pub(super) fn minified(value: &str) -> Cow<'_, str> {
    // Within a string these characters are escaped, but for the space.
    if !value.contains(is_space) {
        return Cow::Borrowed(value);
    }
    let (mut compact, mut rest) = (String::with_capacity(value.len()), value);
    while let Some(quote) = rest.find('"') {
        let (before, from_quote) = rest.split_at(quote);
        compact.extend(before.chars().filter(|char| !is_space(*char)));
        let (string, after) = from_quote.split_at(string_end(from_quote));
        compact.push_str(string);
        rest = after;
    }
    compact.extend(rest.chars().filter(|char| !is_space(*char)));
    Cow::Owned(compact)
}

/// How many lists and objects are nested in each other.
pub(super) fn depth(value: &str) -> usize {
    let (mut depth, mut deepest, mut rest) = (0_usize, 0, value);
    loop {
        let quote = rest.find('"');
        let (before, from_quote) = rest.split_at(quote.unwrap_or(rest.len()));
        for byte in before.bytes() {
            match byte {
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        if quote.is_none() {
            return deepest;
        }
        rest = &from_quote[string_end(from_quote)..];
    }
}

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r')
}

/// Where the string at the start of a text ends.
fn string_end(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn values_are_found_as_they_are_written() {
        let text = r#" { "a" : 1.0e3 , "b":"x\"}", "\u0063":{"d":[1,"]"]} , "a":[ ] , "e":null,"f":true}"#;
        let all = [("a", "[ ]"), ("b", r#""x\"}""#), ("c", r#"{"d":[1,"]"]}"#), ("e", "null"), ("f", "true")];
        let object = Object::read(text).unwrap();
        for (name, written) in all {
            assert_eq!(object.value(name), Some(written), "{name}");
        }
        assert_eq!((object.field("a"), object.field("e"), object.value("g")), (Some("[ ]"), None, None));
        assert_eq!(object.0.len(), 6);
        assert_eq!(Object::read("{}").unwrap().0, []);
        for other in ["[1]", "7", "", "{\"a\":", "{} x", "{\"a\":\"\t\"}", r#"{"a":"\x"}"#, "{\"a\":1,}"] {
            assert!(Object::read(other).is_none(), "{other}");
        }
    }

    #[test]
    fn brackets_in_strings_are_not_nested() {
        for (text, expected) in [
            ("7", 0),
            (r#""[[""#, 0),
            ("[]", 1),
            (r#"[{"a":"\"[[","b":[]},[]]"#, 3),
            (r#"{"[":{"{":{}}}"#, 3),
            ("]]", 0),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
        assert_eq!(depth(&"[".repeat(5_000)), 5_000);
    }

    #[test]
    fn a_key_that_is_not_unicode_hides_no_other_field() {
        let text = r#"{"a":1,"\ud800":2,"b":3,"\ud83d\ude00":4}"#;
        let object = Object::read(text).unwrap();
        assert_eq!(["a", "b", "😀"].map(|name| object.value(name)), [Some("1"), Some("3"), Some("4")]);
    }

    #[test]
    fn strings_are_decoded_and_other_values_are_none() {
        assert_eq!(text(r#""a\"\u00e9""#).as_deref(), Some("a\"é"));
        assert_eq!(text(r#""plain é""#).as_deref(), Some("plain é"));
        for other in ["7", "null", "{}", r#""\ud800""#, "", "\""] {
            assert_eq!(text(other), None, "{other}");
        }
    }

    #[test]
    fn spaces_are_removed_between_parts_and_kept_in_strings() {
        let check = |value: &str, expected: &str| assert_eq!(minified(value), expected, "{value}");
        check("{ \"a b\" : [ 1 ,\n\t\" \\\" \" ] }\r\n", "{\"a b\":[1,\" \\\" \"]}");
        check("{\"a\":1}", "{\"a\":1}");
        check("\"a b\"", "\"a b\"");
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,8}|\\PC{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ -~]{0,6}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_split_into_its_fields(value in json()) {
            for written in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(&serde_json::from_str::<Value>(&minified(&written)).unwrap(), &value);
                let Value::Object(expected) = &value else { continue };
                let Object(found) = Object::read(&written).unwrap();
                prop_assert_eq!(found.len(), expected.len());
                for (key, value) in found {
                    let key = text(key).unwrap();
                    prop_assert_eq!(&serde_json::from_str::<Value>(value).unwrap(), &expected[&*key]);
                }
            }
        }

        #[test]
        fn other_text_does_no_harm(text in "\\PC{0,40}|[{}\\[\\]\",:\\\\ a1]{0,30}") {
            Object::read(&text);
            minified(&text);
        }
    }
}
