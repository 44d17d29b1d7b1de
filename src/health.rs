//! `rollcall health`: asks a running server whether it is ready, for containers without another HTTP client.
//!
//! Sends one request over HTTP, or HTTPS, and reads the first line of the answer. It follows no redirects.
//!
//! In a container the address may be a flag of the server, which this command does not have: it looks for the server
//! among the processes.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::config::{Listening, Opening, listen_of};
use crate::{proxy_header, tls};

/// The time limit for connecting and the answer. Docker's timeout for a health check is longer, so the reason reaches
/// its log.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Status lines of rollcall are shorter.
const MAX_STATUS_LINE_BYTES: usize = 1024;
/// Error messages of rollcall are shorter, with the head of the answer.
const MAX_ERROR_BYTES: usize = 4096;
/// The code of the error with which a port that requires TLS answers plain HTTP.
const TLS_REQUIRED: &str = "\"tls_required\"";
/// The path that tells whether a server accepts clients.
const READY_PATH: &str = "/readyz";

/// The name of the program.
const PROGRAM: &str = "rollcall";

/// Asks the server at `url`, or the server that listens on these addresses and expects this opening: the first one that
/// accepts a connection decides.
///
/// # Errors
/// If the server does not answer 200 in time. The message says what happened instead.
pub fn ask(url: Option<&str>, listen: &[SocketAddr], opening: Opening) -> anyhow::Result<()> {
    let own = listen.iter().map(|address| reachable(*address));
    // A server with several addresses may have found one of them unusable.
    let answers = |address: &SocketAddr| TcpStream::connect_timeout(address, TIMEOUT).is_ok();
    let own = own.clone().filter(|_| listen.len() > 1).find(answers).or_else(|| own.clone().next());
    let own = own.map(|address| format!("{}://{address}{READY_PATH}", if opening.tls { "https" } else { "http" }));
    // A URL may be that of another port or server. Whether it takes a PROXY header is unknown.
    let sends_header = opening.proxy_header && url.is_none();
    let url = url.or(own.as_deref()).context("there is no address to ask")?;
    let answer = get(url, sends_header).with_context(|| format!("{url} is not healthy"))?;
    let status_line = answer.lines().next().unwrap_or_default();
    let https = url.replacen("http://", "https://", 1);
    ensure!(!answer.contains(TLS_REQUIRED), "{url} is not healthy: this port requires TLS; ask {https}");
    ensure!(is_ok(status_line), "{url} is not healthy: it answered {status_line:?}");
    Ok(())
}

fn is_ok(status_line: &str) -> bool {
    status_line.split(' ').nth(1) == Some("200")
}

/// The `--listen` of the server that is process 1, the main process of a container. If this command was started from
/// outside of the container, as a health check is, the only server among the children of process 1 will do: process 1
/// may be a small init. `None` if there is no such server.
#[must_use]
pub fn running_server() -> Option<Listening> {
    let proc = Path::new("/proc");
    server_in(proc, parent(&proc.join("self")) == Some(0))
}

fn server_in(proc: &Path, is_from_outside: bool) -> Option<Listening> {
    let first = listen_of_process(&proc.join("1"));
    if first.is_some() || !is_from_outside {
        return first;
    }
    let is_child = |process: &PathBuf| parent(process).is_some_and(|parent| parent == 1);
    let processes = std::fs::read_dir(proc).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut servers = processes.filter(is_child).filter_map(|process| listen_of_process(&process));
    servers.next().filter(|_| servers.next().is_none())
}

/// The `--listen` of a process; `None` if it is not a server.
fn listen_of_process(process: &Path) -> Option<Listening> {
    let words = texts(&std::fs::read(process.join("cmdline")).ok()?);
    if Path::new(words.first()?).file_name()? != PROGRAM {
        return None;
    }
    // Only processes of the same user can be asked for their variables. Those of a container are usually the same.
    let variables = std::fs::read(process.join("environ")).map(|bytes| texts(&bytes)).unwrap_or_else(|_| {
        let pair = |(name, value): (OsString, OsString)| [name, value].join(OsStr::new("="));
        std::env::vars_os().map(pair).collect()
    });
    let variable = |name: &OsStr| {
        let prefix = [name, OsStr::new("")].join(OsStr::new("="));
        let found = variables.iter().find_map(|pair| pair.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes()));
        found.map(|value| OsString::from_vec(value.to_vec()))
    };
    listen_of(&words, variable, &process.join("cwd"))
}

/// The parent of a process: the second word after the name in parentheses (proc_pid_stat(5)).
fn parent(process: &Path) -> Option<u32> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The texts of a file in which each ends with a zero byte.
fn texts(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|text| OsString::from_vec(text.to_vec())).collect()
}

/// An address at which a server that listens there can be reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let loopback: std::net::IpAddr = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(if listen.ip().is_unspecified() { loopback } else { listen.ip() }, listen.port())
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    is_encrypted: bool,
    /// The host with its port.
    host: String,
    path: &'a str,
}

