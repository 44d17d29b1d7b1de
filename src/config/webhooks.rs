//! Webhooks: where they go, and how they are signed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};

use super::callback::endpoint;
use super::secrets::{Rule, Secrets, read_named};
use super::values::{duration, number, secret, show};
use super::{ConfigError, Pusher, Secret, require};
use crate::outgoing::{Limits, PlainHttp, Target};
use crate::pattern::Pattern;
use crate::presence::AppRooms;
use crate::store::webhooks::{
    AppKeys, Format, Kind, Selection, SigningKey, SigningKeys, WebhookEndpoint, WebhookOptions,
};

/// The text `whsec_` and 24 bytes in base64.
const WEBHOOK_SECRET: Rule =
    Rule { flag: "--webhook-secret", min_bytes: 38, hint: "for a new one: echo whsec_$(openssl rand -base64 24)" };
/// How long an endpoint may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// What is read of the body of an answer.
const MAX_ANSWER_BYTES: usize = 1024;
/// The limit of endpoints.
const MAX_ENDPOINTS: usize = 16;
/// The longest `--webhook-delay`.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// The limits of `--webhook-queue`: each change takes up to some kilobytes.
const QUEUED: std::ops::RangeInclusive<usize> = 100..=1_000_000;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookArgs {
    /// Report joins and leaves to this URL of your application, by POST requests. Can be repeated; several are written
    /// NAME=URL. A user name and a password in it are sent as HTTP Basic authentication [default: no webhooks]
    #[arg(long, env = "ROLLCALL_WEBHOOK_URL", hide_env_values = true, action = ArgAction::Append,
        value_name = "[NAME=]URL")]
    pub webhook_url: Vec<String>,

    /// File with the values of --webhook-url, separated by spaces or line breaks
    #[arg(long, env = "ROLLCALL_WEBHOOK_URL_FILE", value_name = "FILE")]
    pub webhook_url_file: Option<PathBuf>,

    /// Secret that signs the requests (Standard Webhooks): whsec_ and base64 of 24 to 64 random bytes. Can be repeated:
    /// a request has one signature per secret. With named endpoints, NAME=SECRET
    #[arg(long, env = "ROLLCALL_WEBHOOK_SECRET", hide_env_values = true, value_parser = secret, value_delimiter = ',',
        value_name = "[NAME=]SECRET")]
    pub webhook_secret: Vec<Secret>,

    /// File with the values of --webhook-secret, one per line; reread on SIGHUP
    #[arg(long, env = "ROLLCALL_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,

    /// Events to report, separated by commas: member_joined, member_updated, member_left, room_occupied, room_vacated,
    /// user_online, user_offline [default: all but member_updated]. --webhook-format pusher has those of joins, leaves
    /// and rooms, and, if they are named here, client_event, cache_miss, and subscription_count of applications that
    /// count subscriptions
    #[arg(long, env = "ROLLCALL_WEBHOOK_EVENTS", value_delimiter = ',', value_name = "EVENT")]
    pub webhook_events: Vec<String>,

    /// Report events of rooms whose names fit; * stands for any characters; can be repeated, or separated by commas
    /// [default: all rooms]
    #[arg(long, env = "ROLLCALL_WEBHOOK_ROOMS", value_delimiter = ',', action = ArgAction::Append,
        value_name = "PATTERN")]
    pub webhook_rooms: Vec<String>,

    /// Format of the requests: native, or pusher, which sends the events of --pusher-app as Pusher does, signed with
    /// the key and secret of the application
    #[arg(long, env = "ROLLCALL_WEBHOOK_FORMAT", value_name = "native|pusher")]
    pub webhook_format: Option<WebhookFormat>,

    /// How long a leave waits before it is reported; a user who returns meanwhile has neither left nor joined
    /// [default: 3s]
    #[arg(long, env = "ROLLCALL_WEBHOOK_DELAY", value_parser = duration, value_name = "DURATION")]
    pub webhook_delay: Option<Duration>,

    /// Changes that are kept for an endpoint that is down; if there are more, it is told to read rooms again
    /// [default: 10000]
    #[arg(long, env = "ROLLCALL_WEBHOOK_QUEUE", value_parser = number::<usize>, value_name = "N")]
    pub webhook_queue: Option<usize>,

    /// Certificates (PEM) of the authorities that sign the certificates of the endpoints [default: the authorities that
    /// the system trusts]
    #[arg(long, env = "ROLLCALL_WEBHOOK_CA", value_name = "FILE")]
    pub webhook_ca: Option<PathBuf>,
}

