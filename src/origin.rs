//! Origins: which page a request comes from (RFC 6454), and patterns for the origins of an application.
//!
//! An origin is a scheme, a host and a port. Browsers send it with every request that could do harm, and pages cannot
//! change it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::peer::is_loopback;

/// The default ports of schemes.
const DEFAULT_PORTS: [(&str, u16); 4] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];
/// The origin of pages that have none to show: files, sandboxed frames.
const OPAQUE: &str = "null";

/// The value of an `Origin` header, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// `null`.
    Opaque,
    /// That of a page with an address.
    Page {
        /// The scheme, such as `https`.
        scheme: &'a str,
        /// The host. An IPv6 address is in brackets.
        host: &'a str,
        /// The port, if it is not the default port of the scheme.
        port: Option<u16>,
    },
}

impl<'a> Origin<'a> {
    /// The origin that a text stands for; `None` if it is not an origin.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        if text == OPAQUE {
            return Some(Self::Opaque);
        }
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority)?;
        if !is_scheme(scheme) || !is_host(host) {
            return None;
        }
        let port = port.filter(|port| Some(*port) != default_port(scheme));
        Some(Self::Page { scheme, host, port })
    }

    /// Whether it is a page of this machine: `localhost`, a name below it, or a loopback address.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        matches!(self, Self::Page { host, .. } if is_loopback_name(host))
    }

    /// Whether it is the origin of a server that the client addresses by this `Host`. `is_https` says how the client
    /// reaches the server, if that is known; a proxy may have added TLS.
    #[must_use]
    pub fn is_of_host(self, own: &str, is_https: Option<bool>) -> bool {
        let Self::Page { scheme, host, port } = self else { return false };
        let Some(default) = ["http", "https"].iter().find(|known| known.eq_ignore_ascii_case(scheme)) else {
            return false;
        };
        let Some((own_host, own_port)) = split_port(own) else { return false };
        let own_port = own_port.filter(|port| Some(*port) != default_port(scheme));
        let has_scheme = is_https.is_none_or(|is_https| is_https == (*default == "https"));
        has_scheme && !own_host.is_empty() && own_host.eq_ignore_ascii_case(host) && own_port == port
    }
}

/// An origin of `--origin`: `https://app.example.com`, `https://*.example.com`, `capacitor://localhost` or `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `null`.
    Opaque,
    /// Pages with this scheme and port.
    Page {
        /// The scheme.
        scheme: String,
        /// The host, or with `is_wildcard` what must follow one or more labels.
        host: String,
        /// Whether the host may be any name below `host`.
        is_wildcard: bool,
        /// The port, if it is not the default port of the scheme.
        port: Option<u16>,
    },
}

impl OriginPattern {
    /// Whether an origin fits.
    #[must_use]
    pub fn matches(&self, origin: Origin<'_>) -> bool {
        match (self, origin) {
            (Self::Opaque, Origin::Opaque) => true,
            (Self::Page { scheme, host, is_wildcard, port }, Origin::Page { scheme: of, host: at, port: on }) => {
                let fits = if *is_wildcard { is_below(at, host) } else { at.eq_ignore_ascii_case(host) };
                fits && scheme.eq_ignore_ascii_case(of) && *port == on
            }
            _ => false,
        }
    }
}

/// Whether a name consists of one or more whole labels and then `.parent`.
fn is_below(name: &str, parent: &str) -> bool {
    let Some((labels, rest)) = name.len().checked_sub(parent.len()).and_then(|at| name.split_at_checked(at)) else {
        return false;
    };
    let labels = labels.strip_suffix('.').unwrap_or_default();
    rest.eq_ignore_ascii_case(parent) && !labels.is_empty() && labels.split('.').all(|label| !label.is_empty())
}

impl FromStr for OriginPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write it like https://app.example.com or https://*.example.com";
        if text.is_empty() {
            return Err(format!("it is empty; {example}"));
        }
        if text == "*" {
            return Err(format!("`*` would allow every page on the internet; {example}"));
        }
        let (plain, is_wildcard) = match text.split_once("://*.") {
            Some((scheme, rest)) => (format!("{scheme}://{rest}"), true),
            None => (text.to_owned(), false),
        };
        match Origin::parse(&plain) {
            Some(Origin::Opaque) => Ok(Self::Opaque),
            Some(Origin::Page { scheme, host, port }) if !is_wildcard || !is_address(host) => {
                let (scheme, host) = (scheme.to_ascii_lowercase(), canonical_host(host));
                Ok(Self::Page { scheme, host, is_wildcard, port })
            }
            _ => {
                Err(format!("it is not an origin: {example}, without a path; `*` stands for whole labels at the start"))
            }
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Page { scheme, host, is_wildcard, port } = self else { return formatter.write_str(OPAQUE) };
        let wildcard = if *is_wildcard { "*." } else { "" };
        write!(formatter, "{scheme}://{wildcard}{host}")?;
        port.map_or(Ok(()), |port| write!(formatter, ":{port}"))
    }
}

/// A host as browsers write it.
fn canonical_host(host: &str) -> String {
    match address(host) {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_ascii_lowercase(),
    }
}

fn is_address(host: &str) -> bool {
    address(host).is_some()
}

/// The address that a host is, if it is one.
fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

/// Whether a name stands for this machine whatever name servers say: `localhost`, a name below it, or a loopback
/// address.
fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || is_below(host, "localhost") || address(host).is_some_and(is_loopback)
}

