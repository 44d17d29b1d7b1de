//! Command lines whose settings fit each other, and command lines whose settings do not.

use clap::builder::Resettable;
use clap::{ArgAction, CommandFactory as _};

use super::file::Kind;
use super::*;
use crate::store::event_log::Target;

fn check(args: &[&str], want: Result<(), &str>) {
    let result = Config::from_args([&["rollcall"], args].concat());
    match (result, want) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{args:?}: {error}"),
        (result, _) => panic!("{args:?}: {result:?}"),
    }
}

#[test]
fn relations_are_checked_and_stated() {
    check(&[], Ok(()));
    check(&["--ttl", "200ms"], Ok(()));
    check(&["--ttl", "199ms"], Err("ttl must be at least 2 ticks"));
    check(&["--tick", "9ms"], Err("must be at least 10ms"));
    check(&["--tick", "500000000000years"], Err("ttl must be at least 2 ticks"));
    check(&["--ttl", "2h"], Err("at most 1h"));
    check(&["--grace", "11s"], Err("grace must be at most ttl"));
    check(&["--ttl", "20s", "--grace", "11s"], Ok(()));
    check(&["--ttl", "soon"], Err("write a duration with its unit"));
    check(&["--workers", "0"], Err("--workers"));
    check(&["--workers", "257"], Err("--workers is 257; it must be at most 256"));
    check(&["--liveness", "none"], Err("[possible values: any, strict]"));
    check(&["--ping-interval", "199ms"], Err("at least 2 ticks"));
    check(&["--ping-interval", "2h"], Err("at most 1h"));
    check(&["--status-port", "8000"], Err("already serves everything"));
    check(&["--status-port", "3001"], Ok(()));
    check(&["--listen", "localhost:0", "--status-port", "0"], Ok(()));
    check(&["--internal-listen", "127.0.0.1:8000"], Err("the ports must differ"));
    check(&["--internal-listen", "127.0.0.1:9100", "--status-port", "9100"], Err("the ports must differ"));
    check(&["--internal-listen", "9100"], Err("--internal-listen \"9100\" is not an address"));
    check(&["--internal-listen", "0.0.0.0:9100"], Err("--internal-listen is 0.0.0.0:9100"));
    check(&["--internal-listen", "0.0.0.0:9100", "--open"], Ok(()));
    check(&["--internal-listen", "127.0.0.1:0"], Ok(()));
    check(&["--listen", "8000"], Err("127.0.0.1:8000"));
    check(&["--listen", "localhost:0"], Ok(()));
    check(&["--max-connections", "999999999"], Err("limit of open files"));
    check(&["--log", "rollcall=loud"], Err("not a log filter"));
    for log in ["warn", "WARN", "off", "info,rollcall::http=debug", "rollcall=trace", "warn,rollcall[tick]=info"] {
        check(&["--log", log], Ok(()));
    }
    for log in ["wran", "", "info,rollcall", "rollcall::http", "info,,debug", "verbose"] {
        check(&["--log", log], Err("is not a level"));
    }
    check(&["--log-format", "xml"], Err("possible values"));
    check(&["--redis", "redis://127.0.0.1:1"], Ok(()));
    check(&["--redis", "redis://user:secret@127.0.0.1:1/0", "--node-id", "n1"], Ok(()));
    check(&["--redis", "127.0.0.1:6379"], Err("write it like redis://"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-partitions", "0"], Err("--redis-partitions"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-partitions", "257"], Err("at most 256"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-prefix", "a{b"], Err("--redis-prefix"));
    check(&["--redis", "redis://127.0.0.1:1", "--node-id", "a b"], Err("--node-id"));
    check(&["--redis", "redis://127.0.0.1:1", "--ttl", "999ms"], Err("at least 1s"));
    let huge = ["--redis", "redis://127.0.0.1:1", "--redis-ca", "/dev/zero"];
    check(&huge, Err("--redis-ca /dev/zero: it is larger than 4096 KiB"));
    check(&["--tls-cert", "/dev/zero", "--tls-key", "x"], Err("--tls-cert /dev/zero: it is larger than 4096 KiB"));
    check(&["--redis-cluster"], Err("--redis-cluster is given without --redis URL"));
    let key = "k".repeat(32);
    check(&["--dev-login", "--session-key", &key], Ok(()));
    check(&["--session-key", &key], Err("which is not given"));
    check(&["--dev-login", "--session-key", &key[1..]], Err("at least 32 bytes"));
    check(&["--api-key", "0123456789abcdef"], Ok(()));
    check(&["--api-key", ""], Err("at least 16 bytes"));
}

#[test]
fn secrets_are_not_shown() {
    for url in ["http://user:secret@host", "redis://user:secret@host:port", "redis://user:secret@host/db"] {
        let error = Config::from_args(["rollcall", "--redis", url]).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    let config = Config::from_args(["rollcall", "--api-key", "open-sesame-please"]).unwrap();
    assert!(!format!("{config:?}").contains("sesame"));
    let config = Config::from_args(["rollcall", "--redis", "redis://user:sesame@127.0.0.1:1"]).unwrap();
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn a_hyphen_as_the_event_log_is_standard_output() {
    let check = |args: &[&str], target: Option<Target>| {
        let config = Config::from_args([&["rollcall"], args].concat()).unwrap();
        assert_eq!(config.sinks.event_log, target);
    };
    check(&[], None);
    check(&["--event-log", "-"], Some(Target::Stdout));
    check(&["--event-log", "./-"], Some(Target::File("./-".into())));
}

#[test]
fn leases_are_rounded_up_to_ticks() {
    let config = Config::from_args(["rollcall", "--ttl", "1s", "--tick", "300ms"]).unwrap();
    assert_eq!(config.ticks(config.presence.ttl), 4);
}

/// Flags, variables and the file have the same parsers: no message is that of a library.
#[test]
fn values_of_a_wrong_kind_are_answered_by_the_kind() {
    for arg in Args::command().get_arguments() {
        let Some(flag) = arg.get_long() else { continue };
        let wants: &[&str] = match Kind::of(arg) {
            _ if ["config", "help", "version"].contains(&flag) => continue,
            Kind::Switch => &["write true or false"],
            Kind::Number => &["write a whole number", "write a number of bytes", "write the number of a port"],
            Kind::Duration => &["write a duration with its unit, such as 500ms"],
            Kind::Text => continue,
        };
        let settings = Args::command().mut_args(|arg| arg.env(Resettable::Reset));
        let command = settings.mut_arg(arg.get_id(), |arg| arg.action(ArgAction::Set).num_args(1));
        for wrong in ["fifty", "-5", "1.5"] {
            let parsed = command.clone().try_get_matches_from(["rollcall".to_owned(), format!("--{flag}={wrong}")]);
            let error = parsed.expect_err(wrong).to_string();
            assert!(wants.iter().any(|want| error.contains(want)), "{flag}: {error}");
        }
    }
}
