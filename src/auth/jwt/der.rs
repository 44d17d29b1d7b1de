//! The little of DER (X.690) that RSA public keys need.

/// A list of elements, a whole number, and a list of bits.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// The identifier of RSA keys (RFC 8017, appendix A.1).
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";

/// The RSA key in a public key of any kind (RFC 5280, 4.1), in the form that [`two_integers`] reads.
pub(super) fn rsa_key(der: &[u8]) -> Option<&[u8]> {
    let (parts, rest) = element(SEQUENCE, der)?;
    let (algorithm, parts) = element(SEQUENCE, parts)?;
    let (bits, end) = element(BIT_STRING, parts)?;
    let is_rsa = algorithm.starts_with(RSA) && rest.is_empty() && end.is_empty();
    bits.strip_prefix(&[0]).filter(|_| is_rsa)
}

/// The modulus and the exponent of an RSA key (RFC 8017, appendix A.1.1).
pub(super) fn two_integers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (parts, rest) = element(SEQUENCE, der)?;
    let (first, parts) = element(INTEGER, parts)?;
    let (second, end) = element(INTEGER, parts)?;
    let is_positive = |number: &[u8]| number.first().is_some_and(|byte| byte & 0x80 == 0);
    (rest.is_empty() && end.is_empty() && is_positive(first) && is_positive(second)).then_some((first, second))
}

/// The content of the first element, which must have this tag, and what follows.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [first, short, rest @ ..] = der else { return None };
    if *first != tag {
        return None;
    }
    let (length, rest) = match short {
        0..=0x7f => (usize::from(*short), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
