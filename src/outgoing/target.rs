//! Where requests go: a URL that was checked.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::outside::shown;

/// Where plain HTTP may be used. What travels over it can be read and changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// To this machine.
    Loopback,
    /// To this machine and to private networks (RFC 1918, RFC 4193).
    Private,
    /// Everywhere: the operator has named the address.
    Anywhere,
}

impl PlainHttp {
    /// Whether plain HTTP may be used to this address.
    #[must_use]
    pub fn allows(self, address: IpAddr) -> bool {
        let is_private = match address.to_canonical() {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        };
        self == Self::Anywhere || is_loopback(address) || self == Self::Private && is_private
    }

    /// What it allows, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback addresses",
            Self::Private => "loopback and private addresses",
            Self::Anywhere => "all addresses",
        }
    }
}

/// An http or https URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Without user name and password.
    url: Url,
    plain: PlainHttp,
    /// Whether messages show only its origin.
    is_secret: bool,
    /// The value of `Authorization` for the user name and the password that the URL had.
    login: Option<Box<str>>,
}

impl Target {
    /// The target at a URL that is a secret: some services give each of their clients a path that only the client
    /// knows. It may have a user name and a password (RFC 7617).
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_secret(text: &str, plain: PlainHttp) -> Result<Self, String> {
        let mut url = parse_url(text)?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (decoded(url.username()), url.password().map(decoded));
        if user.is_empty() && password.is_none() {
            return Ok(Self { is_secret: true, ..Self::parse(text, plain)? });
        }
        // URLs without a host have no user, so this does not fail.
        let _ = url.set_username("").and_then(|()| url.set_password(None));
        let login = STANDARD.encode(format!("{user}:{}", password.unwrap_or_default()));
        let login = Some(format!("Basic {login}").into());
        Ok(Self { login, is_secret: true, ..Self::parse(url.as_str(), plain)? })
    }

    /// The target at a URL without a user name and a password.
    ///
    /// # Errors
    /// If requests must not be sent there, as the rest of a sentence about the URL. It does not repeat the URL, which
    /// may have a password.
    pub fn parse(text: &str, plain: PlainHttp) -> Result<Self, String> {
        let url = parse_url(text)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user name or a password".to_owned());
        }
        if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
            return Err("must begin with https://, or with http:// where that is allowed".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not contain a `#`".to_owned());
        }
        let target = Self { url, plain, is_secret: false, login: None };
        if target.url.scheme() == "http" && !target.may_be_plain() {
            return Err(format!("must begin with https://: http:// is allowed to {} only", plain.name()));
        }
        Ok(target)
    }

    /// Whether plain HTTP may be allowed to its host. A name on a private network is checked when it is looked up.
    fn may_be_plain(&self) -> bool {
        match self.address() {
            Some(address) => self.plain.allows(address),
            None => self.plain != PlainHttp::Loopback || self.is_loopback(),
        }
    }

    /// The address in the URL, if it is not a name.
    fn address(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// Whether it is on this machine: a loopback address, or `localhost` (RFC 6761, 6.3).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.address() {
            Some(address) => is_loopback(address),
            None => {
                let host = self.url.host_str().unwrap_or_default().trim_end_matches('.');
                host == "localhost" || host.ends_with(".localhost")
            }
        }
    }

    /// The addresses that its name may stand for: all with https, which proves the name.
    pub(super) fn plain(&self) -> Option<PlainHttp> {
        (self.url.scheme() == "http").then_some(if self.is_loopback() { PlainHttp::Loopback } else { self.plain })
    }

    /// Whether requests are encrypted on their way.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The value of `Authorization`, if the URL had a user name or a password.
    pub(super) fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The whole URL. It may have a secret in its path or its query: not for messages.
    pub(super) fn as_str(&self) -> &str {
        self.url.as_str()
    }
}

