//! The applications whose clients speak the Pusher protocol.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::secrets::{Derived, Rule, Secrets};
use super::values::{duration, number, secret};
use super::variables::PUSHER_HEADING;
use super::{ConfigError, IdentityMode, Secret, require};
use crate::presence::AppRooms;

/// The time in which connections must be authorized: enough for a request to the application.
const MIN_AUTHORIZED_WITHIN: Duration = Duration::from_secs(1);
const MAX_AUTHORIZED_WITHIN: Duration = Duration::from_secs(600);

const PUSHER_APP: Rule = Rule { flag: "--pusher-app", min_bytes: 5, hint: "write it as ID:KEY:SECRET" };

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = PUSHER_HEADING)]
pub struct PusherArgs {
    /// Application whose clients speak the Pusher protocol at /app/KEY: a number, a key and a secret, then options
    /// after commas: client-messages, subscription-count, tls-only, disabled, max-connections=N (per node),
    /// authorized-within=TIME; can be repeated, also with the same ID for another key of the same application
    #[arg(
        long,
        env = "ROLLCALL_PUSHER_APP",
        hide_env_values = true,
        value_parser = secret,
        value_name = "ID:KEY:SECRET[,OPTION…]"
    )]
    pub pusher_app: Vec<Secret>,

    /// File with the values of --pusher-app, one per line; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_PUSHER_APP_FILE", value_name = "FILE")]
    pub pusher_app_file: Option<PathBuf>,

    /// Application whose presence channels are rooms of all protocols: presence-X is the room X, and its members are
    /// the users of --jwt-secret, --jwks-url or --auth-url
    #[arg(long, env = "ROLLCALL_PUSHER_ROOMS", value_parser = number::<u64>, value_name = "ID")]
    pub pusher_rooms: Option<u64>,
}

/// The applications whose clients speak the Pusher protocol.
#[derive(Debug, Clone, Default)]
pub struct Pusher {
    /// They follow a reload, unless the file has a mistake then.
    apps: Option<Arc<Derived<PusherApp>>>,
    /// Which rooms the channels are.
    pub rooms: AppRooms,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PusherApp {
    /// Its number.
    pub id: u64,
    /// Its keys, at least one.
    pub keys: Vec<PusherKey>,
    /// What it may do.
    pub options: PusherOptions,
}

/// A key of an application, which is public, and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PusherKey {
    /// The key.
    pub key: Box<str>,
    /// The secret, with which the application signs.
    pub secret: Box<str>,
}

/// The options of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PusherOptions {
    /// Whether clients may send events to each other.
    pub client_messages: bool,
    /// Whether clients and webhooks are told how many connections are subscribed to a channel.
    pub subscription_count: bool,
    /// Whether clients must use TLS.
    pub tls_only: bool,
    /// Whether it is turned off.
    pub disabled: bool,
    /// The limit of connections on each node.
    pub max_connections: Option<u64>,
    /// How long a connection may stay that is neither signed in nor subscribed to a private or presence channel.
    pub authorized_within: Option<Duration>,
}

impl fmt::Debug for PusherKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PusherKey").field("key", &self.key).finish_non_exhaustive()
    }
}

impl PusherArgs {
    /// Reads all applications once, so that a mistake is found at startup.
    pub(super) fn check(self) -> Result<Pusher, ConfigError> {
        let apps = Secrets::of(PUSHER_APP, self.pusher_app, self.pusher_app_file)?;
        if let Some(apps) = &apps {
            PusherApp::parse_all(&apps.current()).map_err(ConfigError::Invalid)?;
        }
        let apps = apps.map(|apps| Arc::new(apps.derive_all(|values, _| PusherApp::parse_again(values))));
        let rooms = self.pusher_rooms.map(AppRooms::shared_by).unwrap_or_default();
        let pusher = Pusher { apps, rooms };
        let missing = rooms.sharing().filter(|id| !pusher.ids().contains(id));
        require(missing.is_none(), || {
            let id = missing.unwrap_or_default();
            format!("--pusher-rooms is {id}, and no --pusher-app has this ID")
        })?;
        Ok(pusher)
    }
}

