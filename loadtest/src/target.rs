//! Parses and resolves `--url`.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};

use crate::credentials::Credentials;

const DEFAULT_PORT: u16 = 80;
const DEFAULT_TLS_PORT: u16 = 443;

/// A resolved server address.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Whether the server speaks TLS there. Its certificate is not checked.
    pub(crate) is_encrypted: bool,
    /// For the Host header.
    pub(crate) authority: String,
    /// The first address the name resolves to.
    pub(crate) address: SocketAddr,
    /// Precedes the protocol's path. Empty, or "/…" without a trailing slash.
    pub(crate) base_path: String,
    /// What its clients prove.
    pub(crate) credentials: Credentials,
}

impl Target {
    pub(crate) fn resolve(url: &str) -> Result<Self> {
        let (is_encrypted, authority, base_path) = split(url)?;
        let port = if is_encrypted { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
        let with_port = if has_port(authority) { authority.to_owned() } else { format!("{authority}:{port}") };
        let address = with_port
            .to_socket_addrs()
            .with_context(|| format!("{url}: cannot resolve {authority:?}"))?
            .next()
            .with_context(|| format!("{url}: {authority:?} has no address"))?;
        Ok(Self {
            is_encrypted,
            authority: authority.to_owned(),
            address,
            base_path: base_path.to_owned(),
            credentials: Credentials::default(),
        })
    }
}

const SCHEMES: [(&str, bool); 4] = [("ws://", false), ("http://", false), ("wss://", true), ("https://", true)];

/// Whether a URL means TLS, its host with the port, and its path.
fn split(url: &str) -> Result<(bool, &str, &str)> {
    let known = SCHEMES.iter().find_map(|(scheme, is_encrypted)| Some((*is_encrypted, url.strip_prefix(scheme)?)));
    let Some((is_encrypted, rest)) = known else {
        bail!("{url}: expected a URL like ws://127.0.0.1:8000");
    };
    if rest.contains(['?', '#']) || rest.chars().any(|c| c.is_control() || c == ' ') {
        bail!("{url}: expected ws://host:port and a path only; the protocol adds its own query");
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.is_empty() {
        bail!("{url}: the host is missing");
    }
    Ok((is_encrypted, authority, path.trim_end_matches('/')))
}

/// A colon that is not inside the brackets of an IPv6 address.
fn has_port(authority: &str) -> bool {
    authority.rsplit(']').next().is_some_and(|tail| tail.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, address: &str, base_path: &str) {
        let target = Target::resolve(url).expect(url);
        assert_eq!(target.address.to_string(), address, "{url}");
        assert_eq!(target.base_path, base_path, "{url}");
    }

    #[test]
    fn urls_are_split_and_resolved() {
        check("ws://127.0.0.1:8000", "127.0.0.1:8000", "");
        check("ws://127.0.0.1:8000/", "127.0.0.1:8000", "");
        check("ws://127.0.0.1/presence/", "127.0.0.1:80", "/presence");
        check("ws://[::1]:9000/a/b", "[::1]:9000", "/a/b");
        check("ws://[::1]", "[::1]:80", "");
        check("wss://[::1]", "[::1]:443", "");
        assert!(Target::resolve("https://127.0.0.1").unwrap().is_encrypted);
    }

    #[test]
    fn errors_say_what_a_url_must_look_like() {
        for (url, hint) in [
            ("127.0.0.1:8000", "ws://127.0.0.1:8000"),
            ("ws://", "host is missing"),
            ("ws://127.0.0.1:8000/?user=a", "query"),
            ("ws://127.0.0.1:notaport", "cannot resolve"),
        ] {
            let message = format!("{:#}", Target::resolve(url).unwrap_err());
            assert!(message.contains(hint), "{url}: {message}");
        }
    }
}
