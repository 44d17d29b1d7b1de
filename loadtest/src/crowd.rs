//! N clients connected and joined: how every scenario begins. Bounded handshakes in flight, a deadline for
//! each client, and the first failure ends it, since a crowd of unknown size measures nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::{CrowdArgs, ServerArgs, UsageError};
use crate::connection::{Connection, Message};
use crate::engine::{Client, Deaf, Engine};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::loss::Loss;
use crate::meter::{Meter, ServerTime};
use crate::probe::{self, Anonymous};
use crate::progress::Progress;
use crate::protocol::{Dialect, Role, Step};
use crate::target::Target;

/// How often the deadline and Ctrl-C are looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Handshakes in flight unless told otherwise: enough to keep a server busy, and no storm.
const IN_FLIGHT: usize = 256;

/// Everybody in, and the engine that holds them.
pub(crate) struct Crowd {
    pub(crate) engine: Engine,
    pub(crate) dialect: Dialect,
    pub(crate) target: Target,
    /// Where observers are, if not there.
    pub(crate) observed: Option<Target>,
    /// Looked for before anybody came: asking is a connection of its own.
    pub(crate) meter: Meter,
    /// The server's, before anybody came; `None` if nobody tells it.
    pub(crate) memory_before: Option<Anonymous>,
    pub(crate) size: usize,
    /// From the first connect to the last join.
    pub(crate) gathered_in: Duration,
    /// What that cost the server; `None` if nobody tells it.
    pub(crate) gathering_cpu: Option<ServerTime>,
}

/// Connections that ended although they should not have.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) count: usize,
    /// What happened to the first few, for people to read.
    pub(crate) examples: Vec<String>,
}

/// Who is to come.
pub(crate) struct Guests<'a> {
    pub(crate) size: usize,
    pub(crate) rooms: u32,
    /// By client index.
    pub(crate) role_of: &'a dyn Fn(usize) -> Role,
    /// The first so many are observers and connect there.
    pub(crate) observers_at: Option<(usize, Target)>,
}

/// The way in, as the engine's client.
struct Gathering<'a, L> {
    dialect: Dialect,
    role_of: &'a dyn Fn(usize) -> Role,
    /// Hears what those who are in already are told.
    listener: &'a mut L,
    /// By client index.
    joined: Vec<bool>,
    joined_count: usize,
    /// Those who have begun, in that order; the front may be in already.
    begun: VecDeque<(usize, Instant)>,
    /// Who was lost first, and how.
    failure: Option<(usize, String)>,
}

impl Guests<'_> {
    pub(crate) fn dialect(&self, args: &ServerArgs) -> Dialect {
        Dialect { protocol: args.protocol, rooms: self.rooms, first_user: args.first_user }
    }
}

/// Where the URL of an option leads.
pub(crate) fn resolve(option: &str, url: &str) -> Result<Target> {
    Ok(Target::resolve(url).map_err(|error| UsageError(format!("{option} {error:#}")))?)
}

/// What can be checked before anything is opened.
pub(crate) fn check(server: &ServerArgs, connections: usize) -> Result<Target> {
    let target = resolve("--url", &server.url)?;
    limits::check_descriptors(connections)?;
    // A wrong --pid is better known before ten thousand connections are made.
    probe::cpu_time(&server.pid)?;
    Ok(target)
}

impl Crowd {
    /// All alike, and nobody listens yet.
    pub(crate) fn gather_alike(
        args: &CrowdArgs,
        target: Target,
        keep_bytes: usize,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let role_of = |_| Role::Member(args.observe);
        let guests =
            Guests { size: args.connections as usize, rooms: args.rooms, role_of: &role_of, observers_at: None };
        Self::gather(&args.server, &guests, target, keep_bytes, &mut Deaf, interrupt)
    }

