//! Scripts that complete commands and flags in shells. The only module that knows the library that writes them.

use clap_complete::{Shell, generate};

use super::command::PROGRAM;
use super::reading::command;

/// The script for a shell.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut command(), PROGRAM, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
