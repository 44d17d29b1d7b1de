//! Listening sockets: one per worker on the same address, so that the kernel distributes the connections.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use anyhow::anyhow;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tracing::warn;

/// Connections that wait to be accepted. `TcpListener::bind` allows 128, which a storm of reconnects fills within a
/// millisecond. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 8192;
/// Bytes that the kernel takes for a client that does not read. Further frames wait in the outbox, as references to
/// shared bytes, and are replaced by a snapshot when they are stale.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// `EAFNOSUPPORT` on Linux: IPv6 is off.
const ADDRESS_FAMILY_NOT_SUPPORTED: i32 = 97;
/// How often another free port is tried, if a port that is free on one address is in use on another.
const PORT_ATTEMPTS: usize = 16;
/// The socket counts as writable only while at most this much is not sent yet.
const NOT_SENT_LOW_WATER_BYTES: u32 = 16 * 1024;

/// Binds `count` listeners to each address. Port 0 picks a free port, the same for all. Of several addresses, those
/// that this machine does not have are left out: `localhost` may stand for an IPv6 address although IPv6 is off.
///
/// # Errors
/// If an address is in use or must not be used, or if the machine has none of them. `flag` is the setting to change.
pub fn bind(addresses: &[SocketAddr], count: usize, flag: &str) -> anyhow::Result<Vec<Vec<TcpListener>>> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match bind_all(addresses, count) {
            Err((address, error)) => {
                let picks_port = addresses.iter().all(|address| address.port() == 0);
                if error.kind() != ErrorKind::AddrInUse || !picks_port || attempts == PORT_ATTEMPTS {
                    return Err(anyhow!("{}", explain(address, &error, flag)));
                }
            }
            Ok(listeners) => return Ok(listeners),
        }
    }
}

fn bind_all(addresses: &[SocketAddr], count: usize) -> Result<Vec<Vec<TcpListener>>, (SocketAddr, io::Error)> {
    let mut all: Vec<Vec<TcpListener>> = Vec::new();
    let mut missing = None;
    for &(mut address) in addresses {
        if let Some(Ok(first)) = all.first().map(|listeners| listeners[0].local_addr()) {
            address.set_port(first.port());
        }
        match bind_one(address, count) {
            Ok(listeners) => all.push(listeners),
            Err(error) if addresses.len() > 1 && is_missing(&error) => {
                warn!(%address, %error, "this machine does not have one of the addresses of --listen; it is ignored");
                missing = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    missing.filter(|_| all.is_empty()).map_or(Ok(all), Err)
}

/// The first listener binds and listens without `SO_REUSEPORT`, so this fails if another process listens there. With
/// it, a second server of the same user would share the port silently.
fn bind_one(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let first = listen(socket(address)?, address)?;
    SockRef::from(&first).set_reuse_port(true)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        let socket = socket(bound)?;
        socket.set_reuse_port(true)?;
        listeners.push(listen(socket, bound)?);
    }
    Ok(listeners)
}

/// Whether the machine does not have the address, or no address of its kind.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(ADDRESS_FAMILY_NOT_SUPPORTED)
}

/// The options are set here once: accepted sockets inherit them, which saves three calls per connection.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER_BYTES)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(socket: Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What is wrong, then what to do.
fn explain(address: SocketAddr, error: &io::Error, flag: &str) -> String {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {address}: it is in use; stop the program that listens there (another rollcall?), or \
             choose another address with {flag}"
        ),
        _ if is_missing(error) => format!(
            "cannot listen on {address}: this machine has no such address ({error}); choose one of its own with \
             {flag}, or 0.0.0.0:{port} for all of them"
        ),
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {address}: permission denied; ports below 1024 are for programs with privileges, choose \
             a higher one with {flag}"
        ),
        _ => format!("cannot listen on {address}: {error}; choose another address with {flag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_to(addresses: &[&str], count: usize) -> anyhow::Result<Vec<Vec<TcpListener>>> {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        bind(&addresses, count, "--flag")
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let listener = bind_to(&["127.0.0.1:0"], 1).unwrap().remove(0).remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), NOT_SENT_LOW_WATER_BYTES);
        assert!(accepted.send_buffer_size().unwrap() <= 2 * SEND_BUFFER_BYTES);
    }

    #[test]
    fn listeners_share_a_port_that_no_other_server_gets() {
        let listeners = bind_to(&["127.0.0.1:0"], 3).unwrap().remove(0);
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert!(bind(&[address], 1, "--flag").is_err());
    }

    #[test]
    fn all_listeners_of_a_port_are_given_connections() {
        let listeners = bind_to(&["127.0.0.1:0"], 3).unwrap().remove(0);
        let address = listeners[0].local_addr().unwrap();
        let _clients: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        for listener in &listeners {
            assert!(std::iter::from_fn(|| listener.accept().ok()).count() > 5);
        }
    }

    #[test]
    fn of_servers_that_start_at_the_same_moment_only_one_gets_the_port() {
        for _ in 0..20 {
            let taken = bind_to(&["127.0.0.1:0"], 1).unwrap().remove(0).remove(0);
            let address = taken.local_addr().unwrap();
            drop(taken);
            let start = std::sync::Barrier::new(4);
            let try_to_bind = || {
                start.wait();
                bind(&[address], 2, "--flag").ok()
            };
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(try_to_bind)).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert!(bound.len() <= 1, "{} servers share {address}", bound.len());
        }
    }

    #[test]
    fn several_addresses_share_a_free_port_and_missing_ones_are_left_out() {
        // TEST-NET-1 of RFC 5737: no machine has this address.
        let listeners = bind_to(&["192.0.2.1:0", "127.0.0.1:0", "127.0.0.2:0"], 2).unwrap();
        let bound: Vec<_> = listeners.iter().flatten().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(bound.len(), 4);
        assert!(bound[0].ip() != bound[2].ip() && bound.iter().all(|address| address.port() == bound[0].port()));
    }

    #[test]
    fn an_error_says_what_is_wrong_and_then_what_to_do() {
        let check = |address: &str, cause: &str, hint: &str| {
            let message = format!("{:#}", bind_to(&[address], 1).unwrap_err());
            let (at, after) = (message.find(cause), message.find(hint));
            assert!(at.is_some() && at < after && !message.contains("running there"), "{message}");
        };
        let taken = bind_to(&["127.0.0.1:0"], 1).unwrap().remove(0);
        check(&taken[0].local_addr().unwrap().to_string(), "in use", "choose another address with --flag");
        check("192.0.2.1:8000", "this machine has no such address", "choose one of its own with --flag");
    }
}
