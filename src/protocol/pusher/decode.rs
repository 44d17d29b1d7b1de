//! Decodes messages of clients. `data` may be JSON, or a string that contains JSON.

use std::borrow::Cow;

use super::errors::INFO_TOO_LONG;
use super::raw_json::{Object, minified, text, texts};
use super::user_id::is_user_id;
use crate::json;

/// The longest `user_info`, in bytes of JSON without spaces.
pub(super) const MAX_INFO_BYTES: usize = 1024;

/// A message of a client, valid JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// The name of the event.
    pub(super) event: Cow<'a, str>,
    /// The same as it is written.
    pub(super) raw_event: &'a str,
    /// The channel, if the message names one outside of its data.
    pub(super) channel: Option<Cow<'a, str>>,
    /// The data as it is written, if there is any.
    pub(super) data: Option<&'a str>,
}

/// The data of a subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// The channel.
    pub(super) channel: String,
    /// `KEY:SIGNATURE`; empty if there is none.
    pub(super) auth: String,
    /// The JSON of the member, which is signed as it is.
    pub(super) channel_data: Option<String>,
}

impl<'a> Message<'a> {
    /// Reads a message; `None` if it is not a JSON object with an event.
    pub(super) fn read(message: &'a str) -> Option<Self> {
        let object = Object::read(message)?;
        let raw_event = object.field("event")?;
        let channel = match object.field("channel") {
            Some(channel) => Some(text(channel)?),
            None => None,
        };
        Some(Self { event: text(raw_event)?, raw_event, channel, data: object.field("data") })
    }

    /// The JSON of the data, whichever way it was sent.
    fn inner(&self) -> Option<Cow<'a, str>> {
        let data = self.data?;
        Some(text(data).unwrap_or(Cow::Borrowed(data)))
    }

    /// The data of `pusher:subscribe` and `pusher:unsubscribe`; `None` if it names no channel.
    pub(super) fn subscription(&self) -> Option<Subscription> {
        let inner = self.inner()?;
        let object = Object::read(&inner)?;
        Some(Subscription {
            channel: object.text("channel")?.into_owned(),
            auth: object.text("auth").unwrap_or_default().into_owned(),
            channel_data: object.text("channel_data").map(Cow::into_owned),
        })
    }

    /// The data of `pusher:signin`; `None` if a part is missing.
    pub(super) fn sign_in(&self) -> Option<SignIn> {
        let inner = self.inner()?;
        let object = Object::read(&inner)?;
        Some(SignIn { auth: object.text("auth")?.into_owned(), user_data: object.text("user_data")?.into_owned() })
    }
}

/// The data of a sign-in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SignIn {
    /// `KEY:SIGNATURE`.
    pub(super) auth: String,
    /// The JSON of the user, which is signed as it is.
    pub(super) user_data: String,
}

/// The member of a presence channel, as the application has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberData {
    /// The user id: the text of a string, or a number as it is written.
    pub(super) user_id: String,
    /// Whether it is a number.
    pub(super) is_number: bool,
    /// The JSON of the info, if there is any.
    pub(super) user_info: Option<String>,
}

impl MemberData {
    /// Reads channel data; `None` if it has no user id.
    pub(super) fn read(channel_data: &str) -> Option<Self> {
        let object = Object::read(channel_data)?;
        let raw_id = object.field("user_id")?;
        let is_number = raw_id.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let user_id = if is_number { raw_id.to_owned() } else { text(raw_id)?.into_owned() };
        let is_id = !user_id.is_empty();
        is_id.then(|| Self { user_id, is_number, user_info: user_info(&object) })
    }

    /// The JSON of the user id, as the application wrote it.
    pub(super) fn json_id(&self) -> Cow<'_, str> {
        match self.is_number {
            true => Cow::Borrowed(&self.user_id),
            false => Cow::Owned(json::string(&self.user_id)),
        }
    }
}

/// The `user_info` of an object, null included.
fn user_info(object: &Object<'_>) -> Option<String> {
    object.value("user_info").map(|info| minified(info).into_owned())
}

/// Who signs in, as the application has signed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UserData {
    /// The user, as a member of presence channels.
    pub(super) member: MemberData,
    /// The ids of the users whom this user watches.
    pub(super) watchlist: Vec<String>,
}

