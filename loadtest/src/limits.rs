//! What one process may open: file descriptors and source ports. Checked before the first connection, so
//! that a run says so instead of failing halfway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::cli::UsageError;

/// Descriptors that are not connections: the standard three, epoll, timer, a stats request, files of /proc.
const SPARE_DESCRIPTORS: u64 = 32;
/// Ports kept free per source address: whatever else runs on the machine connects too.
const SPARE_PORTS: usize = 200;

/// Raises the fd limit to the hard limit and returns how many connections fit below it.
pub(crate) fn raise_descriptors() -> Result<u64> {
    let limit = rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the fd limit")?;
    Ok(limit.saturating_sub(SPARE_DESCRIPTORS))
}

/// Says what to do when `connections` do not fit.
pub(crate) fn check_descriptors(connections: usize) -> Result<()> {
    let room = raise_descriptors()?;
    if connections as u64 <= room {
        return Ok(());
    }
    Err(UsageError(format!(
        "--connections {connections} needs more file descriptors than this process may have: at most {room} fit \
         below the hard limit (ulimit -Hn). Raise it, or run several processes with different --first-user"
    ))
    .into())
}

/// The local addresses to connect from, in turn; empty: let the kernel choose.
pub(crate) fn source_addresses(connections: usize, server: SocketAddr, given: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    plan_sources(connections, ports_per_address(&range), server.ip(), given).map_err(Into::into)
}

/// 19,000 connections from one address took 3.6 and 4.7 s, from two 0.4–0.7 s (five runs), 14,000 from one
/// 0.3 s. Most likely the search for a free port: Linux tries those of one parity first. Scenarios would time
/// that search, and loopback has addresses to spare, so there only half of the range is used.
fn plan_sources(connections: usize, ports: usize, server: IpAddr, given: &[IpAddr]) -> Result<Vec<IpAddr>, UsageError> {
    if given.is_empty() && server.is_ipv4() && server.is_loopback() {
        let quick = (ports / 2).max(1);
        let needed = connections.div_ceil(quick);
        return Ok(if needed > 1 { (0..needed).map(loopback).collect() } else { Vec::new() });
    }
    let needed = connections.div_ceil(ports);
    if needed > given.len().max(1) {
        return Err(UsageError(format!(
            "{connections} connections to one port need {needed} source addresses of {ports} ports each, but --source gives {}",
            given.len()
        )));
    }
    Ok(given.to_vec())
}

fn loopback(index: usize) -> IpAddr {
    let offset = u32::try_from(index).unwrap_or(u32::MAX);
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits().saturating_add(offset)).into()
}

/// From the two numbers of `ip_local_port_range`; Linux's default if they cannot be read.
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
    fn the_port_range_is_read() {
        assert_eq!(ports_per_address("32768\t60999\n"), 28_032);
        assert_eq!(ports_per_address(""), 28_032);
        assert_eq!(ports_per_address("5 5"), 1);
    }

    #[test]
    fn loopback_gets_as_many_addresses_as_it_needs() {
        assert_eq!(plan_sources(14_000, 28_000, SERVER, &[]).unwrap(), Vec::<IpAddr>::new());
        let two: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
        assert_eq!(plan_sources(14_001, 28_000, SERVER, &[]).unwrap(), two);
        assert_eq!(plan_sources(10, 28_000, SERVER, &two).unwrap(), two);
        assert!(plan_sources(60_000, 28_000, SERVER, &two).is_err());
    }

    #[test]
    fn elsewhere_the_user_has_to_name_them() {
        let server = "192.0.2.1".parse().unwrap();
        let message = plan_sources(60_000, 28_000, server, &[]).unwrap_err().to_string();
        assert!(message.contains("3 source addresses"), "{message}");
    }
}
