//! Handshakes: versions, what is refused, how many there may be at once, and how long they may take.

use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::start;
use crate::common::tls::Certificates;
use crate::common::tls_client::TlsClient;
use crate::common::{DEADLINE, Random, RawClient, TestServer};

/// The server has this many slots for handshakes.
const MAX_HANDSHAKES: usize = 256;
/// A ClientHello that is not complete: the header of a record of 200 bytes, and some of it.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

#[tokio::test]
async fn clients_with_one_version_of_tls_are_served() {
    let certificates = Certificates::make();
    let (server, _) = start(&certificates, &[]);
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let client = TlsClient::with_versions(&certificates, &[version]);
        // The second one has a ticket.
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = client.stream(server.address()).await;
            let (_, state) = stream.get_ref();
            assert_eq!((state.protocol_version(), state.handshake_kind()), (Some(expected), Some(kind)));
            assert_eq!(state.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut client = RawClient::over(stream);
            client.upgrade("/v1/connect?user=ann").await;
            assert!(client.is_served().await);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn only_http_1_1_can_be_agreed_on() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let connect = async |protocols: &[&[u8]]| {
        let client =
            client.changed(|config| config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect());
        client.handshake(TcpStream::connect(server.address()).await.unwrap()).await
    };
    let refused = connect(&[b"h2"]).await.expect_err("there is no HTTP/2");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    assert!(connect(&[b"h2", b"http/1.1"]).await.is_ok() && connect(&[]).await.is_ok());
    server.stop().await;
}

/// Sends every byte alone.
struct OneByOne(TcpStream);

impl AsyncRead for OneByOne {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for OneByOne {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[tokio::test]
async fn records_may_arrive_byte_by_byte() {
    let certificates = Certificates::make();
    let (server, _) = start(&certificates, &[]);
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::with_versions(&certificates, &[version]);
        let stream = TcpStream::connect(server.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = RawClient::over(client.handshake(OneByOne(stream)).await.unwrap());
        client.upgrade("/v1/connect?user=ann").await;
        assert!(client.is_served().await);
    }
    server.stop().await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut ann = client.native(server.address(), "user=ann").await;
    let mut random = Random(1);
    let mut garbage = vec![vec![0; 100], vec![0x16; 5000], vec![0x80, 0x2E, 1, 0, 2], vec![0x16, 3, 1, 0xFF, 0xFF]];
    garbage.extend((0..20).map(|_| {
        let body: Vec<u8> = (0..random.below(3000)).map(|_| random.below(256) as u8).collect();
        [&[0x16, 3, 1][..], &body].concat()
    }));
    for bytes in garbage {
        let mut client = RawClient::tcp(server.address()).await;
        client.send(&bytes).await;
        client.shut_down_undecoded().await;
    }
    assert!(ann.is_served().await);
    // Garbage inside of a connection.
    let mut stream = client.stream(server.address()).await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    stream.flush().await.unwrap();
    let (mut tcp, _) = stream.into_inner();
    tcp.write_all(&[0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
        .await
        .unwrap();
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut Vec::new())).await.expect("the server closes");
    assert!(ann.is_served().await);
    server.stop().await;
}

/// Connections that have begun a handshake and do not continue it.
async fn stall(server: &TestServer, from: &str, count: usize) -> Vec<TcpStream> {
    let mut stalled = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.address()).await.unwrap();
        stream.write_all(HALF_HELLO).await.unwrap();
        stalled.push(stream);
    }
    stalled
}

#[tokio::test]
async fn an_address_whose_handshakes_stall_keeps_no_other_from_connecting() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let mut stalled = stall(&server, "127.0.0.2", MAX_HANDSHAKES + 44).await;
    let mut ann = client.native(server.address(), "user=ann").await;
    assert!(ann.is_served().await);
    // Those that are under way end at their deadline, and then the ones that waited.
    for stream in &mut stalled {
        assert_eq!(timeout(DEADLINE, stream.read(&mut [0; 64])).await.expect("the server closes").unwrap_or(0), 0);
    }
    assert!(ann.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn handshakes_that_stall_make_way_for_others() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &["--workers", "1"]);
    // Programs on the same machine have no share, but there is a limit for all.
    let stalled = stall(&server, "127.0.0.1", MAX_HANDSHAKES + 44).await;
    let mut ann = client.native(server.address(), "user=ann").await;
    assert!(ann.is_served().await);
    drop(stalled);
    let mut bob = client.native(server.address(), "user=bob").await;
    assert!(bob.is_served().await);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_after_the_handshake_is_closed() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &["--header-timeout", "100ms"]);
    let mut stream = client.stream(server.address()).await;
    let read = timeout(DEADLINE, stream.read(&mut [0; 64])).await.expect("the server closes");
    assert_eq!(read.expect("with close_notify"), 0);
    let mut silent = RawClient::tcp(server.address()).await;
    assert!(silent.ends_within(DEADLINE).await);
    server.stop().await;
}

#[tokio::test]
async fn many_clients_at_once_are_all_served() {
    let certificates = Certificates::make();
    let (server, client) = start(&certificates, &[]);
    let address = server.address();
    let clients: Vec<_> = (0..60)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut client = client.native(address, &format!("user=user-{number}")).await;
                assert!(client.is_served().await);
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    server.stop().await;
}
