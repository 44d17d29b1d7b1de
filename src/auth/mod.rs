//! Authentication: finds the user of a WebSocket.
//!
//! A new authentication method is a file here that implements [`Authenticator`], and a line in [`Auth::new`]. These
//! files do not know hyper or workers: they receive [`Credentials`] and return an [`Identity`] or a refusal.

mod authenticator;
pub mod dev_login;
mod origin;

use std::sync::Arc;

use crate::config::{Config, Secret};
use dev_login::Logins;

pub use authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
pub use origin::is_same_origin;

/// How this node authenticates. Made from the settings at startup; read by each handshake.
#[derive(Debug)]
pub struct Auth {
    /// Checks handshakes. Without one, the user id that a client claims to have is accepted.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// The logins of `--dev-login`, for the routes that sign users in and out.
    pub dev_login: Option<Arc<Logins>>,
}

impl Auth {
    /// The authentication that the settings require.
    #[must_use]
    pub fn new(config: &Config, unix_ms: u64) -> Self {
        let key = config.login.session_key.as_ref().map(Secret::as_str);
        let dev_login = config.login.dev_login.then(|| Arc::new(Logins::new(key, unix_ms)));
        Self { authenticator: dev_login.clone().map(|logins| logins as _), dev_login }
    }
}
