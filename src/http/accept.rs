//! Accepts connections on one listener for one worker.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::worker::Worker;

/// The pause when the limit of sockets is reached, or when the system has no descriptor or memory for another
/// connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections accepted before other tasks run. A handshake takes some 12 KiB of hyper's memory until its response is
/// sent: if a storm of connections is accepted in small portions, each portion reuses the memory of the one before.
const ACCEPTS_PER_TURN: usize = 8;

/// Accepts connections until `stop` is notified. Then also serves the connections that are queued already, because
/// closing the listener would reset them.
pub async fn accept(listener: TcpListener, worker: Rc<Worker>, stop: Rc<Notify>) {
    let (mut warned, mut in_a_row) = (false, 0usize);
    loop {
        if worker.node.sockets.load(Ordering::Relaxed) >= worker.node.config.limits.max_sockets() {
            if !std::mem::replace(&mut warned, true) {
                warn!(sockets = worker.node.config.limits.max_sockets(), "all sockets are in use; new clients wait");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        let accepted = tokio::select! {
            biased;
            () = stop.notified() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                warned = false;
                open(stream, &worker);
                in_a_row += 1;
                if in_a_row.is_multiple_of(ACCEPTS_PER_TURN) {
                    tokio::task::yield_now().await;
                }
            }
            Err(error) if concerns_one_connection(&error) => {
                debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                worker.counters.accept_errors.add(1);
                if !std::mem::replace(&mut warned, true) {
                    warn!(%error, "cannot accept connections for now");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        open(stream, &worker);
    }
}

fn open(stream: TcpStream, worker: &Rc<Worker>) {
    worker.counters.sockets.add(1);
    worker.node.sockets.fetch_add(1, Ordering::Relaxed);
    tokio::task::spawn_local(super::serve(stream, Rc::clone(worker)));
}

/// Whether an error is about the accepted connection and not about the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
