//! Tokens: the keys that verify them, and what their claims must say.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgAction;

use super::secrets::{Rule, Secrets, read, read_again};
use super::values::{duration, secret, show, switch};
use super::variables::TOKENS_HEADING;
use super::{ConfigError, JwksOptions, Secret, require};

/// An HMAC key must be as long as its hash, or longer (RFC 7518, 3.2).
const JWT_SECRET: Rule = Rule { flag: "--jwt-secret", min_bytes: 32, hint: Rule::NEW_SECRET };
/// The limit of `--jwt-max-age`: revocations are kept for as long.
const LONGEST_MAX_AGE: Duration = Duration::from_secs(366 * 24 * 3600);
/// The limit of `--jwt-leeway`: clocks that differ more have to be set.
const LONGEST_LEEWAY: Duration = Duration::from_secs(300);

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = TOKENS_HEADING)]
pub struct AuthArgs {
    /// Secret with which your application signs JSON Web Tokens (HS256, HS384, HS512); at least 32 bytes. If the flag
    /// is repeated, the server accepts tokens of each secret
    #[arg(long, env = "ROLLCALL_JWT_SECRET", hide_env_values = true, value_parser = secret, value_name = "SECRET")]
    pub jwt_secret: Vec<Secret>,

    /// File with the values of --jwt-secret, one per line; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,

    /// PEM file with the public key that verifies JSON Web Tokens: RSA (RS*, PS*), P-256 (ES256), P-384 (ES384) or
    /// Ed25519 (EdDSA); can be repeated; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_JWT_PUBLIC_KEY", value_delimiter = ',', action = ArgAction::Append, value_name = "FILE")]
    pub jwt_public_key: Vec<PathBuf>,

    /// Accept only tokens of this issuer (claim `iss`); can be repeated
    #[arg(long, env = "ROLLCALL_JWT_ISSUER", action = ArgAction::Append, value_name = "ISSUER")]
    pub jwt_issuer: Vec<String>,

    /// Accept only tokens for this audience (claim `aud`); can be repeated
    #[arg(long, env = "ROLLCALL_JWT_AUDIENCE", action = ArgAction::Append, value_name = "AUDIENCE")]
    pub jwt_audience: Vec<String>,

    /// Maximum time until a token expires, both from now and from its time of issue (claim `iat`)
    #[arg(long, env = "ROLLCALL_JWT_MAX_AGE", default_value = "24h", value_parser = duration, value_name = "TIME")]
    pub jwt_max_age: Duration,

    /// How far the clocks of this server and of the application may differ
    #[arg(long, env = "ROLLCALL_JWT_LEEWAY", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub jwt_leeway: Duration,

    /// What tokens without the claim `caps` allow, in the form of that claim [default: everything]
    #[arg(long, env = "ROLLCALL_DEFAULT_CAPS", value_name = "JSON")]
    pub default_caps: Option<String>,

    /// Accept tokens as ?token= in the older protocols, whose browser clients cannot send them in another way; proxies
    /// write queries to their logs
    #[arg(long, env = "ROLLCALL_TOKEN_IN_QUERY", value_parser = switch)]
    pub token_in_query: bool,
}

/// How clients prove who they are.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Secrets that sign tokens.
    pub secrets: Option<Secrets>,
    /// Files with public keys.
    pub public_keys: PublicKeyFiles,
    /// Key sets that issuers publish.
    pub jwks: Option<JwksOptions>,
    /// What the claims of a token must say.
    pub rules: TokenRules,
    /// What tokens without `caps` allow, as JSON; everything if not given.
    pub default_caps: Option<String>,
    /// Whether clients of the older protocols may send a token in the query.
    pub in_query: bool,
}

/// What the claims of a token must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The accepted issuers; any if empty.
    pub issuers: Vec<String>,
    /// The accepted audiences; any if empty.
    pub audiences: Vec<String>,
    /// What precedes the `sub` of an issuer's users in their user ids, by issuer.
    pub user_prefixes: Vec<(String, String)>,
    /// The longest time until a token expires.
    pub max_age: Duration,
    /// How far clocks may differ.
    pub leeway: Duration,
}