fn parts(url: &str) -> anyhow::Result<Parts<'_>> {
    let plain = url.strip_prefix("http://").map(|rest| (false, rest));
    let parts = plain.or_else(|| url.strip_prefix("https://").map(|rest| (true, rest)));
    let (is_encrypted, rest) = parts.context("the URL must begin with http:// or https://")?;
    ensure!(
        !url.contains(|c: char| c.is_whitespace() || c.is_control()),
        "the URL must not contain spaces or control characters"
    );
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if is_encrypted { 443 } else { 80 };
    let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
    Ok(Parts { is_encrypted, host, path: if path.is_empty() { READY_PATH } else { path } })
}

/// The first line of the answer to a GET; the whole answer if it is an error.
fn get(url: &str, sends_header: bool) -> anyhow::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let parts = parts(url)?;
    let socket = connect(&parts.host, deadline)?;
    let own = socket.local_addr()?.ip();
    let answered = exchange(socket, &parts, sends_header, deadline);
    answered.map_err(|error| match (is_closed(&error), sends_header) {
        (false, _) => error,
        (true, false) => error.context(
            "the connection was closed without an answer; if the server requires PROXY headers (--proxy-protocol), leave \
             out the URL and set that flag here, too, or ask --internal-listen",
        ),
        (true, true) => error.context(format!(
            "the connection was closed without an answer; with --proxy-protocol, {own} must be in --trust-proxy; or give \
             --internal-listen"
        )),
    })
}

/// Whether a server closed the connection before it answered.
fn is_closed(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kinds = error.chain().filter_map(|cause| Some(cause.downcast_ref::<std::io::Error>()?.kind()));
    kinds.into_iter().any(|kind| matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof))
}

