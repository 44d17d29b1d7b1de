//! What the operating system provides: the wall clock, random numbers, files that are opened without waiting, and the
//! CPU time and memory of this process.
//!
//! Durations are measured in ticks, not with the wall clock. Memory is known only on Linux.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

const BYTES_PER_KIB: u64 = 1024;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// CPU time of all threads since the start, user and kernel, in nanoseconds.
#[must_use]
pub fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * NANOS_PER_SECOND + time.tv_nsec as u64
}

/// Heap and stacks that are in RAM, in bytes (`RssAnon`, proc(5)).
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    rss_anon_bytes(&fs::read_to_string("/proc/self/status").ok()?)
}

fn rss_anon_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(BYTES_PER_KIB)
}

/// The wall clock in milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Opens a file to append to it, and creates it if need be. Never blocks: a FIFO that nothing reads is an error.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let opened = OpenOptions::new().append(true).create(true).custom_flags(flags).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::other("nothing reads this FIFO; start its reader first"),
        _ => error,
    })
}

/// A random number. The standard library's hashers begin with random keys.
pub(crate) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// A number that identifies one run of a node and is greater than the numbers of earlier runs: milliseconds, then
/// `bits` random bits. A process id would not do: in a container it is always 1.
pub(crate) fn new_incarnation(unix_ms: u64, bits: u32) -> u64 {
    unix_ms << bits | random() & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_time_and_memory() {
        assert!(cpu_ns() > 0);
        assert!(memory_bytes().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn memory_is_read_from_the_line_of_anonymous_pages() {
        assert_eq!(rss_anon_bytes("VmRSS:\t  9 kB\nRssAnon:\t  3 kB\n"), Some(3 * 1024));
        assert_eq!(rss_anon_bytes("VmRSS:\t  9 kB\n"), None);
    }
}