impl TokenRules {
    /// The user id of a `sub`. `None` if it belongs to the users of another issuer.
    #[must_use]
    pub fn user<'a>(&self, issuer: Option<&str>, subject: &'a str) -> Option<Cow<'a, str>> {
        let own = self.user_prefixes.iter().find(|(known, _)| issuer == Some(known));
        match own {
            Some((_, prefix)) => Some(Cow::Owned(format!("{prefix}{subject}"))),
            None if self.user_prefixes.iter().any(|(_, prefix)| subject.starts_with(prefix.as_str())) => None,
            None => Some(Cow::Borrowed(subject)),
        }
    }
}

/// The files of `--jwt-public-key`.
#[derive(Debug, Clone, Default)]
pub struct PublicKeyFiles(Vec<PathBuf>);

impl PublicKeyFiles {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The names and the texts of the files.
    ///
    /// # Errors
    /// If a file cannot be read, as a sentence.
    pub fn read(&self) -> Result<Vec<(String, String)>, String> {
        self.read_by(read)
    }

    /// The same for a running server.
    ///
    /// # Errors
    /// If a file cannot be read, or is not a regular file.
    pub fn read_again(&self) -> Result<Vec<(String, String)>, String> {
        self.read_by(read_again)
    }

    fn read_by(&self, read: fn(&Path) -> Result<String, String>) -> Result<Vec<(String, String)>, String> {
        let read = |path: &PathBuf| match read(path) {
            Ok(text) => Ok((path.display().to_string(), text)),
            Err(why) => Err(format!("cannot read the file that --jwt-public-key names, {}: {why}", path.display())),
        };
        self.0.iter().map(read).collect()
    }
}

impl AuthArgs {
    /// Checks the settings. `None` if there are no keys: then clients claim their user ids.
    ///
    /// `has_callback` says whether an application is asked about clients without a token.
    pub(super) fn check(self, jwks: Option<JwksOptions>, has_callback: bool) -> Result<Option<Tokens>, ConfigError> {
        let Self { jwt_public_key, jwt_issuer, jwt_audience, jwt_max_age, jwt_leeway, .. } = self;
        let secrets = Secrets::of(JWT_SECRET, self.jwt_secret, self.jwt_secret_file)?;
        for (flag, values) in [("--jwt-issuer", &jwt_issuer), ("--jwt-audience", &jwt_audience)] {
            require(values.iter().all(|value| !value.trim().is_empty()), || format!("{flag} is empty"))?;
        }
        let longest = |flag: &str, value: Duration, limit: Duration| {
            require(value <= limit, || format!("{flag} is {}; the limit is {}", show(value), show(limit)))
        };
        longest("--jwt-max-age", jwt_max_age, LONGEST_MAX_AGE)?;
        longest("--jwt-leeway", jwt_leeway, LONGEST_LEEWAY)?;
        require(jwt_max_age >= Duration::from_secs(1), || "--jwt-max-age must be at least 1s".to_owned())?;
        let has_keys = secrets.is_some() || !jwt_public_key.is_empty() || jwks.is_some();
        let needs_keys = [
            ("--jwt-issuer", !jwt_issuer.is_empty()),
            ("--jwt-audience", !jwt_audience.is_empty()),
            ("--default-caps", self.default_caps.is_some() && !has_callback),
            ("--token-in-query", self.token_in_query),
        ];
        for (flag, is_given) in needs_keys {
            require(has_keys || !is_given, || {
                format!(
                    "{flag} applies to tokens, and no key verifies tokens: give --jwt-secret-file, --jwt-public-key or --jwks-url"
                )
            })?;
        }
        let rules = TokenRules {
            issuers: jwt_issuer,
            audiences: jwt_audience,
            user_prefixes: jwks.as_ref().map(|jwks| jwks.prefixes.clone()).unwrap_or_default(),
            max_age: jwt_max_age,
            leeway: jwt_leeway,
        };
        Ok(has_keys.then(|| Tokens {
            secrets,
            public_keys: PublicKeyFiles(jwt_public_key),
            jwks,
            rules,
            default_caps: self.default_caps,
            in_query: self.token_in_query,
        }))
    }
}
