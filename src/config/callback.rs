//! The application that is asked who a client is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secrets::{Rule, Secrets};
use super::values::{MAX_DURATION, duration, number, secret, show};
use super::variables::CALLBACK_HEADING;
use super::{ConfigError, Secret, require};
use crate::os::read_bounded;
use crate::outgoing::{Endpoint, Limits, PlainHttp, Target};
use crate::tls::{MAX_PEM_BYTES, Roots};

const AUTH_SECRET: Rule = Rule { flag: "--auth-secret", min_bytes: 16, hint: Rule::NEW_SECRET };
/// How long the application may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The limit of bytes of its answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The limit of `--auth-concurrency`: each request is a connection to the application.
const MAX_CONCURRENCY: usize = 1024;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = CALLBACK_HEADING)]
pub struct CallbackArgs {
    /// URL of your application that names the user of a session cookie: https, or http to loopback and private
    /// addresses. The server asks it once per connection
    #[arg(long, env = "ROLLCALL_AUTH_URL", value_name = "URL")]
    pub auth_url: Option<String>,

    /// Name of a session cookie, which the server passes on to --auth-url; can be repeated
    #[arg(long, env = "ROLLCALL_AUTH_COOKIE", value_delimiter = ',', value_name = "NAME")]
    pub auth_cookie: Vec<String>,

    /// Secret that proves to your application that a request comes from this server (Authorization: Bearer SECRET); at
    /// least 16 bytes. Required unless --auth-url is a loopback address. If there are several, the server sends the
    /// first one
    #[arg(long, env = "ROLLCALL_AUTH_SECRET", hide_env_values = true, value_parser = secret, value_name = "SECRET")]
    pub auth_secret: Vec<Secret>,

    /// File with the value of --auth-secret; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_AUTH_SECRET_FILE", value_name = "FILE")]
    pub auth_secret_file: Option<PathBuf>,

    /// Certificates (PEM) of the authorities that sign the certificate of --auth-url [default: the authorities that the
    /// system trusts]
    #[arg(long, env = "ROLLCALL_AUTH_CA", value_name = "FILE")]
    pub auth_ca: Option<PathBuf>,

    /// Maximum number of simultaneous requests to --auth-url; a quarter is reserved for connected users [default: 64]
    #[arg(long, env = "ROLLCALL_AUTH_CONCURRENCY", value_parser = number::<usize>, value_name = "N")]
    pub auth_concurrency: Option<usize>,

    /// How long users stay connected after their identity expires, while --auth-url does not answer [default: 1m]
    #[arg(long, env = "ROLLCALL_AUTH_STALE", value_parser = duration, value_name = "TIME")]
    pub auth_stale: Option<Duration>,
}

/// How to ask the application.
#[derive(Debug, Clone)]
pub struct CallbackOptions {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The names of its cookies, at least one.
    pub cookies: Vec<String>,
    /// Prove who asks: the first one is sent.
    pub secrets: Option<Secrets>,
    /// Requests at the same time.
    pub concurrency: usize,
    /// How long an expired identity is valid while it does not answer.
    pub stale: Duration,
    /// What answers without `caps` allow, as JSON; everything if not given.
    pub default_caps: Option<String>,
}

