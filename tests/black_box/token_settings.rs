//! The settings of tokens: which ones cannot work, and what SIGHUP rereads.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::common::process::{Process, command, run_to_exit};
use crate::common::token::{SECRET, SECRET_FLAG, now, signed_with};
use crate::common::{DEADLINE, RawClient, raw};

const POLL: Duration = Duration::from_millis(10);

#[tokio::test]
async fn sighup_reads_the_keys_again_and_keeps_the_old_ones_if_a_file_is_not_valid() {
    let (first, second) = (SECRET, "the second secret of the application in these tests");
    let file = std::env::temp_dir().join(format!("rollcall-jwt-{}", std::process::id()));
    std::fs::write(&file, first).expect("a file");
    let mut process = Process::start(&["--jwt-secret-file", file.to_str().expect("a path")]);
    let address = process.address();
    let claims = json!({"sub": "alice", "exp": now() + 600});
    let status = async |secret: &str| {
        let authorization = format!("Bearer {}", signed_with(secret, &claims));
        let mut client = RawClient::tcp(address).await;
        client.send(&raw::upgrade_request("/v1/connect", &[("authorization", &authorization)])).await;
        client.head().await.status
    };
    assert_eq!((status(first).await, status(second).await), (101, 401));
    std::fs::write(&file, "short").expect("a file");
    process.signal("HUP");
    process.wait_for_line("not reloaded");
    assert_eq!((status(first).await, status(second).await), (101, 401));
    for (content, want) in [(format!("{second}\n{first}\n"), (101, 101)), (second.to_owned(), (401, 101))] {
        std::fs::write(&file, content).expect("a file");
        process.signal("HUP");
        let deadline = Instant::now() + DEADLINE;
        while (status(first).await, status(second).await) != want {
            assert!(Instant::now() < deadline, "{want:?}: {:?}", process.output());
            sleep(POLL).await;
        }
    }
    std::fs::remove_file(&file).expect("a file");
}

#[test]
fn only_a_server_with_pages_says_open() {
    for (flags, line) in [(&SECRET_FLAG[..], "clients connect to http://127.0.0.1:"), (&[], "open http://127.0.0.1:")] {
        let mut process = Process::start(flags);
        process.wait_for_line(line);
    }
}

#[test]
fn settings_that_cannot_work_are_errors_before_a_port_is_bound() {
    let private = std::env::temp_dir().join(format!("rollcall-private-{}", std::process::id()));
    std::fs::write(&private, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").expect("a file");
    let private = private.to_str().expect("a path");
    let with_secret = |flags: &[&'static str]| [&SECRET_FLAG[..], flags].concat();
    for (flags, message) in [
        (vec!["--jwt-secret", "short"], "at least 32 bytes"),
        (vec!["--jwt-secret", ""], "at least 32 bytes"),
        (vec!["--jwt-secret-file", "/missing"], "/missing"),
        (vec!["--jwt-public-key", "/missing"], "/missing"),
        (vec!["--jwt-public-key", ""], "--jwt-public-key"),
        (vec!["--jwt-public-key", private], "it is a private key"),
        (vec!["--jwt-public-key", "/dev/null"], "it is empty"),
        (with_secret(&["--jwt-issuer", ""]), "--jwt-issuer is empty"),
        (with_secret(&["--jwt-audience", " "]), "--jwt-audience is empty"),
        (with_secret(&["--jwt-max-age", "0s"]), "--jwt-max-age must be at least 1s"),
        (with_secret(&["--jwt-max-age", "3y"]), "the limit is"),
        (with_secret(&["--jwt-leeway", "1h"]), "--jwt-leeway is 1h"),
        (with_secret(&["--default-caps", ""]), "--default-caps"),
        (with_secret(&["--default-caps", "{}"]), "must be a list"),
        (with_secret(&["--default-caps", r#"[{"allow":["fly"]}]"#]), "`allow`"),
        (vec!["--jwt-issuer", "app"], "no key verifies tokens"),
        (vec!["--default-caps", "[]"], "no key verifies tokens"),
        (vec!["--token-in-query"], "no key verifies tokens"),
    ] {
        let output = run_to_exit(command(&[&["--listen", "127.0.0.1:0"], &flags[..]].concat()));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{flags:?}: {text}");
        assert!(text.contains(message) && !text.contains(SECRET), "{flags:?}: {text}");
    }
    std::fs::remove_file(private).expect("a file");
    for variable in ["JWT_SECRET", "JWT_SECRET_FILE", "JWT_PUBLIC_KEY", "JWT_ISSUER", "JWT_AUDIENCE", "DEFAULT_CAPS"] {
        let mut empty = command(&["--listen", "127.0.0.1:0"]);
        empty.env(format!("ROLLCALL_{variable}"), "");
        let output = run_to_exit(empty);
        assert_eq!(output.status.code(), Some(64), "{variable}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
