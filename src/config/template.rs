//! A configuration file with every setting, made from the help. Each setting is commented out.

use std::fmt::Write as _;

use clap::Arg;

use super::command::help_with_values;
use super::file::{Kind, is_list, is_setting};
use super::reading::command;

const MAX_COLUMNS: usize = 100;
const BEGIN: &str = "\
# The settings of rollcall, with their defaults. `rollcall config` prints this file.
#
# Remove the # in front of a setting to change it. A value in capitals stands for your own: the setting has no default,
# or one that its text states. --x in the texts is the setting x.
#
#   rollcall check --config FILE    says whether the settings are valid, and what a server would do with them
#
# Flags and variables (ROLLCALL_TTL for ttl) win over this file. Restart the server after a change.
# Keep secrets in files of their own (…-file), or let only the server read this file.
";

/// The text of the file.
#[must_use]
pub fn template() -> String {
    let (mut text, mut heading) = (BEGIN.to_owned(), None);
    let command = command();
    // Writing to a string does not fail.
    for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            let name = heading.unwrap_or_default();
            let _ =
                write!(text, "\n\n## {name} {}\n", "#".repeat(MAX_COLUMNS.saturating_sub(name.chars().count() + 4)));
        }
        text.push('\n');
        for line in wrapped(&help_with_values(arg)) {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "#{} = {}", arg.get_long().unwrap_or_default(), value(arg));
    }
    text
}

/// The default, or a placeholder.
fn value(arg: &Arg) -> String {
    let default = arg.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    match (Kind::of(arg), default) {
        (Kind::Switch, _) => "false".to_owned(),
        (Kind::Number, Some(default)) if default.parse::<u64>().is_ok() => default,
        (Kind::Number, None) => name,
        (_, Some(default)) => format!("\"{default}\""),
        (_, None) if is_list(arg) => format!("[\"{name}\"]"),
        (_, None) => format!("\"{name}\""),
    }
}

/// The words of a text in lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= MAX_COLUMNS - 2 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Setting};
    use super::*;

    /// The configuration of a server with this file and no flags.
    fn config(content: &str) -> Config {
        let path = std::env::temp_dir().join(format!("rollcall-template-{}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let config = Config::from_args(["rollcall", "--config", path.to_str().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        config.unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_file_of_the_repository_is_up_to_date() {
        let committed = std::fs::read_to_string("deploy/rollcall.toml").expect("deploy/rollcall.toml");
        assert!(committed == template(), "write it again: cargo run -- config > deploy/rollcall.toml");
    }

    #[test]
    fn the_defaults_in_the_file_are_the_defaults() {
        let text = template();
        let command = command();
        let (mut with_default, mut without) = (String::new(), 0);
        for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
            let begin = format!("#{} = ", arg.get_long().unwrap());
            let line = text.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{begin}"));
            let has_default = !arg.get_default_values().is_empty() || Kind::of(arg) == Kind::Switch;
            match has_default {
                true => with_default.push_str(&format!("{}\n", &line[1..])),
                false => without += 1,
            }
        }
        assert!(with_default.lines().count() > 20 && without > 20, "{with_default}");
        let settled = |config: Config| {
            let changed = config.settings.changed().filter(|setting| setting.name != "config");
            assert_eq!(changed.collect::<Vec<_>>(), Vec::<&Setting>::new());
            format!("{:?}", Config { settings: Default::default(), sources: Default::default(), file: None, ..config })
        };
        assert_eq!(settled(config(&with_default)), settled(config("")));
        assert_eq!(settled(config(&text)), settled(config("")));
    }
}
