//! Secrets: the values that clients, nodes and services prove that they know.
//!
//! Each secret flag `--x` has a flag `--x-file` with a path instead of the value, and a variable for both. Other
//! processes can see command lines and variables; files are what Docker, Kubernetes and systemd mount. A file has one
//! secret per line. All of them are accepted, so that a new one can be distributed before the old one is removed; where
//! only one can be used, it is the first.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Arg;
use parking_lot::{Mutex, RwLock};
use tracing::error;

use super::{ConfigError, Secret};
use crate::os::read_bounded;

/// Larger files are not secrets.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Shorter parts of a URL are words.
const MIN_TOKEN_BYTES: usize = 16;
/// Parts in lower case with fewer digits are words with a version. Random ones with 16 hexadecimal digits have 10.
const MIN_TOKEN_DIGITS: usize = 4;
/// So often a letter is next to a digit. Random ones with 16 hexadecimal digits have 7.
const MIN_ALTERNATIONS: usize = 3;
/// The limit of values that one setting accepts: each may be compared with what a client sends.
const MAX_SECRETS: usize = 64;

/// What a secret setting is called, and what its values must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// The flag with its hyphens. `-file` is appended for the flag that names a file.
    pub(super) flag: &'static str,
    /// Shorter values can be guessed.
    pub(super) min_bytes: usize,
    /// How to write or make a valid value, for errors.
    pub(super) hint: &'static str,
}

impl Rule {
    /// The hint for values that may be any random text.
    pub(super) const NEW_SECRET: &'static str = "for a new one: openssl rand -hex 32";
}

/// The values of a secret setting, at least one. All clones are the same list: reloading replaces it everywhere.
#[derive(Clone)]
pub struct Secrets {
    current: Arc<RwLock<Arc<[Secret]>>>,
    /// Where they were read from, if not from the command line or a variable.
    file: Option<PathBuf>,
    rule: Rule,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secrets({}: {} hidden)", self.rule.flag, self.current().len())
    }
}

impl Secrets {
    /// The present values.
    #[must_use]
    pub fn current(&self) -> Arc<[Secret]> {
        Arc::clone(&self.current.read())
    }

    /// Reads the file again. False if they did not come from a file. If the file is not valid, the present values stay.
    #[must_use]
    pub fn reload(&self) -> bool {
        let Some(path) = &self.file else { return false };
        match read_again(path).map_err(|why| format!("cannot be read: {why}")).and_then(|text| lines(&text, self.rule))
        {
            Ok(values) => *self.current.write() = values,
            Err(why) => error!("{}-file is not reloaded: {} {why}", self.rule.flag, path.display()),
        }
        true
    }

    /// What is made of each value, such as its hash. It is made again after a reload.
    #[must_use]
    pub fn derive<T: 'static>(self, make: fn(&Secret) -> T) -> Derived<T> {
        self.derive_all(move |values, _| Some(values.iter().map(make).collect()))
    }

    /// What is made of all values together, also from what was made of the former ones. It is made again after a
    /// reload. If the values do not fit each other then (`None`), what was made before stays.
    #[must_use]
    pub fn derive_all<T>(
        self,
        make: impl Fn(&[Secret], &[T]) -> Option<Arc<[T]>> + Send + Sync + 'static,
    ) -> Derived<T> {
        let from = self.current();
        let list = make(&from, &[]).unwrap_or_default();
        Derived { secrets: self, make: Box::new(make), last: Mutex::new(Made { from, list }) }
    }

    /// Checks the values that are typed, or reads the file that is named. `None` if nothing is given.
    pub(super) fn of(rule: Rule, typed: Vec<Secret>, file: Option<PathBuf>) -> Result<Option<Self>, ConfigError> {
        let flag = rule.flag;
        let (values, name) = match &file {
            Some(path) => (lines(&read_named(flag, !typed.is_empty(), path)?, rule), format!("{flag}-file")),
            None if typed.is_empty() => return Ok(None),
            None => (check(typed, rule), flag.to_owned()),
        };
        let values = values.map_err(|why| ConfigError::Invalid(format!("{name} {why}")))?;
        Ok(Some(Self { current: Arc::new(RwLock::new(values)), file, rule }))
    }
}

/// What is made of the values of a setting.
pub struct Derived<T> {
    secrets: Secrets,
    make: Make<T>,
    last: Mutex<Made<T>>,
}

