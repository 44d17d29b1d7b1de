//! A rollcall server in a thread of the test.

use rollcall::{Config, Server};
use tokio::sync::oneshot;

/// Serves until the test process ends; returns its URL.
pub(crate) fn start(options: &[&str]) -> String {
    let (url, stop) = start_stoppable(options);
    std::mem::forget(stop);
    url
}

/// Shuts down when the returned sender is dropped.
pub(crate) fn start_stoppable(options: &[&str]) -> (String, oneshot::Sender<()>) {
    let arguments = ["rollcall", "--listen", "127.0.0.1:0", "--workers", "1"].iter().chain(options);
    let config = Config::from_args(arguments).expect("a valid configuration");
    let (address_sender, address) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let server = Server::bind(config).expect("a free port");
            address_sender.send(server.local_addr()).expect("the test waits");
            server.run(async { drop(stopped.await) }).await.expect("serves");
        });
    });
    (format!("ws://{}", address.recv().expect("the server binds")), stop)
}
