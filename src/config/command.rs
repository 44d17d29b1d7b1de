//! What the program does instead of serving.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Arg, CommandFactory as _, Subcommand};
use clap_complete::Shell;

use super::Args;

/// The command that takes settings after its name, too.
pub(super) const CHECK: &str = "check";
/// The name of the program.
pub(super) const PROGRAM: &str = "rollcall";
/// Command lines, and what they do.
pub(super) const COMMAND_EXAMPLES: [(&str, &str); 8] = [
    ("rollcall", "serve http://localhost:8000"),
    ("rollcall --listen 0.0.0.0:80 --workers 4", "all interfaces, four threads"),
    ("rollcall --ttl 30s --grace 5s", "longer leases, shorter grace"),
    ("rollcall --redis redis://127.0.0.1:6379", "share presence with all nodes on this Redis"),
    ("ROLLCALL_TTL=30s rollcall", "each flag can also be set by an environment variable"),
    ("rollcall --config /etc/rollcall.toml", "or in a file"),
    ("rollcall check --config FILE", "is this file valid, and what would a server do with it?"),
    ("rollcall health", "check whether the server at --listen is ready (exit code 0 or 1)"),
];

/// The end of the help.
pub(super) fn examples() -> String {
    let lines = COMMAND_EXAMPLES.iter().map(|(line, text)| format!("  {line:<42} {text}\n")).collect::<String>();
    format!("Examples:\n{lines}\nStop with ctrl-C or SIGTERM; a second signal stops at once.")
}

/// What the program does instead of serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Check the settings, and print what a server with them would do; takes all settings, before or after the word.
    /// The exit code is 0 if they are valid, and otherwise 64
    Check,
    /// Print a configuration file with every setting, its help and its default, commented out
    Config,
    /// Check whether a running server is ready; the exit code is 0 if it is ready, and otherwise 1
    Health {
        /// URL to request [default: /readyz at the address of --internal-listen or --listen, or else of the main
        /// process if that is a rollcall server, as in a container, or else of ROLLCALL_INTERNAL_LISTEN or
        /// ROLLCALL_LISTEN, or else of the configuration file]
        #[arg(value_name = "URL")]
        url: Option<String>,
    },
    /// Print the script that completes commands and flags in a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Print the manual page; see it with: rollcall man | man -l -
    Man,
}

/// Which settings of the configuration file are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileNeed {
    /// All, and they have to be valid.
    All,
    /// Where the server listens, as far as the file says it: a running server has read its file long ago.
    Listening,
    /// None.
    Nothing,
}

impl Command {
    /// Which settings of the configuration file it needs.
    pub(super) fn needs_of_file(&self) -> FileNeed {
        match self {
            Self::Check => FileNeed::All,
            Self::Health { url: None } => FileNeed::Listening,
            _ => FileNeed::Nothing,
        }
    }
}

/// Whether a command line (program name first) has the command `check`, even if other words of it are wrong.
pub(super) fn is_check(words: &[OsString]) -> bool {
    let command = Args::command();
    let takes_next = |word: &OsStr| {
        let flag = word.to_str().and_then(|word| word.strip_prefix("--"));
        command.get_arguments().any(|arg| arg.get_long() == flag && flag.is_some() && arg.get_action().takes_values())
    };
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        if !word.as_encoded_bytes().starts_with(b"-") {
            return word == CHECK;
        }
        if takes_next(word) {
            words.next();
        }
    }
    false
}

/// The configuration file.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArgs {
    /// Configuration file (TOML): each key is the name of a flag without its hyphens. Flags and variables win over it
    #[arg(long, env = "ROLLCALL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArgs {
    /// Its path.
    pub(super) fn path(&self) -> Option<&Path> {
        self.config.as_deref()
    }
}

/// The help of a setting on one line, with the values that it can have.
pub(super) fn help_with_values(arg: &Arg) -> String {
    let text = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let takes_value = arg.get_action().takes_values();
    let values = arg.get_possible_values();
    let values: Vec<_> = values.iter().filter(|_| takes_value).map(PossibleValue::get_name).collect();
    if values.is_empty() { text } else { format!("{text} [possible values: {}]", values.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_check_is_found_beside_wrong_words() {
        let check = |line: &str, want: bool| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(is_check(&words), want, "{line}");
        };
        check("rollcall check", true);
        check("rollcall check --ttl", true);
        check("rollcall --open --ttl soon check", true);
        check("rollcall --ttl=soon --nonsense check", true);
        check("rollcall", false);
        check("rollcall --node-id check", false);
        check("rollcall --node-id=check health", false);
        check("rollcall health check", false);
        check("check", false);
    }
}
