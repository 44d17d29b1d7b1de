//! The manual page, made from the help. The only module that knows the library that writes it.

use std::io;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::command::{COMMAND_EXAMPLES, help_with_values};
use super::reading::command;

/// The name, the section and no date.
const TITLE: &str = ".TH rollcall 8 \"\"";
/// What the exit codes mean, as docs/deploy.md says it.
const EXIT_CODES: [(&str, &str); 5] = [
    ("0", "The server stopped as requested, or the command succeeded."),
    ("1", "The server could not continue, or its port is in use; with health: the server is not ready."),
    ("64", "The settings are invalid; the message names the setting and where it comes from."),
    ("69", "Redis or a key set is unreachable at startup, or another node contradicts this one."),
    ("130", "A second signal stopped the server at once."),
];
/// What the variables have in common.
const ENVIRONMENT: &str = "Each flag has a variable, which its description names: ROLLCALL_TTL for --ttl. A flag wins \
                           over its variable, a variable over the configuration file, and the file over the default.";
/// Where the packages put files.
const FILES: [(&str, &str); 1] =
    [("/etc/rollcall/rollcall.toml", "The configuration file of the packages, which name it with --config.")];

/// The page in the format of man(7).
///
/// # Errors
/// If the library cannot write it.
pub fn manual() -> io::Result<String> {
    // The library's own list of values makes lines that readers of manual pages warn about.
    let command = command().disable_help_subcommand(true);
    let command = command.mut_args(|arg| {
        let help = help_with_values(&arg);
        let takes_value = arg.get_action().takes_values();
        arg.hide_possible_values(takes_value).help(help).long_help(None)
    });
    let page = Man::new(command);
    // The library's own title would shift the fields after an empty date.
    let mut text =
        format!("{TITLE} \"rollcall {}\" \"System administration\"\n", env!("CARGO_PKG_VERSION")).into_bytes();
    page.render_name_section(&mut text)?;
    synopsis().to_writer(&mut text)?;
    page.render_description_section(&mut text)?;
    commands().to_writer(&mut text)?;
    page.render_options_section(&mut text)?;
    more().to_writer(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn synopsis() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("rollcall"), roman(" [OPTIONS]")]);
    for command in commands_of_program() {
        roff.control("br", []);
        let options = if command.get_opts().next().is_some() { " [OPTIONS]" } else { "" };
        let usage = command.get_positionals().map(|arg| format!(" {arg}")).collect::<String>();
        roff.text([bold(format!("rollcall {}", command.get_name())), roman(options), roman(usage)]);
    }
    roff
}

fn commands() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in commands_of_program() {
        roff.control("TP", []);
        roff.text([bold(command.get_name())]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    roff
}

fn more() -> Roff {
    let mut roff = Roff::new();
    let list = |roff: &mut Roff, heading: &str, items: &[(&str, &str)]| {
        roff.control("SH", [heading]);
        for (name, text) in items {
            roff.control("TP", []);
            roff.text([bold(*name)]);
            roff.text([roman(*text)]);
        }
    };
    roff.control("SH", ["ENVIRONMENT"]);
    roff.text([roman(ENVIRONMENT)]);
    list(&mut roff, "FILES", &FILES);
    list(&mut roff, "EXIT STATUS", &EXIT_CODES);
    list(&mut roff, "EXAMPLES", &COMMAND_EXAMPLES);
    roff
}

/// The commands that users run.
fn commands_of_program() -> Vec<clap::Command> {
    command().get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect()
}
