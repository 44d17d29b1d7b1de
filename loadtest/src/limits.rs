//! How many file descriptors and source ports one process may use. Checked before the first connection, so that a run
//! that cannot work does not fail halfway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::cli::UsageError;

/// Descriptors that are not connections: stdin, stdout, stderr, epoll, timer, a stats request, files in /proc.
const SPARE_DESCRIPTORS: u64 = 32;
/// Ports left free per source address for other programs on the machine.
const SPARE_PORTS: usize = 200;

/// Raises the fd limit to the hard limit and returns how many connections fit below it.
pub(crate) fn raise_descriptors() -> Result<u64> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the fd limit")?;
    Ok(limit.saturating_sub(SPARE_DESCRIPTORS))
}

/// Fails if `connections` do not fit.
pub(crate) fn check_descriptors(connections: usize) -> Result<()> {
    let room = raise_descriptors()?;
    if connections as u64 <= room {
        return Ok(());
    }
    Err(UsageError(format!(
        "{connections} connections need more file descriptors than this process may open: the hard limit (ulimit -Hn) \
         allows {room}. Raise it, or run several processes with different --first-user"
    ))
    .into())
}

/// The local addresses to connect from, in turn. Empty: the kernel chooses.
pub(crate) fn source_addresses(connections: usize, server: SocketAddr, given: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    plan_sources(connections, ports_per_address(&range), server.ip(), given).map_err(Into::into)
}

/// On loopback only half of the port range of each address is used. 19,000 connections from one address took 3.6 and
/// 4.7 s, from two addresses 0.4–0.7 s (five runs); 14,000 from one address took 0.3 s. The cause is probably the
/// search for a free port: Linux tries the ports of one parity first. Scenarios would measure that search, and loopback
/// has enough addresses.
fn plan_sources(connections: usize, ports: usize, server: IpAddr, given: &[IpAddr]) -> Result<Vec<IpAddr>, UsageError> {
    if given.is_empty() && server.is_ipv4() && server.is_loopback() {
        let ports_without_search = (ports / 2).max(1);
        let needed = connections.div_ceil(ports_without_search);
        return Ok(if needed > 1 { (0..needed).map(loopback).collect() } else { Vec::new() });
    }
    let needed = connections.div_ceil(ports);
    if needed > given.len().max(1) {
        return Err(UsageError(format!(
            "{connections} connections to one port need {needed} source addresses with {ports} ports each; --source has {}",
            given.len()
        )));
    }
    Ok(given.to_vec())
}

fn loopback(index: usize) -> IpAddr {
    let offset = u32::try_from(index).unwrap_or(u32::MAX);
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits().saturating_add(offset)).into()
}

/// `range` is the content of `ip_local_port_range`. If it cannot be read, Linux's default applies.
fn ports_per_address(range: &str) -> usize {
    let mut bounds = range.split_whitespace().filter_map(|word| word.parse::<usize>().ok());
    let (low, high) = (bounds.next().unwrap_or(32_768), bounds.next().unwrap_or(60_999));
    (high + 1).saturating_sub(low + SPARE_PORTS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn the_port_range_determines_the_ports_per_address() {
        assert_eq!(ports_per_address("32768\t60999\n"), 28_032);
        assert_eq!(ports_per_address(""), 28_032);
        assert_eq!(ports_per_address("5 5"), 1);
    }

    #[test]
    fn loopback_uses_as_many_addresses_as_needed() {
        assert_eq!(plan_sources(14_000, 28_000, SERVER, &[]).unwrap(), Vec::<IpAddr>::new());
        let two: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
        assert_eq!(plan_sources(14_001, 28_000, SERVER, &[]).unwrap(), two);
        assert_eq!(plan_sources(10, 28_000, SERVER, &two).unwrap(), two);
        assert!(plan_sources(60_000, 28_000, SERVER, &two).is_err());
    }

    #[test]
    fn other_networks_need_source_addresses() {
        let server = "192.0.2.1".parse().unwrap();
        let message = plan_sources(60_000, 28_000, server, &[]).unwrap_err().to_string();
        assert!(message.contains("3 source addresses"), "{message}");
    }
}