type Make<T> = Box<dyn Fn(&[Secret], &[T]) -> Option<Arc<[T]>> + Send + Sync>;

struct Made<T> {
    from: Arc<[Secret]>,
    list: Arc<[T]>,
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.secrets.fmt(formatter)
    }
}

impl<T> Derived<T> {
    /// Reads the values again, and makes what is made of them, which may log a mistake. False if they did not come from
    /// a file.
    #[must_use]
    pub fn reload(&self) -> bool {
        let is_reloaded = self.secrets.reload();
        drop(self.current());
        is_reloaded
    }

    /// The values.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// What was made of the present values, in their order.
    #[must_use]
    pub fn current(&self) -> Arc<[T]> {
        let from = self.secrets.current();
        let mut last = self.last.lock();
        if !Arc::ptr_eq(&last.from, &from) {
            if let Some(list) = (self.make)(&from, &last.list) {
                last.list = list;
            }
            last.from = from;
        }
        Arc::clone(&last.list)
    }
}

/// The lines of a file, if all of them are valid. Empty lines do not count.
fn lines(text: &str, rule: Rule) -> Result<Arc<[Secret]>, String> {
    check(text.lines().filter(|line| !line.trim().is_empty()).map(Secret::new).collect(), rule)
}

/// The values, if all of them are valid. Errors never contain any of them.
fn check(values: Vec<Secret>, Rule { min_bytes, hint, .. }: Rule) -> Result<Arc<[Secret]>, String> {
    let is_valid = |value: &Secret| {
        let bytes = value.as_bytes();
        bytes.len() >= min_bytes && bytes.trim_ascii() == bytes && !bytes.iter().any(u8::is_ascii_control)
    };
    if values.len() > MAX_SECRETS {
        return Err(format!("has {} values; the limit is {MAX_SECRETS}", values.len()));
    }
    if !values.iter().all(is_valid) {
        let rule = format!("must have at least {min_bytes} bytes, no control characters, and no spaces at its ends");
        return Err(format!("{rule}; {hint}"));
    }
    Ok(values.into())
}

/// The text in a file that the flag `--x-file` names, if its value is not given as well.
pub(super) fn read_named(flag: &str, is_typed: bool, path: &Path) -> Result<String, ConfigError> {
    if is_typed {
        return Err(ConfigError::Invalid(format!("{flag} and {flag}-file are both given; give one of them")));
    }
    read(path).map_err(|why| {
        ConfigError::Invalid(format!("cannot read the secret that {flag}-file names, {}: {why}", path.display()))
    })
}

/// Whether the value of a flag is a secret: it is not shown in the help, in errors or in the log.
pub(super) fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// Whether the value of a secret setting contains a secret. A URL does if it has a password, or a part like a token:
/// chat services give each receiver of webhooks such a path.
pub(super) fn contains_secret(value: &str) -> bool {
    match value.split_once("://") {
        Some((_, rest)) => rest.contains('@') || rest.split(['/', '?', '#', '&', '=']).skip(1).any(is_token),
        None => true,
    }
}

/// Whether a part of a URL looks random: it mixes letters of both cases with digits, as base64 does, or alternates
/// between letters and digits, as hexadecimal numbers and UUIDs do. Names such as `presence-v2-2026` do not.
fn is_token(part: &str) -> bool {
    let bytes = part.as_bytes();
    let has = |is_kind: fn(&u8) -> bool| bytes.iter().any(is_kind);
    let is_base64 = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit);
    let alternates = |pair: &&[u8]| {
        pair.iter().all(u8::is_ascii_alphanumeric) && pair[0].is_ascii_digit() != pair[1].is_ascii_digit()
    };
    let is_hexadecimal = bytes.iter().filter(|byte| byte.is_ascii_digit()).count() >= MIN_TOKEN_DIGITS
        && bytes.windows(2).filter(alternates).count() >= MIN_ALTERNATIONS;
    bytes.len() >= MIN_TOKEN_BYTES && (is_base64 || is_hexadecimal)
}

/// The text in a file of this length at most. Errors never contain any of it.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> Result<String, String> {
    String::from_utf8(read_bounded(path, max_bytes)?).map_err(|_| "it is not UTF-8 text".to_owned())
}

/// The text in the file of a secret, which is not empty.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let text = read_text(path, MAX_FILE_BYTES)?;
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(text)
}

