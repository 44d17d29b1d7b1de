//! Command lines whose settings fit each other, and command lines whose settings do not.

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
    check(&["--ttl", "soon"], Err("write it like"));
    check(&["--workers", "0"], Err("--workers"));
    check(&["--workers", "257"], Err("--workers is 257; it must be at most 256"));
    check(&["--liveness", "none"], Err("[possible values: any, strict]"));
    check(&["--ping-interval", "199ms"], Err("at least 2 ticks"));
    check(&["--ping-interval", "2h"], Err("at most 1h"));
    check(&["--status-port", "8000"], Err("already serves everything"));
    check(&["--status-port", "3001"], Ok(()));
    check(&["--listen", "localhost:0", "--status-port", "0"], Ok(()));
    check(&["--listen", "8000"], Err("127.0.0.1:8000"));
    check(&["--listen", "localhost:0"], Ok(()));
    check(&["--max-connections", "999999999"], Err("limit of open files"));
    check(&["--log", "rollcall=loud"], Err("not a log filter"));
    check(&["--log-format", "xml"], Err("possible values"));
    check(&["--redis", "redis://127.0.0.1:1"], Ok(()));
    check(&["--redis", "redis://user:secret@127.0.0.1:1/0", "--node-id", "n1"], Ok(()));
    check(&["--redis", "127.0.0.1:6379"], Err("write it like redis://"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-partitions", "0"], Err("--redis-partitions"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-partitions", "257"], Err("at most 256"));
    check(&["--redis", "redis://127.0.0.1:1", "--redis-prefix", "a{b"], Err("--redis-prefix"));
    check(&["--redis", "redis://127.0.0.1:1", "--node-id", "a b"], Err("--node-id"));
    check(&["--redis", "redis://127.0.0.1:1", "--ttl", "999ms"], Err("at least 1s"));
    check(&["--redis-cluster"], Err("--redis-cluster is given without --redis URL"));
    let key = "k".repeat(32);
    check(&["--dev-login", "--session-key", &key], Ok(()));
    check(&["--session-key", &key], Err("which is not given"));
    check(&["--dev-login", "--session-key", &key[1..]], Err("at least 32 bytes"));
    check(&["--admin-token", "0123456789abcdef"], Ok(()));
    check(&["--admin-token", ""], Err("at least 16 bytes"));
}

#[test]
fn secrets_are_not_shown() {
    for url in ["http://user:secret@host", "redis://user:secret@host:port", "redis://user:secret@host/db"] {
        let error = Config::from_args(["rollcall", "--redis", url]).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    let config = Config::from_args(["rollcall", "--admin-token", "open-sesame-please"]).unwrap();
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
