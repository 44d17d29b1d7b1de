//! [`Args`], the command line as typed, become [`Config`], checked and resolved before a port is bound.
//!
//! Each feature has a file with its flags, its defaults, its part of the help, and a `check` of what must hold between
//! its settings. Rules that involve several features are in `Config::check`. A message states the rule and the values
//! that break it.

mod anonymous;
mod auth;
mod callback;
mod chat;
mod command;
mod completions;
mod entry;
mod event_log;
mod exposure;
mod file;
mod jwks;
mod keys;
mod limits;
mod listen;
mod log;
mod login;
mod manual;
mod pages;
mod presence;
mod pusher;
mod quotas;
mod reading;
mod redis;
mod report;
mod secrets;
mod settings;
mod sources;
mod suggestions;
mod template;
mod tls;
mod values;
mod variables;
mod webhooks;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use crate::store::SinkOptions;
use crate::store::redis::RedisOptions;
use crate::tls::ServerTls;
use command::examples;
use listen::{TypedListen, addresses};
use values::show;

pub use anonymous::{AnonymousArgs, AnonymousRule};
pub use auth::{AuthArgs, PublicKeyFiles, TokenRules, Tokens};
pub use callback::{CallbackArgs, CallbackOptions};
pub use chat::{Chat, ChatArgs};
pub use command::{Command, FileArgs};
pub use completions::completions;
pub use entry::{Entry, EntryArgs, IdentityMode};
pub use event_log::EventLogArgs;
pub use file::{ReadFile, Replaced};
pub use jwks::{JwksArgs, JwksOptions};
pub use keys::{Keys, KeysArgs};
#[cfg(test)]
pub(crate) use limits::MAX_BACKLOG_BYTES;
pub use limits::{Limits, LimitsArgs};
pub use listen::{Listen, ListenArgs, Listening, Opening};
pub use log::{Log, LogArgs, LogFormat};
pub use login::{Login, LoginArgs};
pub use manual::manual;
pub use pages::{Pages, PagesArgs};
pub use presence::{Liveness, Presence, PresenceArgs};
pub use pusher::{Pusher, PusherApp, PusherArgs, PusherKey, PusherOptions};
pub(crate) use quotas::FAILURES_PER_ADDRESS;
pub use quotas::{QuotaArgs, Quotas};
pub use reading::listen_of;
pub use redis::RedisArgs;
pub use report::report;
pub use secrets::{Derived, Secrets};
pub use settings::{Setting, Settings};
pub use sources::Sources;
pub use template::template;
pub use tls::TlsArgs;
pub use values::Secret;
pub use webhooks::{WebhookArgs, WebhookFormat};

/// The exit code for a command line that cannot work (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The shortest lease that nodes can keep for each other.
const MIN_SHARED_TTL: Duration = Duration::from_secs(1);

/// A presence server for web applications: who is online right now
///
/// Serves the pages, the HTTP API and every WebSocket protocol on one port. Nothing else needs to be installed.
#[derive(Debug, Clone, Parser)]
#[command(name = "rollcall", version, max_term_width = 100, after_help = examples())]
pub struct Args {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    limits: LimitsArgs,
    #[command(flatten)]
    quotas: QuotaArgs,
    #[command(flatten)]
    presence: PresenceArgs,
    #[command(flatten)]
    chat: ChatArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    auth: AuthArgs,
    #[command(flatten)]
    jwks: JwksArgs,
    #[command(flatten)]
    callback: CallbackArgs,
    #[command(flatten)]
    anonymous: AnonymousArgs,
    #[command(flatten)]
    login: LoginArgs,
    #[command(flatten)]
    entry: EntryArgs,
    #[command(flatten)]
    keys: KeysArgs,
    #[command(flatten)]
    pusher: PusherArgs,
    #[command(flatten)]
    pages: PagesArgs,
    #[command(flatten)]
    event_log: EventLogArgs,
    #[command(flatten)]
    webhooks: WebhookArgs,
    #[command(flatten)]
    log: LogArgs,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where the settings come from that are not on the command line.
    #[arg(skip)]
    sources: Sources,
    /// Whether `--listen`, or `--internal-listen`, is on the command line.
    #[arg(skip)]
    typed_listen: TypedListen,
    #[arg(skip)]
    read_file: Option<ReadFile>,
    /// Settings of the configuration file that a flag or variable replaces.
    #[arg(skip)]
    replaced: Vec<Replaced>,
    #[arg(skip)]
    warnings: Vec<String>,
    #[arg(skip)]
    settings: Settings,
}

