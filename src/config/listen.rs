//! Where the server listens.

use std::net::{SocketAddr, ToSocketAddrs};

use super::{ConfigError, require};

/// The addresses as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenArgs {
    /// Address to listen on; port 0 picks a free port
    #[arg(long, env = "ROLLCALL_LISTEN", default_value = "127.0.0.1:8000", value_name = "HOST:PORT")]
    pub listen: String,

    /// Second port on the same address, for online-status clients that expect a port of their own; it serves everything
    #[arg(long, env = "ROLLCALL_STATUS_PORT", value_name = "PORT")]
    pub status_port: Option<u16>,
}

/// Where the server listens.
#[derive(Debug, Clone, Copy)]
pub struct Listen {
    /// The address. Port 0 picks a free port.
    pub address: SocketAddr,
    /// A second port on that address. 0 picks a free port.
    pub status_port: Option<u16>,
}

impl ListenArgs {
    /// Resolves the address and checks that the ports differ.
    pub(super) fn check(&self) -> Result<Listen, ConfigError> {
        let listen = Listen { address: self.address()?, status_port: self.status_port };
        let port = listen.address.port();
        require(port == 0 || self.status_port != Some(port), || {
            format!(
                "--status-port is {port} and --listen is {}: the ports must differ; port {port} already serves everything",
                listen.address
            )
        })?;
        Ok(listen)
    }

    /// The address of `--listen`. A host name stands for its first address.
    pub(super) fn address(&self) -> Result<SocketAddr, ConfigError> {
        let listen = &self.listen;
        let invalid = |why: String| {
            ConfigError::Invalid(format!("--listen {listen:?} is not an address: {why}; write it like 127.0.0.1:8000"))
        };
        let mut addresses = listen.to_socket_addrs().map_err(|error| invalid(error.to_string()))?;
        addresses.next().ok_or_else(|| invalid("the host name has no address".to_owned()))
    }
}
