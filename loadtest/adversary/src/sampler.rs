//! What the server does, on a thread of its own: its ticks, CPU time and memory, and the traffic of its Redis.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::Http;
use crate::trial::Plan;

const INTERVAL: Duration = Duration::from_millis(100);
/// Memory can grow and shrink between two samples of `/v1/stats`, or the server may not answer.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);
const REDIS_TIMEOUT: Duration = Duration::from_secs(10);

/// One answer of the server.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it arrived.
    pub at: Instant,
    /// How long it took.
    pub wait: Duration,
    /// The counters.
    pub stats: Value,
    /// Bytes that Redis sent and received so far.
    pub redis_bytes: u64,
}

impl Sample {
    /// A counter; 0 if the server does not have it.
    pub fn get(&self, name: &str) -> u64 {
        self.stats[name].as_u64().unwrap_or(0)
    }
}

/// See the module's documentation.
pub(crate) struct Sampler {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    peak_bytes: AtomicU64,
    samples: Mutex<Vec<Sample>>,
}

impl Sampler {
    /// Starts to take samples.
    pub(crate) fn start(plan: &Plan) -> Self {
        let shared = Arc::<Shared>::default();
        let mut threads = Vec::new();
        let own = Arc::clone(&shared);
        let (mut http, redis) = (Http::new(plan.server, plan.credentials.as_ref()), plan.redis);
        threads.push(std::thread::spawn(move || sample(&own, &mut http, redis)));
        if let Some(pid) = plan.pid {
            let own = Arc::clone(&shared);
            threads.push(std::thread::spawn(move || watch_memory(&own, pid)));
        }
        Self { shared, threads }
    }

    /// Waits for a sample that begins now; `None` if the server does not answer in this time.
    pub(crate) fn fresh(&self, limit: Duration) -> Option<Sample> {
        let begin = Instant::now();
        while begin.elapsed() < limit {
            if let Some(sample) = self.last().filter(|sample| sample.at - sample.wait > begin) {
                return Some(sample);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    pub(crate) fn last(&self) -> Option<Sample> {
        lock(&self.shared.samples).last().cloned()
    }

    pub(crate) fn since(&self, begin: Instant) -> Vec<Sample> {
        lock(&self.shared.samples).iter().filter(|sample| sample.at > begin).cloned().collect()
    }

    /// The most memory since the last call of this.
    pub(crate) fn take_peak(&self) -> u64 {
        self.shared.peak_bytes.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn sample(shared: &Shared, http: &mut Http, redis: Option<SocketAddr>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        if let Ok((200, stats)) = http.get("/v1/stats") {
            let redis_bytes = redis.and_then(|redis| redis_traffic(redis).ok()).unwrap_or(0);
            shared.peak_bytes.fetch_max(stats["memory_bytes"].as_u64().unwrap_or(0), Ordering::Relaxed);
            let sample = Sample { at: Instant::now(), wait: begin.elapsed(), stats, redis_bytes };
            lock(&shared.samples).push(sample);
        }
        std::thread::sleep(INTERVAL.saturating_sub(begin.elapsed()).max(Duration::from_millis(10)));
    }
}

fn watch_memory(shared: &Shared, pid: u32) {
    while !shared.stop.load(Ordering::Relaxed) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        shared.peak_bytes.fetch_max(kib.unwrap_or(0) * 1024, Ordering::Relaxed);
        std::thread::sleep(MEMORY_INTERVAL);
    }
}

/// Bytes in both directions since Redis started, including the few of this query.
fn redis_traffic(redis: SocketAddr) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&redis, REDIS_TIMEOUT)?;
    stream.set_read_timeout(Some(REDIS_TIMEOUT))?;
    stream.write_all(b"INFO stats\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let length: usize = line.trim_start_matches('$').trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let both = field("total_net_input_bytes:").zip(field("total_net_output_bytes:"));
    both.map(|(input, output)| input + output).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