impl Pusher {
    /// Whether there are any applications.
    #[must_use]
    pub fn has_apps(&self) -> bool {
        self.apps.is_some()
    }

    /// Checks that members of shared rooms are who they claim to be in all protocols.
    pub(super) fn check_identity(&self, identity: IdentityMode) -> Result<(), ConfigError> {
        let sharing = self.rooms.sharing();
        require(sharing.is_none() || !identity.is_open(), || {
            format!(
                "--pusher-rooms is {}, and neither tokens (--jwt-secret, --jwt-public-key, --jwks-url) nor --auth-url \
                 are configured: clients of other protocols could take the names of members whom the application has \
                 signed",
                sharing.unwrap_or_default()
            )
        })
    }

    /// The present applications, sorted by their numbers.
    #[must_use]
    pub fn current(&self) -> Arc<[PusherApp]> {
        self.apps.as_ref().map(|apps| apps.current()).unwrap_or_default()
    }

    /// The values from which the applications are read.
    #[must_use]
    pub fn secrets(&self) -> Option<&Secrets> {
        self.apps.as_ref().map(|apps| apps.secrets())
    }

    /// The numbers of the applications, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.current().iter().map(|app| app.id).collect()
    }

    /// Whether the subscribers of this application's channels are told how many they are.
    #[must_use]
    pub fn counts_subscribers(&self, app: u64) -> bool {
        self.current().iter().any(|known| known.id == app && known.options.subscription_count)
    }

    /// Reads the file again, and logs a mistake in it. False if the applications did not come from a file.
    #[must_use]
    pub fn reload(&self) -> bool {
        self.apps.as_ref().is_some_and(|apps| apps.reload())
    }
}

impl PusherApp {
    /// The applications of these values, sorted by their numbers. Values with the same number are one application with
    /// several keys.
    ///
    /// # Errors
    /// If a value is not valid, as a sentence without any key or secret.
    pub fn parse_all(values: &[Secret]) -> Result<Vec<Self>, String> {
        let mut apps: Vec<Self> = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let invalid = |why: String| format!("--pusher-app: value {} {why}", at + 1);
            let app = Self::parse(value.as_str()).map_err(invalid)?;
            let known = |key: &str| apps.iter().flat_map(|app| &app.keys).any(|known| *known.key == *key);
            if app.keys.iter().any(|key| known(&key.key)) {
                return Err(invalid("has a key that another value has".to_owned()));
            }
            match apps.iter_mut().find(|other| other.id == app.id) {
                Some(other) if other.options == app.options => other.keys.extend(app.keys),
                Some(_) => return Err(invalid("has other options than another value with the same ID".to_owned())),
                None => apps.push(app),
            }
        }
        apps.sort_by_key(|app| app.id);
        Ok(apps)
    }

    /// The same after a reload. A mistake is logged.
    fn parse_again(values: &[Secret]) -> Option<Arc<[Self]>> {
        let apps = Self::parse_all(values).map_err(|why| error!("--pusher-app-file is not reloaded: {why}"));
        apps.ok().map(Into::into)
    }

    fn parse(value: &str) -> Result<Self, String> {
        let mut parts = value.split(',');
        let names: Vec<&str> = parts.next().unwrap_or_default().split(':').collect();
        let [id, key, secret] = names[..] else {
            return Err("must be ID:KEY:SECRET, then options after commas".to_owned());
        };
        let number = id.parse().ok().filter(|number: &u64| number.to_string() == id);
        let Some(id) = number else { return Err("must begin with a number, the ID of the application".to_owned()) };
        if key.is_empty() || secret.is_empty() {
            return Err("must be ID:KEY:SECRET; a part of it is empty".to_owned());
        }
        let mut options = PusherOptions::default();
        parts.try_for_each(|option| options.set(option))?;
        Ok(Self { id, keys: vec![PusherKey { key: key.into(), secret: secret.into() }], options })
    }
}

