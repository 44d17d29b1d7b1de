//! Reads the settings: flags, variables and the configuration file become [`Args`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory as _, FromArgMatches as _};

use super::command::{CHECK, FileNeed};
use super::exposure::check_files;
use super::file::{File, FileFlags};
use super::listen::TypedListen;
use super::sources::{Sources, value_source};
use super::suggestions::suggest;
use super::values::is_true;
use super::variables::{counts_as_unset, warnings};
use super::{Args, Command, ConfigError, Listening, Opening, Settings, exposure};

impl Args {
    /// Reads a command line, program name first, the environment and the configuration file. Most empty variables count
    /// as unset: compose files pass on empty ones.
    pub fn read<I, T>(args: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let typed: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let mut command = command();
        let mut warnings = warnings(&Self::command(), std::env::vars_os());
        let (words, chosen, mut matches) = join(&mut command, &typed)?;
        let mut args = from_matches(&mut command, &matches)?;
        let need = chosen.as_ref().map_or(FileNeed::All, Command::needs_of_file);
        let (mut flags, mut read_file) = (FileFlags::default(), None);
        if let Some(path) = args.file.path().filter(|_| need != FileNeed::Nothing) {
            let sources = Sources::of(&command, &matches, &[]);
            let file = match (File::open(path), need) {
                (Ok(file), FileNeed::Listening) => file.listening(),
                (Err(_), FileNeed::Listening) => File::default(),
                (file, _) => file.map_err(|error| error.naming(&sources))?,
            };
            flags = file.flags(&command, &matches)?;
            warnings.extend(file.warning(&command));
            read_file = Some(file.remember());
            let words: Vec<_> = words.iter().take(1).chain(&flags.words).chain(words.iter().skip(1)).cloned().collect();
            matches = parse(&mut command, &words, &Sources::in_file(&flags.places))?;
            args = from_matches(&mut command, &matches)?;
        }
        let sources = Sources::of(&command, &matches, &flags.places);
        if need == FileNeed::All {
            check_files(&command, &matches).map_err(|error| error.naming(&sources))?;
            warnings.extend(exposure::warnings(&command, &matches, &sources));
        }
        let settings = Settings::of(&command, &matches, &sources);
        let (typed_listen, replaced) = (TypedListen::of(&typed), flags.replaced);
        Ok(Self { command: chosen, sources, typed_listen, read_file, replaced, warnings, settings, ..args })
    }
}

/// The words of a command line, what it does instead of serving, and both parsed. `check` takes settings before and
/// after its name, which become those of one command line without it.
fn join(
    command: &mut clap::Command,
    typed: &[OsString],
) -> Result<(Vec<OsString>, Option<Command>, ArgMatches), ConfigError> {
    let matches = parse(command, typed, &Sources::default())?;
    let chosen = from_matches(command, &matches)?.command;
    let Some((CHECK, after)) = matches.subcommand() else { return Ok((typed.to_vec(), chosen, matches)) };
    let program = typed.iter().take(1).cloned();
    let words: Vec<_> = program.chain(typed_flags(command, &matches)).chain(typed_flags(command, after)).collect();
    let matches = parse(command, &words, &Sources::default())?;
    Ok((words, chosen, matches))
}

/// The flags of a parsed command line, as words.
fn typed_flags(command: &clap::Command, matches: &ArgMatches) -> Vec<OsString> {
    let words = |arg: &Arg| {
        let (id, flag) = (arg.get_id().as_str(), format!("--{}", arg.get_long().unwrap_or_default()));
        let is_typed = value_source(matches, id) == Some(ValueSource::CommandLine);
        match is_typed.then(|| matches.get_raw(id)).flatten() {
            Some(_) if !arg.get_action().takes_values() => vec![flag.into()],
            Some(values) => values.map(|value| [flag.as_ref(), value].join(OsStr::new("="))).collect(),
            None => Vec::new(),
        }
    };
    command.get_arguments().flat_map(words).collect()
}

/// The command line, without the variables that count as unset.
pub(super) fn command() -> clap::Command {
    let is_unset = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| counts_as_unset(arg, &value))
    };
    let command = Args::command().mut_args(|arg| if is_unset(&arg) { arg.env(Resettable::Reset) } else { arg });
    let settings: Vec<_> = command.get_arguments().cloned().collect();
    command.mut_subcommands(|other| if other.get_name() == CHECK { other.args(settings.clone()) } else { other })
}

/// Parses a command line and the variables. `sources` are those of the words that are not typed.
fn parse(command: &mut clap::Command, words: &[OsString], sources: &Sources) -> Result<ArgMatches, ConfigError> {
    let matches = command.try_get_matches_from_mut(words);
    matches.map_err(|error| ConfigError::Usage(suggest(sources.name_in_error(error, command, words), command)))
}

fn from_matches(command: &mut clap::Command, matches: &ArgMatches) -> Result<Args, ConfigError> {
    Args::from_arg_matches(matches).map_err(|error| ConfigError::Usage(error.format(command)))
}

/// Where a server listens that was started with these words, program name first, these variables, and this working
/// directory. `None` if they do not start a server.
#[must_use]
pub fn listen_of(
    words: &[OsString],
    variable: impl Fn(&OsStr) -> Option<OsString>,
    directory: &Path,
) -> Option<Listening> {
    let command = Args::command().mut_args(|arg| arg.env(Resettable::Reset));
    let matches = command.try_get_matches_from(words).ok().filter(|matches| matches.subcommand_name().is_none())?;
    let TypedListen { public, internal } = TypedListen::of(words);
    let variable = |name: &str| variable(OsStr::new(name)).filter(|value| !value.is_empty());
    let path = matches.get_one::<PathBuf>("config").cloned().or_else(|| variable("ROLLCALL_CONFIG").map(PathBuf::from));
    let file = path.and_then(|path| File::open(&directory.join(path)).ok()).unwrap_or_default();
    let value = |id: &str, name: &str, is_typed: bool| {
        if let Some(value) = variable(name).filter(|_| !is_typed) {
            return value.into_string().ok();
        }
        let in_file = file.text(&id.replace('_', "-")).filter(|_| !is_typed).map(str::to_owned);
        in_file.or_else(|| matches.get_one::<String>(id).cloned())
    };
    let has_proxy_header = match variable("ROLLCALL_PROXY_PROTOCOL") {
        Some(value) => is_true(&value),
        None => file.is_on("proxy-protocol"),
    };
    let opening = Opening {
        proxy_header: matches.get_flag("proxy_protocol") || has_proxy_header,
        tls: matches.contains_id("tls_cert")
            || variable("ROLLCALL_TLS_CERT").is_some()
            || file.text("tls-cert").is_some(),
    };
    let internal = value("internal_listen", "ROLLCALL_INTERNAL_LISTEN", internal);
    value("listen", "ROLLCALL_LISTEN", public).map(|listen| Listening::of(listen, internal, opening))
}
