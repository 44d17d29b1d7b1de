//! The time when a certificate begins to be valid and when it expires (RFC 5280, 4.1.2.5), read from its DER.

/// Seconds since the Unix epoch.
type UnixSeconds = i64;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SECONDS_PER_DAY: i64 = 86_400;

/// When a certificate is valid: from and until. `None` if it cannot be read.
pub(super) fn validity(certificate: &[u8]) -> Option<(UnixSeconds, UnixSeconds)> {
    // The serial number, the algorithm and the issuer.
    let (validity, _) = value(fields_after(certificate, 3)?, SEQUENCE)?;
    let (tag, begin, rest) = any(validity)?;
    let begin = time(tag, begin)?;
    let (tag, end, _) = any(rest)?;
    Some((begin, time(tag, end)?))
}

/// The fields of a certificate after its version and this many others.
pub(super) fn fields_after(certificate: &[u8], count: usize) -> Option<&[u8]> {
    let (certificate, _) = value(certificate, SEQUENCE)?;
    let (mut fields, _) = value(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = any(fields)?.2;
    }
    for _ in 0..count {
        fields = any(fields)?.2;
    }
    Some(fields)
}

/// The value of an element with this tag, and what follows it.
pub(super) fn value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, value, rest) = any(bytes)?;
    (found == tag).then_some((value, rest))
}

/// The tag and the value of an element, and what follows it.
pub(super) fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = bytes.split_first_chunk()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7F))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

/// `YYMMDDHHMMSSZ`, or with four digits of the year.
fn time(tag: u8, text: &[u8]) -> Option<UnixSeconds> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number =
        |digits: &[u8]| -> Option<i64> { std::str::from_utf8(digits).ok()?.parse::<u32>().ok().map(i64::from) };
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let mut parts = rest.chunks(2).map(number);
    let mut next = || parts.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(())?;
    Some(days(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second)
}

/// Days since the Unix epoch, in the Gregorian calendar. Years begin with March here, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719,468 days are between 1 March of the year 0 and 1 January 1970.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        let check = |tag, text: &str, want| assert_eq!(time(tag, text.as_bytes()), want, "{text}");
        check(UTC_TIME, "700101000000Z", Some(0));
        check(UTC_TIME, "000229120000Z", Some(951_825_600));
        check(UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(UTC_TIME, "500101000000Z", Some(-631_152_000));
        check(GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000));
        check(GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799));
        for bad in ["", "Z", "7001010000Z", "700101000000", "70a101000000Z", "701301000000Z", "+70101000000Z"] {
            check(UTC_TIME, bad, None);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        let long = [&[SEQUENCE, 0x84, 0xFF, 0xFF, 0xFF, 0xFF][..], &[0; 50]].concat();
        for bytes in [&b""[..], b"\x30", b"\x30\x80", b"\x30\x03\x30\x01\xA0", &long, &[0x30; 100], &[0xFF; 100]] {
            assert_eq!(validity(bytes), None, "{bytes:?}");
        }
    }
}
