//! N clients connected and joined: how every scenario begins. Bounded handshakes in flight, a deadline for
//! each client, and the first failure ends it, since a crowd of unknown size measures nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::{CrowdArgs, UsageError};
use crate::connection::{Connection, Loss, Message};
use crate::engine::{Client, Engine};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::progress::Progress;
use crate::protocol::{Dialect, Step};
use crate::target::Target;

/// How often the deadline and Ctrl-C are looked at while nothing happens.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Everybody in, and the engine that holds them.
pub(crate) struct Crowd {
    pub(crate) engine: Engine,
    pub(crate) dialect: Dialect,
    pub(crate) target: Target,
    pub(crate) size: usize,
    /// From the first connect to the last join.
    pub(crate) gathered_in: Duration,
}

/// Connections that ended although they should not have.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) count: usize,
    /// What happened to the first few, for people to read.
    pub(crate) examples: Vec<String>,
}

/// The way in, as the engine's client.
struct Gathering {
    dialect: Dialect,
    /// By client index.
    joined: Vec<bool>,
    joined_count: usize,
    /// Those who have begun, in that order; the front may be in already.
    begun: VecDeque<(usize, Instant)>,
    failure: Option<String>,
}

/// What can be checked before anything is opened.
pub(crate) fn check(args: &CrowdArgs) -> Result<Target> {
    args.check()?;
    let target = Target::resolve(&args.url).map_err(|error| UsageError(format!("--url {error:#}")))?;
    limits::check_descriptors(args.connections as usize)?;
    Ok(target)
}

impl Crowd {
    pub(crate) fn gather(args: &CrowdArgs, target: Target, keep_bytes: usize, interrupt: &Interrupt) -> Result<Self> {
        let size = args.connections as usize;
        let dialect =
            Dialect { protocol: args.protocol, observe: args.observe, rooms: args.rooms, first_user: args.first_user };
        let sources = limits::source_addresses(size, target.address, &args.source)?;
        let mut engine = Engine::new(&target, sources, args.seed, keep_bytes)?;
        let mut gathering = Gathering::new(dialect, size);
        let mut progress = Progress::new("connecting", size as u64);
        let started = Instant::now();
        let mut next = 0;
        while gathering.joined_count < size {
            if interrupt.is_asked() {
                bail!("interrupted while connecting: {} of {size} were in", gathering.joined_count);
            }
            while next < size && next - gathering.joined_count < args.in_flight as usize {
                engine.open(next, &dialect.path(&target.base_path, next))?;
                gathering.begun.push_back((next, Instant::now()));
                next += 1;
            }
            engine.turn(LOOK_EVERY, &mut gathering)?;
            gathering.check(args.connect_timeout, target.address)?;
            progress.set(gathering.joined_count as u64);
        }
        progress.finish();
        Ok(Self { engine, dialect, target, size, gathered_in: started.elapsed() })
    }
}

impl Gathering {
    fn new(dialect: Dialect, size: usize) -> Self {
        Self { dialect, joined: vec![false; size], joined_count: 0, begun: VecDeque::new(), failure: None }
    }

    fn apply(&mut self, connection: &mut Connection, step: &Step) {
        if let Some(frame) = &step.send {
            connection.push(frame);
        }
        if step.joined {
            self.joined[connection.index()] = true;
            self.joined_count += 1;
        }
    }

    fn check(&mut self, timeout: Duration, server: std::net::SocketAddr) -> Result<()> {
        let (in_already, size) = (self.joined_count, self.joined.len());
        if let Some(failure) = &self.failure {
            bail!("{server}: {failure} ({in_already} of {size} clients were in)");
        }
        while let Some((index, begun)) = self.begun.front() {
            if self.joined[*index] {
                self.begun.pop_front();
            } else if begun.elapsed() > timeout {
                bail!(
                    "{server}: {} was not in after {timeout:?} ({in_already} of {size} were); is --protocol {} what this server speaks?",
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

impl Client for Gathering {
    fn opened(&mut self, connection: &mut Connection) {
        let step = self.dialect.on_open();
        self.apply(connection, &step);
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        if !self.joined[connection.index()] {
            let step = self.dialect.on_message(connection.index(), message.payload);
            self.apply(connection, &step);
        }
    }

    fn closed(&mut self, index: usize, loss: Loss) {
        self.failure.get_or_insert_with(|| format!("{}: {loss}", self.dialect.user(index)));
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
