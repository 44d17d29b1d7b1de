//! Reads /proc: CPU time and memory of processes, CPU time stolen by the hypervisor, memory of the kernel.

use std::fs;
use std::io;

use anyhow::{Context, Result};

const BYTES_PER_KIB: u64 = 1024;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Costs are counted in nanoseconds and reported in microseconds.
pub(crate) const NANOS_PER_MICRO: f64 = 1000.0;

/// System-wide: on loopback it includes both ends of every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    /// Sockets, file objects, epoll items.
    pub(crate) slab_bytes: u64,
    /// TCP buffers.
    pub(crate) tcp_bytes: u64,
}

/// User and kernel time of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) ran_ns: u64,
    /// Ready to run while another process had the core.
    pub(crate) waited_ns: u64,
}

impl CpuTime {
    fn add(&mut self, other: Self) {
        self.ran_ns += other.ran_ns;
        self.waited_ns += other.waited_ns;
    }

    pub(crate) fn since(self, start: Self) -> Self {
        // The time of a thread that has ended is missing, so the sum may shrink.
        Self {
            ran_ns: self.ran_ns.saturating_sub(start.ran_ns),
            waited_ns: self.waited_ns.saturating_sub(start.waited_ns),
        }
    }
}

/// Memory of processes that is not backed by a file: heap and stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnonymousMemory {
    pub(crate) bytes: u64,
    /// The part of it in huge pages of 2 MiB; `None` if it is not known.
    pub(crate) huge_bytes: Option<u64>,
}

/// CPU time of all threads of all `pids`.
pub(crate) fn cpu_time(pids: &[u32]) -> Result<CpuTime> {
    let mut total = CpuTime::default();
    for pid in pids {
        let of_process = process_cpu_time(*pid)
            .with_context(|| format!("cannot read the CPU time of process {pid}; has it ended?"))?;
        total.add(of_process);
    }
    Ok(total)
}

pub(crate) fn own_cpu_time() -> Result<CpuTime> {
    cpu_time(&[std::process::id()])
}

pub(crate) fn anonymous(pids: &[u32]) -> Result<AnonymousMemory> {
    let mut total = AnonymousMemory { bytes: 0, huge_bytes: Some(0) };
    for pid in pids {
        let of_process = process_anonymous(*pid)
            .with_context(|| format!("cannot read the memory of process {pid}; has it ended?"))?;
        total.bytes += of_process.bytes;
        total.huge_bytes = total.huge_bytes.zip(of_process.huge_bytes).map(|(sum, huge)| sum + huge);
    }
    Ok(total)
}

/// CPU time that this machine wanted and the hypervisor gave to others, on all cores.
pub(crate) fn stolen_ns() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let ticks = stolen_ticks(&stat).context("/proc/stat has no steal time")?;
    Ok(ticks * NANOS_PER_SECOND / rustix::param::clock_ticks_per_second())
}

pub(crate) fn kernel_memory() -> Result<KernelMemory> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let sockstat = fs::read_to_string("/proc/net/sockstat").context("/proc/net/sockstat")?;
    Ok(KernelMemory {
        slab_bytes: kib_field(&meminfo, "Slab:").context("/proc/meminfo has no Slab")?,
        tcp_bytes: tcp_pages(&sockstat).context("/proc/net/sockstat has no TCP mem")?
            * rustix::param::page_size() as u64,
    })
}

fn process_cpu_time(pid: u32) -> io::Result<CpuTime> {
    let mut total = CpuTime::default();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end after it was listed.
        if let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) {
            total.add(parse_schedstat(&schedstat).unwrap_or_default());
        }
    }
    Ok(total)
}

/// smaps_rollup is exact but needs ptrace rights; the counters in status lag by up to 32 pages per core.
fn process_anonymous(pid: u32) -> Result<AnonymousMemory> {
    if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        let bytes = kib_field(&rollup, "Anonymous:").context("smaps_rollup has no Anonymous")?;
        return Ok(AnonymousMemory { bytes, huge_bytes: kib_field(&rollup, "AnonHugePages:") });
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = kib_field(&status, "RssAnon:").context("status has no RssAnon")?;
    Ok(AnonymousMemory { bytes, huge_bytes: None })
}

/// The first two numbers: nanoseconds on a CPU, nanoseconds on a run queue.
fn parse_schedstat(schedstat: &str) -> Option<CpuTime> {
    let mut numbers = schedstat.split_whitespace().map(str::parse);
    Some(CpuTime { ran_ns: numbers.next()?.ok()?, waited_ns: numbers.next()?.ok()? })
}

/// `name` at the start of a line, then a number of kB.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * BYTES_PER_KIB)
}

fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem");
    words.nth(1)?.parse().ok()
}

/// The eighth number of the first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn stolen_ticks(stat: &str) -> Option<u64> {
    stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_starts_with_run_and_wait_time() {
        let expected = CpuTime { ran_ns: 123_456_789, waited_ns: 42 };
        assert_eq!(parse_schedstat("123456789 42 7\n"), Some(expected));
        assert_eq!(parse_schedstat("1"), None);
    }

    #[test]
    fn fields_are_matched_at_the_start_of_a_line() {
        let text = "Rss:   12 kB\nLazyAnonymous:  9 kB\nAnonymous:          3 kB\n";
        assert_eq!(kib_field(text, "Anonymous:"), Some(3 * 1024));
        assert_eq!(kib_field(text, "Slab:"), None);
    }

    #[test]
    fn tcp_memory_is_the_number_after_mem() {
        let text = "sockets: used 11\nTCP: inuse 1 orphan 0 tw 2 alloc 1 mem 338\nUDP: inuse 0 mem 5\n";
        assert_eq!(tcp_pages(text), Some(338));
        assert_eq!(tcp_pages("UDP: inuse 0 mem 5\n"), None);
    }

    #[test]
    fn steal_is_the_eighth_number() {
        assert_eq!(stolen_ticks("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"), Some(88));
        assert_eq!(stolen_ticks("cpu  1 2 3\n"), None);
    }

    #[test]
    fn figures_of_this_process_are_found() {
        assert!(own_cpu_time().unwrap().ran_ns > 0);
        assert!(anonymous(&[std::process::id()]).unwrap().bytes > 0);
        assert!(kernel_memory().unwrap().slab_bytes > 0);
    }

    #[test]
    fn the_error_names_a_process_that_does_not_exist() {
        let message = cpu_time(&[u32::MAX]).unwrap_err().to_string();
        assert!(message.contains(&u32::MAX.to_string()), "{message}");
    }
}
