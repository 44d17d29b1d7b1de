//! Blocking HTTP requests on a connection that is kept, for the samples. Not a general client.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::answer;
use crate::credentials::Credentials;

/// Far more than a working server needs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is made again when it has ended.
pub(crate) struct Http {
    server: SocketAddr,
    stream: Option<TcpStream>,
    /// The header line of a key, or nothing.
    key_line: String,
}

impl Http {
    pub(crate) fn new(server: SocketAddr, credentials: Option<&Credentials>) -> Self {
        Self { server, stream: None, key_line: credentials.map(Credentials::key_line).unwrap_or_default() }
    }

    /// The JSON document at `path`, with its status.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, Value)> {
        let kept = self.stream.is_some();
        match self.request(path) {
            // The server may have ended the kept connection.
            Err(_) if kept => {
                self.stream = None;
                self.request(path)
            }
            result => result,
        }
    }

    fn request(&mut self, path: &str) -> io::Result<(u16, Value)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.server, TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.server, self.key_line)?;
        let mut received = Vec::new();
        let mut buffer = [0; 16 * 1024];
        let found = loop {
            if let Some(found) = answer::complete(&received) {
                break found;
            }
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => received.extend_from_slice(&buffer[..read]),
            }
        };
        let body = answer::head_end(&received).map_or(0, |head| head);
        let json = serde_json::from_slice(&received[body..found.bytes]).unwrap_or(Value::Null);
        self.stream = Some(stream);
        Ok((found.status, json))
    }
}
