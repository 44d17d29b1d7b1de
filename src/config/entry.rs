//! Who may reach the server, and through what: open mode, origins, proxies.

use std::net::{IpAddr, SocketAddr};

use clap::ArgAction;

use super::values::switch;
use super::variables::{ENTRY_HEADING, NO_CREDENTIAL_HEADING};
use super::{ConfigError, Listen, Tokens, require};
use crate::origin::{Origin, OriginPattern};
use crate::peer::{Network, is_loopback};
use crate::store::redis::IdentityRules;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = ENTRY_HEADING)]
pub struct EntryArgs {
    /// Let every client that reaches the server claim any user id. Without this flag, a server without tokens serves
    /// only its own machine
    #[arg(
        long,
        env = "ROLLCALL_OPEN",
        value_parser = switch,
        help_heading = NO_CREDENTIAL_HEADING
    )]
    pub open: bool,

    /// Origin of pages that may connect and use the API, such as `https://app.example.com`; `https://*.example.com`
    /// stands for all of its subdomains; can be repeated, or separated by commas. All other origins get 403 [default:
    /// any, but cookies count only from pages of this server]
    #[arg(long, env = "ROLLCALL_ORIGIN", value_delimiter = ',', action = ArgAction::Append, value_name = "ORIGIN")]
    pub origin: Vec<OriginPattern>,

    /// Network of proxies whose X-Forwarded-For and X-Forwarded-Proto count, such as 10.0.0.0/8; can be repeated, or
    /// separated by commas
    #[arg(long, env = "ROLLCALL_TRUST_PROXY", value_delimiter = ',', action = ArgAction::Append, value_name = "CIDR")]
    pub trust_proxy: Vec<Network>,

    /// Require that each connection to --listen and --status-port comes from a network of --trust-proxy and begins with
    /// a PROXY header of version 1 or 2, which names the client
    #[arg(long, env = "ROLLCALL_PROXY_PROTOCOL", value_parser = switch)]
    pub proxy_protocol: bool,
}

/// Who may reach the server, and through what.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whether `--open` is given.
    pub open: bool,
    /// Whether only programs and pages of this machine are served: open mode without `--open`.
    pub is_guarded: bool,
    /// Whether only clients of `--pusher-app` and applications with a key are served: others could claim any user id.
    pub is_closed: bool,
    /// The origins that are allowed; empty if all are.
    pub origins: Vec<OriginPattern>,
    /// Proxies whose forwarding headers count.
    pub proxies: Vec<Network>,
    /// Whether each connection begins with a PROXY header.
    pub proxy_protocol: bool,
}

/// Where the identity of clients comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityMode {
    /// Clients claim it.
    Open,
    /// Tokens of the application.
    Tokens,
    /// The application is asked once per connection.
    Callback,
    /// Tokens, and the application for connections without one.
    TokensAndCallback,
}

impl IdentityMode {
    /// The mode of a server that checks tokens, or asks the application, or both, or neither.
    pub(super) fn of(has_tokens: bool, has_callback: bool) -> Self {
        match (has_tokens, has_callback) {
            (false, false) => Self::Open,
            (true, false) => Self::Tokens,
            (false, true) => Self::Callback,
            (true, true) => Self::TokensAndCallback,
        }
    }

    /// What other nodes must have in common with this one.
    pub(super) fn rules(self, tokens: Option<&Tokens>) -> IdentityRules {
        let mode = match self {
            Self::Open => "open",
            Self::Tokens => "tokens",
            Self::Callback => "callback",
            Self::TokensAndCallback => "tokens and callback",
        };
        let Some(Tokens { rules, jwks, .. }) = tokens else {
            return IdentityRules::new(mode, Vec::new(), Vec::new());
        };
        let of_sets = jwks.iter().flat_map(|jwks| &jwks.sources).filter_map(|(issuer, _)| issuer.as_ref());
        let issuers = rules.issuers.iter().chain(of_sets).cloned().collect();
        IdentityRules::new(mode, issuers, rules.audiences.clone())
    }

    /// Whether clients claim their identity.
    #[must_use]
    pub fn is_open(self) -> bool {
        self == Self::Open
    }
}

impl Entry {
    /// Whether this address is that of a trusted proxy.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(address))
    }

    /// Whether `--origin` has this origin.
    #[must_use]
    pub fn lists(&self, origin: Origin<'_>) -> bool {
        self.origins.iter().any(|pattern| pattern.matches(origin))
    }
}

impl EntryArgs {
    /// Checks that an open server is open on purpose.
    pub(super) fn check(
        self,
        identity: IdentityMode,
        listen: &Listen,
        dev_login: bool,
        has_apps: bool,
    ) -> Result<Entry, ConfigError> {
        let Self { open, origin, trust_proxy, proxy_protocol } = self;
        require(!proxy_protocol || !trust_proxy.is_empty(), || {
            "--proxy-protocol is given and --trust-proxy is not: name the networks of your proxies, because any other \
             client could claim any address"
                .to_owned()
        })?;
        for (flag, is_given) in [("--open", open), ("--dev-login", dev_login)] {
            require(!is_given || identity.is_open(), || {
                format!(
                    "{flag} lets clients choose their user ids, and tokens or --auth-url prove them; give one of the two"
                )
            })?;
        }
        let is_closed = identity.is_open() && !open && !dev_login && has_apps;
        let is_guarded = identity.is_open() && !open && !is_closed;
        let public = |addresses: &[SocketAddr]| addresses.iter().find(|address| !is_loopback(address.ip())).copied();
        let named = public(&listen.addresses).map(|address| ("--listen", address));
        let named = named.or_else(|| public(&listen.internal).map(|address| ("--internal-listen", address)));
        if let Some((flag, address)) = named.filter(|_| is_guarded) {
            return Err(ConfigError::Invalid(format!(
                "{flag} is {address}, which other machines can reach, and without tokens every client can claim any \
                 user id. Listen on 127.0.0.1, configure tokens, or give --open if that is what you want.\n\
                 In a container, open and reachable only from this machine:\n  \
                 docker run --rm -p 127.0.0.1:8000:8000 -e ROLLCALL_OPEN=1 rollcall\n\
                 With tokens that your application signs:\n  \
                 docker run --rm -p 8000:8000 -v ./jwt-secret.txt:/run/secrets/jwt:ro \
                 -e ROLLCALL_JWT_SECRET_FILE=/run/secrets/jwt rollcall"
            )));
        }
        Ok(Entry { open, is_guarded, is_closed, origins: origin, proxies: trust_proxy, proxy_protocol })
    }
}