/// Whether a `Host` is a domain name with a dot, which the owner of the domain may point to any address. Addresses,
/// single labels and `*.localhost` are not.
#[must_use]
pub fn is_domain_name(host: &[u8]) -> bool {
    if !host.contains(&b'.') {
        return false;
    }
    let Ok(host) = std::str::from_utf8(host) else { return true };
    if host.parse::<IpAddr>().is_ok() {
        return false;
    }
    split_port(host).is_none_or(|(name, _)| !is_address(name) && !is_below(name, "localhost"))
}

fn default_port(scheme: &str) -> Option<u16> {
    DEFAULT_PORTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(scheme)).map(|(_, port)| *port)
}

/// The host and the port of an authority. An IPv6 address is in brackets. `None` if the port is not a number.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        Some((host, "")) => Some((host, None)),
        Some((host, port)) if !port.contains(']') => {
            let digits = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
            Some((host, Some(digits?.parse().ok()?)))
        }
        _ => Some((authority, None)),
    }
}

/// RFC 3986, 3.1.
fn is_scheme(scheme: &str) -> bool {
    let is_rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.bytes().next().is_some_and(|first| first.is_ascii_alphabetic()) && scheme.bytes().all(is_rest)
}

/// A name as browsers write it, in ASCII, or an address.
fn is_host(host: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !host.is_empty() && (host.bytes().all(is_name) || host.starts_with('[') && is_address(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, fitting: &[&str], others: &[&str]) {
        let parsed: OriginPattern = pattern.parse().unwrap();
        let matches = |origin: &str| Origin::parse(origin).is_some_and(|origin| parsed.matches(origin));
        fitting.iter().for_each(|origin| assert!(matches(origin), "{pattern} allows {origin}"));
        others.iter().for_each(|origin| assert!(!matches(origin), "{pattern} does not allow {origin}"));
        assert_eq!(parsed.to_string().parse(), Ok(parsed), "{pattern} is shown as it is written");
    }

    #[test]
    fn scheme_host_and_port_must_match_and_default_ports_count() {
        let others = ["http://app.example.com", "https://app.example.com:8443", "https://example.com", "null", ""];
        check("https://app.example.com", &["https://app.example.com", "https://app.example.com:443"], &others);
        check("HTTPS://App.Example.com:443", &["https://app.example.com"], &["https://app.example.com:80"]);
        check("http://localhost:8080", &["http://localhost:8080", "http://LOCALHOST:8080"], &["http://localhost"]);
        check("http://[::0001]:81", &["http://[::1]:81"], &["http://[::1]", "http://[::2]:81"]);
        check("capacitor://localhost", &["capacitor://localhost"], &["http://localhost", "capacitor://localhost:1"]);
        check("chrome-extension://abcdef", &["chrome-extension://abcdef"], &["chrome-extension://abcdeg"]);
        check("null", &["null"], &["http://null", "", "NULL"]);
        let suffixes =
            ["https://app.example.com.evil.com", "https://evilapp.example.com", "https://app.example.com@evil"];
        check("https://app.example.com", &[], &suffixes);
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_whole_labels() {
        let fitting = ["https://a.example.com", "https://a.b.EXAMPLE.com", "https://a.example.com:443"];
        let others = [
            "https://example.com",
            "https://.example.com",
            "https://a..example.com",
            "https://evilexample.com",
            "https://a.example.com:8443",
            "http://a.example.com",
            "https://a.example.com.evil.com",
            "https://example.com.evil",
        ];
        check("https://*.example.com", &fitting, &others);
        check("https://*.example.com:8443", &["https://a.example.com:8443"], &["https://a.example.com"]);
    }

    #[test]
    fn texts_that_are_not_origins_are_refused() {
        let bad = [
            "",
            "*",
            "https://*",
            "https://a*.example.com",
            "https://*.*.com",
            "https://*.[::1]",
            "https://*.10.0.0.1",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://user@example.com",
            "https://example.com:port",
            "https://example.com:99999",
            "https://[::1",
            "https://ex ample.com",
            "*://a",
            "://a",
            "https://ünïcode.example",
        ];
        for text in bad {
            assert!(text.parse::<OriginPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn pages_of_this_machine_are_loopback() {
        let check = |origin: &str, want: bool| {
            assert_eq!(Origin::parse(origin).is_some_and(Origin::is_loopback), want, "{origin}");
        };
        for origin in ["http://localhost:3000", "https://LOCALHOST", "http://127.0.0.1", "http://127.9.9.9:81"] {
            check(origin, true);
        }
        for origin in ["http://[::1]:8000", "http://app.localhost", "http://[::ffff:127.0.0.1]"] {
            check(origin, true);
        }
        for origin in ["null", "http://localhost.evil.com", "http://evillocalhost", "http://10.0.0.1", "https://mybox"]
        {
            check(origin, false);
        }
        check("http://.localhost", false);
    }

    #[test]
    fn domain_names_have_a_dot_and_are_not_below_localhost() {
        let check = |host: &str, want: bool| assert_eq!(is_domain_name(host.as_bytes()), want, "{host}");
        for host in ["example.com", "example.com:8000", "a.b", "localhost.evil.com:80", "127.0.0.1.nip.io", "evil.com."]
        {
            check(host, true);
        }
        for host in ["1.2.3", "127.1", "localhost.", "evil.com:port", ".", "a.localhost.b"] {
            check(host, true);
        }
        for host in ["", "localhost", "localhost:8000", "mybox", "127.0.0.1", "10.1.2.3:80", "[::1]:8000", "[::1]"] {
            check(host, false);
        }
        for host in ["app.localhost", "APP.Localhost:3000", "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80"] {
            check(host, false);
        }
        assert!(is_domain_name(b"\xff.com"));
    }
}
