//! The addresses of clients: who a request comes from, also behind proxies, and how limits count it. Clients that share
//! an address share its limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The bits of an IPv6 address that name a network. Providers give each customer at least one network, so a client can
/// choose the other bits freely.
const NETWORK_BITS: u128 = !(u64::MAX as u128);

/// The bits of an IPv6 address behind its /48.
const SITE_SHIFT: u32 = 80;

/// An IPv4 address, or the /64 network of an IPv6 address. An IPv4 address in IPv6 notation (`::ffff:a.b.c.d`) is an
/// IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddress(u128);

impl PeerAddress {
    /// The address as limits count it.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & NETWORK_BITS),
        }
    }

    /// The address that limits count for this peer; `None` for programs and proxies on the machine itself, which have
    /// no limits.
    #[must_use]
    pub fn limited(peer: IpAddr) -> Option<Self> {
        (!is_local(peer)).then(|| Self::of(peer))
    }

    /// The address of this number.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The /48 of an IPv6 network: providers give each customer at most one. `None` for IPv4.
    #[must_use]
    pub fn site(self) -> Option<u64> {
        let is_ipv4 = Ipv6Addr::from_bits(self.0).to_ipv4_mapped().is_some();
        (!is_ipv4).then_some((self.0 >> SITE_SHIFT) as u64)
    }

    /// A number that no other address has.
    #[must_use]
    pub fn to_bits(self) -> u128 {
        self.0
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = Ipv6Addr::from_bits(self.0);
        match address.to_ipv4_mapped() {
            Some(address) => address.fmt(formatter),
            None => write!(formatter, "{address}/64"),
        }
    }
}

/// The client of a request or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    ip: IpAddr,
    /// Whether anything names a client behind the peer: a forwarding header, or a PROXY header.
    is_forwarded: bool,
    /// Whether the limits of sockets counted the connection for this address already.
    is_counted: bool,
}

/// A client that is not the peer of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BehindProxy {
    /// The address that limits count.
    pub address: PeerAddress,
    /// Whether the limits of sockets counted the connection for this address. They do not if the peer is a trusted
    /// proxy: its sockets are of many clients.
    pub is_counted: bool,
}

impl ClientAddress {
    /// A client that is the peer of the socket itself.
    #[must_use]
    pub fn of_peer(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), is_forwarded: false, is_counted: !is_local(ip) }
    }

    /// A client that a PROXY header names.
    #[must_use]
    pub fn of_proxy_header(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), is_forwarded: true, is_counted: true }
    }

    /// A client that is behind a trusted proxy, with the address that counts.
    #[must_use]
    pub fn forwarded(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), is_forwarded: true, is_counted: false }
    }

    /// The same client, although it says that it forwards requests of others.
    #[must_use]
    pub fn claiming_to_forward(self) -> Self {
        Self { is_forwarded: true, ..self }
    }

    /// The address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address that limits count; `None` for programs on the machine itself, which have no limits. An address that
    /// a header names always has limits.
    #[must_use]
    pub fn limited(self) -> Option<PeerAddress> {
        if self.is_forwarded { Some(PeerAddress::of(self.ip)) } else { PeerAddress::limited(self.ip) }
    }

    /// The address that limits count if it is not the one of the socket's peer.
    #[must_use]
    pub fn behind_proxy(self) -> Option<BehindProxy> {
        let Self { ip, is_forwarded, is_counted } = self;
        is_forwarded.then(|| BehindProxy { address: PeerAddress::of(ip), is_counted })
    }
}

/// A network of addresses, in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// The number of bits that the addresses have in common, at least one.
    prefix: u32,
}

impl Network {
    /// Whether it contains this address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(address)) => (own.to_bits() ^ address.to_bits()) >> (32 - self.prefix) == 0,
            (IpAddr::V6(own), IpAddr::V6(address)) => (own.to_bits() ^ address.to_bits()) >> (128 - self.prefix) == 0,
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || "it is not a network; write it like 10.0.0.0/8, 10.1.2.3 or fd00::/8".to_owned();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let typed: IpAddr = address.parse().map_err(|_| invalid())?;
        let address = typed.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        // A mapped address counts as IPv4, and its prefix too.
        let excess = if typed.is_ipv6() && address.is_ipv4() { 96 } else { 0 };
        let digits = prefix.map(|prefix| prefix.parse::<u8>().map_err(|_| invalid())).transpose()?;
        let prefix = digits.map_or(most, |digits| u32::from(digits).saturating_sub(excess));
        match prefix {
            0 => Err("a network with /0 would trust every address".to_owned()),
            _ if prefix > most => Err(invalid()),
            _ => Ok(Self { address, prefix }),
        }
    }
}

/// The client behind a trusted peer: the first address from the right that no trusted proxy has. An entry that is not
/// an address ends the search at the proxy that sent it. The entries are those of all `X-Forwarded-For` lines.
#[must_use]
pub fn client_behind<'a>(
    peer: IpAddr,
    trusted: &[Network],
    entries_from_right: impl IntoIterator<Item = &'a [u8]>,
) -> IpAddr {
    let mut client = peer.to_canonical();
    for entry in entries_from_right {
        if !trusted.iter().any(|network| network.contains(client)) {
            break;
        }
        let Some(address) = address_without_port(entry) else { break };
        client = address;
    }
    client
}

