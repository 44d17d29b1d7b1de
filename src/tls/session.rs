//! The TLS state of one connection. It has no buffers while nothing is incomplete: records are decrypted from the
//! buffer of the caller, and encrypted when the caller is about to write them.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};

/// The longest plaintext of a record (RFC 8446, 5.1). At most one record is encrypted ahead of the socket.
pub const RECORD_BYTES: usize = 16 * 1024;
/// What a record takes in addition, at most: its header, its tag, and in TLS 1.2 an explicit nonce.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Where a key update fits that has to precede a record.
const KEY_UPDATE_BYTES: usize = 64;

/// The TLS connection is broken: what the client sent is not TLS, or not what it should be.
#[derive(Debug)]
pub struct Broken(rustls::Error);

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The state of one connection.
pub struct Session {
    connection: UnbufferedServerConnection,
    /// An incomplete record, or an incomplete message of a handshake.
    incoming: Vec<u8>,
    /// Records that the socket has not accepted, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// The length of the plaintext in `outgoing` that the caller still has. See [`Session::take_sent`].
    ahead: usize,
    /// The client has sent close_notify.
    is_closed: bool,
    /// The client has broken the rules: nothing is decrypted or encrypted any more.
    is_broken: bool,
    /// The server has sent close_notify.
    said_goodbye: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("unsent", &self.unsent().len()).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(config: &Arc<ServerConfig>) -> Result<Self, Broken> {
        let connection = UnbufferedServerConnection::new(Arc::clone(config)).map_err(Broken)?;
        Ok(Self {
            connection,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            ahead: 0,
            is_closed: false,
            is_broken: false,
            said_goodbye: false,
        })
    }

    /// Whether the handshake is not complete.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the client has closed its sending direction.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The number of bytes to read next, so that their plaintext fits into a buffer of this length.
    #[must_use]
    pub fn room(&self, buffer: usize) -> usize {
        // An incomplete message of a handshake may be long. It has no plaintext.
        buffer.saturating_sub(self.incoming.len()).max(buffer / 8)
    }

    /// Takes bytes from the socket. Writes their plaintext to the front of the buffer and returns its length. Bytes to
    /// send may be in [`Session::unsent`] then, even if the connection is broken.
    ///
    /// # Errors
    /// If the client breaks the rules.
    pub fn decrypt(&mut self, bytes: &mut [u8], plaintext: &mut [u8]) -> Result<usize, Broken> {
        if self.is_broken {
            return Err(Broken(rustls::Error::HandshakeNotComplete));
        }
        if self.incoming.is_empty() {
            let (used, written) = self.process(bytes, plaintext)?;
            self.incoming.extend_from_slice(&bytes[used..]);
            return Ok(written);
        }
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend_from_slice(bytes);
        let (used, written) = self.process(&mut incoming, plaintext)?;
        if used < incoming.len() {
            incoming.drain(..used);
            self.incoming = incoming;
        }
        Ok(written)
    }

    /// Handles complete records. Returns the number of bytes that it used, and of plaintext.
    fn process(&mut self, bytes: &mut [u8], plaintext: &mut [u8]) -> Result<(usize, usize), Broken> {
        let (mut used, mut written) = (0, 0);
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut bytes[used..]);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.outgoing, |buffer| data.encode(buffer)).map_err(Broken)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Err(error) => {
                    used += discard;
                    return Err(self.refuse(error, &mut bytes[used..]));
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(Broken)?;
                        discard += record.discard;
                        let end = written + record.payload.len();
                        let Some(place) = plaintext.get_mut(written..end) else {
                            return Err(Broken(rustls::Error::General("more plaintext than bytes".to_owned())));
                        };
                        place.copy_from_slice(record.payload);
                        written = end;
                    }
                }
                Ok(ConnectionState::PeerClosed) => self.is_closed = true,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    return Ok((used + discard, written));
                }
                // Early data is not accepted.
                Ok(_) => return Err(Broken(rustls::Error::HandshakeNotComplete)),
            }
            used += discard;
        }
    }

    /// Encodes the alert that tells the client what is wrong, and what precedes it. Nothing follows: rustls must not be
    /// asked to handle the same bytes again.
    fn refuse(&mut self, error: rustls::Error, rest: &mut [u8]) -> Broken {
        self.is_broken = true;
        // What was queued comes before anything is read.
        while self.connection.wants_write() {
            let state = self.connection.process_tls_records(rest).state;
            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { break };
            if encode(&mut self.outgoing, |buffer| data.encode(buffer)).is_err() {
                break;
            }
        }
        Broken(error)
    }

    /// Encrypts the beginning of the plaintext as one record behind what is unsent. Returns the number of bytes.
    ///
    /// # Errors
    /// If the connection cannot send: the handshake is not complete, or the keys are used up.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Result<usize, Broken> {
        if self.is_broken {
            return Err(Broken(rustls::Error::EncryptError));
        }
        let plaintext = &plaintext[..plaintext.len().min(RECORD_BYTES)];
        let end = self.outgoing.len();
        self.outgoing.resize(end + plaintext.len() + RECORD_OVERHEAD_BYTES + KEY_UPDATE_BYTES, 0);
        let mut written = Err(Broken(rustls::Error::HandshakeNotComplete));
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let encrypted = traffic.encrypt(plaintext, &mut self.outgoing[end..]);
            written = encrypted.map_err(|_| Broken(rustls::Error::EncryptError));
        }
        self.incoming.drain(..discard);
        self.outgoing.truncate(end + written.as_ref().copied().unwrap_or(0));
        written.map(|_| plaintext.len())
    }

    /// As [`Session::encrypt`] for a caller that keeps the plaintext until its record is sent.
    ///
    /// # Errors
    /// As [`Session::encrypt`].
    pub fn encrypt_ahead(&mut self, plaintext: &[u8]) -> Result<(), Broken> {
        self.ahead = self.encrypt(plaintext)?;
        Ok(())
    }

    /// The length of the plaintext that [`Session::encrypt_ahead`] encrypted, if its record is sent: the caller drops
    /// that much. Until then 0, and the caller offers the same bytes again.
    pub fn take_sent(&mut self) -> usize {
        if self.unsent().is_empty() { std::mem::take(&mut self.ahead) } else { 0 }
    }

    /// Whether the record of the plaintext that the caller offers is encrypted already.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.ahead > 0
    }

    /// Records for the socket.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// The socket has accepted this many bytes.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// The memory of its buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.incoming.capacity() + self.outgoing.capacity()
    }

    /// Encrypts close_notify: nothing follows. Does nothing before the handshake is complete.
    pub fn close(&mut self) {
        if self.said_goodbye || self.is_broken || self.is_handshaking() {
            return;
        }
        self.said_goodbye = true;
        let end = self.outgoing.len();
        self.outgoing.resize(end + 2 * (RECORD_OVERHEAD_BYTES + KEY_UPDATE_BYTES), 0);
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(&mut self.incoming);
        let mut written = 0;
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            written = traffic.queue_close_notify(&mut self.outgoing[end..]).unwrap_or(0);
        }
        self.incoming.drain(..discard);
        self.outgoing.truncate(end + written);
    }
}

/// Appends a message of the handshake.
fn encode(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let end = outgoing.len();
    if let Err(EncodeError::InsufficientSize(needed)) = encode(&mut []) {
        outgoing.resize(end + needed.required_size, 0);
        let written = encode(&mut outgoing[end..]).map_err(|_| rustls::Error::EncryptError)?;
        outgoing.truncate(end + written);
    }
    Ok(())
}
