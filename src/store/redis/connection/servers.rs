//! Which server has a key: the only one, or on a cluster the master of the key's slot.

use std::cell::RefCell;
use std::sync::Arc;

use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, ProtocolVersion, PushInfo, Value};
use tokio::sync::mpsc;

use super::commands::text;
use super::tls::TlsPem;
use super::url::Target;
use super::{
    ChannelSubscription, DEADLINE, MAX_QUEUED_MESSAGES, NO_REPLY, RedisConnection, check_error, open, push_message,
    within_deadline,
};
use crate::deadline::timeout;

/// The servers of a single Redis or of a cluster.
#[derive(Debug)]
pub struct RedisServers {
    /// The servers of the URLs, or the Sentinels.
    pub(super) configured: Vec<ConnectionInfo>,
    /// The name by which Sentinels know the server.
    service: Option<String>,
    is_cluster: bool,
    /// Known servers of the cluster, in case the configured ones are gone, in the order in which they are asked. A
    /// server that was asked moves to the end: one that is cut off from the others still claims to be the master.
    known: RefCell<Vec<ConnectionAddr>>,
}

impl RedisServers {
    /// The Redis at these URLs: a cluster if there are several, or if `is_cluster` says so.
    ///
    /// # Errors
    /// If a URL is invalid. The message does not repeat it.
    pub fn new(urls: &[String], is_cluster: bool, tls: &TlsPem) -> Result<Self, String> {
        let Target { servers, service, is_cluster } = Target::parse(urls, is_cluster, tls)?;
        crate::tls::install_provider();
        Ok(Self { configured: servers, service, is_cluster, known: RefCell::default() })
    }

    /// The number of the database.
    #[must_use]
    pub fn database(&self) -> i64 {
        self.configured.first().map_or(0, |server| server.redis_settings().db())
    }

    /// The addresses, without credentials.
    #[must_use]
    pub fn addresses(&self) -> String {
        self.configured.iter().map(|server| server.addr().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Connects to the server that has this key.
    ///
    /// # Errors
    /// If that fails or takes too long.
    pub async fn connect(&self, key: &str) -> Result<RedisConnection, String> {
        let info = self.server_of(key).await?;
        let inner = open(info.clone(), AsyncConnectionConfig::new()).await?;
        Ok(RedisConnection { inner, is_cluster: self.is_cluster, server: info, asked: Arc::default() })
    }

    /// Subscribes to a channel.
    ///
    /// # Errors
    /// If that fails or takes too long.
    pub async fn subscribe(&self, channel: &str) -> Result<ChannelSubscription, String> {
        let info = self.server_of(channel).await?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let (sender, messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let config = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| match push_message(push) {
            // A message that does not fit is dropped: the next one shows the gap.
            Some(message) => sender.try_send(message).map_err(|_| ()),
            None => Ok(()),
        });
        let mut connection = open(info.set_redis_settings(settings), config).await?;
        let word = if self.is_cluster { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        let mut subscribe = Cmd::new();
        subscribe.arg(word).arg(channel);
        within_deadline(connection.send_packed_command(&subscribe)).await.and_then(check_error)?;
        Ok(ChannelSubscription { _connection: connection, messages })
    }

    async fn server_of(&self, key: &str) -> Result<ConnectionInfo, String> {
        let Some(first) = self.configured.first() else { return Err("no URL is given".to_owned()) };
        if let Some(service) = &self.service {
            return self.master_of(service).await;
        }
        if !self.is_cluster {
            return Ok(first.clone());
        }
        let mut addresses = self.known.borrow().clone();
        for address in self.configured.iter().map(ConnectionInfo::addr) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let mut last_error = String::new();
        let mut failed = Vec::new();
        for address in addresses {
            // Credentials and settings are the same on all servers.
            let server = first.clone().set_addr(address.clone());
            let found = timeout(DEADLINE / 4, self.find_master(&server, key)).await;
            match found.unwrap_or_else(|_| Err(format!("{NO_REPLY} {} ms", (DEADLINE / 4).as_millis()))) {
                Ok((master, mut known)) => {
                    known.retain(|known| *known != address && !failed.contains(known));
                    known.push(address);
                    known.extend(failed);
                    self.known.replace(known);
                    return Ok(first.clone().set_addr(master));
                }
                Err(error) => {
                    last_error = format!("{error} ({address})");
                    failed.push(address);
                }
            }
        }
        Err(last_error)
    }

    /// Asks one server of the cluster for the master of a key's slot, and for all other servers.
    async fn find_master(
        &self,
        server: &ConnectionInfo,
        key: &str,
    ) -> Result<(ConnectionAddr, Vec<ConnectionAddr>), String> {
        let mut connection = open(server.clone(), AsyncConnectionConfig::new()).await?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key).cmd("CLUSTER").arg("SLOTS");
        let mut replies = within_deadline(connection.send_packed_commands(&pipeline, 0, 2)).await?.into_iter();
        let (slot, slots) = (replies.next().ok_or("no reply")?, replies.next().ok_or("no reply")?);
        let Value::Int(slot) = check_error(slot)? else {
            return Err("the reply to CLUSTER KEYSLOT is not a number".to_owned());
        };
        let ranges = slot_ranges(&check_error(slots)?, server.addr());
        let mut known = Vec::new();
        for server in ranges.iter().flat_map(|range| &range.servers) {
            if !known.contains(server) {
                known.push(server.clone());
            }
        }
        let range = ranges.into_iter().find(|range| (range.first..=range.last).contains(&slot));
        let master = range.and_then(|range| range.servers.into_iter().next());
        Ok((master.ok_or_else(|| format!("no server has slot {slot}"))?, known))
    }
}

/// A range of slots, and who has it.
struct SlotRange {
    first: i64,
    last: i64,
    /// The master comes first.
    servers: Vec<ConnectionAddr>,
}

/// Reads the reply to `CLUSTER SLOTS`. A server that does not know its own name has the address at which it was asked.
fn slot_ranges(slots: &Value, asked: &ConnectionAddr) -> Vec<SlotRange> {
    let Value::Array(slots) = slots else { return Vec::new() };
    let range = |slot: &Value| {
        let Value::Array(parts) = slot else { return None };
        let [Value::Int(first), Value::Int(last), servers @ ..] = &parts[..] else { return None };
        let servers = servers.iter().filter_map(|server| address(server, asked)).collect();
        Some(SlotRange { first: *first, last: *last, servers })
    };
    slots.iter().filter_map(range).collect()
}

/// Reads an address in the reply.
fn address(server: &Value, asked: &ConnectionAddr) -> Option<ConnectionAddr> {
    let Value::Array(parts) = server else { return None };
    let [host, Value::Int(port), ..] = &parts[..] else { return None };
    let port = u16::try_from(*port).ok()?;
    with_host(text(host.clone()).filter(|host| !host.is_empty() && host != "?"), port, asked)
}

/// The address of another server of the same kind; without a host, at the same host.
pub(super) fn with_host(named: Option<String>, port: u16, own: &ConnectionAddr) -> Option<ConnectionAddr> {
    match own {
        ConnectionAddr::Tcp(own, _) => Some(ConnectionAddr::Tcp(named.unwrap_or_else(|| own.clone()), port)),
        ConnectionAddr::TcpTls { host: own, insecure, tls_params, .. } => Some(ConnectionAddr::TcpTls {
            host: named.unwrap_or_else(|| own.clone()),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        }),
        _ => None,
    }
}
