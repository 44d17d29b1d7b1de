//! One attack against a server, from the calm before it until the server is calm again, and its cost for both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::attack::{Background, Kind, Pace, Size};
use crate::background;
use crate::client::{Reading, text};
use crate::credentials::Credentials;
use crate::honest::{self, Broken, Waits};
use crate::http::Http;
use crate::sampler::{Sample, Sampler};
use crate::swarm::{Event, Swarm, Traffic};

/// The address of attackers on loopback: 127.0.0.2.
const ADDRESS: u8 = 2;
const TURN: Duration = Duration::from_millis(2);
/// The server is calm again when it uses at most this many more cores than before.
const CALM_CORES: f64 = 0.05;
/// Connections and heartbeats per second of the calibration.
const CALIBRATION: (usize, f64) = (100, 10_000.0);

/// How to run an attack.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server.
    pub server: SocketAddr,
    /// Its process, if it runs here: memory is then sampled more often.
    pub pid: Option<u32>,
    /// Its Redis.
    pub redis: Option<SocketAddr>,
    /// What all clients prove, attackers included, if the server requires identity.
    pub credentials: Option<Credentials>,
    /// How large the attack is.
    pub size: Size,
    /// The length of the attack.
    pub duration: Duration,
    /// The length of the calm before it, in which the cost of the honest clients is measured.
    pub calm: Duration,
    /// How long honest clients wait at the end for what they have not yet received.
    pub patience: Duration,
    /// The limit for everything that should not take long: preparing, becoming calm, the last answers.
    pub limit: Duration,
}

/// What it cost, and what honest clients noticed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first byte of the attack until its end.
    pub length: Duration,
    /// From there until the server was calm.
    pub settled_in: Option<Duration>,
    /// Of the attacker.
    pub traffic: Traffic,
    /// Of Redis, more than before.
    pub redis_bytes: f64,
    /// Its second half, or the part after its preparation, whichever began later.
    pub steady: Option<Steady>,
    /// Before the attack.
    pub memory_bytes: u64,
    /// The most during the attack.
    pub peak_bytes: u64,
    /// CPU time of the server, more than before.
    pub cpu_ns: f64,
    /// Ticks during the attack.
    pub ticks: u64,
    /// Ticks that fit into that time.
    pub expected_ticks: f64,
    /// The longest wait for `/v1/stats`.
    pub answer: Duration,
    /// Of honest clients, by kind.
    pub waits: BTreeMap<&'static str, Waits>,
    /// What they lost.
    pub broken: Vec<Broken>,
    /// All samples from the beginning of the attack.
    pub samples: Vec<Sample>,
}

/// The part of an attack that can go on for as long as the attacker likes: bursts that budgets allow are over.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    /// What the attacker sent.
    pub sent_bytes: u64,
    /// What it received because it asked.
    pub requested_bytes: u64,
    /// Traffic of Redis.
    pub redis_bytes: f64,
    /// How much the memory grew.
    pub memory_growth: u64,
    /// CPU time of the server.
    pub cpu_ns: f64,
}

impl Outcome {
    /// What the server sent because the attacker asked.
    pub fn requested_bytes(&self) -> u64 {
        self.traffic.received_bytes.saturating_sub(self.traffic.subscribed_bytes)
    }

    /// Peak memory of the attack; `noise` is not counted.
    pub fn memory_growth(&self, noise: u64) -> u64 {
        let growth = self.peak_bytes.saturating_sub(self.memory_bytes);
        if growth > noise { growth } else { 0 }
    }

    /// Bytes of the server per byte of the attacker, in the whole attack. Memory growth up to `noise` is not counted.
    pub fn bytes_ratio(&self, noise: u64) -> f64 {
        let server = (self.requested_bytes() + self.memory_growth(noise)) as f64 + self.redis_bytes;
        server / self.traffic.sent_bytes.max(1) as f64
    }

    /// The same in the steady part of the attack.
    pub fn steady_bytes_ratio(&self, noise: u64) -> Option<f64> {
        self.steady.as_ref().filter(|part| part.sent_bytes > 0).map(|part| {
            let growth = if part.memory_growth > noise { part.memory_growth } else { 0 };
            ((part.requested_bytes + growth) as f64 + part.redis_bytes) / part.sent_bytes as f64
        })
    }

    /// CPU time of the server per byte, compared with that of a byte of honest heartbeats.
    pub fn cpu_ratio(&self, heartbeat_ns_per_byte: f64) -> f64 {
        self.cpu_ns / self.traffic.sent_bytes.max(1) as f64 / heartbeat_ns_per_byte
    }

    /// The same in the steady part of the attack.
    pub fn steady_cpu_ratio(&self, heartbeat_ns_per_byte: f64) -> Option<f64> {
        let part = self.steady.as_ref().filter(|part| part.sent_bytes > 0)?;
        Some(part.cpu_ns / part.sent_bytes as f64 / heartbeat_ns_per_byte)
    }

