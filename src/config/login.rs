//! Logins for development, and the token of administrators.

use clap::builder::BoolishValueParser;

use super::values::secret;
use super::{ConfigError, Secret, require};

/// Shorter keys that sign logins can be guessed.
const MIN_KEY_BYTES: usize = 32;
/// Shorter tokens can be guessed.
const MIN_TOKEN_BYTES: usize = 16;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logins and administration")]
pub struct LoginArgs {
    /// Let anyone sign in under any name with POST /login; for development only
    #[arg(long, env = "ROLLCALL_DEV_LOGIN", value_parser = BoolishValueParser::new())]
    pub dev_login: bool,

    /// Key that signs the logins of --dev-login, so that they survive a restart; at least 32 bytes [default: random at
    /// each start]
    #[arg(long, env = "ROLLCALL_SESSION_KEY", hide_env_values = true, value_parser = secret, value_name = "SECRET")]
    pub session_key: Option<Secret>,

    /// Token that lets an application kick users: POST /v1/users/{user}/kick with Authorization: Bearer TOKEN; at least
    /// 16 bytes
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN", hide_env_values = true, value_parser = secret, value_name = "TOKEN")]
    pub admin_token: Option<Secret>,
}

/// Logins for development, and the token of administrators.
#[derive(Debug, Clone)]
pub struct Login {
    /// Whether anyone may sign in under any name.
    pub dev_login: bool,
    /// Signs logins, so that they survive a restart.
    pub session_key: Option<Secret>,
    /// Lets an application kick users.
    pub admin_token: Option<Secret>,
}

impl LoginArgs {
    /// Checks that secrets are long enough to be secret.
    pub(super) fn check(self) -> Result<Login, ConfigError> {
        let Self { dev_login, session_key, admin_token } = self;
        require(session_key.is_none() || dev_login, || {
            "--session-key signs the logins of --dev-login, which is not given".to_owned()
        })?;
        require(session_key.as_ref().is_none_or(|key| key.as_bytes().len() >= MIN_KEY_BYTES), || {
            format!("--session-key is too short: it must have at least {MIN_KEY_BYTES} bytes")
        })?;
        require(admin_token.as_ref().is_none_or(is_token), || {
            format!(
                "--admin-token must have at least {MIN_TOKEN_BYTES} bytes, no control characters, and no spaces at its ends"
            )
        })?;
        Ok(Login { dev_login, session_key, admin_token })
    }
}

fn is_token(token: &Secret) -> bool {
    let bytes = token.as_bytes();
    bytes.len() >= MIN_TOKEN_BYTES && bytes.trim_ascii() == bytes && !bytes.iter().any(u8::is_ascii_control)
}
