//! The names that a certificate is for (RFC 5280, 4.1.2.6 and 4.2.1.6), read from its DER.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::validity::{SEQUENCE, any, fields_after, value};

const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const EXTENSIONS: u8 = 0xA3;
/// The tags of a host name and an address in a list of names.
const HOST_NAME: u8 = 0x82;
const ADDRESS: u8 = 0x87;
/// 2.5.4.3 and 2.5.29.17.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1D, 0x11];

/// The common name of the subject and the names of hosts, as far as they can be read: `CN=a.example for a.example,
/// b.example`.
pub(super) fn names(certificate: &[u8]) -> String {
    let (subject, hosts) = (common_name(certificate), hosts(certificate).unwrap_or_default().join(", "));
    match (subject, hosts.is_empty()) {
        (Some(subject), true) => format!("CN={subject}"),
        (Some(subject), false) => format!("CN={subject} for {hosts}"),
        (None, false) => format!("for {hosts}"),
        (None, true) => "without a name".to_owned(),
    }
}

/// The subject and the fields after it.
fn subject(certificate: &[u8]) -> Option<&[u8]> {
    // The serial number, the algorithm, the issuer and the validity.
    fields_after(certificate, 4)
}

fn common_name(certificate: &[u8]) -> Option<String> {
    let (mut parts, _) = value(subject(certificate)?, SEQUENCE)?;
    while !parts.is_empty() {
        let (part, rest) = value(parts, SET)?;
        let (pair, _) = value(part, SEQUENCE)?;
        let (oid, text) = value(pair, OID)?;
        if oid == COMMON_NAME {
            return shown(any(text)?.1);
        }
        parts = rest;
    }
    None
}

fn hosts(certificate: &[u8]) -> Option<Vec<String>> {
    // The subject and its public key.
    let mut fields = any(any(subject(certificate)?)?.2)?.2;
    while let Some((tag, content, rest)) = any(fields) {
        if tag == EXTENSIONS {
            return alternative_names(value(content, SEQUENCE)?.0);
        }
        fields = rest;
    }
    None
}

fn alternative_names(mut extensions: &[u8]) -> Option<Vec<String>> {
    while !extensions.is_empty() {
        let (extension, rest) = value(extensions, SEQUENCE)?;
        let (oid, mut content) = value(extension, OID)?;
        if oid == ALTERNATIVE_NAMES {
            // A flag that says whether the extension is critical may come before it.
            while content.first().is_some_and(|tag| *tag != OCTETS) {
                content = any(content)?.2;
            }
            return list(value(value(content, OCTETS)?.0, SEQUENCE)?.0);
        }
        extensions = rest;
    }
    None
}

fn list(mut names: &[u8]) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    while !names.is_empty() {
        let (tag, name, rest) = any(names)?;
        match tag {
            HOST_NAME => hosts.extend(shown(name)),
            ADDRESS => hosts.extend(address(name).map(|address| address.to_string())),
            _ => {}
        }
        names = rest;
    }
    Some(hosts)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into())).ok()
}

/// Text without control characters, which a terminal would execute.
fn shown(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::validity::VERSION;
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x81, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A certificate with these names; an empty one is left out.
    fn certificate(common_name: &str, hosts: &[&[u8]]) -> Vec<u8> {
        let pair = [element(OID, COMMON_NAME), element(0x0C, common_name.as_bytes())].concat();
        let part = element(SET, &element(SEQUENCE, &pair));
        let subject = element(SEQUENCE, if common_name.is_empty() { &[] } else { &part });
        let names = element(OCTETS, &element(SEQUENCE, &hosts.concat()));
        let extension = element(SEQUENCE, &[element(OID, ALTERNATIVE_NAMES), element(0x01, &[0xFF]), names].concat());
        let other = element(SEQUENCE, &[element(OID, &[0x55, 0x1D, 0x0F]), element(OCTETS, &[0])].concat());
        let extensions = element(EXTENSIONS, &element(SEQUENCE, &[other, extension].concat()));
        let before = [element(VERSION, &[2, 1, 2]), element(2, &[1]), element(SEQUENCE, &[]), element(SEQUENCE, &[])];
        let fields = [before.concat(), element(SEQUENCE, &[]), subject, element(SEQUENCE, &[]), extensions].concat();
        element(SEQUENCE, &element(SEQUENCE, &fields))
    }

    #[test]
    fn subjects_and_hosts_are_read() {
        let check = |common_name: &str, hosts: &[&[u8]], want: &str| {
            assert_eq!(names(&certificate(common_name, hosts)), want);
        };
        let (a, b) = (element(HOST_NAME, b"a.example"), element(HOST_NAME, b"*.b.example"));
        check("a.example", &[&a, &b], "CN=a.example for a.example, *.b.example");
        check("", &[&a, &element(0x81, b"mail"), &element(ADDRESS, &[127, 0, 0, 1])], "for a.example, 127.0.0.1");
        check("a.example", &[], "CN=a.example");
        check("", &[], "without a name");
        check("a\x1b[2J", &[&element(HOST_NAME, b"a\n")], "without a name");
    }

    #[test]
    fn a_broken_certificate_has_no_name_and_no_panic() {
        let whole = certificate("a.example", &[&element(HOST_NAME, b"a.example")]);
        for end in 0..whole.len() {
            let _ = names(&whole[..end]);
            let mut changed = whole.clone();
            changed[end] = 0xFF;
            let _ = names(&changed);
        }
        assert_eq!(names(&whole[..10]), "without a name");
    }
}
