//! Configuration files: which settings take effect, which are errors, and that no file sets what flags would refuse.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::CommandFactory;
use proptest::prelude::*;

use super::super::{Args, Config, Settings, Sources};
use super::*;

/// A file that is removed at the end. All users can enter its folder, whatever TMPDIR is.
struct Temporary(PathBuf);

impl Temporary {
    fn new(content: impl AsRef<[u8]>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new("/tmp").join(format!("rollcall-file-{}-{number}.toml", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The configuration of a file with these flags. In errors, `F` is the path of the file.
fn config(content: impl AsRef<[u8]>, flags: &[&str]) -> Result<Config, String> {
    let file = Temporary::new(content);
    let path = file.0.to_str().unwrap();
    let words = [&["rollcall", "--config", path], flags].concat();
    Config::from_args(words).map_err(|error| error.to_string().replace(path, "F"))
}

fn fails(content: &str, flags: &[&str], want: &str) {
    let error = config(content, flags).expect_err(content);
    assert!(error.contains(want), "{content:?}: {error}");
    assert!(!error.contains("sesame"), "{content:?}: {error}");
}

#[test]
fn settings_of_the_file_hold_unless_a_flag_gives_them() {
    let check = |content: &str, flags: &[&str], want: &[&str]| {
        let config = config(content, flags).expect(content);
        let settings = format!(" {} ", config.settings);
        for want in want {
            assert!(settings.contains(&format!(" {want}")), "{want}: {settings}");
        }
    };
    check("ttl = '30s'", &[], &["ttl=30s (/", "tick=100ms "]);
    check("ttl = '30s'", &["--ttl", "20s"], &["ttl=20s "]);
    check("\n\nttl = '30s'\r\n", &["--grace=5s"], &["grace=5s "]);
    check("history = 7", &[], &["history=7 (/"]);
    check("history = 0x10\nworkers = 1_0", &[], &["history=16 (/", "workers=10 (/"]);
    check("work-per-address = '2M'\nmax-state = 2048", &[], &["work-per-address=2M (/", "max-state=2048 (/"]);
    check("open = true", &[], &["open=true (/"]);
    check("open = false", &[], &["ttl=10s "]);
    check(
        "origin = ['https://a.example', 'https://b.example']",
        &[],
        &["origin=https://a.example,https://b.example (/"],
    );
    check("origin = 'https://a.example'", &[], &["origin=https://a.example (/"]);
    check("origin = ['https://a.example']", &["--origin", "https://b.example"], &["origin=https://b.example "]);
    check("\u{feff}ttl = '30s'", &[], &["ttl=30s (/"]);
    check("api-key = 'open-sesame-please'", &[], &["api-key=hidden (/"]);
    check("", &[], &["ttl=10s "]);
}

#[test]
fn the_place_of_a_setting_is_its_line() {
    let settings = config("# first\nttl = '30s'\norigin = [\n 'https://a.example',\n]\nlog = 'warn'\n", &[])
        .unwrap()
        .settings
        .to_string();
    for place in ["ttl=30s (", "origin=https://a.example (", "log=warn ("].iter().zip([2, 3, 6]) {
        let (_, rest) = settings.split_once(place.0).unwrap_or_else(|| panic!("{settings}"));
        assert!(rest.split_once(')').unwrap().0.ends_with(&format!(".toml:{}", place.1)), "{rest}");
    }
}

#[test]
fn a_flag_for_a_secret_replaces_its_file_and_the_reverse() {
    let config = config("api-key-file = '/not-a-file'", &["--api-key", "open-sesame-please"]).unwrap();
    let replaced = &config.replaced[0];
    assert_eq!((&*replaced.key, &*replaced.by), ("api-key-file", "--api-key"));
    assert!(replaced.place.ends_with(":1"), "{replaced:?}");
    fails("api-key = 'open-sesame-please'", &["--api-key-file", "/not-a-file"], "--api-key-file names, /not-a-file");
}

#[test]
fn mistakes_name_the_line_and_the_key() {
    fails("ttl = '30s'\nttll = '30s'", &[], "F:2: unknown setting \"ttll\"; did you mean `ttl`?");
    fails("max_connections = 5", &[], "did you mean `max-connections`?");
    fails("port = 9000", &[], "did you mean `listen`?");
    fails("config = 'x'", &[], "F:1: unknown setting \"config\"");
    fails("help = true", &[], "unknown setting \"help\"");
    fails("zzzzzz = 1", &[], "rollcall --help lists all");
    let table = "is a table, and this file has no tables: write each setting on its own line";
    fails("workers = 1\n[presence]\nttl = '30s'", &[], &format!("F:2: presence {table}"));
    fails("[redis]\nprefix = 'sesame'", &[], &format!("F:1: redis {table}"));
    fails("[[app]]\nkey = 'sesame'", &[], &format!("F:1: app {table}"));
    fails("ttl.x = 1", &[], &format!("F:1: ttl {table}"));
    fails("origin = [{ sesame = 1 }]", &[], &format!("F:1: origin {table}"));
    fails("ttl = 30", &[], "F:1: ttl is a number; write a string with a unit");
    fails("ttl = 1979-05-27", &[], "ttl is a date");
    fails("history = 1.5", &[], "history is a number with a fraction; write a number");
    fails("history = 99999999999999999999999999999999999999999", &[], "a number that is too large");
    fails("history = true", &[], "history is true or false; write a number");
    fails("open = 'yes'", &[], "open is a string; write true or false, without quotes");
    fails("open = 1", &[], "open is a number; write true or false");
    fails("api-key = 12345678901234567890", &[], "api-key is a number; write a string in quotes");
    fails("ttl = ['30s']", &[], "ttl is a list, and it can have only one value");
    fails("origin = []", &[], "origin is an empty list");
    fails("origin = [['https://a.example']]", &[], "origin is a list; write a string");
    fails("origin = [1]", &[], "origin is a number; write a string in quotes");
    fails("a = 1\n\nttl = 5", &[], "F:3: ttl is a number");
    fails("ttl = '30s'\nttl = '20s'", &[], "F:2: this is not valid TOML: duplicate key");
    fails("ttl = '30s'\napi-key = sesame", &[], "F:2: this is not valid TOML");
    fails("api-key = 'sesame", &[], "F:1: this is not valid TOML");
    fails("= 'sesame'", &[], "F:1: this is not valid TOML");
}

#[test]
fn values_pass_the_checks_of_flags_and_errors_name_the_file() {
    fails("ttl = 'soon'", &[], "invalid value 'soon' for 'ttl (F:1)': write a duration with its unit");
    fails("\nworkers = 0", &[], "for 'workers (F:2)': write a whole number from 1");
    fails("workers = -1", &[], "'workers (F:1)'");
    fails("liveness = 'none'", &[], "invalid value 'none' for 'liveness (F:1)'\n  [possible values: any, strict]");
    fails("ttl = '199ms'", &["--tick", "100ms"], "ttl (F:1) is 199ms and --tick is 100ms: ttl must be at least");
    fails("ttl = '2h'", &[], "ttl (F:1) is 2h; it must be at most 1h");
    fails("listen = 8000", &[], "listen is a number; write a string in quotes");
    fails("listen = 'localhost'", &[], "listen (F:1) \"localhost\" is not an address: the port is missing");
    fails("ttl = '30s'", &["--grace", "x"], "invalid value 'x' for '--grace <DURATION>'");
    let both = "api-key = 'open-sesame-please'\napi-key-file = '/etc/key'";
    fails(both, &[], "api-key (F:1) and api-key-file (F:2) are both given; give one of them");
    fails("api-key = 'sesame'", &[], "api-key (F:1) must have at least 16 bytes");
    fails("tls-cert = 'a'", &[], "tls-cert (F:1) and --tls-key belong together");
}

#[test]
fn what_is_not_a_file_of_settings_is_an_error() {
    let fails = |path: &Path, want: &str| {
        let error = File::open(path).unwrap_err().to_string();
        let whole = format!("cannot read the file that --config names, {}: {want}", path.display());
        assert!(error.starts_with(&whole), "{error}");
    };
    fails(Path::new("/not-a-file"), "No such file or directory");
    fails(Path::new("/"), "it is a directory");
    fails(Path::new("/dev/zero"), "it is not a regular file");
    fails(&Temporary::new(b"ttl = '\xff'").0, "it is not UTF-8 text");
    fails(&Temporary::new("#".repeat(1024 * 1024 + 1)).0, "it is larger than 1024 KiB");
    assert!(File::open(&Temporary::new("#".repeat(1024 * 1024)).0).is_ok());
}

#[test]
fn secrets_that_all_users_can_read_are_a_warning() {
    let warning = |content: &str, mode: u32| {
        let file = Temporary::new(content);
        fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
        File::open(&file.0).unwrap().warning(&Args::command())
    };
    let secret = "ttl = '30s'\napi-key = ['open-sesame-please']";
    let warned = warning(secret, 0o644).unwrap();
    assert!(warned.contains("(api-key, line 2)") && warned.contains("chmod o-r"), "{warned}");
    assert!(!warned.contains("sesame"), "{warned}");
    assert_eq!(warning(secret, 0o640), None);
    assert_eq!(warning("redis = 'redis://127.0.0.1'", 0o644), None);
    assert!(warning("redis = 'redis://:sesame@127.0.0.1'", 0o644).is_some());
    assert_eq!(warning("api-key-file = '/etc/key'", 0o644), None);
}

#[test]
fn flags_that_take_numbers_are_known_by_their_type() {
    for arg in Args::command().get_arguments() {
        let Some(name) = arg.get_value_names().and_then(|names| names.first()) else { continue };
        let is_number = matches!(name.as_str(), "N" | "PORT" | "BYTES" | "ID");
        assert_eq!(Kind::of(arg) == Kind::Number, is_number, "{arg}");
        let is_time = matches!(name.as_str(), "DURATION" | "TIME");
        assert_eq!(Kind::of(arg) == Kind::Duration, is_time, "{arg}");
        assert!(!is_list(arg) || Kind::of(arg) == Kind::Text, "{arg}");
    }
}

/// Texts that some setting takes.
static TEXTS: [&str; 21] = [
    "10s",
    "0s",
    "1h",
    "250ms",
    "4M",
    "0",
    "100",
    "any",
    "text",
    "json",
    "127.0.0.1:0",
    "https://a.example",
    "",
    "presence",
    "redis://127.0.0.1:1",
    "10.0.0.0/8",
    "1:key:secret",
    "open-sesame-please",
    "count:lobby",
    "-1",
    "é",
];

/// A value of a file, and the same value as the words of a flag.
fn value() -> impl Strategy<Value = (String, Vec<String>)> {
    let text = prop::sample::select(&TEXTS[..]);
    let quoted = text.clone().prop_map(|text| (format!("'{text}'"), vec![text.to_owned()]));
    let number = (-2i64..1000).prop_map(|number| (number.to_string(), vec![number.to_string()]));
    let list = prop::collection::vec(text, 0..3).prop_map(|texts| {
        let items: Vec<_> = texts.iter().map(|text| format!("'{text}'")).collect();
        (format!("[{}]", items.join(", ")), texts.iter().map(ToString::to_string).collect())
    });
    let switch = any::<bool>().prop_map(|is_on| (is_on.to_string(), Vec::new()));
    prop_oneof![quoted, number, list, switch]
}

fn key() -> impl Strategy<Value = String> {
    let keys: Vec<_> = Args::command().get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    prop_oneof![9 => prop::sample::select(keys), 1 => "[a-z-]{1,8}"]
}

/// A configuration without what depends on where it comes from.
fn settled(config: Result<Config, String>) -> Result<String, String> {
    let config = config?;
    let (settings, sources) = (Settings::default(), Sources::default());
    Ok(format!("{:?}", Config { settings, sources, warnings: Vec::new(), file: None, ..config }))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_gives_no_configuration_that_flags_would_refuse(
        settings in prop::collection::btree_map(key(), value(), 0..4),
    ) {
        let content: String = settings.iter().map(|(key, (value, _))| format!("{key} = {value}\n")).collect();
        let mut words = vec!["rollcall".to_owned()];
        for (key, (value, texts)) in &settings {
            words.extend(texts.iter().map(|text| format!("--{key}={text}")));
            words.extend((value == "true").then(|| format!("--{key}")));
        }
        if let Ok(from_file) = settled(config(&content, &[])) {
            let from_flags = settled(Config::from_args(&words).map_err(|error| error.to_string()));
            prop_assert_eq!(Ok(from_file), from_flags, "{}", content);
        }
    }

    #[test]
    fn no_file_makes_the_server_panic(text in "(\\PC|[\n='\"\\[\\]{}.#-]|ttl|api-key|open|true|10s){0,40}") {
        let _ = config(&text, &[]);
    }

    #[test]
    fn no_bytes_make_the_server_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = config(&bytes, &[]);
    }
}
