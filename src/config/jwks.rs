//! Key sets that issuers publish.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;

use super::callback::endpoint;
use super::values::{duration, show, switch};
use super::variables::TOKENS_HEADING;
use super::{ConfigError, require};
use crate::outgoing::{Endpoint, Limits, PlainHttp, Target};
use crate::presence::is_id;

/// How long the server of a set may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The limit of bytes of a set.
const MAX_SET_BYTES: usize = 64 * 1024;
/// The limit of `--jwks-url`: each set is looked at for each token.
const MAX_URLS: usize = 16;
/// The limits of `--jwks-max-stale`.
const MIN_STALE: Duration = Duration::from_secs(1);
const MAX_STALE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The limit of bytes of a user prefix.
const MAX_PREFIX_BYTES: usize = 64;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = TOKENS_HEADING)]
pub struct JwksArgs {
    /// URL of the public keys that your identity provider publishes (JSON Web Key Set): https, or http to loopback
    /// addresses. Can be repeated as ISSUER=URL; the keys then verify only tokens of that issuer
    #[arg(long, env = "ROLLCALL_JWKS_URL", value_delimiter = ',', action = ArgAction::Append, value_name = "[ISSUER=]URL")]
    pub jwks_url: Vec<String>,

    /// Start even if the keys cannot be fetched; recommended with several nodes. Until the server has keys, it closes
    /// connections with tokens with 1013
    #[arg(long, env = "ROLLCALL_JWKS_OPTIONAL", value_parser = switch)]
    pub jwks_optional: bool,

    /// Certificates (PEM) of the authorities that sign the certificates of --jwks-url [default: the authorities that
    /// the system trusts]
    #[arg(long, env = "ROLLCALL_JWKS_CA", value_name = "FILE")]
    pub jwks_ca: Option<PathBuf>,

    /// How long fetched keys are used while --jwks-url does not answer [default: 24h]
    #[arg(long, env = "ROLLCALL_JWKS_MAX_STALE", value_parser = duration, value_name = "TIME")]
    pub jwks_max_stale: Option<Duration>,

    /// Prefix of the user ids of an issuer: a user id is the prefix and the `sub`, so that the users of two issuers
    /// differ. Can be repeated; of several issuers, all but one need a prefix
    #[arg(long, env = "ROLLCALL_JWT_USER_PREFIX", value_delimiter = ',', action = ArgAction::Append, value_name = "ISSUER=PREFIX")]
    pub jwt_user_prefix: Vec<String>,
}

/// Where key sets are, and how to use them.
#[derive(Debug, Clone)]
pub struct JwksOptions {
    /// The sets, at least one, each with the issuer that it belongs to.
    pub sources: Vec<(Option<String>, Endpoint)>,
    /// Whether the server starts without them.
    pub is_optional: bool,
    /// How long the last good set serves.
    pub max_stale: Duration,
    /// What precedes the users of issuers.
    pub prefixes: Vec<(String, String)>,
    /// Whether a set comes from another machine.
    pub is_public: bool,
}

impl JwksArgs {
    /// Checks the settings. `None` if there are no sets. `issuers` and `audiences` are those that tokens must have.
    pub(super) fn check(self, issuers: &[String], audiences: &[String]) -> Result<Option<JwksOptions>, ConfigError> {
        let prefixes = self.jwt_user_prefix.iter().map(|text| prefix(text)).collect::<Result<Vec<_>, _>>()?;
        if self.jwks_url.is_empty() {
            let given = [
                ("--jwks-optional", self.jwks_optional),
                ("--jwks-ca", self.jwks_ca.is_some()),
                ("--jwks-max-stale", self.jwks_max_stale.is_some()),
                ("--jwt-user-prefix", !prefixes.is_empty()),
            ];
            let alone = given.iter().find(|(_, is_given)| *is_given);
            return alone.map_or(Ok(None), |(flag, _)| {
                Err(ConfigError::Invalid(format!(
                    "{flag} is given without --jwks-url URL, which names the keys that it applies to"
                )))
            });
        }
        require(self.jwks_url.len() <= MAX_URLS, || {
            format!("--jwks-url is given {} times; the limit is {MAX_URLS}", self.jwks_url.len())
        })?;
        let limits = Limits { time: ANSWER_TIME, answer_bytes: MAX_SET_BYTES, kept_connections: 1 };
        let (mut sources, mut is_public) = (Vec::new(), false);
        for text in &self.jwks_url {
            let (issuer, url) = split_issuer(text);
            let target = Target::parse(url, PlainHttp::Loopback);
            let target = target.map_err(|why| ConfigError::Invalid(format!("--jwks-url {why}")))?;
            is_public |= !target.is_loopback();
            check_public(&target, issuer.is_some() || !issuers.is_empty(), !audiences.is_empty())?;
            let endpoint = endpoint(target, "--jwks-ca", self.jwks_ca.as_deref(), limits)?;
            sources.push((issuer.map(str::to_owned), endpoint));
        }
        check_issuers(&sources, issuers, &prefixes)?;
        let max_stale = self.jwks_max_stale.unwrap_or(Duration::from_secs(24 * 3600));
        require((MIN_STALE..=MAX_STALE).contains(&max_stale), || {
            let (stale, min, max) = (show(max_stale), show(MIN_STALE), show(MAX_STALE));
            format!("--jwks-max-stale is {stale}; it must be between {min} and {max}")
        })?;
        Ok(Some(JwksOptions { sources, is_optional: self.jwks_optional, max_stale, prefixes, is_public }))
    }
}