/// The same for a running server. Reading a FIFO could wait forever for a program that writes to it.
pub(super) fn read_again(path: &Path) -> Result<String, String> {
    let is_file = path.metadata().map_err(|error| error.to_string())?.is_file();
    if is_file { read(path) } else { Err("it is not a regular file".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Args;
    use super::*;

    const RULE: Rule = Rule { flag: "--x", min_bytes: 4, hint: "write it like abcd" };

    #[test]
    fn each_secret_can_come_from_a_file() {
        let command = Args::command();
        let secrets: Vec<_> = command.get_arguments().filter(|arg| is_secret(arg)).collect();
        assert!(secrets.len() >= 3, "{secrets:?}");
        for secret in secrets {
            let id = format!("{}_file", secret.get_id());
            let file = command.get_arguments().find(|arg| *arg.get_id() == *id);
            let file = file.unwrap_or_else(|| panic!("{id} is missing"));
            let variable = format!("{}_FILE", secret.get_env().unwrap().to_string_lossy());
            assert_eq!(file.get_env().unwrap().to_string_lossy(), variable);
        }
    }

    #[test]
    fn urls_with_a_password_or_a_random_part_are_secrets() {
        let check = |value: &str, want: bool| assert_eq!(contains_secret(value), want, "{value}");
        check("sesame", true);
        check("https://user:sesame@app.example.com", true);
        check("https://hooks.example/services/T0/B0/9fQ2xYzR7sesame1Kd", true);
        check("https://hooks.example/in?token=9f02c1d47be35a60", true);
        check("https://hooks.example/in#9f02c1d47be35a60", true);
        check("https://hooks.example/in#a/words-of-a-page=9f02c1d47be35a60", true);
        check("https://hooks.example/550e8400-e29b-41d4-a716-446655440000", true);
        check("https://app.example.com/hooks/presence-webhook-v2", false);
        check("http://app:8000/internal/rollcall-events-1", false);
        check("https://app.example.com/hooks/presence-webhook-2026-v2", false);
        check("https://app.example.com/Hooks/PresenceWebhooks#a-long-name-of-a-part", false);
        check("https://api-550e8400e29b41d4a716.example.com/hooks", false);
    }

    #[test]
    fn a_file_has_one_secret_per_line_and_all_must_be_valid() {
        let check = |text: &str, want: Result<&[&str], &str>| {
            let got = lines(text, RULE);
            let got = got.as_ref().map(|values| values.iter().map(Secret::as_str).collect::<Vec<_>>());
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{text:?}"),
                (Err(got), Err(want)) => assert!(got.contains(want) && !got.contains("sesame"), "{text:?}: {got}"),
                (got, want) => panic!("{text:?}: {got:?} instead of {want:?}"),
            }
        };
        check("sesame", Ok(&["sesame"]));
        check("sesame\r\n\n  \r\nopen sesame\n", Ok(&["sesame", "open sesame"]));
        check("sesame\nses", Err("at least 4 bytes"));
        check(" sesame", Err("no spaces at its ends; write it like abcd"));
        check("ses\tame", Err("no control characters"));
        check(&"sesame\n".repeat(MAX_SECRETS), Ok(&["sesame"; MAX_SECRETS]));
        check(&"sesame\n".repeat(MAX_SECRETS + 1), Err("the limit is 64"));
    }

    #[test]
    fn secrets_are_shown_as_their_number_and_what_is_made_of_them_follows_a_reload() {
        let path = std::env::temp_dir().join(format!("rollcall-secrets-{}", std::process::id()));
        std::fs::write(&path, "first\nsecond\n").unwrap();
        let secrets = Secrets::of(RULE, Vec::new(), Some(path.clone())).unwrap().unwrap();
        assert_eq!(format!("{secrets:?}"), "Secrets(--x: 2 hidden)");
        let lengths = secrets.clone().derive(|secret| secret.as_bytes().len());
        assert_eq!(format!("{lengths:?}"), "Secrets(--x: 2 hidden)");
        assert_eq!(*lengths.current(), [5, 6]);
        for (text, want) in [("sesame and more", &[15][..]), ("", &[15]), ("sesame\nabc", &[15]), ("last", &[4])] {
            std::fs::write(&path, text).unwrap();
            assert!(secrets.reload());
            assert_eq!(*lengths.current(), *want, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(secrets.reload());
        assert_eq!(*lengths.current(), [4]);
        let typed = Secrets::of(RULE, vec![Secret::new("typed")], None).unwrap().unwrap();
        assert!(!typed.reload());
    }
}
