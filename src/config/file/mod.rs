//! The configuration file. Its settings become flags in front of the typed ones, so they pass the same checks. Settings
//! that the command line or a variable gives as well are left out.

mod parse;
mod types;

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use tracing::warn;

use super::ConfigError;
use super::exposure::is_public;
use super::secrets::{contains_secret, is_secret, read_text};
use super::sources::{Place, value_source};
use super::suggestions::nearest_flag;
use parse::{Entry, Value, parse};
use types::words;
pub(super) use types::{Kind, is_list};

/// The largest file. A file with all settings and their help has 40 KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// A file with as many mistakes is another kind of file. Finding the nearest setting takes a millisecond.
const MAX_MISTAKES: usize = 20;
/// What a file cannot set: where it is, and what the program does.
const ONLY_FLAGS: [&str; 3] = ["config", "help", "version"];

/// The settings that say where a server listens, and with which protocol.
const LISTENING: [&str; 5] = ["listen", "internal-listen", "proxy-protocol", "tls-cert", "tls-key"];

/// A configuration file.
#[derive(Debug, Default)]
pub(super) struct File {
    path: PathBuf,
    entries: Vec<Entry>,
    is_public: bool,
    hash: u64,
}

/// The settings of a file that take effect.
#[derive(Debug, Default)]
pub(super) struct FileFlags {
    /// As on a command line.
    pub(super) words: Vec<OsString>,
    /// The flags in `words`, and where they are in the file.
    pub(super) places: Vec<Place>,
    /// Settings of the file that a flag or variable replaces.
    pub(super) replaced: Vec<Replaced>,
}

/// A setting of a file that a flag or variable replaces.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// Its key.
    pub key: String,
    /// The file and the line.
    pub place: String,
    /// The flag or variable that replaces it.
    pub by: String,
}

/// The configuration file of a running server.
#[derive(Debug, Clone)]
pub struct ReadFile {
    path: PathBuf,
    /// The hash of its text. The text itself may contain secrets.
    hash: u64,
}

impl ReadFile {
    /// Warns if the file has another text now, or cannot be read. It is not reloaded.
    pub fn warn_of_change(&self) {
        if read(&self.path).map_or(true, |text| hash(&text) != self.hash) {
            warn!(file = %self.path.display(), "the configuration file has changed: restart to use it");
        }
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl File {
    /// Only where a server with it listens, for a program that asks the server. Mistakes elsewhere do not concern it:
    /// the file may have changed since the server started.
    pub(super) fn listening(mut self) -> Self {
        self.entries.retain(|entry| LISTENING.contains(&&*entry.key));
        self
    }

    /// What a running server remembers of it.
    pub(super) fn remember(&self) -> ReadFile {
        ReadFile { path: self.path.clone(), hash: self.hash }
    }

    /// Reads a file. Errors never contain any of its text.
    pub(super) fn open(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|why| {
            ConfigError::Invalid(format!("cannot read the file that --config names, {}: {why}", path.display()))
        })?;
        let entries = parse(&text).map_err(|(line, why)| {
            ConfigError::Invalid(format!("{}:{line}: this is not valid TOML: {why}", path.display()))
        })?;
        Ok(Self { path: path.to_owned(), entries, is_public: is_public(path), hash: hash(&text) })
    }

    /// The text of a setting, if the file has it.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.key == key).and_then(|entry| match &entry.value {
            Value::Text(text) => Some(&**text),
            _ => None,
        })
    }

    /// Whether the file switches a setting on.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && entry.value == Value::Bool(true))
    }

    /// The settings that take effect beside a parsed command line, as flags.
    pub(super) fn flags(&self, command: &Command, matches: &ArgMatches) -> Result<FileFlags, ConfigError> {
        let (mut flags, mut mistakes) = (FileFlags::default(), Vec::new());
        for entry in &self.entries {
            if mistakes.len() == MAX_MISTAKES {
                mistakes.push("the rest of the file was not checked".to_owned());
                break;
            }
            let place = self.place(entry);
            match flag(command, entry) {
                Err(why) => mistakes.push(format!("{place}: {why}")),
                Ok((arg, words)) => match given(command, matches, arg) {
                    Some(by) => flags.replaced.push(Replaced { key: entry.key.clone(), place, by }),
                    None => {
                        flags.words.extend(words);
                        flags.places.push(Place { flag: format!("--{}", entry.key), place });
                    }
                },
            }
        }
        if mistakes.is_empty() { Ok(flags) } else { Err(ConfigError::Invalid(mistakes.join("\n"))) }
    }

    /// A warning if the file has secrets, and every user of the machine can read it.
    pub(super) fn warning(&self, command: &Command) -> Option<String> {
        let is_exposed = |entry: &&Entry| {
            let is_secret = setting(command, &entry.key).is_ok_and(is_secret);
            is_secret && entry.value.texts().iter().any(|text| contains_secret(text))
        };
        let secret = self.entries.iter().find(is_exposed).filter(|_| self.is_public)?;
        Some(format!(
            "{} has secrets ({}, line {}), and every user of this machine can read it: chmod o-r it, or use {}-file",
            self.path.display(),
            secret.key,
            secret.line,
            secret.key
        ))
    }

    fn place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.path.display(), entry.line)
    }
}

/// Whether a file can have this setting.
pub(super) fn is_setting(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|key| !ONLY_FLAGS.contains(&key))
}

/// The setting of an entry, and its words.
fn flag<'a>(command: &'a Command, entry: &Entry) -> Result<(&'a Arg, Vec<OsString>), String> {
    if entry.value.is_table() {
        let key = &entry.key;
        return Err(format!(
            "{key} is a table, and this file has no tables: write each setting on its own line, like ttl = \"30s\", and \
             put # before headings"
        ));
    }
    let arg = setting(command, &entry.key)?;
    Ok((arg, words(arg, &entry.value)?))
}

/// The setting with this key.
fn setting<'a>(command: &'a Command, key: &str) -> Result<&'a Arg, String> {
    let found = command.get_arguments().find(|arg| arg.get_long() == Some(key) && is_setting(arg));
    found.ok_or_else(|| {
        let hint = nearest_flag(command, key).filter(|flag| !ONLY_FLAGS.contains(&&**flag));
        let hint =
            hint.map_or_else(|| "rollcall --help lists all".to_owned(), |flag| format!("did you mean `{flag}`?"));
        format!("unknown setting {key:?}; {hint}")
    })
}

/// The flag or variable that gives a setting. A secret and the file with the secret are one setting.
fn given(command: &Command, matches: &ArgMatches, arg: &Arg) -> Option<String> {
    let id = arg.get_id().as_str();
    let twin = id.strip_suffix("_file").map_or_else(|| format!("{id}_file"), str::to_owned);
    let source = |id: &str| {
        let arg = command.get_arguments().find(|arg| *arg.get_id() == *id)?;
        match value_source(matches, id)? {
            ValueSource::CommandLine => Some(format!("--{}", arg.get_long()?)),
            ValueSource::EnvVariable => Some(arg.get_env()?.to_string_lossy().into_owned()),
            _ => None,
        }
    };
    source(id).or_else(|| source(&twin))
}

/// The text of a file. Only regular files are read: a FIFO could wait forever for a program that writes to it.
fn read(path: &Path) -> Result<String, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("it is a directory".to_owned());
    }
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    read_text(path, MAX_FILE_BYTES)
}

#[cfg(test)]
mod tests;
