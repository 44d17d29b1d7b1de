//! Reads the server's CPU time and memory: from /proc if its processes are given with --pid, otherwise from the
//! server's `/v1/stats` if it reports them there.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::http::get_json;
use crate::procfs::{self, AnonymousMemory, CpuTime};
use crate::target::Target;

const STATS: &str = "/v1/stats";
const CPU: &str = "cpu_ns";
const MEMORY: &str = "memory_bytes";

pub(crate) enum Meter {
    Processes(Vec<u32>),
    Stats(Target),
    Unknown,
}

/// CPU time of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerTime {
    pub(crate) ran_ns: u64,
    /// Ready to run while another process had the core; `None` if it is not known.
    pub(crate) waited_ns: Option<u64>,
}

impl ServerTime {
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            ran_ns: self.ran_ns.saturating_sub(start.ran_ns),
            waited_ns: self.waited_ns.zip(start.waited_ns).map(|(end, start)| end.saturating_sub(start)),
        }
    }
}

impl From<CpuTime> for ServerTime {
    fn from(CpuTime { ran_ns, waited_ns }: CpuTime) -> Self {
        Self { ran_ns, waited_ns: Some(waited_ns) }
    }
}

impl Meter {
    pub(crate) fn new(pids: &[u32], target: &Target) -> Self {
        if !pids.is_empty() {
            return Self::Processes(pids.to_vec());
        }
        let is_complete = |stats: &Value| [CPU, MEMORY].iter().all(|name| stats[name].is_u64());
        match get_json(target, STATS) {
            Ok(stats) if is_complete(&stats) => Self::Stats(target.clone()),
            _ => Self::Unknown,
        }
    }

    /// CPU time of the server so far. `/v1/stats` does not report how long it waited for its cores.
    pub(crate) fn cpu_time(&self) -> Result<Option<ServerTime>> {
        match self {
            Self::Processes(pids) => Ok(Some(procfs::cpu_time(pids)?.into())),
            Self::Stats(target) => Ok(Some(ServerTime { ran_ns: read_stat(target, CPU)?, waited_ns: None })),
            Self::Unknown => Ok(None),
        }
    }

    /// Anonymous memory of the server. `/v1/stats` does not report the share in huge pages.
    pub(crate) fn anonymous(&self) -> Result<Option<AnonymousMemory>> {
        match self {
            Self::Processes(pids) => procfs::anonymous(pids).map(Some),
            Self::Stats(target) => Ok(Some(AnonymousMemory { bytes: read_stat(target, MEMORY)?, huge_bytes: None })),
            Self::Unknown => Ok(None),
        }
    }

    /// A note for the report about the source of the figures.
    pub(crate) fn note(&self) -> Option<&'static str> {
        match self {
            Self::Processes(_) => None,
            Self::Stats(_) => {
                Some("the server's CPU and memory are its own figures from /v1/stats; with --pid they come from /proc")
            }
            Self::Unknown => Some("the server's CPU and memory are not measured: pass its process id with --pid"),
        }
    }
}

fn read_stat(target: &Target, name: &str) -> Result<u64> {
    get_json(target, STATS)?.get(name).and_then(Value::as_u64).with_context(|| format!("GET {STATS} has no {name}"))
}