    /// The ticks from the beginning to the end of each wait, at most: samples are taken ten times per second. `None`
    /// for a wait that did not end.
    pub fn ticks_of(&self, kind: &str) -> Vec<Option<u64>> {
        let at = |sample: &Sample| sample.get("ticks");
        let ticks = |begin: Instant, end: Instant| {
            let first = self.samples.iter().rev().find(|sample| sample.at <= begin).map(at);
            let last = self.samples.iter().find(|sample| sample.at - sample.wait >= end).map(at);
            let newest = self.samples.last().map_or(0, at);
            last.unwrap_or(newest).saturating_sub(first.unwrap_or(self.samples.first().map_or(0, at)))
        };
        let waits = self.waits.get(kind).map(|waits| waits.0.as_slice()).unwrap_or_default();
        waits.iter().map(|(begin, end)| end.map(|end| ticks(*begin, end))).collect()
    }
}

/// Runs an attack. An error: the server was not ready, or ended.
pub fn run(kind: &Kind, plan: &Plan) -> Result<Outcome, String> {
    let (ttl, tick) = settings(plan)?;
    let sampler = Sampler::start(plan);
    let spec = kind.background.scaled(&plan.size);
    let background = background::Running::start(plan, spec, ttl)?;
    let with_chat = spec == Background::default() || spec.rest_users == 0;
    let honest = honest::Running::start(plan, with_chat)?;
    let calm = Calm::measure(&sampler, plan)?;

    let begin = Instant::now();
    let driven = drive(kind, plan)?;
    let length = begin.elapsed();
    let end = sampler.fresh(plan.limit).ok_or("the server stopped answering")?;
    let peak_bytes = sampler.take_peak();
    let settled_in = settle(&sampler, &calm, plan.limit);
    let last = sampler.fresh(plan.limit).ok_or("the server stopped answering")?;
    let log = honest.finish();
    let _ = sampler.fresh(plan.limit);
    drop(background);

    let samples = sampler.since(calm.last.at - Duration::from_millis(1));
    let (cpu_ns, redis_bytes) = calm.more(&calm.last, &last);
    let steady = driven.steady(&calm, &samples, &last);
    Ok(Outcome {
        length,
        settled_in,
        traffic: driven.traffic,
        redis_bytes,
        steady,
        memory_bytes: calm.last.get("memory_bytes"),
        peak_bytes,
        cpu_ns,
        ticks: end.get("ticks") - calm.last.get("ticks"),
        expected_ticks: (end.at - calm.last.at).as_secs_f64() / tick.as_secs_f64(),
        answer: samples.iter().map(|sample| sample.wait).max().unwrap_or_default(),
        waits: log.waits,
        broken: log.broken,
        samples,
    })
}

/// The ttl and the tick of the server, from the welcome of a connection.
fn settings(plan: &Plan) -> Result<(Duration, Duration), String> {
    let mut swarm = Swarm::new(plan, background::ADDRESS).map_err(|error| error.to_string())?;
    let id = swarm.websocket("/v1/connect?user=settings", Reading::Always);
    let begin = Instant::now();
    while begin.elapsed() < plan.limit {
        for event in swarm.turn(TURN).map_err(|error| error.to_string())? {
            match event {
                Event::Text(_, text) => {
                    let welcome: serde_json::Value =
                        serde_json::from_slice(&text).map_err(|error| error.to_string())?;
                    let ms = |name: &str| welcome[name].as_u64().map(Duration::from_millis);
                    swarm.close(id);
                    let _ = swarm.turn(TURN);
                    return ms("ttl_ms").zip(ms("tick_ms")).ok_or_else(|| format!("a strange welcome: {welcome}"));
                }
                Event::Closed(..) => return Err("the server closes the connection".to_owned()),
                Event::Answer { status, .. } => return Err(format!("the server answers the handshake with {status}")),
                Event::Open(_) => {}
            }
        }
    }
    Err("the server does not answer".to_owned())
}

/// What the honest clients cost.
struct Calm {
    last: Sample,
    cpu_ns_per_s: f64,
    redis_per_s: f64,
}

impl Calm {
    fn measure(sampler: &Sampler, plan: &Plan) -> Result<Self, String> {
        let first = sampler.fresh(plan.limit).ok_or("the server does not answer")?;
        std::thread::sleep(plan.calm);
        let last = sampler.fresh(plan.limit).ok_or("the server does not answer")?;
        sampler.take_peak();
        let seconds = (last.at - first.at).as_secs_f64();
        let per_s = |end: u64, begin: u64| (end - begin) as f64 / seconds;
        Ok(Self {
            cpu_ns_per_s: per_s(last.get("cpu_ns"), first.get("cpu_ns")),
            redis_per_s: per_s(last.redis_bytes, first.redis_bytes),
            last,
        })
    }

    /// CPU time and Redis traffic between two samples, without those of the honest clients.
    fn more(&self, first: &Sample, last: &Sample) -> (f64, f64) {
        let seconds = (last.at - first.at).as_secs_f64();
        let more = |end: u64, begin: u64, per_s: f64| (end.saturating_sub(begin) as f64 - per_s * seconds).max(0.0);
        (
            more(last.get("cpu_ns"), first.get("cpu_ns"), self.cpu_ns_per_s),
            more(last.redis_bytes, first.redis_bytes, self.redis_per_s),
        )
    }
}