/// Some providers publish one key set for all of their customers: without an audience and an issuer, the tokens of
/// other customers would be accepted.
fn check_public(target: &Target, has_issuer: bool, has_audience: bool) -> Result<(), ConfigError> {
    require(target.is_loopback() || has_issuer && has_audience, || {
        let missing = if has_issuer { "--jwt-audience" } else { "an issuer (--jwks-url ISSUER=URL)" };
        format!(
            "--jwks-url {target} needs {missing}: some providers publish one key set for all of their customers, whose \
             tokens would be accepted too"
        )
    })
}

/// Keys of several issuers must not be able to name each other's users.
fn check_issuers(
    sources: &[(Option<String>, Endpoint)],
    accepted: &[String],
    prefixes: &[(String, String)],
) -> Result<(), ConfigError> {
    let issuers: Vec<&str> = sources.iter().filter_map(|(issuer, _)| issuer.as_deref()).collect();
    require(sources.len() == 1 || issuers.len() == sources.len(), || {
        "--jwks-url is given several times: write ISSUER=URL each time, so that a key verifies only tokens of its issuer"
            .to_owned()
    })?;
    let is_accepted = |issuer: &str| accepted.is_empty() || accepted.iter().any(|known| known == issuer);
    require(issuers.iter().all(|issuer| is_accepted(issuer)), || {
        "--jwks-url names an issuer that is not in --jwt-issuer: its tokens would be refused".to_owned()
    })?;
    let mut bare: Vec<&str> =
        issuers.iter().copied().filter(|issuer| prefixes.iter().all(|(prefixed, _)| prefixed != issuer)).collect();
    bare.sort_unstable();
    bare.dedup();
    require(bare.len() <= 1, || {
        format!(
            "--jwks-url names {} issuers without --jwt-user-prefix ISSUER=PREFIX: all but one need a prefix, or they \
             could name each other's users",
            bare.len()
        )
    })?;
    for (number, (issuer, prefix)) in prefixes.iter().enumerate() {
        require(issuers.contains(&issuer.as_str()) || accepted.contains(issuer), || {
            "--jwt-user-prefix names an issuer that is neither in --jwks-url nor in --jwt-issuer".to_owned()
        })?;
        let clashes = |(other, text): &(String, String)| other == issuer || text.starts_with(prefix.as_str());
        let others = prefixes.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, other)| other);
        require(!others.clone().any(clashes), || {
            "--jwt-user-prefix: each issuer has one prefix, and no prefix may begin with another one".to_owned()
        })?;
    }
    Ok(())
}

fn prefix(text: &str) -> Result<(String, String), ConfigError> {
    // An issuer is a URL with most providers, and may contain `=`; a prefix does not.
    let parts = text.rsplit_once('=').filter(|(issuer, prefix)| !issuer.is_empty() && is_id(prefix));
    match parts.filter(|(_, prefix)| prefix.len() <= MAX_PREFIX_BYTES) {
        Some((issuer, prefix)) => Ok((issuer.to_owned(), prefix.to_owned())),
        None => Err(ConfigError::Invalid(format!(
            "--jwt-user-prefix must be ISSUER=PREFIX; the prefix has 1 to {MAX_PREFIX_BYTES} bytes, like `acme:`"
        ))),
    }
}

