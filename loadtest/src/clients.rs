//! N clients, connected and in their roles: how every scenario starts. The number of pending handshakes is limited,
//! each client has a deadline, and the first failure ends the run: figures of an unknown number of clients mean
//! nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::{ClientArgs, ServerArgs, UsageError};
use crate::connection::{Client, Connection, Message, NullClient};
use crate::credentials::Credentials;
use crate::disconnect::Disconnect;
use crate::engine::Engine;
use crate::interrupt::Interrupt;
use crate::limits;
use crate::meter::{Meter, ServerTime};
use crate::procfs::{self, AnonymousMemory};
use crate::progress::Progress;
use crate::protocol::{ClientProtocol, Reaction, Role};
use crate::target::Target;

/// How often deadlines and Ctrl-C are checked while nothing happens.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Pending handshakes by default: enough to keep a server busy without a storm.
const IN_FLIGHT: usize = 256;

/// All clients, and the engine that drives them.
pub(crate) struct Clients {
    pub(crate) engine: Engine,
    pub(crate) protocol: ClientProtocol,
    pub(crate) target: Target,
    /// The node that observers are connected to, if it is not `target`.
    pub(crate) observer_target: Option<Target>,
    /// Created before the first client connects, because it may open a connection of its own.
    pub(crate) meter: Meter,
    /// The server's memory before the first client connected; `None` if it is not known.
    pub(crate) memory_before: Option<AnonymousMemory>,
    pub(crate) size: usize,
    /// From the first connect until the last client was ready.
    pub(crate) connected_in: Duration,
    /// CPU time of the server for that; `None` if it is not known.
    pub(crate) connect_cpu: Option<ServerTime>,
}

/// Which clients to connect.
pub(crate) struct ClientSpec<'a> {
    pub(crate) size: usize,
    pub(crate) rooms: u32,
    /// By client index.
    pub(crate) role_of: &'a dyn Fn(usize) -> Role,
    /// The number of observers, which come first, and the node that they connect to.
    pub(crate) observers_at: Option<(usize, Target)>,
}

/// Brings each client into its role.
struct Connecting<'a, L> {
    protocol: ClientProtocol,
    role_of: &'a dyn Fn(usize) -> Role,
    /// Receives every message as well.
    listener: &'a mut L,
    /// By client index.
    ready: Vec<bool>,
    ready_count: usize,
    /// Clients that have started to connect, oldest first. Those at the front may be ready already.
    started: VecDeque<(usize, Instant)>,
    /// The first client that was lost, and why.
    failure: Option<(usize, String)>,
}

impl ClientSpec<'_> {
    pub(crate) fn protocol(&self, args: &ServerArgs) -> ClientProtocol {
        ClientProtocol {
            kind: args.protocol,
            rooms: self.rooms,
            first_user: args.first_user,
            user_digits: args.user_digits,
        }
    }
}

/// Resolves the URL of an option.
pub(crate) fn resolve(option: &str, url: &str) -> Result<Target> {
    Ok(Target::resolve(url).map_err(|error| UsageError(format!("{option} {error:#}")))?)
}

/// Checks what can be checked before anything is opened.
pub(crate) fn check(server: &ServerArgs, connections: usize) -> Result<Target> {
    let (jwt_secret, key) = (server.jwt_secret.clone(), server.read_key.clone());
    let credentials = Credentials { jwt_secret, key, valid_until_s: None };
    let target = Target { credentials, ..resolve("--url", &server.url)? };
    limits::check_descriptors(connections)?;
    // Better to report a wrong --pid now than after ten thousand connections.
    procfs::cpu_time(&server.pid)?;
    Ok(target)
}

impl Clients {
    /// Connects clients that are all members of their room.
    pub(crate) fn connect_members(
        args: &ClientArgs,
        target: Target,
        keep_bytes: usize,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let role_of = |_| Role::Member(args.observe);
        let spec =
            ClientSpec { size: args.connections as usize, rooms: args.rooms, role_of: &role_of, observers_at: None };
        Self::connect(&args.server, &spec, target, keep_bytes, &mut NullClient, interrupt)
    }