/// The settings that a server runs with. All rules between them hold.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the server listens.
    pub listen: Listen,
    /// The certificate of the server, if it speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// Worker threads, and what clients may use.
    pub limits: Limits,
    /// What each user, each address and all clients together may hold.
    pub quotas: Quotas,
    /// How long members stay online, and how often observers hear of changes.
    pub presence: Presence,
    /// The chat.
    pub chat: Chat,
    /// How to use Redis, if it is to be used.
    pub redis: Option<RedisOptions>,
    /// The name of this node, if one is given.
    pub node_id: Option<String>,
    /// How clients prove who they are with tokens, if they have to.
    pub tokens: Option<Tokens>,
    /// Where the identity of clients comes from.
    pub identity: IdentityMode,
    /// Who may reach the server, and through what.
    pub entry: Entry,
    /// The keys of applications.
    pub keys: Keys,
    /// The applications whose clients speak the Pusher protocol.
    pub pusher: Pusher,
    /// Logins for development.
    pub login: Login,
    /// How to ask the application who a client is, if it is to be asked.
    pub callback: Option<CallbackOptions>,
    /// What visitors without a credential may see.
    pub anonymous: Vec<AnonymousRule>,
    /// Which of its own pages the server serves.
    pub pages: Pages,
    /// What listens to joins and leaves: the event log, webhooks.
    pub sinks: SinkOptions,
    /// The log.
    pub log: Log,
    /// The configuration file, if there is one.
    pub file: Option<ReadFile>,
    /// Settings of the configuration file that a flag or variable replaces.
    pub replaced: Vec<Replaced>,
    /// Variables that do nothing, for the log.
    pub warnings: Vec<String>,
    /// All settings with their sources, for the log. Secrets are not shown.
    pub settings: Settings,
    /// Where the settings come from that are not on the command line.
    pub sources: Sources,
}

