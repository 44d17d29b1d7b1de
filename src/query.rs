//! Decodes query strings and forms (application/x-www-form-urlencoded).

use percent_encoding::percent_decode_str;

/// Decoded parameters, in the order of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string or a form; `None` if it is not UTF-8.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let decode = |part: &str| Some(percent_decode_str(&part.replace('+', " ")).decode_utf8().ok()?.into_owned());
        let parts = text.split('&').filter(|part| !part.is_empty());
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decode(name)?, decode(value)?))
        };
        parts.map(pair).collect::<Option<_>>().map(Self)
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// The first value of a parameter.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded_in_order() {
        let check = |text: &str, expected: Option<&[(&str, &str)]>| {
            let got = Query::parse(text);
            let got: Option<Vec<(&str, &str)>> =
                got.as_ref().map(|query| query.0.iter().map(|(a, b)| (&**a, &**b)).collect());
            assert_eq!(got.as_deref(), expected, "{text:?}");
        };
        check("", Some(&[]));
        check("user=alice&room=a&room=b", Some(&[("user", "alice"), ("room", "a"), ("room", "b")]));
        check("user=a+b%2Bc%26", Some(&[("user", "a b+c&")]));
        check("user", Some(&[("user", "")]));
        check("user=%ff", None);
        check("user=%zz%", Some(&[("user", "%zz%")]));
    }

    proptest! {
        #[test]
        fn an_encoded_value_is_decoded_to_the_same_text(name in any::<String>()) {
            let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(Query::parse(&format!("user={encoded}")), Some(Query(vec![("user".to_owned(), name)])));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Query::parse(&text);
        }
    }
}
