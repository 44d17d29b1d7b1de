//! The settings of a server with their sources, for the log and for `rollcall check`.

use std::ffi::OsString;
use std::fmt;

use clap::{Arg, ArgMatches, Command};

use super::secrets::is_secret;
use super::sources::Sources;

/// All settings that have a value, in the order of the help. Secrets are not in it.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<Setting>);

/// A setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its flag without hyphens.
    pub name: String,
    /// Its values as given; `hidden` if it is a secret.
    pub value: String,
    /// The flag, the variable, or the file and line.
    pub source: String,
    /// Whether it is on the command line, or the default.
    is_flag: bool,
    is_default: bool,
}

impl Settings {
    /// The settings of a parsed command line.
    pub(super) fn of(command: &Command, matches: &ArgMatches, sources: &Sources) -> Self {
        Self(command.get_arguments().filter_map(|arg| setting(arg, matches, sources)).collect())
    }

    /// The value of a setting, as given.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|setting| setting.name == name).map(|setting| &*setting.value)
    }

    /// The settings that differ from the defaults.
    pub fn changed(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter().filter(|setting| !setting.is_default)
    }
}

/// `ttl=30s (ROLLCALL_TTL) tick=100ms api-key=hidden (ROLLCALL_API_KEY) …`: with their sources unless it is the flag
/// itself. Flags without a value are omitted if they are off.
impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().filter(|setting| setting.value != "false" || !setting.is_flag);
        for (at, setting) in shown.enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(formatter, "{space}{}={}", setting.name, setting.value)?;
            if !setting.is_flag {
                write!(formatter, " ({})", setting.source)?;
            }
        }
        Ok(())
    }
}

impl Setting {
    /// The name and the value.
    pub(super) fn assignment(&self) -> String {
        format!("{} = {}", self.name, self.value)
    }
}

fn setting(arg: &Arg, matches: &ArgMatches, sources: &Sources) -> Option<Setting> {
    let (id, name) = (arg.get_id().as_str(), arg.get_long()?);
    let values: Vec<_> = matches.try_get_raw(id).ok().flatten()?.map(ToOwned::to_owned).collect();
    let is_switch = !arg.get_action().takes_values();
    let value = if is_secret(arg) {
        "hidden".to_owned()
    } else if is_switch {
        matches.get_flag(id).to_string()
    } else {
        values.iter().map(shown).collect::<Vec<_>>().join(",")
    };
    let flag = format!("--{name}");
    let source = sources.source_of(&flag).map(|source| source.place().to_owned());
    let is_default = if is_switch { value == "false" } else { values.iter().eq(arg.get_default_values()) };
    let (is_flag, source) = (source.is_none(), source.unwrap_or(flag));
    Some(Setting { name: name.to_owned(), value, source, is_flag, is_default })
}

/// A value as one word. The query of a URL may have a secret.
fn shown(value: &OsString) -> String {
    let text = value.to_string_lossy();
    let text = match text.split_once('?') {
        Some((url, _)) if url.contains("://") => format!("{url}?…").into(),
        _ => text,
    };
    match text.contains(|character: char| character.is_whitespace() || character.is_control()) || text.is_empty() {
        true => format!("{text:?}"),
        false => text.into_owned(),
    }
}