/// The format of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WebhookFormat {
    /// That of this server.
    Native,
    /// That of Pusher.
    Pusher,
}

impl WebhookArgs {
    /// Checks the settings. `None` if there are no endpoints.
    pub(super) fn check(
        self,
        pusher: &Pusher,
        warnings: &mut Vec<String>,
    ) -> Result<Option<WebhookOptions>, ConfigError> {
        let (urls, name) = match &self.webhook_url_file {
            Some(path) => {
                let text = read_named("--webhook-url", !self.webhook_url.is_empty(), path)?;
                (text.split_whitespace().map(str::to_owned).collect(), "--webhook-url-file")
            }
            None => (self.webhook_url.clone(), "--webhook-url"),
        };
        if urls.is_empty() {
            return self.without_endpoints().map(|()| None);
        }
        require(urls.len() <= MAX_ENDPOINTS, || {
            format!("{name} names {} endpoints; the limit is {MAX_ENDPOINTS}", urls.len())
        })?;
        let delay = self.webhook_delay.unwrap_or(Duration::from_secs(3));
        require(delay <= MAX_DELAY, || {
            format!("--webhook-delay is {}; it must be at most {}", show(delay), show(MAX_DELAY))
        })?;
        let max_queued = self.webhook_queue.unwrap_or(10_000);
        require(QUEUED.contains(&max_queued), || {
            format!("--webhook-queue is {max_queued}; it must be between {} and {}", QUEUED.start(), QUEUED.end())
        })?;
        let names: Vec<_> = urls.iter().map(|url| named(url, |rest| rest.contains("://"))).collect();
        let is_pusher = self.webhook_format == Some(WebhookFormat::Pusher);
        let apps = is_pusher.then_some(pusher.rooms);
        let selection = selection(&self.webhook_events, &self.webhook_rooms, apps)?;
        let secrets = Secrets::of(WEBHOOK_SECRET, self.webhook_secret, self.webhook_secret_file)?;
        let secrets = secrets_for(is_pusher, secrets, pusher)?;
        check_names(&names, secrets.as_ref(), name)?;
        let limits = Limits { time: ANSWER_TIME, answer_bytes: MAX_ANSWER_BYTES, kept_connections: 1 };
        let mut endpoints = Vec::new();
        for (label, url) in names {
            let target = Target::parse_secret(url, PlainHttp::Anywhere);
            let target = target.map_err(|why| ConfigError::Invalid(format!("{name} {why}")))?;
            let label_or_default = label.unwrap_or("default");
            if !target.is_encrypted() && !target.is_loopback() {
                warnings.push(format!(
                    "{name} {target} ({label_or_default}) is not encrypted: others on the way can read who is online"
                ));
            }
            let endpoint = endpoint(target, "--webhook-ca", self.webhook_ca.as_deref(), limits)?;
            let format = match &secrets {
                Some(secrets) => Format::Native(keys_of(secrets, label)),
                None => Format::Pusher(app_keys(pusher), pusher.rooms),
            };
            endpoints.push(WebhookEndpoint { name: label_or_default.to_owned(), endpoint, format });
        }
        Ok(Some(WebhookOptions { endpoints, selection, delay, max_queued }))
    }

