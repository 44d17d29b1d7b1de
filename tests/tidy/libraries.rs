//! Only one module knows each outside library, so replacing one edits few files.

use super::scanner;
use super::sources;

/// Only these may name the library (ARCHITECTURE.md, the table of the parts).
const OWNERS: [(&str, &[&str]); 25] = [
    ("jsonwebtoken", &["src/auth/jwt/keys.rs"]),
    ("redis", &["src/store/redis/connection/", "src/config/", "src/server/mod.rs"]),
    ("hmac", &["src/signature.rs"]),
    ("md5", &["src/signature.rs"]),
    ("hyper", &["src/http/", "src/outgoing/"]),
    ("hyper_rustls", &["src/outgoing/connector.rs"]),
    ("url", &["src/outgoing/target.rs"]),
    ("rustls", &["src/tls/"]),
    ("fastwebsockets", &["src/websocket/"]),
    ("simd_json", &["src/json.rs", "src/protocol/", "src/http/"]),
    ("dashmap", &["src/presence/"]),
    ("cookie", &["src/auth/dev_login.rs"]),
    ("subtle", &["src/auth/keys.rs"]),
    ("clap", &["src/config/"]),
    ("clap_complete", &["src/config/completions.rs", "src/config/command.rs"]),
    ("clap_mangen", &["src/config/manual.rs"]),
    ("toml", &["src/config/file/parse.rs"]),
    (
        "humantime",
        &[
            "src/config/",
            "src/server/mod.rs",
            "src/protocol/online_status.rs",
            "src/store/redis/node_leases.rs",
            "src/store/redis/tasks/clock.rs",
        ],
    ),
    ("rustix", &["src/os.rs", "src/websocket/stream.rs", "src/worker/event_loop/listeners.rs"]),
    ("socket2", &["src/server/"]),
    ("mio", &["src/worker/event_loop/", "src/worker/mailbox.rs", "src/websocket/stream.rs"]),
    ("tracing_subscriber", &["src/logging.rs", "src/config/"]),
    ("unicode_normalization", &["src/presence/id.rs"]),
    ("ppp", &["src/proxy_header/"]),
    ("httparse", &["src/http/first_request.rs"]),
];

#[test]
fn each_library_is_known_to_one_module() {
    for file in sources::rust(&["src"]) {
        let code = scanner::code(&file.text);
        for (library, owners) in OWNERS {
            let names = code.match_indices(&format!("{library}::")).any(|(at, _)| begins_a_path(&code[..at]));
            let owner = owners.iter().any(|owner| file.path.starts_with(owner));
            assert!(!names || owner, "{} must not know {library}", file.path);
        }
    }
}

/// Whether a name after this code is that of a library: `store::redis::` and `own_redis::` are others.
fn begins_a_path(before: &str) -> bool {
    !before.ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == ':')
}

#[test]
fn owners_exist() {
    for (library, owners) in OWNERS {
        for owner in owners {
            assert!(std::path::Path::new(owner).exists(), "{owner} knows {library} and does not exist");
        }
    }
}
