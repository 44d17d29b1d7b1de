//! What a server with these settings would do, for `rollcall check`.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Config, IdentityMode, Pages, Secrets};
use crate::store::event_log::Target;
use crate::store::redis::connection::RedisServers;

const SECONDS_PER_DAY: i64 = 24 * 3600;

/// The settings with their sources, what the server does with them, and warnings. Shows no secrets.
#[must_use]
pub fn report(config: &Config) -> String {
    let mut text = "These settings are valid.\n".to_owned();
    let changed: Vec<_> = config.settings.changed().collect();
    let widest = changed.iter().map(|setting| setting.assignment().chars().count()).max().unwrap_or(0);
    let changed = changed.iter().map(|setting| format!("{:<widest$}  {}", setting.assignment(), setting.source));
    section(&mut text, "Settings that differ from the defaults", changed);
    let replaced = config.replaced.iter().map(|old| format!("{} ({}): {} replaces it", old.key, old.place, old.by));
    section(&mut text, "Settings of the file that are replaced", replaced);
    let facts = facts(config).into_iter().map(|(name, fact)| format!("{name:<18}{fact}"));
    section(&mut text, "A server with these settings", facts);
    section(&mut text, "Warnings", config.warnings.iter().chain(&config.limits.few_files).cloned());
    text
}

fn section(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        // Writing to a string does not fail.
        let _ = write!(text, "\n{heading}:\n");
        for line in lines {
            let _ = writeln!(text, "  {}", line.trim_end());
        }
    }
}

/// What the server does, each with its name.
fn facts(config: &Config) -> Vec<(&'static str, String)> {
    let mut facts = vec![("listens on", listening(config))];
    let mut add = |name, fact: Option<String>| facts.extend(fact.map(|fact| (name, fact)));
    add("monitoring", monitoring(config));
    add("threads", Some(format!("{} for sockets and as many for HTTP", config.limits.workers)));
    add("connections", Some(format!("up to {}", config.limits.max_connections)));
    add("certificate", certificate(config));
    add("users", Some(users(config)));
    add("visitors", visitors(config));
    add("origins", origins(config));
    add("proxies", proxies(config));
    add("keys", keys(config));
    add("applications", applications(config));
    add("pages", Some(pages(config.pages).to_owned()));
    add("state", Some(state(config)));
    add("webhooks", webhooks(config));
    add("event log", event_log(config));
    facts
}

fn listening(config: &Config) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let status = config
        .listen
        .status_port
        .into_iter()
        .flat_map(|port| config.listen.addresses.iter().map(move |address| SocketAddr::new(address.ip(), port)));
    list(config.listen.addresses.iter().copied().chain(status).map(|address| format!("{scheme}://{address}")))
}

fn monitoring(config: &Config) -> Option<String> {
    let addresses = config.listen.internal.iter().map(|address| format!("http://{address}"));
    let addresses = list(addresses);
    (!addresses.is_empty()).then(|| format!("{addresses}, without a key and without TLS"))
}

fn certificate(config: &Config) -> Option<String> {
    let tls = config.tls.as_ref()?;
    let expires = tls.expires();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let date = UNIX_EPOCH + Duration::from_secs(expires.max(0) as u64);
    let date = humantime::format_rfc3339_seconds(date);
    let left = (expires - now).div_euclid(SECONDS_PER_DAY);
    let when = if expires <= now { "it has expired".to_owned() } else { format!("in {left} days") };
    Some(format!("{}; expires {date} ({when})", tls.names()))
}

fn users(config: &Config) -> String {
    match config.identity {
        IdentityMode::Open if config.entry.open => "any client can claim any user id (--open)".to_owned(),
        IdentityMode::Open if config.entry.is_closed => {
            "of Pusher applications only; other clients are refused without --open".to_owned()
        }
        IdentityMode::Open if config.login.dev_login => {
            "any client can sign in under any name (--dev-login)".to_owned()
        }
        IdentityMode::Open => "only clients on this machine; they can claim any user id".to_owned(),
        IdentityMode::Tokens => tokens(config),
        IdentityMode::Callback => callback(config),
        IdentityMode::TokensAndCallback => format!("{}; without a token, {}", tokens(config), callback(config)),
    }
}

