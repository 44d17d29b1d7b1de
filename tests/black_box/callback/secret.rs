//! The secret that proves to the application who asks.

use tokio::time::Instant;

use super::{ORIGIN, session_is_name};
use crate::common::{DEADLINE, Process, RawClient, Upstream};

#[tokio::test]
async fn sighup_rereads_the_secret_of_the_application() {
    let application = Upstream::start(session_is_name).await;
    let url = application.url("/");
    let file = std::env::temp_dir().join(format!("rollcall-auth-secret-{}", std::process::id()));
    let path = file.to_str().expect("a path");
    let (first, second) = ("the first secret of this test", "the second secret of this test");
    std::fs::write(&file, first).expect("a file");
    let mut server = Process::start(&["--auth-url", &url, "--auth-cookie", "sid", "--auth-secret-file", path]);
    let address = server.address();
    let mut count = 0;
    let mut sent = async || {
        let headers = [ORIGIN, ("cookie", "sid=alice")];
        RawClient::open_with(address, "/v1/connect", &headers, b"").await.0.json_of_type("welcome").await;
        count += 1;
        let secret = application.seen()[count - 1].header("authorization").map(str::to_owned);
        secret.expect("a secret").replace("Bearer ", "")
    };
    assert_eq!(sent().await, first);
    std::fs::write(&file, "").expect("a file");
    server.signal("HUP");
    server.wait_for_line("--auth-secret-file is not reloaded");
    assert_eq!(sent().await, first, "a file without a secret changes nothing");
    std::fs::write(&file, format!("{second}\n{first}\n")).expect("a file");
    server.signal("HUP");
    let deadline = Instant::now() + DEADLINE;
    while sent().await != second {
        assert!(Instant::now() < deadline, "{:?}", server.output());
    }
    assert!(!server.output().iter().any(|line| line.contains(first) || line.contains(second)));
    std::fs::remove_file(&file).expect("the file is there");
}