impl UserData {
    /// Reads the user data of a sign-in.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn read(user_data: &str) -> Result<Self, &'static str> {
        let object = Object::read(user_data).ok_or("user_data must be a string that contains a JSON object")?;
        let id = object.text("id").filter(|id| is_user_id(id));
        let Some(id) = id else {
            return Err("user_data needs an id, a string of at most 128 characters and 210 bytes");
        };
        let user_info = user_info(&object);
        if user_info.as_ref().is_some_and(|info| info.len() > MAX_INFO_BYTES) {
            return Err(INFO_TOO_LONG.message);
        }
        let watchlist = object.field("watchlist").map_or(Some(Vec::new()), texts);
        let Some(watchlist) = watchlist.filter(|users| users.iter().all(|user| is_user_id(user))) else {
            return Err("watchlist must be a list of user ids, strings of at most 128 characters and 210 bytes");
        };
        let member = MemberData { user_id: id.into_owned(), is_number: false, user_info };
        Ok(Self { member, watchlist })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_an_object_or_a_string_with_one() {
        for data in [r#"{"channel":"a","auth":"k:s"}"#, r#""{\"channel\":\"a\",\"auth\":\"k:s\"}""#] {
            let message = format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#);
            let message = Message::read(&message).unwrap();
            assert_eq!((&*message.event, message.raw_event), ("pusher:subscribe", "\"pusher:subscribe\""));
            let (channel, auth) = ("a".to_owned(), "k:s".to_owned());
            assert_eq!(message.subscription(), Some(Subscription { channel, auth, channel_data: None }));
        }
        for data in ["7", "[]", "null", r#""""#, r#""{""#, "{}", r#"{"channel":7}"#] {
            let message = format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#);
            assert_eq!(Message::read(&message).unwrap().subscription(), None, "{data}");
        }
    }

    #[test]
    fn what_is_no_object_with_an_event_is_no_message() {
        for text in ["", "{", "[]", "7", "{}", r#"{"event":7}"#, r#"{"event":"a","channel":7}"#, "{\"event\":\"a\"} x"]
        {
            assert_eq!(Message::read(text), None, "{text}");
        }
    }

    #[test]
    fn members_keep_the_type_of_their_id_and_their_info() {
        let check = |data: &str, id: &str, is_number: bool, info: Option<&str>| {
            let member = MemberData::read(data).unwrap();
            let got = (&*member.user_id, member.is_number, member.user_info.as_deref());
            assert_eq!(got, (id, is_number, info), "{data}");
        };
        check(
            r#"{"user_id":"7","user_info":{"name": "A \u0041", "n":1.50}}"#,
            "7",
            false,
            Some(r#"{"name":"A \u0041","n":1.50}"#),
        );
        check(r#"{"user_id":7}"#, "7", true, None);
        check(r#"{"user_id":-1.0e2,"user_info":null}"#, "-1.0e2", true, Some("null"));
        check(r#"{"user_id":"é\t","user_info":true}"#, "é\t", false, Some("true"));
        for wrong in [
            "",
            "{",
            "{}",
            r#"{"user_id":""}"#,
            r#"{"user_id":null}"#,
            r#"{"user_id":true}"#,
            r#"{"user_id":{}}"#,
            r#"{"user_id":"a\ud83d"}"#,
        ] {
            assert_eq!(MemberData::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_sign_in_has_a_signature_and_user_data_which_are_strings() {
        let read = |data: &str| {
            let message = format!(r#"{{"event":"pusher:signin","data":{data}}}"#);
            Message::read(&message).unwrap().sign_in()
        };
        let user_data = r#"{"id":"7","user_info":{"name": "A\/B"}}"#.to_owned();
        let written = json::string(&user_data);
        let data = format!(r#"{{"auth":"k:s","user_data":{written}}}"#);
        for data in [&data, &json::string(&data)] {
            assert_eq!(read(data), Some(SignIn { auth: "k:s".to_owned(), user_data: user_data.clone() }), "{data}");
        }
        for wrong in
            ["7", "{}", r#"{"auth":"k:s"}"#, r#"{"user_data":"{}"}"#, r#"{"auth":"k:s","user_data":{"id":"7"}}"#]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn user_data_has_an_id_that_is_a_string() {
        let check = |data: &str, id: &str, info: Option<&str>, watchlist: &[&str]| {
            let UserData { member, watchlist: got } = UserData::read(data).unwrap();
            assert_eq!((&*member.user_id, member.is_number, member.user_info.as_deref()), (id, false, info), "{data}");
            assert_eq!(got, watchlist, "{data}");
        };
        check(r#"{"id":"7"}"#, "7", None, &[]);
        check(r#"{"id":"a\u00e9","watchlist":null,"user_info":null,"more":1}"#, "aé", Some("null"), &[]);
        check(r#"{"watchlist":["8", "\t"],"id":"7","user_info":{"n": 1.0}}"#, "7", Some(r#"{"n":1.0}"#), &["8", "\t"]);
        let long = |name: &str, value: String| format!(r#"{{"id":"7","{name}":{value}}}"#);
        let (longest, too_long) = ("x".repeat(1022), "x".repeat(1023));
        check(&long("user_info", json::string(&longest)), "7", Some(&json::string(&longest)), &[]);
        let wrong = ["", "{", "[]", "7", "{}", r#"{"id":""}"#, r#"{"id":7}"#, r#"{"id":null}"#, r#"{"id":{}}"#];
        let lists = ["7", "{}", r#""8""#, "[8]", "[null]", r#"[""]"#, r#"["8",["9"]]"#];
        let lists = lists.map(|list| long("watchlist", list.to_owned()));
        let others = [long("user_info", json::string(&too_long)), format!(r#"{{"id":"{}"}}"#, "x".repeat(129))];
        for wrong in wrong.map(str::to_owned).into_iter().chain(lists).chain(others) {
            assert!(UserData::read(&wrong).is_err(), "{wrong}");
        }
    }
}
