//! The keys of applications that use the HTTP API.

use std::path::PathBuf;

use tracing::warn;

use super::secrets::{Rule, Secrets};
use super::values::secret;
use super::variables::KEYS_HEADING;
use super::{ConfigError, Secret};

const API_KEY: Rule = Rule { flag: "--api-key", min_bytes: 16, hint: Rule::NEW_SECRET };
const READ_KEY: Rule = Rule { flag: "--read-key", min_bytes: 16, hint: Rule::NEW_SECRET };

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = KEYS_HEADING)]
pub struct KeysArgs {
    /// Key with which an application may use the whole HTTP API for any user, for example to kick users (Authorization:
    /// Bearer KEY); at least 16 bytes; can be repeated
    #[arg(long, env = "ROLLCALL_API_KEY", hide_env_values = true, value_parser = secret, value_name = "KEY")]
    pub api_key: Vec<Secret>,

    /// File with the values of --api-key, one per line; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Key with which an application may read rooms, users and metrics over HTTP; at least 16 bytes; can be repeated.
    /// If a key is configured, an open server requires one for reading
    #[arg(long, env = "ROLLCALL_READ_KEY", hide_env_values = true, value_parser = secret, value_name = "KEY")]
    pub read_key: Vec<Secret>,

    /// File with the values of --read-key, one per line; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_READ_KEY_FILE", value_name = "FILE")]
    pub read_key_file: Option<PathBuf>,
}

/// The keys of applications.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Keys for everything.
    pub api: Option<Secrets>,
    /// Keys for reading.
    pub read: Option<Secrets>,
}

impl KeysArgs {
    /// Checks that keys are long enough to be secret.
    pub(super) fn check(self, warnings: &mut Vec<String>) -> Result<Keys, ConfigError> {
        let api = Secrets::of(API_KEY, self.api_key, self.api_key_file)?;
        let read = Secrets::of(READ_KEY, self.read_key, self.read_key_file)?;
        let keys = Keys { api, read };
        warnings.extend(keys.warning().map(str::to_owned));
        Ok(keys)
    }
}

impl Keys {
    /// Reads the files again, and logs a warning if the keys do not fit each other then. False if the keys did not come
    /// from files.
    #[must_use]
    pub fn reload(&self) -> bool {
        let reload = |keys: &Option<Secrets>| keys.as_ref().is_some_and(Secrets::reload);
        let (api, read) = (reload(&self.api), reload(&self.read));
        let is_reloaded = api || read;
        if is_reloaded && let Some(warning) = self.warning() {
            warn!("{warning}");
        }
        is_reloaded
    }

    /// A warning if a key for reading gives all rights.
    fn warning(&self) -> Option<&'static str> {
        let values = |keys: &Option<Secrets>| keys.as_ref().map(Secrets::current).unwrap_or_default();
        let (api, read) = (values(&self.api), values(&self.read));
        let is_shared = read.iter().any(|key| api.iter().any(|api| api.as_bytes() == key.as_bytes()));
        is_shared.then_some(
            "a read key is also an API key: applications that have it may use the whole HTTP API; make a new read key",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_read_key_that_is_an_api_key_is_a_warning() {
        let check = |api: &str, read: &str, want: bool| {
            let flags = ["rollcall", "--api-key", api, "--read-key", "another-key-for-reading", "--read-key", read];
            let warnings = Config::from_args(flags).unwrap().warnings.join("\n");
            assert_eq!(warnings.contains("a read key is also an API key"), want, "{api} {read}: {warnings}");
            assert!(!warnings.contains("sesame"), "{warnings}");
        };
        check("open-sesame-please", "open-sesame-please", true);
        check("open-sesame-please", "open-sesame-please-", false);
    }
}
