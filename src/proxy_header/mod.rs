//! The header of the PROXY protocol (haproxy.org, "The PROXY protocol", versions 1 and 2): a proxy sends it before the
//! first byte of its client, and names the client's address.
//!
//! The crate `ppp` parses the addresses. What the receiver must decide is decided here: how long a header is, which
//! ones are too long, and that LOCAL and UNKNOWN headers name nobody, whatever else they have.

mod rejections;

use std::net::IpAddr;

use ppp::{v1, v2};

pub use rejections::Rejections;

/// The limit of bytes of a header: the fixed part of version 2, its longest addresses, and 304 bytes of extensions.
pub const MAX_BYTES: usize = 536;

/// The limit of bytes of a header of version 1, with its line end.
const MAX_V1_BYTES: usize = 107;
const V1_PREFIX: &[u8] = b"PROXY ";
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN";
const LINE_END: &[u8] = b"\r\n";

/// The bytes of version 2 before the addresses: the prefix, version and command, family, and the length of the rest.
const V2_FIXED_BYTES: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// The header with which a program on the machine itself says that no client is behind it: version 2, LOCAL.
pub const LOCAL: [u8; V2_FIXED_BYTES] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes.
    pub bytes: usize,
    /// The address of the client that it names. Without one, the client is the peer of the socket.
    pub client: Option<IpAddr>,
}

/// Why a connection is closed before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The peer is not a trusted proxy.
    Untrusted,
    /// The first bytes are not a header.
    Missing,
    /// The header contradicts the protocol.
    Malformed,
    /// The header is longer than [`MAX_BYTES`], or than version 1 allows.
    TooLong,
    /// The client behind the proxy does not use TCP.
    Unsupported,
    /// The connection ended, or its time was over, before the header was complete.
    Incomplete,
}

