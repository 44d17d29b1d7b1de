//! The client of one HTTP connection, as its requests, its stream and the table of unread answers share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::node::Node;
use crate::peer::ClientAddress;
use crate::presence::Tick;

/// The client of a connection.
#[derive(Debug)]
pub(super) struct Client {
    node: Arc<Node>,
    /// Who is at the other end of the socket, or was according to a PROXY header.
    peer: ClientAddress,
    /// Whether the connection is encrypted.
    is_encrypted: bool,
    /// The tick in which the socket last accepted bytes. Written by the connection, read to find the client that has
    /// not read for the longest time.
    read_at: AtomicU64,
    /// Raised to end the connection.
    dropped: Notify,
}

impl Client {
    pub(super) fn new(node: &Arc<Node>, peer: ClientAddress, is_encrypted: bool) -> Self {
        let read_at = AtomicU64::new(node.now().tick);
        Self { node: Arc::clone(node), peer, is_encrypted, read_at, dropped: Notify::new() }
    }

    /// Who is at the other end of the socket. Each request says for whom it was sent: a proxy sends those of many
    /// clients over one connection.
    pub(super) fn peer(&self) -> ClientAddress {
        self.peer
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Records that its socket accepted bytes.
    pub(super) fn note_read(&self) {
        self.read_at.store(self.node.now().tick, Ordering::Relaxed);
    }

    /// The tick in which its socket last accepted bytes.
    pub(super) fn read_at(&self) -> Tick {
        self.read_at.load(Ordering::Relaxed)
    }

    /// Ends the connection.
    pub(super) fn drop_connection(&self) {
        self.dropped.notify_one();
    }

    /// Waits until the connection must end.
    pub(super) async fn dropped(&self) {
        self.dropped.notified().await;
    }
}
