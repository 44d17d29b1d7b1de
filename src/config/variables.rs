//! Which variables count as settings, and which have no effect.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use super::suggestions::nearest_flag;

/// The sections of the help with the settings that grant or restrict access. They never count as unset: a template with
/// a misspelt name of a variable or a file must not start an open server.
const ACCESS_HEADINGS: [&str; 7] =
    [TOKENS_HEADING, CALLBACK_HEADING, NO_CREDENTIAL_HEADING, ENTRY_HEADING, KEYS_HEADING, PUSHER_HEADING, TLS_HEADING];
/// Users whom tokens name.
pub(super) const TOKENS_HEADING: &str = "Identity: tokens that your application signs";
/// Users whom the application names.
pub(super) const CALLBACK_HEADING: &str = "Identity: answers of your application";
/// Users who prove nothing.
pub(super) const NO_CREDENTIAL_HEADING: &str = "Identity: clients without a credential";
/// Where requests may come from.
pub(super) const ENTRY_HEADING: &str = "Origins and proxies";
/// What applications may do.
pub(super) const KEYS_HEADING: &str = "Keys of applications";
/// The applications whose clients use the Pusher protocol.
pub(super) const PUSHER_HEADING: &str = "Pusher protocol";
/// The certificate of the server: without it, credentials would travel in plain text.
pub(super) const TLS_HEADING: &str = "TLS";
/// The same for connections to Redis.
const REDIS_TLS: [&str; 3] = ["redis_ca", "redis_cert", "redis_key"];
/// The configuration file may restrict access.
const FILE: &str = "config";

/// Whether a setting grants or restricts access.
fn concerns_access(arg: &Arg) -> bool {
    let has_heading = arg.get_help_heading().is_some_and(|heading| ACCESS_HEADINGS.contains(&heading));
    has_heading || REDIS_TLS.contains(&arg.get_id().as_str()) || *arg.get_id() == *FILE
}

/// Whether a variable of rollcall counts as unset: it is empty, or an orchestrator has set it by itself.
/// For a Service named rollcall-status, Kubernetes gives each container of the namespace
/// `ROLLCALL_STATUS_PORT=tcp://10.96.0.12:3001`, as Docker does for links.
pub(super) fn counts_as_unset(arg: &Arg, value: &OsStr) -> bool {
    let is_port = || arg.get_env().unwrap_or_default().to_string_lossy().ends_with(PORT_SUFFIX);
    let is_empty = value.is_empty() && !concerns_access(arg);
    is_empty || is_port() && is_link(value)
}

/// Whether a value is the address of a service.
fn is_link(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    LINK_SCHEMES.iter().any(|scheme| value.starts_with(scheme))
}

/// Warnings about variables that begin with `ROLLCALL_` and have no effect. Values are not shown: they may be secrets.
pub(super) fn warnings(command: &Command, variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let ours = |name: &str| command.get_arguments().find(|arg| arg.get_env().is_some_and(|known| known == name));
    let warning = |(name, value): (OsString, OsString)| {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) || value.is_empty() {
            return None;
        }
        match ours(&name) {
            Some(arg) => counts_as_unset(arg, &value).then(|| {
                format!("{name} is ignored: its value is the address of a service, as Kubernetes and Docker set it")
            }),
            None if is_link_variable(&name) && (is_link(&value) || name != PORT) => None,
            None => {
                let hint = nearest_flag(command, &name[PREFIX.len()..]);
                let hint = hint.map_or(". Remove it; rollcall --help lists all settings".to_owned(), |flag| {
                    format!("; did you mean {PREFIX}{}?", flag.to_uppercase().replace('-', "_"))
                });
                Some(format!("{name} is ignored: this version has no such setting{hint}"))
            }
        }
    };
    let mut warnings: Vec<_> = variables.filter_map(warning).collect();
    warnings.sort();
    warnings
}

const PREFIX: &str = "ROLLCALL_";
const PORT_SUFFIX: &str = "_PORT";
/// Orchestrators set it for a service named rollcall, and users who look for `--listen` set it to a port.
const PORT: &str = "ROLLCALL_PORT";
const LINK_SCHEMES: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// Whether Kubernetes or Docker sets a variable of this name for a service: `ROLLCALL_REDIS_SERVICE_HOST`,
/// `ROLLCALL_SERVICE_PORT_HTTP`, `ROLLCALL_PORT_8000_TCP_ADDR`.
fn is_link_variable(name: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let is_number = |part: &str| part.parse::<u16>().is_ok();
    name.ends_with(PORT_SUFFIX)
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || parts
            .windows(3)
            .any(|part| part[0] == "PORT" && is_number(part[1]) && matches!(part[2], "TCP" | "UDP" | "SCTP"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Args;
    use super::*;

    #[test]
    fn variables_of_services_are_not_settings_and_others_are_reported() {
        let check = |name: &str, value: &str, want: Option<&str>| {
            let got = warnings(&Args::command(), [(name.into(), value.into())].into_iter());
            assert_eq!(got.len(), usize::from(want.is_some()), "{name}: {got:?}");
            let fits = want.is_none_or(|want| got[0].contains(want) && got[0].contains(name));
            assert!(fits && !got.iter().any(|warning| warning.contains(value)), "{name}: {got:?}");
        };
        check("ROLLCALL_STATUS_PORT", "tcp://10.96.0.12:3001", Some("address of a service"));
        check("ROLLCALL_STATUS_PORT", "3001", None);
        for name in ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_3001_TCP", "PORT_53_UDP_ADDR"] {
            check(&format!("ROLLCALL_{name}"), "tcp://10.96.0.12:3001", None);
            check(&format!("ROLLCALL_REDIS_{name}"), "tcp://10.96.0.12:3001", None);
        }
        check("ROLLCALL_TTLL", "sesame", Some("no such setting"));
        check("ROLLCALL_TTLL", "sesame", Some("did you mean ROLLCALL_TTL?"));
        check("ROLLCALL_ZZZZZZ", "sesame", Some("no such setting. Remove it; rollcall --help lists all settings"));
        check("ROLLCALL_PORT", "9000", Some("did you mean ROLLCALL_LISTEN?"));
        check("HOME", "/root", None);
    }

    /// Kubernetes gives a container variables with these names for any Service whose name begins with `rollcall`.
    #[test]
    fn only_ports_can_have_the_name_of_a_variable_that_kubernetes_sets() {
        for arg in Args::command().get_arguments() {
            let Some(variable) = arg.get_env().map(|name| name.to_string_lossy().into_owned()) else { continue };
            assert!(!is_link_variable(&variable) || variable.ends_with(PORT_SUFFIX), "{variable}");
        }
    }
}
