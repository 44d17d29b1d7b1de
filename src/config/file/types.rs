//! Values of a configuration file as the words of a command line. What a flag takes decides how its value is written.

use std::any::TypeId;
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{Arg, ArgAction};

use super::parse::Value;

/// How the value of a setting is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Kind {
    /// `true` or `false`.
    Switch,
    /// A number, or a string as the flag takes it.
    Number,
    /// A string with a unit of time.
    Duration,
    /// A string.
    Text,
}

impl Kind {
    /// How the value of a flag is written.
    pub(in crate::config) fn of(arg: &Arg) -> Self {
        let parsed = arg.get_value_parser().type_id();
        let numbers = [
            TypeId::of::<u16>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
            TypeId::of::<NonZeroU32>(),
            TypeId::of::<NonZeroUsize>(),
        ];
        match arg.get_action() {
            ArgAction::SetTrue => Self::Switch,
            _ if numbers.iter().any(|number| parsed == *number) => Self::Number,
            _ if parsed == TypeId::of::<Duration>() => Self::Duration,
            _ => Self::Text,
        }
    }
}

/// Whether a flag can be repeated: its values are a list.
pub(in crate::config) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The words for a setting. An error says how its value is written, without the value: it may be a secret.
pub(super) fn words(arg: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let (key, kind) = (arg.get_long().unwrap_or_default(), Kind::of(arg));
    match value {
        Value::Bool(is_on) if kind == Kind::Switch => {
            Ok(is_on.then(|| format!("--{key}").into()).into_iter().collect())
        }
        Value::List(values) if is_list(arg) => {
            if values.is_empty() {
                return Err(format!("{key} is an empty list; name a value, or remove the line"));
            }
            values.iter().map(|value| word(key, kind, value)).collect()
        }
        Value::List(_) => Err(format!("{key} is a list, and it can have only one value")),
        value => word(key, kind, value).map(|word| vec![word]),
    }
}

fn word(key: &str, kind: Kind, value: &Value) -> Result<OsString, String> {
    let (text, is) = match (kind, value) {
        (Kind::Number, Value::Text(text) | Value::Number(text)) => return Ok(format!("--{key}={text}").into()),
        (Kind::Duration | Kind::Text, Value::Text(text)) => return Ok(format!("--{key}={text}").into()),
        (Kind::Switch, _) => ("true or false, without quotes", value.name()),
        (Kind::Number, _) => ("a number", value.name()),
        (Kind::Duration, _) => ("a string with a unit, such as \"500ms\", \"10s\" or \"2m\"", value.name()),
        (Kind::Text, _) => ("a string in quotes", value.name()),
    };
    Err(format!("{key} is {is}; write {text}"))
}

impl Value {
    /// What it is.
    fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table => "a table",
            Self::Other(name) => name,
        }
    }

    /// Whether it is a table, or one of several with the same name.
    pub(super) fn is_table(&self) -> bool {
        match self {
            Self::Table => true,
            Self::List(values) => values.first().is_some_and(Self::is_table),
            _ => false,
        }
    }

    /// The strings in it.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) | Self::Number(text) => vec![text],
            Self::List(values) => values.iter().flat_map(Self::texts).collect(),
            Self::Bool(_) | Self::Table | Self::Other(_) => Vec::new(),
        }
    }
}
