//! What the operating system provides: the wall clock, random numbers, files that are opened without waiting, and the
//! CPU time, memory and open files of this process.
//!
//! Durations are measured in ticks, not with the wall clock. Memory and open files are known only on Linux.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, OFlags, access};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

const BYTES_PER_KIB: u64 = 1024;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The bytes of a file of this length at most. The limit keeps `/dev/zero` from being read.
///
/// # Errors
/// If the file cannot be read, or is longer; the text has nothing of its content.
pub fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > max_bytes {
        return Err(format!("it is larger than {} KiB", max_bytes / BYTES_PER_KIB));
    }
    Ok(bytes)
}

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

/// What the kernel reports about the memory and the threads of this process (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Memory in RAM (`VmRSS`).
    pub resident_bytes: u64,
    /// Address space (`VmSize`).
    pub virtual_bytes: u64,
    /// The number of threads.
    pub threads: u64,
}

/// Memory and threads of this process.
#[must_use]
pub fn process_memory() -> Option<ProcessMemory> {
    process_memory_of(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The number of open file descriptors.
#[must_use]
pub fn open_files() -> Option<u64> {
    let folder = Path::new("/proc/self/fd");
    // Since Linux 6.2, the size of the folder is their number. A count would list as many names as there are clients.
    match fs::metadata(folder).ok()?.len() {
        0 => Some(fs::read_dir(folder).ok()?.count() as u64),
        size => Some(size),
    }
}

/// The limit of open file descriptors.
#[must_use]
pub fn max_files() -> Option<u64> {
    rlimit::Resource::NOFILE.get_soft().ok()
}

/// The memory limit of the container (cgroup v2, `memory.max`), in bytes; `None` if there is none.
#[must_use]
pub fn container_memory_bytes() -> Option<u64> {
    fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok()
}

/// Makes the allocator return free memory after a storm of connections.
///
/// mimalloc returns pages to the system some time after they were freed, but it checks the time only when another page
/// is freed: a server that is idle after a storm would keep the memory (measured: 10,000 connections at once leave some
/// 1.5 MiB, 150 bytes per connection). A block of this size has its own page; freeing it makes the allocator check. The
/// block is not written, so it costs two calls and no memory.
pub(crate) fn return_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}

/// Whether this process was started with this signal ignored, as `nohup` does it with SIGHUP. Known only on Linux.
#[must_use]
pub fn ignores_signal(number: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, number))
}

fn is_ignored(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    u32::try_from(number - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or(0) & 1 == 1)
}

fn rss_anon_bytes(status: &str) -> Option<u64> {
    number_of(status, "RssAnon:")?.checked_mul(BYTES_PER_KIB)
}

fn process_memory_of(status: &str) -> Option<ProcessMemory> {
    Some(ProcessMemory {
        resident_bytes: number_of(status, "VmRSS:")?.checked_mul(BYTES_PER_KIB)?,
        virtual_bytes: number_of(status, "VmSize:")?.checked_mul(BYTES_PER_KIB)?,
        threads: number_of(status, "Threads:")?,
    })
}

/// The number in the line of `/proc/self/status` that begins with this name.
fn number_of(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
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

/// Whether [`open_to_append`] could open or create a file. Opens and creates nothing.
///
/// # Errors
/// If it could not.
pub(crate) fn check_append(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(Errno::ISDIR.into()),
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Err(error) => Err(error),
    }
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
        let memory = process_memory().expect("Linux");
        assert!(memory.virtual_bytes > memory.resident_bytes && memory.threads > 0, "{memory:?}");
    }

    #[test]
    fn open_files_are_counted() {
        let before = open_files().expect("Linux");
        let opened: Vec<_> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files as well, but not as many.
        let after = open_files().expect("Linux");
        assert!(after >= before + 50 && max_files().is_some_and(|limit| limit > after), "{before} {after}");
        drop(opened);
    }

    #[test]
    fn ignored_signals_are_bits_of_a_mask() {
        let status = "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\n";
        let ignored: Vec<_> = (0..70).filter(|number| is_ignored(status, *number)).collect();
        assert_eq!(ignored, [1, 2, 13]);
        assert!(!is_ignored("", 1));
    }

    #[test]
    fn memory_is_read_from_the_line_of_anonymous_pages() {
        assert_eq!(rss_anon_bytes("VmRSS:\t  9 kB\nRssAnon:\t  3 kB\n"), Some(3 * 1024));
        assert_eq!(rss_anon_bytes("VmRSS:\t  9 kB\n"), None);
    }
}