impl CallbackArgs {
    /// Checks the settings. `None` if no application is to be asked.
    pub(super) fn check(self, default_caps: Option<String>) -> Result<Option<CallbackOptions>, ConfigError> {
        let given = [
            ("--auth-cookie", !self.auth_cookie.is_empty()),
            ("--auth-secret", !self.auth_secret.is_empty() || self.auth_secret_file.is_some()),
            ("--auth-ca", self.auth_ca.is_some()),
            ("--auth-concurrency", self.auth_concurrency.is_some()),
            ("--auth-stale", self.auth_stale.is_some()),
        ];
        let Some(url) = self.auth_url else {
            let alone = given.iter().find(|(_, is_given)| *is_given);
            return match alone {
                Some((flag, _)) => Err(ConfigError::Invalid(format!(
                    "{flag} is given without --auth-url URL, which names the application that it applies to"
                ))),
                None => Ok(None),
            };
        };
        let target = Target::parse(&url, PlainHttp::Private);
        let target = target.map_err(|why| ConfigError::Invalid(format!("--auth-url {why}")))?;
        require(!self.auth_cookie.is_empty(), || {
            "--auth-url needs --auth-cookie NAME, the name of your session cookie: nothing else of a client is passed on"
                .to_owned()
        })?;
        require(self.auth_cookie.iter().all(|name| is_token(name)), || {
            "--auth-cookie must be the name of a cookie: letters, digits and `-`, `_`, `.`".to_owned()
        })?;
        let secrets = Secrets::of(AUTH_SECRET, self.auth_secret, self.auth_secret_file)?;
        require(secrets.is_some() || target.is_loopback(), || {
            "--auth-url is not a loopback address, so --auth-secret-file FILE is required: otherwise your application \
             could not tell who asks"
                .to_owned()
        })?;
        let concurrency = self.auth_concurrency.unwrap_or(64);
        require((2..=MAX_CONCURRENCY).contains(&concurrency), || {
            format!("--auth-concurrency is {concurrency}; it must be between 2 and {MAX_CONCURRENCY}")
        })?;
        let stale = self.auth_stale.unwrap_or(Duration::from_secs(60));
        require(stale <= MAX_DURATION, || {
            format!("--auth-stale is {}; the limit is {}", show(stale), show(MAX_DURATION))
        })?;
        let limits = Limits { time: ANSWER_TIME, answer_bytes: MAX_ANSWER_BYTES, kept_connections: concurrency };
        let endpoint = endpoint(target, "--auth-ca", self.auth_ca.as_deref(), limits)?;
        let cookies = self.auth_cookie;
        Ok(Some(CallbackOptions { endpoint, cookies, secrets, concurrency, stale, default_caps }))
    }
}

/// An endpoint whose certificate the authorities in this file sign, or those of the system.
pub(super) fn endpoint(
    target: Target,
    flag: &str,
    file: Option<&Path>,
    limits: Limits,
) -> Result<Endpoint, ConfigError> {
    let invalid = |why: String| ConfigError::Invalid(why);
    let roots = match file {
        Some(path) => {
            let named = |why: String| invalid(format!("{flag} {}: {why}", path.display()));
            let text = read_bounded(path, MAX_PEM_BYTES).map_err(named)?;
            Roots::from_pem(&text).map_err(|why| named(format!("it {why}")))?
        }
        None => Roots::default(),
    };
    Endpoint::new(target, &roots, limits).map_err(|why| invalid(format!("{why} with {flag}")))
}

/// Whether a text can be the name of a cookie (RFC 6265, 4.1.1).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Args;

    fn check(flags: &[&str]) -> Result<(), String> {
        let args = Args::try_parse_from([&["rollcall"], flags].concat()).map_err(|error| error.to_string())?;
        args.resolve().map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_needed_to_ask_the_application_is_given() {
        let url = ["--auth-url", "http://127.0.0.1:1/auth", "--auth-cookie", "sid"];
        let private = ["--auth-url", "http://app:8000/auth", "--auth-cookie", "sid", "--auth-cookie", "__Host-x"];
        let secret = ["--auth-secret", "a secret of 16 bytes"];
        let fails = |flags: &[&str], want: &str| {
            let error = check(flags).unwrap_err();
            assert!(error.contains(want) && !error.contains("sesame"), "{flags:?}: {error}");
        };
        assert_eq!(check(&url), Ok(()));
        assert_eq!(check(&[&private[..], &secret].concat()), Ok(()));
        fails(&private, "--auth-secret-file FILE is required");
        fails(&url[..2], "needs --auth-cookie");
        fails(&[&url[..2], &["--auth-cookie", "a b"]].concat(), "name of a cookie");
        fails(&[&url[..2], &["--auth-cookie", ""]].concat(), "name of a cookie");
        fails(&url[2..], "given without --auth-url");
        fails(&secret, "given without --auth-url");
        fails(&["--auth-stale", "1s"], "given without --auth-url");
        for bad in ["", "sesame", "http://1.2.3.4/sesame", "https://u:sesame@a.example/", "ftp://sesame"] {
            fails(&["--auth-url", bad, "--auth-cookie", "sid"], "--auth-url");
        }
        for more in [
            ["--auth-secret", "sesame"],
            ["--auth-concurrency", "1"],
            ["--auth-concurrency", "100000"],
            ["--auth-stale", "2h"],
            ["--auth-ca", "/not-a-file"],
        ] {
            let error = check(&[&url[..], &more].concat()).unwrap_err();
            assert!(error.contains(more[0]), "{more:?}: {error}");
        }
        fails(&[&url[..], &["--dev-login"]].concat(), "--dev-login lets clients choose their user ids");
    }
}
