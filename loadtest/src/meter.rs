//! Where the server's cost is read: from /proc when its processes are named with --pid, else from `/v1/stats` of a server
//! that tells it there, else nowhere.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::http::get_json;
use crate::probe::{self, Anonymous, CpuTime};
use crate::target::Target;

const STATS: &str = "/v1/stats";
const CPU: &str = "cpu_ns";
const MEMORY: &str = "memory_bytes";

pub(crate) enum Meter {
    Processes(Vec<u32>),
    Stats(Target),
    Nothing,
}

/// CPU time of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerTime {
    pub(crate) ran_ns: u64,
    /// Ready to run while others had the core; `None` if nobody tells it.
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
        let told = get_json(target, STATS).ok().filter(|stats| [CPU, MEMORY].iter().all(|name| stats[name].is_u64()));
        told.map_or(Self::Nothing, |_| Self::Stats(target.clone()))
    }

    /// CPU time of the server so far; a server does not tell how long it waited for its cores.
    pub(crate) fn cpu_time(&self) -> Result<Option<ServerTime>> {
        match self {
            Self::Processes(pids) => Ok(Some(probe::cpu_time(pids)?.into())),
            Self::Stats(target) => Ok(Some(ServerTime { ran_ns: told(target, CPU)?, waited_ns: None })),
            Self::Nothing => Ok(None),
        }
    }

    /// Memory of the server that no file backs; a server does not tell what of it is in huge pages.
    pub(crate) fn anonymous(&self) -> Result<Option<Anonymous>> {
        match self {
            Self::Processes(pids) => probe::anonymous(pids).map(Some),
            Self::Stats(target) => Ok(Some(Anonymous { bytes: told(target, MEMORY)?, huge_bytes: None })),
            Self::Nothing => Ok(None),
        }
    }

    /// What a reader of the figures must know about where they come from.
    pub(crate) fn note(&self) -> Option<&'static str> {
        match self {
            Self::Processes(_) => None,
            Self::Stats(_) => {
                Some("the server's cost is what it says of itself in /v1/stats; --pid reads it from /proc")
            }
            Self::Nothing => Some("the server's cost is not measured: give its process with --pid"),
        }
    }
}

fn told(target: &Target, name: &str) -> Result<u64> {
    get_json(target, STATS)?.get(name).and_then(Value::as_u64).with_context(|| format!("GET {STATS} has no {name}"))
}
