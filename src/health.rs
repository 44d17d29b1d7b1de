//! `rollcall health`: asks a running server whether it is ready, for containers without another HTTP client.
//!
//! Sends one request over plain HTTP and reads the first line of the answer. Supports neither TLS nor redirects.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// The time limit for connecting and the answer. Docker's timeout for a health check is longer, so the reason reaches
/// its log.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Status lines of rollcall are shorter.
const MAX_STATUS_LINE_BYTES: usize = 1024;
/// The path that tells whether a server accepts clients.
const READY_PATH: &str = "/readyz";

/// Asks the server at `url`, or at the address that a server with this configuration listens on.
///
/// # Errors
/// If the server does not answer 200 in time. The message says what happened instead.
pub fn ask(url: Option<&str>, listen: SocketAddr) -> anyhow::Result<()> {
    let own = format!("http://{}{READY_PATH}", reachable(listen));
    let url = url.unwrap_or(&own);
    let status_line = get(url).with_context(|| format!("{url} is not healthy"))?;
    ensure!(status_line.split(' ').nth(1) == Some("200"), "{url} is not healthy: it answered {status_line:?}");
    Ok(())
}

/// An address at which a server that listens there can be reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback: std::net::IpAddr = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(if listen.ip().is_unspecified() { loopback } else { listen.ip() }, listen.port())
}

/// The host with its port, and the path.
fn parts(url: &str) -> anyhow::Result<(String, &str)> {
    let rest = url.strip_prefix("http://").context("the URL must begin with http://")?;
    ensure!(
        !url.contains(|c: char| c.is_whitespace() || c.is_control()),
        "the URL must not contain spaces or control characters"
    );
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port { host.to_owned() } else { format!("{host}:80") };
    Ok((host, if path.is_empty() { READY_PATH } else { path }))
}

/// The first line of the answer to a GET.
fn get(url: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let (host, path) = parts(url)?;
    let mut stream = connect(&host, deadline)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < MAX_STATUS_LINE_BYTES {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut piece = [0; 256];
        let length = stream.read(&mut piece).context("no answer")?;
        ensure!(length > 0, "the connection was closed without an answer");
        answer.extend_from_slice(&piece[..length]);
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    ensure!(line.starts_with("HTTP/1."), "the answer is not HTTP: {line:?}");
    Ok(line.to_owned())
}

/// Tries all addresses of the host: the server may listen on only one of them.
fn connect(host: &str, deadline: Instant) -> anyhow::Result<TcpStream> {
    let mut last = None;
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error.into()),
        None => bail!("{host} has no address"),
    }
}

fn left(deadline: Instant) -> anyhow::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "no answer within {} s", TIMEOUT.as_secs());
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_an_optional_port_and_path() {
        let check = |url: &str, host: &str, path: &str| {
            assert_eq!(parts(url).unwrap(), (host.to_owned(), path), "{url}");
        };
        check("http://localhost:8000/livez", "localhost:8000", "/livez");
        check("http://localhost:8000", "localhost:8000", "/readyz");
        check("http://example.org/a?b", "example.org:80", "/a?b");
        check("http://[::1]", "[::1]:80", "/readyz");
        check("http://[::1]:8000/", "[::1]:8000", "/");
        for bad in ["https://localhost", "localhost:8000", "", "http://a/ HTTP/1.1\r\nX: y"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_on_all_interfaces_is_asked_on_the_loopback_address() {
        let check = |listen: &str, expected: &str| {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        };
        check("0.0.0.0:8000", "127.0.0.1:8000");
        check("[::]:8000", "[::1]:8000");
        check("10.1.2.3:80", "10.1.2.3:80");
    }
}
