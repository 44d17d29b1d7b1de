//! Logins for development.

use std::path::PathBuf;

use super::secrets::{Rule, Secrets};
use super::values::{secret, switch};
use super::variables::NO_CREDENTIAL_HEADING;
use super::{ConfigError, Secret, require};

const SESSION_KEY: Rule = Rule { flag: "--session-key", min_bytes: 32, hint: Rule::NEW_SECRET };

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = NO_CREDENTIAL_HEADING)]
pub struct LoginArgs {
    /// Let every client sign in under any name with POST /login; for development only
    #[arg(long, env = "ROLLCALL_DEV_LOGIN", value_parser = switch)]
    pub dev_login: bool,

    /// Key that signs the logins of --dev-login, so that they survive a restart; at least 32 bytes. If the flag is
    /// repeated, the first key signs and all keys verify [default: random at each start]
    #[arg(long, env = "ROLLCALL_SESSION_KEY", hide_env_values = true, value_parser = secret, value_name = "SECRET")]
    pub session_key: Vec<Secret>,

    /// File with the values of --session-key, one per line; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_SESSION_KEY_FILE", value_name = "FILE")]
    pub session_key_file: Option<PathBuf>,
}

/// Logins for development.
#[derive(Debug, Clone)]
pub struct Login {
    /// Whether every client may sign in under any name.
    pub dev_login: bool,
    /// Keys of logins, so that they survive a restart: the first one signs, all verify.
    pub session_key: Option<Secrets>,
}

impl LoginArgs {
    /// Checks that secrets are long enough to be secret.
    pub(super) fn check(self) -> Result<Login, ConfigError> {
        let session_key = Secrets::of(SESSION_KEY, self.session_key, self.session_key_file)?;
        require(session_key.is_none() || self.dev_login, || {
            "--session-key signs the logins of --dev-login, which is not given".to_owned()
        })?;
        Ok(Login { dev_login: self.dev_login, session_key })
    }
}
