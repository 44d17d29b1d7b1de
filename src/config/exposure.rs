//! Secrets that others on this machine can see: on the command line, or in files that every user can read.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::ConfigError;
use super::secrets::{contains_secret, is_secret, read};
use super::sources::{Sources, value_source};

/// The permission of all users of the machine to read a file.
const READ_BY_OTHERS: u32 = 0o004;
/// Their permission to open the files in a folder.
const ENTERED_BY_OTHERS: u32 = 0o001;
/// Where containers have the files of their secrets.
const CONTAINER_SECRETS: &str = "/run/secrets";
/// Files with private keys.
const PRIVATE_KEYS: [&str; 2] = ["tls_key", "redis_key"];

/// A file with a secret, and the flag that names it.
struct SecretFile {
    flag: String,
    /// As given.
    path: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
    is_private_key: bool,
}

/// Warnings about secrets on the command line, and about files with secrets that every user of the machine can read.
pub(super) fn warnings(command: &Command, matches: &ArgMatches, sources: &Sources) -> Vec<String> {
    let mut warnings = typed(command, matches, sources);
    let mut files = secret_files(command, matches);
    files.retain(|file| is_public(&file.real) && has_secret(&file.real));
    files.sort_by(|a, b| a.real.cmp(&b.real));
    files.dedup_by(|a, b| a.real == b.real);
    warnings.extend(files.iter().map(|SecretFile { flag, path, .. }| {
        let path = path.display();
        sources.name_in(&format!("{flag} has a secret, and every user of this machine can read {path}: chmod o-r it"))
    }));
    warnings
}

/// Checks that no file has two secrets for different purposes: the holder of one would have the rights of the other.
pub(super) fn check_files(command: &Command, matches: &ArgMatches) -> Result<(), ConfigError> {
    let mut files = secret_files(command, matches);
    files.retain(|file| !file.is_private_key);
    for (at, file) in files.iter().enumerate() {
        if let Some(SecretFile { flag: other, .. }) = files[..at].iter().find(|other| other.real == file.real) {
            let (flag, path) = (&file.flag, file.path.display());
            return Err(ConfigError::Invalid(format!(
                "{other} and {flag} name the same file, {path}: give each secret a file of its own"
            )));
        }
    }
    Ok(())
}

/// Whether every user of the machine can read a file. Files of containers do not count.
pub(super) fn is_public(path: &Path) -> bool {
    let allows = |path: &Path, permission: u32| {
        path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & permission != 0)
    };
    let Ok(real) = fs::canonicalize(path) else { return false };
    let is_readable = allows(&real, READ_BY_OTHERS) && !is_mounted_for_a_container(&real);
    is_readable && real.ancestors().skip(1).all(|folder| allows(folder, ENTERED_BY_OTHERS))
}

/// Whether Docker or Kubernetes mounts a file for one container. Their default mode lets every user of the container
/// read it, and usually there is only one. Kubernetes puts the files into a folder like `..2026_11_30_09_00_00.17`, or
/// mounts each of them (`subPath`), as Docker does.
fn is_mounted_for_a_container(real: &Path) -> bool {
    let has_version = real.iter().any(|part| part.as_encoded_bytes().starts_with(b"..20"));
    has_version || real.starts_with(CONTAINER_SECRETS) || is_mount(real)
}

/// Whether a file was mounted alone: the file system of its folder is another one.
fn is_mount(real: &Path) -> bool {
    let device = |path: &Path| path.metadata().ok().map(|metadata| metadata.dev());
    real.parent().is_some_and(|folder| device(folder) != device(real))
}

/// The files with secrets that exist. A FIFO is not one of them: it can be read only once.
fn secret_files(command: &Command, matches: &ArgMatches) -> Vec<SecretFile> {
    let has_twin = |id: &str| {
        let twin = id.strip_suffix("_file");
        twin.is_some_and(|twin| command.get_arguments().any(|arg| *arg.get_id() == *twin && is_secret(arg)))
    };
    let file = |arg: &Arg| {
        let id = arg.get_id().as_str();
        let is_private_key = PRIVATE_KEYS.contains(&id);
        if !is_private_key && !has_twin(id) {
            return None;
        }
        let path = matches.try_get_one::<PathBuf>(id).ok()??.clone();
        let real = fs::canonicalize(&path).ok().filter(|real| real.is_file())?;
        Some(SecretFile { flag: format!("--{}", arg.get_long()?), path, real, is_private_key })
    };
    command.get_arguments().filter_map(file).collect()
}

/// Whether the text of a file contains a secret. What cannot be read is an error elsewhere.
fn has_secret(path: &Path) -> bool {
    read(path).is_ok_and(|text| text.split_whitespace().any(contains_secret))
}