    /// Connects all clients of `spec`. `listener` gets the messages that arrive meanwhile.
    pub(crate) fn connect(
        args: &ServerArgs,
        spec: &ClientSpec<'_>,
        target: Target,
        keep_bytes: usize,
        listener: &mut impl Client,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let ClientSpec { size, role_of, ref observers_at, .. } = *spec;
        let protocol = spec.protocol(args);
        let meter = Meter::new(&args.pid, &target);
        let memory_before = meter.anonymous()?;
        let sources = limits::source_addresses(size, target.address, &args.source)?;
        let mut engine = Engine::new(&target, sources, args.seed, keep_bytes)?;
        if let Some((observers, node)) = observers_at {
            engine.set_observer_target(node, *observers, args.seed);
        }
        let target_of = |index: usize| match observers_at {
            Some((observers, node)) if index < *observers => node,
            _ => &target,
        };
        let (ready, started) = (vec![false; size], VecDeque::new());
        let mut connecting = Connecting { protocol, role_of, listener, ready, ready_count: 0, started, failure: None };
        let in_flight = args.in_flight.map_or(IN_FLIGHT, |limit| limit as usize);
        let cpu_before = meter.cpu_time()?;
        let mut progress = Progress::new("connecting", size as u64);
        let start = Instant::now();
        let mut next = 0;
        while connecting.ready_count < size {
            if interrupt.is_requested() {
                bail!("interrupted while connecting: {} of {size} clients were ready", connecting.ready_count);
            }
            while next < size && next - connecting.ready_count < in_flight {
                engine.open(next, &protocol.path(&target_of(next).base_path, next, role_of(next)))?;
                connecting.started.push_back((next, Instant::now()));
                next += 1;
            }
            engine.turn(POLL_INTERVAL, &mut connecting)?;
            connecting.check(args.connect_timeout, &target_of)?;
            progress.set(connecting.ready_count as u64);
        }
        progress.finish();
        let connected_in = start.elapsed();
        let connect_cpu = cpu_before.zip(meter.cpu_time()?).map(|(before, after)| after.since(before));
        let observer_target = observers_at.as_ref().map(|(_, node)| node.clone());
        Ok(Self { engine, protocol, target, observer_target, meter, memory_before, size, connected_in, connect_cpu })
    }
}

impl<L> Connecting<'_, L> {
    fn apply(&mut self, connection: &mut Connection, reaction: &Reaction) {
        if let Some(frame) = &reaction.send {
            connection.send(frame);
        }
        if reaction.is_ready {
            self.ready[connection.index()] = true;
            self.ready_count += 1;
        }
    }

    fn check<'t>(&mut self, timeout: Duration, target_of: &dyn Fn(usize) -> &'t Target) -> Result<()> {
        let (ready_count, size) = (self.ready_count, self.ready.len());
        if let Some((index, failure)) = &self.failure {
            bail!("{}: {failure} ({ready_count} of {size} clients were ready)", target_of(*index).address);
        }
        while let Some((index, started)) = self.started.front() {
            if self.ready[*index] {
                self.started.pop_front();
            } else if started.elapsed() > timeout {
                bail!(
                    "{}: {} was not ready after {timeout:?} ({ready_count} of {size} clients were); does this server \
                     speak --protocol {}?",
                    target_of(*index).address,
                    self.protocol.user(*index),
                    self.protocol.kind.name()
                );
            } else {
                break;
            }
        }
        Ok(())
    }
}

impl<L: Client> Client for Connecting<'_, L> {
    fn opened(&mut self, connection: &mut Connection) {
        let reaction = self.protocol.on_open(connection.index());
        self.apply(connection, &reaction);
    }

    fn message(&mut self, connection: &mut Connection, message: &Message<'_>) {
        let index = connection.index();
        if !self.ready[index] {
            let reaction = self.protocol.on_message(index, (self.role_of)(index), message.payload);
            self.apply(connection, &reaction);
        }
        self.listener.message(connection, message);
    }

    fn closed(&mut self, index: usize, disconnect: Disconnect) {
        self.failure.get_or_insert_with(|| (index, format!("{}: {disconnect}", self.protocol.user(index))));
    }
}

/// "of 20 connections were lost", for [`crate::error_log::ErrorLog::problem`].
pub(crate) fn lost_of(size: usize) -> String {
    format!("of {size} connections were lost")
}