/// The header at the start of these bytes; `None` if more bytes are needed to tell.
///
/// # Errors
/// As soon as the bytes cannot become a valid header.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Reason> {
    let begins_with = |prefix: &[u8]| bytes.starts_with(prefix) || prefix.starts_with(bytes);
    match bytes {
        [] => Ok(None),
        _ if begins_with(v2::PROTOCOL_PREFIX) => parse_v2(bytes),
        _ if begins_with(V1_PREFIX) => parse_v1(bytes),
        _ => Err(Reason::Missing),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Reason> {
    let searched = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    let Some(end) = searched.windows(LINE_END.len()).position(|end| end == LINE_END) else {
        return if bytes.len() < MAX_V1_BYTES { Ok(None) } else { Err(Reason::TooLong) };
    };
    let line = &bytes[..end + LINE_END.len()];
    let header = |client| Ok(Some(Header { bytes: line.len(), client }));
    // Receivers ignore everything behind UNKNOWN.
    if line.strip_prefix(V1_UNKNOWN).is_some_and(|rest| rest == LINE_END || rest.starts_with(b" ")) {
        return header(None);
    }
    // `ppp` accepts a sign before a port.
    if line.contains(&b'+') {
        return Err(Reason::Malformed);
    }
    match v1::Header::try_from(line).map_err(|_| Reason::Malformed)?.addresses {
        v1::Addresses::Tcp4(addresses) => header(Some(addresses.source_address.into())),
        v1::Addresses::Tcp6(addresses) => header(Some(addresses.source_address.into())),
        v1::Addresses::Unknown => Err(Reason::Malformed),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Reason> {
    let command = bytes.get(v2::PROTOCOL_PREFIX.len()).copied();
    if command.is_some_and(|command| command != V2_LOCAL && command != V2_PROXY) {
        return Err(Reason::Malformed);
    }
    let Some(&[high, low]) = bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES) else { return Ok(None) };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_BYTES {
        return Err(Reason::TooLong);
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    let header = |client| Ok(Some(Header { bytes: length, client }));
    // Receivers ignore everything else in a LOCAL header.
    if command == Some(V2_LOCAL) {
        return header(None);
    }
    let parsed = v2::Header::try_from(whole).map_err(|_| Reason::Malformed)?;
    if parsed.tlvs().any(|extension| extension.is_err()) {
        return Err(Reason::Malformed);
    }
    match (parsed.addresses, parsed.protocol) {
        // What UNKNOWN is in version 1.
        (v2::Addresses::Unspecified, _) => header(None),
        (v2::Addresses::IPv4(addresses), v2::Protocol::Stream) => header(Some(addresses.source_address.into())),
        (v2::Addresses::IPv6(addresses), v2::Protocol::Stream) => header(Some(addresses.source_address.into())),
        _ => Err(Reason::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &[u8] = &[203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x34, 0x01, 0xbb];

    /// A header of version 2: the byte of version and command, that of the family, and the rest.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    fn v6() -> Vec<u8> {
        let source: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0x12, 0x34, 0x01, 0xbb]].concat()
    }

    /// A complete header that names this client. It is incomplete until its last byte, and what follows is not its.
    fn check(header: &[u8], client: Option<&str>) {
        let client = client.map(|client| client.parse().unwrap());
        let shown = String::from_utf8_lossy(header);
        let whole = Ok(Some(Header { bytes: header.len(), client }));
        assert_eq!(parse(header), whole, "{shown:?}");
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "the first {end} bytes of {shown:?}");
        }
        for next in [&b"GET / HTTP/1.1\r\n\r\n"[..], header, &[0; 600]] {
            assert_eq!(parse(&[header, next].concat()), whole, "{shown:?} and more");
        }
    }

    #[test]
    fn a_header_of_version_1_names_the_client() {
        check(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n", Some("203.0.113.7"));
        check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n", Some("255.255.255.255"));
        check(b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", Some("2001:db8::7"));
        check(b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n", Some("::ffff:203.0.113.7"));
        let longest = b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ".repeat(2);
        check(
            &[b"PROXY TCP6 ", &longest[..], b"65535 65535\r\n"].concat(),
            Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        );
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::1 ::1 65535 65535\r\n", None);
        check(b"PROXY UNKNOWN anything but a line end, \n or \r alone, and + too\r\n", None);
        check(&[V1_UNKNOWN, b" ", &[b'x'; MAX_V1_BYTES - 16], LINE_END].concat(), None);
    }

    #[test]
    fn malformed_headers_of_version_1_are_refused() {
        let check = |line: &str, reason| assert_eq!(parse(line.as_bytes()), Err(reason), "{line:?}");
        for line in [
            "PROXY  TCP4 1.2.3.4 1.2.3.5 1 2",
            "PROXY TCP4  1.2.3.4 1.2.3.5 1 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 1 2 ",
            "PROXY TCP4 1.2.3.4\t1.2.3.5 1 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 1",
            "PROXY TCP4 1.2.3.4 1.2.3.5 1 2 3",
            "PROXY TCP4 1.2.3.4 1.2.3.5 +1 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 1 +2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 01 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 65536 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 -1 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 x 2",
            "PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n",
            "PROXY TCP4 01.2.3.4 1.2.3.5 1 2",
            "PROXY TCP4 1.2.3 1.2.3.5 1 2",
            "PROXY TCP4 ::1 ::2 1 2",
            "PROXY TCP6 1.2.3.4 1.2.3.5 1 2",
            "PROXY TCP6 fe80::1%eth0 ::2 1 2",
            "PROXY TCP6 [::1] ::2 1 2",
            "PROXY TCP5 1.2.3.4 1.2.3.5 1 2",
            "PROXY tcp4 1.2.3.4 1.2.3.5 1 2",
            "PROXY UNKNOWNX",
            "PROXY UNKNOWN\t",
            "PROXY TCP4",
            "PROXY ",
            "PROXY TCP4 1.2.3.\u{e4} 1.2.3.5 1 2",
        ] {
            check(&format!("{line}\r\n"), Reason::Malformed);
        }
        check("PROXY\r\n", Reason::Missing);
        check("proxy TCP4 1.2.3.4 1.2.3.5 1 2\r\n", Reason::Missing);
        check("GET / HTTP/1.1\r\n", Reason::Missing);
        check("G", Reason::Missing);
        check("\r\nPROXY UNKNOWN\r\n", Reason::Missing);
        check(&format!("PROXY UNKNOWN {}", "x".repeat(MAX_V1_BYTES - 14)), Reason::TooLong);
        check(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1_BYTES - 15)), Reason::TooLong);
        check(&format!("PROXY UNKNOWN {}", "x".repeat(MAX_BYTES)), Reason::TooLong);
    }

    #[test]
    fn a_header_of_version_2_names_the_client() {
        check(&v2(0x21, 0x11, V4), Some("203.0.113.7"));
        check(&v2(0x21, 0x21, &v6()), Some("2001:db8::7"));
        // An application protocol, a check sum, and one with a type of its own.
        let extensions = [&[0x01, 0, 2][..], b"h1", &[0x03, 0, 4, 1, 2, 3, 4], &[0xe0, 0, 0]].concat();
        check(&v2(0x21, 0x11, &[V4, &extensions].concat()), Some("203.0.113.7"));
        check(&v2(0x21, 0x21, &[v6(), extensions].concat()), Some("2001:db8::7"));
        let longest = MAX_BYTES - V2_FIXED_BYTES - V4.len() - 3;
        let longest = [&[0x04][..], &u16::try_from(longest).unwrap().to_be_bytes(), &vec![0; longest]].concat();
        check(&v2(0x21, 0x11, &[V4, &longest].concat()), Some("203.0.113.7"));
        check(&LOCAL, None);
        // The rest of a LOCAL header does not count, whatever it is.
        for family in [0x00, 0x11, 0x21, 0x31, 0xff] {
            check(&v2(0x20, family, b""), None);
            check(&v2(0x20, family, V4), None);
        }
        check(&v2(0x21, 0x00, b""), None);
        check(&v2(0x21, 0x00, V4), None);
    }

    #[test]
    fn malformed_headers_of_version_2_are_refused() {
        let check = |header: &[u8], reason| assert_eq!(parse(header), Err(reason), "{header:x?}");
        for command in (0..=0xff).filter(|command| ![0x20, 0x21].contains(command)) {
            check(&v2(command, 0x11, V4), Reason::Malformed);
            check(&v2(command, 0x11, V4)[..13], Reason::Malformed);
        }
        for family in [0x14, 0x41, 0xf1, 0x1f] {
            check(&v2(0x21, family, V4), Reason::Malformed);
        }
        // UDP, and local sockets.
        for (family, rest) in [(0x12, V4.to_vec()), (0x10, V4.to_vec()), (0x22, v6()), (0x31, vec![0; 216])] {
            check(&v2(0x21, family, &rest), Reason::Unsupported);
        }
        check(&v2(0x21, 0x11, &V4[..11]), Reason::Malformed);
        check(&v2(0x21, 0x21, V4), Reason::Malformed);
        check(&v2(0x21, 0x31, V4), Reason::Malformed);
        // An extension that is longer than the header, and less than an extension.
        for rest in [&[0x04, 0, 2, 0][..], &[0x04], &[0x04, 0]] {
            check(&v2(0x21, 0x11, &[V4, rest].concat()), Reason::Malformed);
        }
        check(&v2(0x21, 0x11, &[0; MAX_BYTES - V2_FIXED_BYTES + 1]), Reason::TooLong);
        check(&v2(0x20, 0x00, &[0; 65_535])[..V2_FIXED_BYTES], Reason::TooLong);
        check(b"\r\n\r\n\0\r\nQUIT\r\n", Reason::Missing);
        check(b"\r\n\r\n\0\r\nQUIX", Reason::Missing);
    }

    proptest! {
        /// Whatever arrives, the answer is the same for each way to cut it: once it is decided, it stays.
        #[test]
        fn more_bytes_never_change_a_decision(
            begin in prop_oneof![
                Just(V1_PREFIX.to_vec()), Just(b"PROXY TCP4 1.2.3.4 1.2.3.5 ".to_vec()), Just(v2::PROTOCOL_PREFIX.to_vec()),
                Just(v2(0x21, 0x11, V4)[..15].to_vec()), Just(v2(0x21, 0x21, b"")[..14].to_vec()), Just(Vec::new()),
            ],
            rest in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(b'1'), Just(b' '), Just(b'\r'), Just(b'\n')], 0..700),
        ) {
            let bytes = [begin, rest].concat();
            let mut decided = None;
            for end in 0..=bytes.len() {
                let parsed = parse(&bytes[..end]);
                if let Ok(Some(header)) = parsed {
                    prop_assert!(header.bytes <= end.min(MAX_BYTES));
                }
                if parsed == Ok(None) {
                    prop_assert!(decided.is_none() && end < MAX_BYTES, "{end}");
                } else {
                    prop_assert_eq!(*decided.get_or_insert(parsed), parsed);
                }
            }
        }
    }
}
