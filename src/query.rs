//! Decodes query strings and forms (application/x-www-form-urlencoded), as the URL Standard does: `+` is a space, and a
//! `%` without two hexadecimal digits stands for itself.
//!
//! Only parameters that the server uses are decoded. Others may have any form: they are meant for others, such as a
//! proxy or a tracker.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// A query string or a form.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(&'a [u8]);

/// The value of a parameter is not UTF-8 after decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

impl<'a> Query<'a> {
    /// A query without its question mark, or a form.
    pub fn new(text: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self(text.as_ref())
    }

    /// All values of a parameter, in the order of the query.
    pub fn all(self, name: &'a str) -> impl Iterator<Item = Result<Cow<'a, str>, NotUtf8>> {
        let named = self.parts().filter(move |(key, _)| *decode(key) == *name.as_bytes());
        named.map(|(_, value)| to_utf8(decode(value)))
    }

    /// All parameters with their values, in the order of the query.
    pub fn pairs(self) -> impl Iterator<Item = Result<(Cow<'a, str>, Cow<'a, str>), NotUtf8>> {
        self.parts().map(|(key, value)| Ok((to_utf8(decode(key))?, to_utf8(decode(value))?)))
    }

    /// The keys and values as they are encoded.
    fn parts(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let pairs = self.0.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let end = pair.iter().position(|byte| *byte == b'=');
            end.map_or((pair, &b""[..]), |end| (&pair[..end], &pair[end + 1..]))
        })
    }

    /// The first value of a parameter.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn first(self, name: &'a str) -> Result<Option<Cow<'a, str>>, NotUtf8> {
        self.all(name).next().transpose()
    }
}

fn decode(part: &[u8]) -> Cow<'_, [u8]> {
    if !part.contains(&b'+') {
        return percent_decode(part).into();
    }
    let spaced: Vec<u8> = part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

fn to_utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, NotUtf8> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NotUtf8),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| NotUtf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, name: &str, want: &[Result<&str, NotUtf8>]) {
        let got: Vec<_> = Query::new(text).all(name).collect();
        let got: Vec<_> = got.iter().map(|value| value.as_deref().map_err(|error| *error)).collect();
        assert_eq!(got, want, "{name} in {text:?}");
    }

    #[test]
    fn values_are_decoded_in_order() {
        check("", "user", &[]);
        check("user=alice&room=a&&room=b", "room", &[Ok("a"), Ok("b")]);
        check("user=a+b%2Bc%26", "user", &[Ok("a b+c&")]);
        check("user", "user", &[Ok("")]);
        check("a=b=c", "a", &[Ok("b=c")]);
        check("%75ser=a&us+er=b", "user", &[Ok("a")]);
        check("%75ser=a&us+er=b", "us er", &[Ok("b")]);
        assert_eq!(Query::new("user=a&user=b").first("user"), Ok(Some("a".into())));
        assert_eq!(Query::new("user=a").first("room"), Ok(None));
    }

    #[test]
    fn a_percent_sign_without_two_digits_stands_for_itself() {
        check("user=%zz%", "user", &[Ok("%zz%")]);
        check("user=100%&room=%2", "user", &[Ok("100%")]);
        check("user=100%&room=%2", "room", &[Ok("%2")]);
    }

    #[test]
    fn only_the_parameters_that_are_asked_for_must_be_utf8() {
        check("user=a&ref=%ff&%fe=1", "user", &[Ok("a")]);
        check("user=a&ref=%ff&%fe=1", "ref", &[Err(NotUtf8)]);
        assert_eq!(Query::new(b"ref=\xff&user=a").first("user"), Ok(Some("a".into())));
    }

    proptest! {
        #[test]
        fn an_encoded_value_is_decoded_to_the_same_text(name in any::<String>()) {
            let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC).to_string();
            let query = format!("user={encoded}");
            prop_assert_eq!(Query::new(&query).first("user"), Ok(Some(name.into())));
        }

        #[test]
        fn no_text_makes_the_decoder_panic(text in any::<Vec<u8>>()) {
            let _ = Query::new(&text).first("user");
        }
    }
}