/// What the attacker did.
struct Driven {
    traffic: Traffic,
    /// When the steady part began, and what had been done until then.
    mark: Option<(Instant, Traffic)>,
}

impl Driven {
    fn steady(&self, calm: &Calm, samples: &[Sample], last: &Sample) -> Option<Steady> {
        let (at, before) = self.mark.as_ref()?;
        let part: Vec<_> = samples.iter().filter(|sample| sample.at - sample.wait >= *at).collect();
        let first = part.first()?;
        let peak = part.iter().map(|sample| sample.get("memory_bytes")).max().unwrap_or(0);
        let (cpu_ns, redis_bytes) = calm.more(first, last);
        let requested = |traffic: &Traffic| traffic.received_bytes.saturating_sub(traffic.subscribed_bytes);
        Some(Steady {
            sent_bytes: self.traffic.sent_bytes - before.sent_bytes,
            requested_bytes: requested(&self.traffic).saturating_sub(requested(before)),
            redis_bytes,
            memory_growth: peak.saturating_sub(first.get("memory_bytes")),
            cpu_ns,
        })
    }
}

fn drive(kind: &Kind, plan: &Plan) -> Result<Driven, String> {
    let mut attack = (kind.make)(&plan.size);
    let mut swarm = Swarm::new(plan, ADDRESS).map_err(|error| error.to_string())?;
    let mut mark = None;
    let begin = Instant::now();
    while begin.elapsed() < plan.duration {
        if mark.is_none() && begin.elapsed() > plan.duration / 2 && attack.is_prepared(&swarm) {
            mark = Some((Instant::now(), swarm.traffic()));
        }
        attack.step(&mut swarm, begin.elapsed());
        for event in swarm.turn(TURN).map_err(|error| error.to_string())? {
            attack.react(&mut swarm, &event);
        }
    }
    Ok(Driven { traffic: swarm.traffic(), mark })
}

/// Waits until the server uses as much CPU time as before. `None`: it does not within the limit.
fn settle(sampler: &Sampler, calm: &Calm, limit: Duration) -> Option<Duration> {
    let begin = Instant::now();
    let mut before = sampler.fresh(limit)?;
    while begin.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(300));
        let after = sampler.fresh(limit)?;
        let seconds = (after.at - before.at).as_secs_f64();
        let ns_per_s = (after.get("cpu_ns") - before.get("cpu_ns")) as f64 / seconds;
        if ns_per_s < calm.cpu_ns_per_s * 1.2 + CALM_CORES * 1e9 {
            return Some(begin.elapsed());
        }
        before = after;
    }
    None
}

/// CPU time of the server in nanoseconds per byte of honest heartbeats, each in a frame of its own.
pub fn calibrate(plan: &Plan) -> Result<f64, String> {
    let (connections, per_second) = CALIBRATION;
    let mut swarm = Swarm::new(plan, background::ADDRESS).map_err(|error| error.to_string())?;
    let ids: Vec<_> = (0..connections)
        .map(|number| swarm.websocket(&format!("/v1/connect?user=calibration-{number}"), Reading::Always))
        .collect();
    let mut http = Http::new(plan.server, plan.credentials.as_ref());
    let mut cpu_ns = || -> Result<u64, String> {
        let (_, stats) = http.get("/v1/stats").map_err(|error| error.to_string())?;
        stats["cpu_ns"].as_u64().ok_or_else(|| "/v1/stats has no cpu_ns".to_owned())
    };
    let turn = |swarm: &mut Swarm| swarm.turn(TURN / 2).map(|_| ()).map_err(|error| error.to_string());
    let begin = Instant::now();
    while !ids.iter().all(|id| swarm.is_open(*id)) {
        turn(&mut swarm)?;
        if begin.elapsed() > plan.limit {
            return Err("the connections of the calibration are not accepted".to_owned());
        }
    }
    // What the server does without heartbeats.
    let (idle_begin, idle_cpu) = (Instant::now(), cpu_ns()?);
    while idle_begin.elapsed() < plan.calm {
        turn(&mut swarm)?;
    }
    let idle_per_s = (cpu_ns()? - idle_cpu) as f64 / idle_begin.elapsed().as_secs_f64();
    let (before, cpu_before, begin) = (swarm.traffic().sent_bytes, cpu_ns()?, Instant::now());
    let (mut pace, mut next) = (Pace::new(per_second), 0);
    let heartbeat = text("heartbeat");
    while begin.elapsed() < plan.calm {
        for _ in 0..pace.due(begin.elapsed()) {
            swarm.send_raw(ids[next % ids.len()], &heartbeat);
            next += 1;
        }
        turn(&mut swarm)?;
    }
    let sent = swarm.traffic().sent_bytes - before;
    let cpu = (cpu_ns()? - cpu_before) as f64 - idle_per_s * begin.elapsed().as_secs_f64();
    Ok(cpu.max(1.0) / sent.max(1) as f64)
}