    /// Without an endpoint, nothing else may be given.
    fn without_endpoints(&self) -> Result<(), ConfigError> {
        let given = [
            ("--webhook-secret", !self.webhook_secret.is_empty() || self.webhook_secret_file.is_some()),
            ("--webhook-events", !self.webhook_events.is_empty()),
            ("--webhook-rooms", !self.webhook_rooms.is_empty()),
            ("--webhook-format", self.webhook_format.is_some()),
            ("--webhook-delay", self.webhook_delay.is_some()),
            ("--webhook-queue", self.webhook_queue.is_some()),
            ("--webhook-ca", self.webhook_ca.is_some()),
        ];
        let alone = given.iter().find(|(_, is_given)| *is_given);
        require(alone.is_none(), || {
            let flag = alone.map_or("", |(flag, _)| flag);
            format!("{flag} is given without --webhook-url URL: it says how to send webhooks")
        })
    }
}

/// The secrets of the native format; `None` for that of Pusher.
fn secrets_for(is_pusher: bool, secrets: Option<Secrets>, pusher: &Pusher) -> Result<Option<Secrets>, ConfigError> {
    if is_pusher {
        require(pusher.has_apps(), || {
            "--webhook-format pusher is given without --pusher-app ID:KEY:SECRET".to_owned()
        })?;
        let rule =
            || "--webhook-format pusher signs with the secrets of --pusher-app: leave --webhook-secret out".to_owned();
        return require(secrets.is_none(), rule).map(|()| None);
    }
    require(secrets.is_some(), || {
        "--webhook-url needs --webhook-secret-file FILE: receivers could not tell who sends. A new secret: echo \
         whsec_$(openssl rand -base64 24)"
            .to_owned()
    })?;
    Ok(secrets)
}

/// What endpoints receive; in the format of Pusher only events of these rooms of applications.
fn selection(events: &[String], rooms: &[String], apps: Option<AppRooms>) -> Result<Selection, ConfigError> {
    const BOTH: [Kind; 4] = [Kind::MemberJoined, Kind::MemberLeft, Kind::RoomOccupied, Kind::RoomVacated];
    const ONLY_PUSHER: [Kind; 3] = [Kind::SubscriptionCount, Kind::ClientEvent, Kind::CacheMiss];
    let invalid = |why: String| ConfigError::Invalid(why);
    let exists = |kind: &Kind| match ONLY_PUSHER.contains(kind) {
        true => apps.is_some(),
        false => apps.is_none() || BOTH.contains(kind),
    };
    let known = Kind::ALL.iter().filter(|(kind, _)| exists(kind));
    let kind = |name: &String| {
        let names = || known.clone().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
        let kind = known.clone().find(|(_, known)| known == name).map(|(kind, _)| *kind);
        kind.ok_or_else(|| {
            invalid(match Kind::parse(name).filter(|kind| ONLY_PUSHER.contains(kind)) {
                Some(_) => format!("--webhook-events has {name:?}: only --webhook-format pusher reports it"),
                None => format!("--webhook-events has {name:?}; events of this format are {}", names()),
            })
        })
    };
    let kinds = events.iter().map(kind).collect::<Result<Vec<_>, _>>()?;
    let pattern = |text: &String| Pattern::new(text).map_err(|why| invalid(format!("--webhook-rooms: {why}")));
    let rooms = rooms.iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
    let default = known.clone().map(|(kind, _)| *kind).filter(|kind| !kind.is_opt_in());
    let kinds = if kinds.is_empty() { default.collect() } else { kinds };
    let selection = Selection::new(kinds, rooms);
    Ok(match apps {
        Some(apps) => selection.only_apps(apps),
        None => selection,
    })
}

/// The first key of each application, as it is now.
fn app_keys(pusher: &Pusher) -> AppKeys {
    let pusher = pusher.clone();
    AppKeys::new(move |app| {
        let apps = pusher.current();
        let key = apps.iter().find(|known| known.id == app)?.keys.first()?;
        Some((key.key.clone(), key.secret.clone()))
    })
}

/// The name and the value in `NAME=VALUE`, if it has a name.
fn named(text: &str, is_value: impl Fn(&str) -> bool) -> (Option<&str>, &str) {
    let is_name = |name: &str| {
        let is_letter = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
        (1..=64).contains(&name.len()) && name.chars().all(is_letter)
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) && is_value(value) => (Some(name), value),
        _ => (None, text),
    }
}