impl PusherOptions {
    /// Sets one option. The text is not repeated in errors, because it may be a part of a secret.
    fn set(&mut self, option: &str) -> Result<(), String> {
        match option.split_once('=') {
            None if option == "client-messages" => self.client_messages = true,
            None if option == "subscription-count" => self.subscription_count = true,
            None if option == "tls-only" => self.tls_only = true,
            None if option == "disabled" => self.disabled = true,
            Some(("max-connections", limit)) => {
                let limit = limit.parse().map_err(|_| "has a max-connections that is not a number".to_owned())?;
                self.max_connections = Some(limit);
            }
            Some(("authorized-within", time)) => {
                let time =
                    duration(time).map_err(|why| format!("has an authorized-within that is not a time: {why}"))?;
                if !(MIN_AUTHORIZED_WITHIN..=MAX_AUTHORIZED_WITHIN).contains(&time) {
                    return Err("has an authorized-within that is not between 1s and 10m".to_owned());
                }
                self.authorized_within = Some(time);
            }
            _ => {
                let known = "client-messages, subscription-count, tls-only, disabled, max-connections=N, \
                             authorized-within=TIME";
                return Err(format!("has an unknown option; the options are {known}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(values: &[&str]) -> Result<Vec<PusherApp>, String> {
        PusherApp::parse_all(&values.iter().map(|value| Secret::new(value)).collect::<Vec<_>>())
    }

    #[test]
    fn values_with_the_same_number_are_keys_of_one_application() {
        let apps = parse(&["7:k7:s7,client-messages", "3:k3:s3", "7:new:n,client-messages"]).unwrap();
        let keys = |app: &PusherApp| app.keys.iter().map(|key| key.key.to_string()).collect::<Vec<_>>();
        assert_eq!(apps.iter().map(|app| app.id).collect::<Vec<_>>(), [3, 7]);
        assert_eq!((keys(&apps[0]), keys(&apps[1])), (vec!["k3".to_owned()], vec!["k7".to_owned(), "new".to_owned()]));
        assert!(apps[1].options.client_messages && !apps[0].options.client_messages);
        assert!(!format!("{apps:?}").contains("s7"), "{apps:?}");
    }

    #[test]
    fn options_are_read() {
        let value =
            "1:k:s,client-messages,subscription-count,tls-only,disabled,max-connections=5,authorized-within=30s";
        let app = &parse(&[value]).unwrap()[0];
        let expected = PusherOptions {
            client_messages: true,
            subscription_count: true,
            tls_only: true,
            disabled: true,
            max_connections: Some(5),
            authorized_within: Some(Duration::from_secs(30)),
        };
        assert_eq!(app.options, expected);
    }

    #[test]
    fn mistakes_are_named_without_keys_and_secrets() {
        let check = |values: &[&str], words: &str| {
            let error = parse(values).unwrap_err();
            assert!(error.contains(words), "{values:?}: {error}");
            assert!(!error.contains("key-of") && !error.contains("sesame"), "{values:?}: {error}");
        };
        check(&["1:key-of-1"], "value 1 must be ID:KEY:SECRET");
        check(&["1:key-of-1:sesame:x"], "must be ID:KEY:SECRET");
        check(&["x:key-of-1:sesame"], "a number");
        check(&["01:key-of-1:sesame"], "a number");
        check(&["1::sesame"], "is empty");
        check(&["1:key-of-1:sesame,sesame"], "unknown option; the options are client-messages");
        check(&["1:key-of-1:sesame,"], "unknown option");
        check(&["1:key-of-1:sesame,max-connections=many"], "max-connections that is not a number");
        check(&["1:key-of-1:sesame,authorized-within=30"], "authorized-within that is not a time");
        check(&["1:key-of-1:sesame,authorized-within=11m"], "between 1s and 10m");
        check(&["1:key-of-1:sesame", "2:key-of-1:other"], "value 2 has a key that another value has");
        check(&["1:key-of-1:sesame", "1:key-of-2:other,disabled"], "value 2 has other options");
    }
}
