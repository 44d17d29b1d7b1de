//! Hints for settings that do not exist: the nearest one, or the one that takes the place of a setting of other
//! servers.

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command, Error};

/// Settings of other servers, and the ones of this server for the same purpose.
const ELSEWHERE: [(&str, &str); 18] = [
    ("port", "listen"),
    ("host", "listen"),
    ("hostname", "listen"),
    ("address", "listen"),
    ("addr", "listen"),
    ("bind", "listen"),
    ("ip", "listen"),
    ("interface", "listen"),
    ("threads", "workers"),
    ("log-level", "log"),
    ("loglevel", "log"),
    ("cert", "tls-cert"),
    ("key", "tls-key"),
    ("ssl-cert", "tls-cert"),
    ("ssl-key", "tls-key"),
    ("allowed-origins", "origin"),
    ("cors-origin", "origin"),
    ("redis-url", "redis"),
];

/// The setting that is nearest to an unknown one, without hyphens.
pub(super) fn nearest_flag(command: &Command, unknown: &str) -> Option<String> {
    let unknown = unknown.trim_start_matches('-').replace('_', "-").to_lowercase();
    if let Some((_, own)) = ELSEWHERE.iter().find(|(other, _)| *other == unknown) {
        return Some((*own).to_owned());
    }
    if command.get_arguments().any(|arg| arg.get_long() == Some(&unknown)) {
        return Some(unknown);
    }
    // What the parser of command lines suggests for such a flag.
    let settings = command.get_arguments().filter(|arg| !matches!(arg.get_action(), ArgAction::Version));
    let settings = settings.cloned().map(|arg| arg.env(Resettable::Reset));
    let bare = Command::new("rollcall").disable_help_flag(true).no_binary_name(true).args(settings);
    let error = bare.try_get_matches_from([format!("--{unknown}")]).err()?;
    match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-').to_owned()),
        _ => None,
    }
}

/// Adds the hint to an error about a flag that does not exist.
pub(super) fn suggest(mut error: Error, command: &Command) -> Error {
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => word.to_lowercase(),
        _ => return error,
    };
    let own = ELSEWHERE.iter().find(|(other, _)| unknown.strip_prefix("--") == Some(other));
    if let Some(arg) = own.and_then(|(_, own)| command.get_arguments().find(|arg| arg.get_long() == Some(*own))) {
        error.remove(ContextKind::SuggestedArg);
        let tip = format!("use '{arg}' instead").into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Args;
    use super::*;

    #[test]
    fn settings_that_do_not_exist_have_a_hint() {
        let check = |unknown: &str, want: Option<&str>| {
            assert_eq!(nearest_flag(&Args::command(), unknown).as_deref(), want, "{unknown}");
        };
        check("ttll", Some("ttl"));
        check("max_connections", Some("max-connections"));
        check("Listen", Some("listen"));
        check("port", Some("listen"));
        check("LOG_LEVEL", Some("log"));
        check("jwt-secrets-file", Some("jwt-secret-file"));
        check("zzzzzz", None);
        check("", None);
        check("a b=c", None);
    }

    #[test]
    fn flags_that_take_the_place_of_others_exist() {
        let command = Args::command();
        let has = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
        for (other, own) in ELSEWHERE {
            assert!(has(own) && !has(other), "{other}: {own}");
        }
    }
}