fn named_secret(text: &str) -> (Option<&str>, &str) {
    named(text, |value| value.starts_with("whsec_"))
}

/// Checks that each endpoint has secrets of its own, and each secret an endpoint.
fn check_names(names: &[(Option<&str>, &str)], secrets: Option<&Secrets>, flag: &str) -> Result<(), ConfigError> {
    let mut known = BTreeSet::new();
    for (label, _) in names {
        require(label.is_some() || names.len() == 1 || secrets.is_none(), || {
            format!(
                "{flag} names several endpoints: write each as NAME=URL and its secret as NAME=SECRET, so that no \
                 receiver can forge requests to another"
            )
        })?;
        require(known.insert(*label) || label.is_none(), || {
            format!("{flag} names two endpoints {:?}", label.unwrap_or_default())
        })?;
    }
    let Some(secrets) = secrets else { return Ok(()) };
    let mut signing = BTreeSet::new();
    let current = secrets.current();
    for secret in &*current {
        let (label, value) = named_secret(secret.as_str());
        SigningKey::parse(value).map_err(|why| ConfigError::Invalid(format!("--webhook-secret {why}")))?;
        require(known.contains(&label), || match label {
            Some(label) => format!("--webhook-secret has a secret for {label:?}, and no endpoint has this name"),
            None => "--webhook-secret must be NAME=SECRET, because the endpoint has a name".to_owned(),
        })?;
        signing.insert(label);
    }
    let unsigned = known.iter().find(|label| !signing.contains(*label));
    require(unsigned.is_none(), || {
        let label = unsigned.and_then(|label| *label).unwrap_or_default();
        format!("the webhook endpoint {label:?} has no secret: give --webhook-secret {label}=SECRET")
    })
}

