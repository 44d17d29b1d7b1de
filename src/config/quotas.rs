//! What each user, each address and all clients together may hold.

use super::values::{bytes, number};
use super::{ConfigError, require};
use crate::work_budget::{AddressBudgets, Allowance};

/// Failed authentications per second and address.
pub(crate) const FAILURES_PER_ADDRESS: u64 = 20;
/// As many seconds of new connections may come at once.
const BURST_SECONDS: u64 = 10;
/// States and infos take less.
const MAX_STATE: u64 = 1 << 37;
/// More is no limit.
const MAX_NUMBER: u64 = u32::MAX as u64;

/// The limits as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits per user and address")]
pub struct QuotaArgs {
    /// Maximum number of WebSocket connections per user on this node; further ones are closed with 1013. 0 sets no
    /// limit
    #[arg(long, env = "ROLLCALL_CONNECTIONS_PER_USER", default_value = "100", value_parser = number::<u64>, value_name = "N")]
    pub connections_per_user: u64,

    /// Maximum number of WebSocket connections per client address; further ones are closed with 1013. An IPv6 /64
    /// network is one address, and a /48 has eight times the limit; the same holds for all limits per address. Programs
    /// on this machine are not limited. 0 sets no limit
    #[arg(long, env = "ROLLCALL_CONNECTIONS_PER_ADDRESS", default_value = "10000", value_parser = number::<u64>, value_name = "N")]
    pub connections_per_address: u64,

    /// Maximum number of connections per address that have not completed a handshake, authentication or request;
    /// further ones get 429. 0 sets no limit
    #[arg(long, env = "ROLLCALL_UNAUTHENTICATED_PER_ADDRESS", default_value = "64", value_parser = number::<u64>, value_name = "N")]
    pub unauthenticated_per_address: u64,

    /// New connections per second and address, and ten times as many at once; further ones get 429. 0 sets no limit
    #[arg(long, env = "ROLLCALL_ARRIVALS_PER_ADDRESS", default_value = "200", value_parser = number::<u64>, value_name = "N")]
    pub arrivals_per_address: u64,

    /// Failed authentications per second and address, and ten times as many at once; then the server refuses
    /// credentials of this address with 429 and does not verify them. 0 sets no limit
    #[arg(long, env = "ROLLCALL_FAILURES_PER_ADDRESS", default_value_t = FAILURES_PER_ADDRESS, value_parser = number::<u64>, value_name = "N")]
    pub failures_per_address: u64,

    /// Maximum number of rooms on this node; clients cannot open further ones
    #[arg(long, env = "ROLLCALL_MAX_ROOMS", default_value = "1000000", value_parser = number::<u64>, value_name = "N")]
    pub max_rooms: u64,

    /// Maximum size of the states and infos of all clients of this node together; further ones are refused
    #[arg(long, env = "ROLLCALL_MAX_STATE", default_value = "1G", value_parser = bytes, value_name = "BYTES")]
    pub max_state: u64,
}

/// What each user, each address and all clients together may hold. [`u64::MAX`] is no limit, except where 0 is.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    /// WebSocket connections per user.
    pub connections_per_user: u64,
    /// WebSocket connections per address.
    pub connections_per_address: u64,
    /// Sockets per address without a complete handshake, authentication or request.
    pub unauthenticated_per_address: u64,
    /// New connections per second and address; 0 is no limit.
    pub arrivals_per_address: u64,
    /// Failed authentications per second and address; 0 is no limit.
    pub failures_per_address: u64,
    /// Rooms in all.
    pub max_rooms: u64,
    /// Bytes of states and infos in all.
    pub max_state: u64,
}

impl Quotas {
    /// The budgets of new connections, if they are limited.
    #[must_use]
    pub fn arrivals(&self) -> Option<AddressBudgets> {
        let (per_second, burst) = (self.arrivals_per_address, self.arrivals_per_address.saturating_mul(BURST_SECONDS));
        (per_second > 0).then(|| AddressBudgets::new(Allowance { per_second, burst, limit: u64::MAX }))
    }
}

impl QuotaArgs {
    /// Checks the limits.
    pub(super) fn check(&self) -> Result<Quotas, ConfigError> {
        let rates = [
            ("--arrivals-per-address", self.arrivals_per_address),
            ("--failures-per-address", self.failures_per_address),
            ("--max-rooms", self.max_rooms),
        ];
        for (name, number) in rates {
            require(number <= MAX_NUMBER, || format!("{name} is {number}; it must be at most {MAX_NUMBER}"))?;
        }
        require(self.max_rooms > 0, || "--max-rooms must be more than 0".to_owned())?;
        require((1024..=MAX_STATE).contains(&self.max_state), || {
            format!("--max-state is {} bytes; it must be between 1K and 128G", self.max_state)
        })?;
        let limit = |number: u64| if number == 0 { u64::MAX } else { number };
        Ok(Quotas {
            connections_per_user: limit(self.connections_per_user),
            connections_per_address: limit(self.connections_per_address),
            unauthenticated_per_address: limit(self.unauthenticated_per_address),
            arrivals_per_address: self.arrivals_per_address,
            failures_per_address: self.failures_per_address,
            max_rooms: self.max_rooms,
            max_state: self.max_state,
        })
    }
}
