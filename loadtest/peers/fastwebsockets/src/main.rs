//! A presence server on fastwebsockets, as its README and examples show it: hyper and `upgrade()`, one tokio task per
//! connection, broadcast channels between them. One thread. Usage: rollcall-peer-fastwebsockets PORT

mod api;
mod connection;
mod hub;
mod room;
mod session;
mod wire;

use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use hub::Hub;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With the default of 128 a storm would measure how long the kernel waits before it repeats a SYN.
const BACKLOG: u32 = 8192;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("usage: … PORT");
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let listener = socket.listen(BACKLOG)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let hub = Arc::new(Hub::new());
    tokio::spawn(hub::run(Arc::clone(&hub)));
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = stop.recv() => Ok(()),
        ended = accept(listener, hub) => ended,
    }
}

async fn accept(listener: TcpListener, hub: Arc<Hub>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            let service = service_fn(move |request| api::respond(Arc::clone(&hub), request));
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
            // A client may disconnect in the middle of a request.
            let _ = served.await;
        });
    }
}