/// Why a command line cannot work.
#[derive(Debug)]
pub enum ConfigError {
    /// A usage error of clap, or the text for `--help` or `--version`.
    Usage(clap::Error),
    /// A setting that is out of range or does not fit another one, as a sentence.
    Invalid(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(formatter),
            Self::Invalid(message) => formatter.write_str(message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Names the sources of the settings that are not on the command line.
    fn naming(self, sources: &Sources) -> Self {
        match self {
            Self::Invalid(message) => Self::Invalid(sources.name_in(&message)),
            usage @ Self::Usage(_) => usage,
        }
    }
}

impl Args {
    /// The addresses of the server that `rollcall health` asks, and what it expects there: those on the command line,
    /// or else of the running server if there is one, or else of the settings. `--internal-listen` comes first. Nothing
    /// else is checked.
    pub fn addresses_to_ask(
        &self,
        running: impl FnOnce() -> Option<Listening>,
    ) -> Result<(Vec<SocketAddr>, Opening), ConfigError> {
        let TypedListen { public, internal } = self.typed_listen;
        let running = if public || internal { None } else { running() };
        let own = || {
            // An address on the command line wins over a variable.
            let internal = self.listen.internal_listen.clone().filter(|_| internal || !public);
            let opening = Opening { proxy_header: self.entry.proxy_protocol, tls: self.tls.tls_cert.is_some() };
            Listening::of(self.listen.listen.clone(), internal, opening)
        };
        let Listening { flag, listen, opening } = running.unwrap_or_else(own);
        let addresses = addresses(flag, &listen).map_err(|error| error.naming(&self.sources))?;
        Ok((addresses, opening))
    }

    /// Checks the settings and fills in the defaults that depend on others.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let sources = self.sources.clone();
        self.check().map_err(|error| error.naming(&sources))
    }

    fn check(self) -> Result<Config, ConfigError> {
        let presence = self.presence.check()?;
        let node_id = self.redis.node_id()?;
        let redis = self.redis.check(&presence)?;
        let listen = self.listen.check()?;
        let login = self.login.check()?;
        let pusher = self.pusher.check()?;
        let partitions = redis.as_ref().map_or(0, |redis| redis.partitions);
        let callback = self.callback.check(self.auth.default_caps.clone())?;
        let jwks = self.jwks.check(&self.auth.jwt_issuer, &self.auth.jwt_audience)?;
        let mut warnings = self.warnings;
        if jwks.as_ref().is_some_and(|jwks| jwks.is_public) && self.auth.default_caps.is_none() {
            warnings.push(
                "--jwks-url without --default-caps: every token of the issuer that has no `caps` may do everything in \
                 every room"
                    .to_owned(),
            );
        }
        let tokens = self.auth.check(jwks, callback.is_some())?;
        let identity = IdentityMode::of(tokens.is_some(), callback.is_some());
        pusher.check_identity(identity)?;
        let rules = || identity.rules(tokens.as_ref()).with_apps(&pusher.ids(), pusher.rooms.sharing());
        let redis = redis.map(|redis| RedisOptions { identity: rules(), ..redis });
        let entry = self.entry.check(identity, &listen, login.dev_login, pusher.has_apps())?;
        let anonymous = self.anonymous.check(tokens.is_some() || callback.is_some())?;
        let webhooks = self.webhooks.check(&pusher, &mut warnings)?;
        let config = Config {
            limits: self.limits.check(listen.listeners(), partitions)?,
            quotas: self.quotas.check()?,
            listen,
            tls: self.tls.check()?,
            presence,
            chat: self.chat.check()?,
            redis,
            node_id,
            callback,
            tokens,
            identity,
            keys: self.keys.check(&mut warnings)?,
            pages: self.pages.check(identity, entry.is_closed),
            entry,
            pusher,
            login,
            anonymous,
            sinks: SinkOptions { event_log: self.event_log.check(), webhooks },
            log: self.log.check()?,
            file: self.read_file,
            replaced: self.replaced,
            warnings,
            settings: self.settings,
            sources: self.sources,
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// Reads a command line, program name first, and the environment, and checks them.
    pub fn from_args<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Args::read(args)?.resolve()
    }

    /// An error about settings, which may be found later than the others. It names their sources.
    #[must_use]
    pub fn invalid(&self, why: String) -> ConfigError {
        ConfigError::Invalid(why).naming(&self.sources)
    }

    /// A duration in ticks, rounded up, so that no lease is shorter than its setting.
    #[must_use]
    pub fn ticks(&self, duration: Duration) -> u64 {
        duration.as_nanos().div_ceil(self.presence.tick.as_nanos()) as u64
    }

    /// Whether users can be kicked or sent messages: through this node, or through another node that shares its store.
    #[must_use]
    pub fn kicks_users(&self) -> bool {
        self.login.dev_login || self.keys.api.is_some() || self.redis.is_some() || self.pusher.has_apps()
    }

    /// Checks rules that involve several features.
    fn check(&self) -> Result<(), ConfigError> {
        let ttl = self.presence.ttl;
        require(self.redis.is_none() || ttl >= MIN_SHARED_TTL, || {
            format!(
                "--ttl is {} and --redis is given: ttl must be at least {} then, or a short delay of Redis would look like a dead node",
                show(ttl),
                show(MIN_SHARED_TTL)
            )
        })
    }
}

/// Fails with a message unless the rule holds.
fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid(message())) }
}

#[cfg(test)]
mod tests;