fn exchange(socket: TcpStream, parts: &Parts<'_>, sends_header: bool, deadline: Instant) -> anyhow::Result<String> {
    let Parts { is_encrypted, host, path } = parts;
    let peer = socket.peer_addr()?.ip();
    let mut socket = Limited { socket, deadline };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    if sends_header {
        socket.write_all(&proxy_header::LOCAL)?;
    }
    let mut stream: Box<dyn tls::Stream> = match is_encrypted {
        true => Box::new(tls::connect(socket, peer, name_of(host))?),
        false => Box::new(socket),
    };
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < MAX_STATUS_LINE_BYTES {
        let mut piece = [0; 256];
        let length = stream.read(&mut piece).context("no answer")?;
        ensure!(length > 0, std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        answer.extend_from_slice(&piece[..length]);
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    ensure!(line.starts_with("HTTP/1."), "the answer is not HTTP: {line:?}");
    if is_ok(line) {
        return Ok(line.to_owned());
    }
    // The rest says more, as far as it comes.
    let missing = MAX_ERROR_BYTES.saturating_sub(answer.len()) as u64;
    let _ = stream.take(missing).read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The name or address in a host with its port.
fn name_of(host: &str) -> &str {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
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

/// A socket that can be used until a deadline, however the server spreads its answer.
struct Limited {
    socket: TcpStream,
    deadline: Instant,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(left(self.deadline)?))?;
        self.socket.read(buffer)
    }
}

impl Write for Limited {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(left(self.deadline)?))?;
        self.socket.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", TIMEOUT.as_secs()));
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_an_optional_port_and_path() {
        let check = |url: &str, host: &str, path: &str| {
            let is_encrypted = url.starts_with("https");
            assert_eq!(parts(url).unwrap(), Parts { is_encrypted, host: host.to_owned(), path }, "{url}");
        };
        check("http://localhost:8000/livez", "localhost:8000", "/livez");
        check("http://localhost:8000", "localhost:8000", "/readyz");
        check("http://example.org/a?b", "example.org:80", "/a?b");
        check("http://[::1]", "[::1]:80", "/readyz");
        check("http://[::1]:8000/", "[::1]:8000", "/");
        check("https://example.org", "example.org:443", "/readyz");
        check("https://[::1]:8443/livez", "[::1]:8443", "/livez");
        for bad in ["ftp://localhost", "localhost:8000", "", "http://a/ HTTP/1.1\r\nX: y"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    /// A folder like `/proc` with these processes: id, parent, command line, variables.
    fn processes(name: &str, all: &[(u32, u32, &str, &str)]) -> Option<String> {
        let folder = std::env::temp_dir().join(format!("rollcall-health-{}-{name}", std::process::id()));
        for (id, parent, words, variables) in all {
            let process = folder.join(id.to_string());
            std::fs::create_dir_all(&process).unwrap();
            let lines = |text: &str| text.split(' ').map(|word| format!("{word}\0")).collect::<String>();
            std::fs::write(process.join("cmdline"), lines(words)).unwrap();
            std::fs::write(process.join("environ"), lines(variables)).unwrap();
            std::fs::write(process.join("stat"), format!("{id} (a (b) c) S {parent} 1 1")).unwrap();
        }
        let found = server_in(&folder, true).map(|server| {
            let scheme = if server.opening.tls { "https " } else { "" };
            let header = if server.opening.proxy_header { "proxy " } else { "" };
            assert_eq!(server.flag == "--internal-listen", server.listen.ends_with(":9100"));
            format!("{header}{scheme}{}", server.listen)
        });
        std::fs::remove_dir_all(folder).unwrap();
        found
    }

    #[test]
    fn the_server_of_a_container_is_found_with_its_address() {
        let image = "PATH=/bin ROLLCALL_LISTEN=0.0.0.0:8000";
        let check = |name: &str, all: &[(u32, u32, &str, &str)], want: Option<&str>| {
            assert_eq!(processes(name, all).as_deref(), want, "{name}");
        };
        check("flag", &[(1, 0, "rollcall --listen 0.0.0.0:9000", image)], Some("0.0.0.0:9000"));
        check("equals", &[(1, 0, "/usr/bin/rollcall --ttl 30s --listen=:::7", image)], Some(":::7"));
        check("variable", &[(1, 0, "rollcall --ttl 30s", image)], Some("0.0.0.0:8000"));
        check("default", &[(1, 0, "rollcall", "PATH=/bin")], Some("127.0.0.1:8000"));
        let encrypted = "rollcall --tls-cert a --tls-key b";
        check("encrypted", &[(1, 0, encrypted, image)], Some("https 0.0.0.0:8000"));
        check("encrypted by variable", &[(1, 0, "rollcall", "ROLLCALL_TLS_CERT=a")], Some("https 127.0.0.1:8000"));
        let proxied = "rollcall --proxy-protocol --tls-cert a";
        check("proxied", &[(1, 0, proxied, image)], Some("proxy https 0.0.0.0:8000"));
        for (value, want) in [("1", "proxy 127.0.0.1:8000"), ("true", "proxy 127.0.0.1:8000"), ("0", "127.0.0.1:8000")]
        {
            let variable = format!("ROLLCALL_PROXY_PROTOCOL={value}");
            check("proxied by variable", &[(1, 0, "rollcall", &variable)], Some(want));
        }
        let internal = "rollcall --tls-cert a --tls-key b --proxy-protocol --internal-listen 127.0.0.1:9100";
        check("internal", &[(1, 0, internal, image)], Some("127.0.0.1:9100"));
        let variable = "ROLLCALL_INTERNAL_LISTEN=127.0.0.1:9100 ROLLCALL_TLS_CERT=a";
        check("internal by variable", &[(1, 0, "rollcall --listen a:9", variable)], Some("127.0.0.1:9100"));
        let file = std::env::temp_dir().join(format!("rollcall-health-{}.toml", std::process::id()));
        std::fs::write(&file, "listen = \"0.0.0.0:9\"\ntls-cert = \"a\"\nproxy-protocol = true\n").unwrap();
        let with_file = format!("rollcall --config {}", file.display());
        check("file", &[(1, 0, &with_file, "PATH=/bin")], Some("proxy https 0.0.0.0:9"));
        check("variable before file", &[(1, 0, &with_file, image)], Some("proxy https 0.0.0.0:8000"));
        let named = format!("ROLLCALL_CONFIG={}", file.display());
        check("file by variable", &[(1, 0, "rollcall --listen a:9", &named)], Some("proxy https a:9"));
        std::fs::remove_file(&file).unwrap();
        let health = (9, 0, "rollcall health", image);
        check("init", &[(1, 0, "tini -- rollcall", ""), (7, 1, "rollcall --listen a:9", image), health], Some("a:9"));
        check("two", &[(1, 0, "sh", ""), (7, 1, "rollcall", image), (8, 1, "rollcall", image)], None);
        check("others", &[(1, 0, "init", ""), (7, 3, "rollcall", image), (8, 1, "nginx", ""), health], None);
        check("health", &[(1, 0, "rollcall health", image)], None);
    }

    #[test]
    fn a_server_that_sends_byte_by_byte_is_given_up_at_the_deadline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (waits, ended) = (Duration::from_millis(20), Duration::from_secs(1));
        let parts = Parts { is_encrypted: false, host: address.to_string(), path: "/" };
        let socket = TcpStream::connect(address).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"HTTP/1.1 503 no\r\nx").unwrap();
        let server = std::thread::spawn(move || {
            // Until the client has ended the connection.
            let drip = || std::thread::sleep(waits);
            std::iter::repeat_with(drip).take_while(|()| accepted.write_all(b"x").is_ok()).count()
        });
        let answer = exchange(socket, &parts, false, Instant::now() + ended).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 no\r\nx") && answer.len() < MAX_ERROR_BYTES, "{answer}");
        server.join().unwrap();
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