fn tokens(config: &Config) -> String {
    let Some(tokens) = &config.tokens else { return String::new() };
    let secrets = tokens.secrets.as_ref().map(|secrets| count(secrets.current().len(), "secret"));
    let files = Some(tokens.public_keys.len()).filter(|files| *files > 0).map(|files| count(files, "file"));
    let files = files.map(|files| format!("{files} with public keys"));
    let sets = tokens.jwks.iter().flat_map(|jwks| &jwks.sources);
    let sets = sets.map(|(_, endpoint)| format!("the key set {}", endpoint.target()));
    let rules = &tokens.rules;
    let issuers =
        if rules.issuers.is_empty() { String::new() } else { format!(", issued by {}", rules.issuers.join(" or ")) };
    let audiences = &rules.audiences;
    let audiences = if audiences.is_empty() { String::new() } else { format!(", for {}", audiences.join(" or ")) };
    let keys = list(secrets.into_iter().chain(files).chain(sets));
    format!("named by tokens: {keys}{issuers}{audiences}")
}

fn callback(config: &Config) -> String {
    let Some(callback) = &config.callback else { return String::new() };
    format!("named by {} from the cookie {}", callback.endpoint.target(), callback.cookies.join(" or "))
}

fn visitors(config: &Config) -> Option<String> {
    let rules = config.anonymous.iter().map(|rule| match rule.observes {
        true => format!("observe {}", rule.rooms),
        false => format!("see numbers of {}", rule.rooms),
    });
    Some(list(rules)).filter(|rules| !rules.is_empty())
}

fn origins(config: &Config) -> Option<String> {
    let origins = list(config.entry.origins.iter().map(ToString::to_string));
    Some(if origins.is_empty() { "any, but cookies count only from pages of this server".to_owned() } else { origins })
}

fn proxies(config: &Config) -> Option<String> {
    let header = if config.entry.proxy_protocol { ", with a PROXY header" } else { "" };
    config.settings.value("trust-proxy").map(|networks| format!("{networks}{header}"))
}

fn keys(config: &Config) -> Option<String> {
    let keys = |keys: &Option<Secrets>, what: &str| {
        let number = keys.as_ref().map(|keys| keys.current().len());
        number.map(|number| format!("{number} for {what}"))
    };
    let keys = list(keys(&config.keys.api, "everything").into_iter().chain(keys(&config.keys.read, "reading")));
    (!keys.is_empty()).then_some(keys)
}

fn applications(config: &Config) -> Option<String> {
    let apps = list(config.pusher.ids().iter().map(ToString::to_string));
    let rooms = config.pusher.rooms.sharing().map(|id| format!("; channels of {id} are rooms of all protocols"));
    (!apps.is_empty()).then(|| format!("{apps} (Pusher protocol){}", rooms.unwrap_or_default()))
}

fn pages(pages: Pages) -> &'static str {
    match pages {
        Pages::All => "all pages, presence.js and embed.js",
        Pages::Client => "presence.js, embed.js and /docs",
        Pages::Off => "none",
    }
}

fn state(config: &Config) -> String {
    let Some(redis) = &config.redis else { return "in memory, and ends with the server".to_owned() };
    let servers = RedisServers::new(&redis.urls, redis.cluster, &redis.tls);
    let servers = servers.map_or_else(|_| "Redis".to_owned(), |servers| format!("Redis {}", servers.addresses()));
    let optional = if redis.optional { ", or in memory while it is unreachable at the start" } else { "" };
    format!("shared through {servers} under {}:{optional} (not contacted)", redis.prefix)
}

/// Messages show a URL of a webhook without its path: some services have a secret there.
fn webhooks(config: &Config) -> Option<String> {
    let endpoints = config.sinks.webhooks.as_ref()?.endpoints.iter();
    Some(list(endpoints.map(|webhook| format!("{} ({})", webhook.endpoint.target(), webhook.name))))
}

fn event_log(config: &Config) -> Option<String> {
    config.sinks.event_log.as_ref().map(|target| match target {
        Target::Stdout => "standard output".to_owned(),
        Target::File(path) => path.display().to_string(),
    })
}

fn list(items: impl Iterator<Item = impl fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