/// The URL without its query, which may have a secret. Of a URL that is a secret, the scheme, the host and the port.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_secret {
            return formatter.write_str(&shown(&self.url.origin().ascii_serialization()));
        }
        let mut url = self.url.clone();
        url.set_query(None);
        formatter.write_str(&shown(url.as_str()))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Target({self})")
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback(),
    }
}

/// A URL, or the rest of a sentence about a text that is none.
fn parse_url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| format!("is not a URL ({error}); write it like https://app.example.com/path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_near_addresses_only() {
        let check = |url: &str, loopback: bool, private: bool| {
            for (plain, want) in [(PlainHttp::Loopback, loopback), (PlainHttp::Private, private)] {
                let got = Target::parse(url, plain);
                assert_eq!(got.is_ok(), want, "{url} {plain:?}: {got:?}");
            }
        };
        for url in [
            "http://127.0.0.1:8000/a",
            "http://127.9.9.9",
            "http://[::1]:80/",
            "http://localhost",
            "HTTP://a.LOCALHOST./",
        ] {
            check(url, true, true);
        }
        for url in [
            "http://10.0.0.1",
            "http://192.168.1.1/x",
            "http://172.31.0.1",
            "http://[fd00::1]/",
            "http://app:8000/auth",
        ] {
            check(url, false, true);
        }
        for url in [
            "http://1.1.1.1",
            "http://172.32.0.1",
            "http://169.254.169.254",
            "http://[2001:db8::1]/",
            "http://[fe80::1]/",
        ] {
            check(url, false, false);
        }
        for url in ["https://1.1.1.1", "https://example.com/jwks?x=1", "https://[2001:db8::1]:8443/"] {
            check(url, true, true);
        }
    }

    #[test]
    fn urls_of_another_form_are_errors_that_do_not_repeat_them() {
        for url in [
            "",
            "sesame",
            "/sesame",
            "ftp://sesame",
            "https://",
            "https://sesame@example.com",
            "https://user:sesame@example.com/",
            "https://:sesame@example.com/",
            "https://example.com/#sesame",
            "https://sesame:99999/",
            "file:///sesame",
            "unix:///sesame",
        ] {
            let error = Target::parse(url, PlainHttp::Private).unwrap_err();
            assert!(!error.contains("sesame"), "{url}: {error}");
        }
    }

    #[test]
    fn a_login_is_taken_out_of_the_url() {
        let check = |url: &str, login: Option<&str>| {
            let target = Target::parse_secret(url, PlainHttp::Anywhere).unwrap();
            assert_eq!((target.login(), target.as_str()), (login, "http://1.1.1.1/x?a=b"), "{url}");
            assert!(!format!("{target} {target:?}").contains("sesame"));
        };
        check("http://1.1.1.1/x?a=b", None);
        check("http://Aladdin:open%20sesame@1.1.1.1/x?a=b", Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
        check("http://user@1.1.1.1/x?a=b", Some("Basic dXNlcjo="));
        assert!(Target::parse_secret("ftp://a:sesame@b/", PlainHttp::Anywhere).is_err());
    }

    #[test]
    fn messages_show_only_the_origin_of_a_url_that_is_a_secret() {
        let check = |url: &str, want: &str| {
            let target = Target::parse_secret(url, PlainHttp::Anywhere).unwrap();
            assert_eq!(format!("{target} {target:?}"), format!("{want} Target({want})"), "{url}");
            assert!(target.as_str().contains("sesame"), "{url}");
        };
        check("https://hooks.example/services/T0/B0/9fQ2xYzR7sesame1Kd", "https://hooks.example");
        check("https://user:word@hooks.example:8443/sesame?x", "https://hooks.example:8443");
        check("http://[::1]:80/in?token=sesame", "http://[::1]");
    }

    #[test]
    fn messages_show_no_query() {
        let target = Target::parse("https://example.com:8443/keys?token=sesame", PlainHttp::Loopback).unwrap();
        assert_eq!(
            format!("{target} {target:?}"),
            "https://example.com:8443/keys Target(https://example.com:8443/keys)"
        );
    }
}
