//! Authentication: which user a WebSocket speaks for, and who may ask.
//!
//! A new kind of authentication is a file here that implements [`Authenticator`], and a line in [`Auth::new`]. None of
//! these files knows hyper or a worker: they see [`Credentials`] and answer with an [`Identity`] or a refusal.

mod authenticator;
pub mod dev_login;
mod origin;

use std::sync::Arc;

use crate::config::{Config, Secret};
use dev_login::Logins;

pub use authenticator::{Authentication, Authenticator, Credentials, Headers, Identity};
pub use origin::is_same_origin;

/// How this node authenticates. Made at the start from the settings; read by every handshake.
#[derive(Debug)]
pub struct Auth {
    /// Checks handshakes. Without one each client claims its user id.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// The logins of `--dev-login`, for the routes that sign users in and out.
    pub dev_login: Option<Arc<Logins>>,
}

impl Auth {
    /// The authentication that the settings ask for.
    #[must_use]
    pub fn new(config: &Config, unix_ms: u64) -> Self {
        let key = config.login.session_key.as_ref().map(Secret::as_str);
        let dev_login = config.login.dev_login.then(|| Arc::new(Logins::new(key, unix_ms)));
        Self { authenticator: dev_login.clone().map(|logins| logins as _), dev_login }
    }
}