/// Warnings about secrets on the command line.
fn typed(command: &Command, matches: &ArgMatches, sources: &Sources) -> Vec<String> {
    let is_exposed = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        let is_typed = value_source(matches, id) == Some(ValueSource::CommandLine)
            && sources.source_of(&format!("--{}", arg.get_long().unwrap_or_default())).is_none()
            && is_secret(arg);
        let mut values = is_typed.then(|| matches.get_raw(id)).flatten().into_iter().flatten();
        values.any(|value| contains_secret(&value.to_string_lossy()))
    };
    let warning = |arg: &Arg| {
        let flag = arg.get_long().unwrap_or_default();
        format!("--{flag} is on the command line, where other processes can see it; use --{flag}-file FILE")
    };
    command.get_arguments().filter(is_exposed).map(warning).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::Args;
    use super::*;

    /// A folder with files that is removed at the end. All users can enter it, whatever TMPDIR and the umask are.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = Path::new("/tmp").join(format!("rollcall-exposure-{name}-{}", std::process::id()));
            create_open(&path);
            Self(path.canonicalize().unwrap())
        }

        fn file(&self, name: &str, content: &str, mode: u32) -> String {
            let path = self.0.join(name);
            create_open(path.parent().unwrap());
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }

    fn create_open(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn matches(flags: &[&str]) -> (Command, ArgMatches) {
        let mut command = Args::command();
        let matches = command.try_get_matches_from_mut([&["rollcall"], flags].concat()).unwrap();
        (command, matches)
    }

    fn warned(flags: &[&str]) -> Vec<String> {
        let (command, matches) = matches(flags);
        warnings(&command, &matches, &Sources::default())
    }

    #[test]
    fn each_file_with_a_secret_that_all_users_can_read_is_a_warning_once() {
        let folder = Folder::new("modes");
        let command = Args::command();
        let flags = command.get_arguments().filter_map(|arg| {
            let (id, flag) = (arg.get_id().as_str(), arg.get_long()?);
            (PRIVATE_KEYS.contains(&id) || flag.ends_with("-file")).then(|| format!("--{flag}"))
        });
        let flags: Vec<_> = flags.collect();
        assert!(flags.len() >= 10, "{flags:?}");
        for flag in &flags {
            let open = warned(&[flag, &folder.file("key", "open-sesame", 0o644)]);
            assert!(open.len() == 1 && open[0].starts_with(&format!("{flag} has a secret, and every")), "{open:?}");
            assert!(open[0].contains("/key: chmod o-r it") && !open[0].contains("sesame"), "{open:?}");
            assert!(warned(&[flag, &folder.file("key", "open-sesame", 0o640)]).is_empty(), "{flag}");
        }
        let key = folder.file("key", "open-sesame", 0o644);
        assert_eq!(warned(&["--tls-key", &key, "--redis-key", &key]).len(), 1);
        assert!(warned(&["--tls-cert", &key, "--jwt-public-key", &key]).is_empty());
        assert!(warned(&["--tls-key", "/not-a-file"]).is_empty());
    }

    #[test]
    fn a_file_of_urls_has_a_secret_if_one_of_them_has() {
        let folder = Folder::new("urls");
        let check = |text: &str, want: bool| {
            let file = folder.file("urls", text, 0o644);
            assert_eq!(!warned(&["--webhook-url-file", &file]).is_empty(), want, "{text}");
        };
        check("https://a.example/hooks/presence\nb=https://b.example", false);
        check("https://a.example/hook\nb=https://user:sesame@b.example", true);
        check("https://hooks.example/services/T0/B0/9fQ2xYzR7sesame1Kd", true);
        check("https://hooks.example/in?token=9fQ2xYzR7sesame1Kd", true);
    }

    #[test]
    fn files_that_others_cannot_reach_or_that_a_container_has_for_itself_are_no_warning() {
        let folder = Folder::new("reach");
        let hidden = folder.file("private/key", "open-sesame", 0o644);
        assert_eq!(warned(&["--api-key-file", &hidden]).len(), 1);
        fs::set_permissions(folder.0.join("private"), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(warned(&["--api-key-file", &hidden]).is_empty());
        folder.file("..2026_11_30_09_00_00.17/key", "open-sesame", 0o644);
        let link = folder.0.join("key");
        std::os::unix::fs::symlink("..2026_11_30_09_00_00.17/key", &link).unwrap();
        assert!(warned(&["--api-key-file", link.to_str().unwrap()]).is_empty());
        assert!(is_mounted_for_a_container(Path::new("/run/secrets/api-key")));
        let own = folder.file("run/secrets/key", "open-sesame", 0o644);
        assert!(!is_mounted_for_a_container(Path::new(&own)));
        // A mount that each machine has: only administrators can mount a file.
        assert!(is_mounted_for_a_container(Path::new("/proc")));
    }

    #[test]
    fn one_file_is_not_two_secrets() {
        let folder = Folder::new("same");
        let (key, other) = (folder.file("key", "open-sesame", 0o600), folder.file("other", "open-sesame", 0o600));
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(&key, &link).unwrap();
        let check = |flags: &[&str]| {
            let (command, matches) = matches(flags);
            check_files(&command, &matches).map_err(|error| error.to_string())
        };
        let error = check(&["--api-key-file", &key, "--read-key-file", link.to_str().unwrap()]).unwrap_err();
        assert!(error.starts_with("--api-key-file and --read-key-file name the same file, "), "{error}");
        assert_eq!(check(&["--api-key-file", &key, "--read-key-file", &other]), Ok(()));
        assert_eq!(check(&["--tls-key", &key, "--redis-key", &key]), Ok(()));
    }
}