/// The secrets of an endpoint, as they are now. If a reload leaves none, the last ones sign.
fn keys_of(secrets: &Secrets, label: Option<&str>) -> SigningKeys {
    let (reloaded, label) = (secrets.clone(), label.map(str::to_owned));
    let keys = secrets.clone().derive_all(move |values, _: &[SigningKey]| {
        let keys = values.iter().map(|secret| named_secret(secret.as_str()));
        let keys = keys.filter(|(name, _)| *name == label.as_deref());
        let keys: Arc<[_]> = keys.filter_map(|(_, value)| SigningKey::parse(value).ok()).collect();
        Some(keys).filter(|keys| !keys.is_empty())
    });
    SigningKeys::new(move || keys.current().to_vec(), move || reloaded.reload())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Args;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn check(flags: &[&str]) -> Result<Vec<String>, String> {
        let args = Args::try_parse_from([&["rollcall"], flags].concat()).map_err(|error| error.to_string())?;
        args.resolve().map(|config| config.warnings).map_err(|error| error.to_string())
    }

    #[test]
    fn each_endpoint_has_a_secret_of_its_own() {
        let url = ["--webhook-url", "http://127.0.0.1:1/hook"];
        let secret = ["--webhook-secret", SECRET];
        let fails = |flags: &[&str], want: &str| {
            let error = check(flags).unwrap_err();
            assert!(error.contains(want) && !error.contains(&SECRET[6..]), "{flags:?}: {error}");
        };
        assert_eq!(check(&[&url[..], &secret].concat()), Ok(Vec::new()));
        fails(&url, "needs --webhook-secret-file FILE");
        fails(&secret, "given without --webhook-url");
        fails(&[&url[..], &["--webhook-secret", "sesame"]].concat(), "--webhook-secret");
        let not_base64 = format!("whsec_{}", "!".repeat(40));
        fails(&[&url[..], &["--webhook-secret", &not_base64]].concat(), "24 to 64 random bytes");
        let (one, two) = (format!("one={SECRET}"), format!("two={SECRET}"));
        let urls = ["--webhook-url", "one=https://a.example/?x=y", "--webhook-url", "two=https://b.example"];
        assert_eq!(check(&[&urls[..], &["--webhook-secret", &one, "--webhook-secret", &two]].concat()), Ok(Vec::new()));
        fails(&[&urls[..], &["--webhook-secret", &one]].concat(), "\"two\" has no secret");
        fails(&[&urls[..], &secret].concat(), "must be NAME=SECRET");
        fails(&[&url[..], &["--webhook-secret", &one]].concat(), "no endpoint has this name");
        fails(&[&url[..], &url, &secret].concat(), "NAME=URL");
        let same = ["--webhook-url", "a=https://a.example", "--webhook-url", "a=https://b.example"];
        fails(&[&same[..], &secret].concat(), "two endpoints \"a\"");
    }

    #[test]
    fn requests_to_pusher_receivers_are_signed_with_the_secrets_of_applications() {
        let app = ["--webhook-url", "http://localhost/", "--webhook-format", "pusher", "--pusher-app", "1:key:sesame"];
        assert_eq!(check(&app), Ok(Vec::new()));
        assert_eq!(check(&[&app[..], &["--webhook-url", "http://localhost/2"]].concat()), Ok(Vec::new()));
        let error = check(&[&app[..], &["--webhook-events", "user_online"]].concat()).unwrap_err();
        assert!(
            error.contains("member_left, room_occupied, room_vacated, subscription_count, client_event, cache_miss"),
            "{error}"
        );
        let events = ["--webhook-events", "client_event,cache_miss"];
        assert_eq!(check(&[&app[..], &events].concat()), Ok(Vec::new()));
        let native = ["--webhook-url", "http://localhost/", "--webhook-secret", SECRET];
        let error = check(&[&native[..], &events].concat()).unwrap_err();
        assert!(error.contains("\"client_event\": only --webhook-format pusher reports it"), "{error}");
    }

    #[test]
    fn settings_are_checked_and_passwords_are_not_shown() {
        let check = |more: &[&str], want: Result<Option<&str>, &str>| {
            let got = check(&[&["--webhook-secret", SECRET], more].concat());
            match (&got, want) {
                (Ok(warnings), Ok(None)) => assert!(warnings.is_empty(), "{more:?}: {warnings:?}"),
                (Ok(warnings), Ok(Some(want))) => assert!(warnings[0].contains(want), "{more:?}: {warnings:?}"),
                (Err(error), Err(want)) => assert!(error.contains(want), "{more:?}: {error}"),
                _ => panic!("{more:?}: {got:?}"),
            }
            assert!(!format!("{got:?}").contains("sesame"), "{got:?}");
        };
        let warning = "--webhook-url http://10.0.0.1 (default) is not encrypted";
        check(&["--webhook-url", "http://u:sesame@10.0.0.1/sesame?sesame"], Ok(Some(warning)));
        check(&["--webhook-url", "https://u:sesame@example.com/"], Ok(None));
        check(&["--webhook-url", "ftp://sesame"], Err("--webhook-url must begin with https://"));
        check(&["--webhook-url", "http://localhost/", "--webhook-delay", "2m"], Err("at most 1m"));
        check(&["--webhook-url", "http://localhost/", "--webhook-queue", "5"], Err("between 100 and 1000000"));
        check(&["--webhook-url", "http://localhost/", "--webhook-events", "joined"], Err("are member_joined"));
        check(&["--webhook-url", "http://localhost/", "--webhook-rooms", ""], Err("a pattern is empty"));
        check(&["--webhook-url", "http://localhost/", "--webhook-ca", "/not-a-file"], Err("--webhook-ca"));
        check(&["--webhook-url", "http://localhost/", "--webhook-events", "user_online,member_updated"], Ok(None));
        check(&["--webhook-url", "http://localhost/", "--webhook-format", "pusher"], Err("without --pusher-app"));
        let app = ["--webhook-url", "http://localhost/", "--webhook-format", "pusher", "--pusher-app", "1:key:sesame"];
        check(&app, Err("leave --webhook-secret out"));
    }
}
