//! Listening sockets: one per worker on the same address, so that the kernel distributes the connections.

use std::io;
use std::net::SocketAddr;

use anyhow::Context;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that wait to be accepted. `TcpListener::bind` allows 128, which a storm of reconnects fills within a
/// millisecond. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 8192;
/// Bytes that the kernel takes for a client that does not read. Further frames wait in the outbox, as references to
/// shared bytes, and are replaced by a snapshot when they are stale.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// The socket counts as writable only while at most this much is not sent yet.
const NOT_SENT_LOW_WATER_BYTES: u32 = 16 * 1024;

/// Binds `count` listeners to one address. Port 0 picks a free port, the same for all.
///
/// # Errors
/// If the address cannot be bound, or another process listens there.
pub fn bind(address: SocketAddr, count: usize) -> anyhow::Result<Vec<std::net::TcpListener>> {
    claim(address).with_context(|| explain(address))?;
    let first = listener(address).with_context(|| explain(address))?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(listener(bound).with_context(|| explain(bound))?);
    }
    Ok(listeners)
}

/// Fails if another process listens there. `SO_REUSEPORT` would let a second server of the same user share the port
/// silently.
fn claim(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// The options are set here once: accepted sockets inherit them, which saves three calls per connection.
fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT_LOW_WATER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn explain(address: SocketAddr) -> String {
    format!("cannot listen on {address} (is another server running there?)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        listeners[0].set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listeners[0].local_addr().unwrap()).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), NOT_SENT_LOW_WATER_BYTES);
        assert!(accepted.send_buffer_size().unwrap() <= 2 * SEND_BUFFER_BYTES);
    }

    #[test]
    fn listeners_share_a_port_that_no_other_server_gets() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert!(bind(address, 1).is_err());
    }
}
