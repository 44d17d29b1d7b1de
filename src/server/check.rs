//! What a server refuses before it binds a port.

use super::Server;
use crate::auth::Auth;
use crate::config::{Config, ConfigError};
use crate::os::unix_ms;

impl Server {
    /// Finds what [`Server::bind`] would refuse before it binds a port. Opens and creates nothing.
    ///
    /// # Errors
    /// If a key or a sink cannot be used.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        Auth::new(config, unix_ms()).map_err(|why| config.invalid(why))?;
        config.sinks.check().map_err(|error| config.invalid(format!("{error:#}")))
    }
}
