//! Where the server listens.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::sources::is_flag;
use super::values::port;
use super::{ConfigError, require};

/// The most addresses of a host name. A worker has tokens for three times as many listeners.
const MAX_ADDRESSES: usize = 8;

/// The addresses as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Address to listen on; port 0 picks a free port. A host name stands for all of its addresses
    #[arg(long, env = "ROLLCALL_LISTEN", default_value = "127.0.0.1:8000", value_name = "HOST:PORT")]
    pub listen: String,

    /// Second port on the same address, for online-status clients that expect a port of their own; it serves the same
    /// as the first port
    #[arg(long, env = "ROLLCALL_STATUS_PORT", value_parser = port, value_name = "PORT")]
    pub status_port: Option<u16>,

    /// Second address, for monitoring: serves /metrics, /v1/stats, /livez, /readyz and /docs without a key and without
    /// TLS, and nothing else. It must not be reachable from the internet
    #[arg(long, env = "ROLLCALL_INTERNAL_LISTEN", value_name = "HOST:PORT")]
    pub internal_listen: Option<String>,
}

/// Where the server listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The addresses, at least one, all with the same port. Port 0 picks a free port.
    pub addresses: Vec<SocketAddr>,
    /// A second port on these addresses. 0 picks a free port.
    pub status_port: Option<u16>,
    /// The addresses for monitoring, all with the same port. Port 0 picks a free port.
    pub internal: Vec<SocketAddr>,
}

/// Where another process listens, as `rollcall health` finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening {
    /// The flag that has the address.
    pub flag: &'static str,
    /// The value of `--listen`, or of `--internal-listen` if that is given.
    pub listen: String,
    /// What it expects there before a request.
    pub opening: Opening,
}

/// What a server expects before the first request of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opening {
    /// A PROXY header.
    pub proxy_header: bool,
    /// TLS.
    pub tls: bool,
}

impl Listening {
    /// Where a server with these settings is asked for its health.
    pub(super) fn of(listen: String, internal: Option<String>, opening: Opening) -> Self {
        match internal {
            Some(listen) => Self { flag: "--internal-listen", listen, opening: Opening::default() },
            None => Self { flag: "--listen", listen, opening },
        }
    }
}

/// Which addresses are on a command line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TypedListen {
    pub(super) public: bool,
    pub(super) internal: bool,
}

impl TypedListen {
    pub(super) fn of(words: &[OsString]) -> Self {
        let has = |flag| words.iter().any(|word| is_flag(word, flag));
        Self { public: has("--listen"), internal: has("--internal-listen") }
    }
}

impl ListenArgs {
    /// Resolves the address and checks that the ports differ.
    pub(super) fn check(&self) -> Result<Listen, ConfigError> {
        let addresses = addresses("--listen", &self.listen)?;
        let internal = self.internal_listen.as_deref().map(|listen| self::addresses("--internal-listen", listen));
        let internal = internal.transpose()?.unwrap_or_default();
        let (first, port) = (addresses[0], addresses[0].port());
        require(port == 0 || self.status_port != Some(port), || {
            format!(
                "--status-port is {port} and --listen is {first}: the ports must differ; port {port} already serves everything"
            )
        })?;
        let ports = [Some(port), self.status_port].into_iter().flatten().filter(|port| *port != 0);
        let internal_port = internal.first().map(SocketAddr::port);
        require(!ports.clone().any(|port| Some(port) == internal_port), || {
            format!(
                "--internal-listen has the same port, {}, as --listen or --status-port: the ports must differ",
                internal[0].port()
            )
        })?;
        Ok(Listen { addresses, status_port: self.status_port, internal })
    }
}

impl Listen {
    /// The number of listeners of each worker.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.addresses.len() * if self.status_port.is_some() { 2 } else { 1 } + self.internal.len()
    }
}

/// The addresses that this flag has, without repetitions, IPv4 first.
pub(super) fn addresses(flag: &str, listen: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let found = listen.to_socket_addrs().map_err(|error| {
        let why = missing_part(listen).unwrap_or_else(|| format!("{error}; write it like 127.0.0.1:8000"));
        ConfigError::Invalid(format!("{flag} {listen:?} is not an address: {why}"))
    });
    let mut addresses = Vec::new();
    for address in found? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(|address| matches!(address.ip(), IpAddr::V6(_)));
    require(!addresses.is_empty(), || format!("{flag} {listen:?}: the host name has no address"))?;
    require(addresses.len() <= MAX_ADDRESSES, || {
        format!(
            "{flag} {listen:?}: the host name has {} addresses; the limit is {MAX_ADDRESSES}. Use one of them, or \
             0.0.0.0 for all interfaces",
            addresses.len()
        )
    })?;
    Ok(addresses)
}

/// Says what is missing in an address that is only a host or only a port, and how to write it.
fn missing_part(listen: &str) -> Option<String> {
    let port = |text: &str| text.parse::<u16>().ok();
    if let Some(port) = port(listen) {
        return Some(format!("the host is missing; write 127.0.0.1:{port}, or 0.0.0.0:{port} for all interfaces"));
    }
    if let Ok(IpAddr::V6(address)) = listen.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(format!("the port is missing; write [{address}]:8000"));
    }
    match listen.rsplit_once(':') {
        None if listen.is_empty() => Some("it is empty; write it like 127.0.0.1:8000".to_owned()),
        None => Some(format!("the port is missing; write {listen}:8000")),
        Some(("", text)) => {
            let port = port(text)?;
            Some(format!("the host is missing; write 127.0.0.1:{port}, or 0.0.0.0:{port} for all interfaces"))
        }
        Some((host, "")) => Some(format!("the port is missing; write {host}:8000")),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_which_part_of_an_address_is_missing() {
        let check = |listen: &str, want: &str| {
            let error = addresses("--listen", listen).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--listen {listen:?} is not an address: ")), "{error}");
            assert!(error.contains(want), "{listen}: {error}");
        };
        check("localhost", "the port is missing; write localhost:8000");
        check("localhost:", "the port is missing; write localhost:8000");
        check("10.0.0.1", "the port is missing; write 10.0.0.1:8000");
        check("::1", "the port is missing; write [::1]:8000");
        check("[::]", "the port is missing; write [::]:8000");
        check("9000", "the host is missing; write 127.0.0.1:9000, or 0.0.0.0:9000 for all interfaces");
        check(":9000", "the host is missing; write 127.0.0.1:9000");
        check("", "it is empty; write it like 127.0.0.1:8000");
        check("127.0.0.1:99999", "write it like 127.0.0.1:8000");
        assert!(addresses("--listen", "[::1]:0").is_ok() && addresses("--listen", "127.0.0.1:0").is_ok());
    }
}