    pub(crate) fn gather(
        args: &ServerArgs,
        guests: &Guests<'_>,
        target: Target,
        keep_bytes: usize,
        listener: &mut impl Client,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let Guests { size, role_of, ref observers_at, .. } = *guests;
        let dialect = guests.dialect(args);
        let meter = Meter::new(&args.pid, &target);
        let memory_before = meter.anonymous()?;
        let sources = limits::source_addresses(size, target.address, &args.source)?;
        let mut engine = Engine::new(&target, sources, args.seed, keep_bytes)?;
        if let Some((observers, observed)) = observers_at {
            engine.observe(observed, *observers, args.seed);
        }
        let place_of = |index: usize| match observers_at {
            Some((observers, observed)) if index < *observers => observed,
            _ => &target,
        };
        let (joined, begun) = (vec![false; size], VecDeque::new());
        let mut gathering = Gathering { dialect, role_of, listener, joined, joined_count: 0, begun, failure: None };
        let in_flight = args.in_flight.map_or(IN_FLIGHT, |limit| limit as usize);
        let cpu_before = meter.cpu_time()?;
        let mut progress = Progress::new("connecting", size as u64);
        let started = Instant::now();
        let mut next = 0;
        while gathering.joined_count < size {
            if interrupt.is_asked() {
                bail!("interrupted while connecting: {} of {size} were in", gathering.joined_count);
            }
            while next < size && next - gathering.joined_count < in_flight {
                engine.open(next, &dialect.path(&place_of(next).base_path, next, role_of(next)))?;
                gathering.begun.push_back((next, Instant::now()));
                next += 1;
            }
            engine.turn(LOOK_EVERY, &mut gathering)?;
            gathering.check(args.connect_timeout, &place_of)?;
            progress.set(gathering.joined_count as u64);
        }
        progress.finish();
        let gathered_in = started.elapsed();
        let gathering_cpu = cpu_before.zip(meter.cpu_time()?).map(|(before, after)| after.since(before));
        let observed = observers_at.as_ref().map(|(_, observed)| observed.clone());
        Ok(Self { engine, dialect, target, observed, meter, memory_before, size, gathered_in, gathering_cpu })
    }
}

impl<L> Gathering<'_, L> {
    fn apply(&mut self, connection: &mut Connection, step: &Step) {
        if let Some(frame) = &step.send {
            connection.push(frame);
        }
        if step.joined {
            self.joined[connection.index()] = true;
            self.joined_count += 1;
        }
    }

    fn check<'t>(&mut self, timeout: Duration, place_of: &dyn Fn(usize) -> &'t Target) -> Result<()> {
        let (in_already, size) = (self.joined_count, self.joined.len());
        if let Some((index, failure)) = &self.failure {
            bail!("{}: {failure} ({in_already} of {size} clients were in)", place_of(*index).address);
        }
        while let Some((index, begun)) = self.begun.front() {
            if self.joined[*index] {
                self.begun.pop_front();
            } else if begun.elapsed() > timeout {
                bail!(
                    "{}: {} was not in after {timeout:?} ({in_already} of {size} were); is --protocol {} what this server speaks?",
                    place_of(*index).address,
                    self.dialect.user(*index),
                    self.dialect.protocol.name()
                );
            } else {
                break;
            }
        }
        Ok(())
    }
}

impl<L: Client> Client for Gathering<'_, L> {
    fn opened(&mut self, connection: &mut Connection) {
        let step = self.dialect.on_open(connection.index());
        self.apply(connection, &step);
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        if !self.joined[index] {
            let step = self.dialect.on_message(index, (self.role_of)(index), message.payload);
            self.apply(connection, &step);
        }
        self.listener.message(connection, message);
    }

    fn closed(&mut self, index: usize, loss: Loss) {
        self.failure.get_or_insert_with(|| (index, format!("{}: {loss}", self.dialect.user(index))));
    }
}

impl Losses {
    const SHOWN: usize = 3;

    pub(crate) fn add(&mut self, user: &str, loss: &Loss) {
        self.count += 1;
        if self.examples.len() < Self::SHOWN {
            self.examples.push(format!("{user}: {loss}"));
        }
    }

    /// A sentence for the report, if anybody was lost.
    pub(crate) fn problem(&self, size: usize) -> Option<String> {
        (self.count > 0)
            .then(|| format!("{} of {size} connections were lost: {}", self.count, self.examples.join("; ")))
    }
}
