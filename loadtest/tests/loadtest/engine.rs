//! The real server, in a thread of the test.

use std::time::Duration;

use rollcall::{Config, Server};

/// Serves until the test process ends; returns its URL.
pub(crate) fn start(options: &[&str]) -> String {
    start_for(Duration::MAX, options)
}

/// Serves for a time and then sends everybody away.
pub(crate) fn start_for(length: Duration, options: &[&str]) -> String {
    let arguments = ["rollcall", "--listen", "127.0.0.1:0", "--workers", "1"].iter().chain(options);
    let config = Config::from_args(arguments).expect("a valid configuration");
    let (tell, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = Server::bind(config).expect("a free port");
            tell.send(server.local_addr()).expect("the test waits");
            server.run(tokio::time::sleep(length)).await.expect("serves");
        });
    });
    format!("ws://{}", address.recv().expect("the server binds"))
}