/// The issuer before a URL, which is a URL itself with most providers. A query may contain anything.
fn split_issuer(text: &str) -> (Option<&str>, &str) {
    let query = text.find('?').unwrap_or(text.len());
    let at = ["=https://", "=http://"].iter().filter_map(|begin| text[..query].find(begin)).min();
    match at {
        Some(at) => (Some(&text[..at]).filter(|issuer| !issuer.is_empty()), &text[at + 1..]),
        None => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(urls: &[&str], prefixes: &[&str], issuers: &[&str], audiences: &[&str]) -> Result<(), String> {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let args = JwksArgs {
            jwks_url: own(urls),
            jwks_optional: false,
            jwks_ca: None,
            jwks_max_stale: None,
            jwt_user_prefix: own(prefixes),
        };
        args.check(&own(issuers), &own(audiences)).map(drop).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn fails(result: Result<(), String>, with: &str) {
        let error = result.unwrap_err();
        assert!(error.contains(with) && !error.contains("sesame"), "{error}");
    }

    #[test]
    fn an_issuer_precedes_its_url() {
        let (issuer, url) = ("https://a.example/", "https://b.example/keys");
        assert_eq!(split_issuer("https://a.example/=https://b.example/keys"), (Some(issuer), url));
        assert_eq!(split_issuer("acme=http://127.0.0.1/"), (Some("acme"), "http://127.0.0.1/"));
        assert_eq!(split_issuer(url), (None, url));
        let query = "https://b.example/keys?next=https://a.example";
        assert_eq!(split_issuer(query), (None, query));
        assert_eq!(split_issuer("=https://b.example/keys"), (None, url));
    }

    #[test]
    fn a_url_that_is_not_loopback_needs_an_issuer_and_an_audience() {
        let (local, public) = ("http://127.0.0.1:1/keys", "http://10.0.0.1/keys");
        assert_eq!(check(&[local], &[], &[], &[]), Ok(()));
        assert_eq!(check(&["http://localhost/keys"], &[], &[], &[]), Ok(()));
        fails(check(&[public], &[], &["i"], &["a"]), "must begin with https://");
        fails(check(&["https://user:sesame@a.example/"], &[], &["i"], &["a"]), "user name or a password");
        let target = |url| Target::parse(url, PlainHttp::Loopback).unwrap();
        let public = target("https://a.example/keys?x=sesame");
        let result = |issuer, audience| check_public(&public, issuer, audience).map_err(|error| error.to_string());
        assert_eq!(result(true, true), Ok(()));
        fails(result(false, true), "needs an issuer");
        fails(result(true, false), "needs --jwt-audience");
        assert!(check_public(&target(local), false, false).is_ok());
    }

    #[test]
    fn several_issuers_cannot_name_each_others_users() {
        let (a, b, c) = ("a=http://127.0.0.1:1/", "b=http://127.0.0.1:2/", "c=http://127.0.0.1:3/");
        let urls = |urls: &[&str], prefixes: &[&str]| check(urls, prefixes, &[], &[]);
        assert_eq!(urls(&[a], &[]), Ok(()));
        assert_eq!(urls(&[a, b], &["b=b:"]), Ok(()));
        assert_eq!(urls(&[a, b, c], &["b=b:", "c=c:"]), Ok(()));
        assert_eq!(urls(&[a, "a=http://127.0.0.1:2/"], &[]), Ok(()), "one issuer");
        fails(urls(&[a, "http://127.0.0.1:2/"], &[]), "write ISSUER=URL each time");
        fails(urls(&[a, b], &[]), "2 issuers without --jwt-user-prefix");
        fails(urls(&[a, b, c], &["b=b:"]), "2 issuers without --jwt-user-prefix");
        fails(urls(&[a, b], &["b=x:", "a=x:y"]), "no prefix may begin with another one");
        fails(urls(&[a, b], &["b=x:", "b=y:"]), "each issuer has one prefix");
        fails(urls(&[a], &["d=d:"]), "is neither in --jwks-url nor");
        for wrong in ["b", "b=", "=b:", "b= x"] {
            fails(urls(&[a], &[wrong]), "must be ISSUER=PREFIX");
        }
        fails(check(&[a], &[], &["other"], &[]), "not in --jwt-issuer");
        fails(check(&[], &["a=b:"], &[], &[]), "without --jwks-url");
    }
}