/// The address in an entry of a forwarding header, which may have a port and, before a port, brackets.
#[must_use]
pub fn address_without_port(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let is_port = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_valid = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse::<Ipv6Addr>().ok().filter(|_| is_valid).map(|address| IpAddr::V6(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    address.parse::<Ipv4Addr>().ok().filter(|_| is_port(port)).map(IpAddr::V4)
}

/// Whether only this machine has the address: 127.0.0.0/8 or ::1.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Whether this is the address of the machine itself, 127.0.0.1 or ::1, as programs and proxies on it use it.
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> PeerAddress {
        PeerAddress::of(address.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_ipv4_addresses_are_apart() {
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("10.0.0.1"), of("::1"));
    }

    #[test]
    fn an_address_is_shown_as_limits_count_it() {
        assert_eq!(of("::ffff:10.0.0.1").to_string(), "10.0.0.1");
        assert_eq!(of("2001:db8:0:1::7").to_string(), "2001:db8:0:1::/64");
    }

    #[test]
    fn only_the_two_usual_addresses_are_local() {
        let check = |address: &str, local| assert_eq!(is_local(address.parse().unwrap()), local, "{address}");
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            check(address, true);
        }
        for address in ["127.0.0.2", "10.0.0.1", "::2", "2001:db8::1", "::ffff:127.0.0.2", "0.0.0.0"] {
            check(address, false);
        }
    }

    #[test]
    fn an_address_from_a_header_is_never_exempt() {
        let local = "127.0.0.1".parse().unwrap();
        assert_eq!(ClientAddress::of_peer(local).limited(), None);
        assert_eq!(ClientAddress::of_peer("::1".parse().unwrap()).limited(), None);
        assert_eq!(ClientAddress::forwarded(local).limited(), Some(of("127.0.0.1")));
        assert_eq!(ClientAddress::of_peer("10.0.0.1".parse().unwrap()).limited(), Some(of("10.0.0.1")));
        assert_eq!(ClientAddress::of_peer("10.0.0.1".parse().unwrap()).behind_proxy(), None);
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        let check = |network: &str, inside: &[&str], outside: &[&str]| {
            let network: Network = network.parse().unwrap();
            inside.iter().for_each(|address| assert!(network.contains(address.parse().unwrap()), "{address}"));
            outside.iter().for_each(|address| assert!(!network.contains(address.parse().unwrap()), "{address}"));
        };
        check("10.0.0.0/8", &["10.0.0.0", "10.255.0.1", "::ffff:10.1.1.1"], &["11.0.0.1", "::a00:1", "::1"]);
        check("10.1.2.3", &["10.1.2.3"], &["10.1.2.4"]);
        check("10.1.2.3/31", &["10.1.2.2", "10.1.2.3"], &["10.1.2.4"]);
        check("::ffff:10.0.0.0/104", &["10.9.9.9"], &["11.0.0.1"]);
        check("fd00::/8", &["fd00::1", "fdff::"], &["fe00::", "10.0.0.1"]);
        check("::1", &["::1"], &["127.0.0.1", "::2"]);
        check("::/1", &["::1"], &["127.0.0.1"]);
        for bad in ["", "0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96", "::ffff:0.0.0.0/0", "10.0.0.0/33", "::/129", "10/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        for bad in ["10.0.0.0/", "10.0.0.0/x", "10.0.0.0/8/8", "10.0.0.0/-1", "example.com", "*"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_client_is_the_first_untrusted_address_from_the_right() {
        let check = |peer: &str, header: &str, want: &str| {
            let trusted = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
            let entries = header.rsplit(',').filter(|entry| !entry.is_empty()).map(str::as_bytes);
            let client = client_behind(peer.parse().unwrap(), &trusted, entries);
            assert_eq!(client, want.parse::<IpAddr>().unwrap(), "{header} from {peer}");
        };
        check("10.0.0.1", "", "10.0.0.1");
        check("10.0.0.1", "1.1.1.1", "1.1.1.1");
        check("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2,10.0.0.3", "1.1.1.1");
        check("10.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9");
        check("10.0.0.1", "1.1.1.1, garbage, 10.0.0.2", "10.0.0.2");
        check("10.0.0.1", "1.1.1.1, unknown", "10.0.0.1");
        check("10.0.0.1", "127.0.0.1", "127.0.0.1");
        check("10.0.0.1", "1.1.1.1:4711", "1.1.1.1");
        check("::1", "[2001:db8::7]:443", "2001:db8::7");
        check("::1", "[2001:db8::7], ::ffff:10.0.0.4", "2001:db8::7");
        check("1.2.3.4", "6.6.6.6", "1.2.3.4");
        for garbage in ["[::1", "::1]", "1.1.1.1:", "1.1.1.1:x", "[1.1.1.1]:80", "1.1.1", "[::1]x", "[::1]:"] {
            assert_eq!(address_without_port(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(address_without_port(b"\xff"), None);
    }
}
