//! The syntax of configuration files (TOML). The only module that knows its parser.

use toml::de::{DeTable, DeValue};

/// The entries of a file, in their order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The line of the key; the first one is 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A string.
    Text(String),
    /// An integer in decimal digits.
    Number(String),
    /// True or false.
    Bool(bool),
    /// An array.
    List(Vec<Value>),
    /// A table.
    Table,
    /// Anything else, by its name: no setting takes it.
    Other(&'static str),
}

/// Parses a file. An error has its line, and nothing of the text: it may contain secrets.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    // Editors of other systems begin a file with it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line(at), error.message().to_owned())
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = key.get_ref();
        Entry { key: name.to_string(), line: line(key.span().start), value: convert(value.get_ref()) }
    };
    Ok(entries.into_iter().map(entry).collect())
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Number(number.to_string()),
            Err(_) => Value::Other("a number that is too large"),
        },
        DeValue::Boolean(is_on) => Value::Bool(*is_on),
        DeValue::Array(values) => Value::List(values.iter().map(|value| convert(value.get_ref())).collect()),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Table,
    }
}
