//! Where settings come from: a message about a setting that is not on the command line names its variable, or its line
//! in the configuration file, and not the flag.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Error};

/// The settings that are not on the command line.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<(String, Source)>);

/// Where a file gives a setting.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The flag with its hyphens.
    pub(super) flag: String,
    /// The file and the line.
    pub(super) place: String,
}

/// What gives a setting that is not on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A variable of this name.
    Variable(String),
    /// A line of the configuration file: the file and the line.
    File(String),
}

impl Source {
    /// The variable, or the file and the line.
    pub(super) fn place(&self) -> &str {
        match self {
            Self::Variable(place) | Self::File(place) => place,
        }
    }

    /// What it calls the setting of a flag.
    fn name_of(&self, flag: &str) -> String {
        match self {
            Self::Variable(name) => name.clone(),
            Self::File(place) => format!("{} ({place})", flag.trim_start_matches('-')),
        }
    }
}

impl Sources {
    /// The settings of a parsed command line that come from the file at these places, or from variables.
    pub(super) fn of(command: &Command, matches: &ArgMatches, places: &[Place]) -> Self {
        let is_from_variable =
            |arg: &&Arg| value_source(matches, arg.get_id().as_str()) == Some(ValueSource::EnvVariable);
        let variables = command.get_arguments().filter(is_from_variable).filter_map(flag_and_variable);
        let variables = variables.map(|(flag, variable)| (flag, Source::Variable(variable)));
        Self(variables.chain(Self::in_file(places).0).collect())
    }

    /// The settings of the file alone.
    pub(super) fn in_file(places: &[Place]) -> Self {
        Self(places.iter().map(|Place { flag, place }| (flag.clone(), Source::File(place.clone()))).collect())
    }

    /// What sets a flag, if it is not on the command line.
    pub(super) fn source_of(&self, flag: &str) -> Option<&Source> {
        self.0.iter().find(|(known, _)| known == flag).map(|(_, source)| source)
    }

    /// Replaces flags in a message by what sets them.
    pub(super) fn name_in(&self, message: &str) -> String {
        let replace = |word: &str| {
            let end = word.find(|end: char| !(end.is_ascii_alphanumeric() || end == '-')).unwrap_or(word.len());
            let (flag, rest) = word.split_at(end);
            self.source_of(flag).map_or_else(|| word.to_owned(), |source| format!("{}{rest}", source.name_of(flag)))
        };
        message.split(' ').map(replace).collect::<Vec<_>>().join(" ")
    }

    /// Makes an error about a value name the source of the value, if it is not on the command line.
    pub(super) fn name_in_error(&self, mut error: Error, command: &Command, words: &[OsString]) -> Error {
        let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg).cloned() else { return error };
        let arg = command.get_arguments().find(|arg| arg.to_string() == shown);
        let Some((flag, variable)) = arg.and_then(flag_and_variable) else { return error };
        let is_typed = words.iter().any(|word| is_flag(word, &flag));
        let source = self.source_of(&flag).map(|source| source.name_of(&flag));
        if let Some(name) = source.or_else(|| (!is_typed).then_some(variable)) {
            error.insert(ContextKind::InvalidArg, ContextValue::String(name));
        }
        error
    }
}

/// What gives a setting: the command line, a variable or its default. `None` if the command does not take it.
pub(super) fn value_source(matches: &ArgMatches, id: &str) -> Option<ValueSource> {
    matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id))
}

/// Whether a word of a command line is this flag, with or without a value.
pub(super) fn is_flag(word: &OsStr, flag: &str) -> bool {
    let rest = word.as_encoded_bytes().strip_prefix(flag.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
}

fn flag_and_variable(arg: &Arg) -> Option<(String, String)> {
    let variable = arg.get_env()?.to_string_lossy().into_owned();
    Some((format!("--{}", arg.get_long()?), variable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flags_that_are_not_typed_are_replaced() {
        let file = Source::File("/etc/rollcall.toml:3".to_owned());
        let from = Sources(vec![
            ("--redis".to_owned(), Source::Variable("ROLLCALL_REDIS".to_owned())),
            ("--tick".to_owned(), file),
        ]);
        let check = |message: &str, want: &str| assert_eq!(from.name_in(message), want);
        check("--redis is bad", "ROLLCALL_REDIS is bad");
        check("bad: --redis: --ttl is 1s", "bad: ROLLCALL_REDIS: --ttl is 1s");
        check("--redis-prefix is bad", "--redis-prefix is bad");
        check("--ttl and --tick, too", "--ttl and tick (/etc/rollcall.toml:3), too");
    }
}
