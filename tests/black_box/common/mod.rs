//! What the black-box tests share: a server on port 0, clients that mirror what they receive, a client that may break
//! every rule, a little HTTP, and Redis servers. Everything goes over the network; nothing reads the state of the
//! server.

pub(crate) mod event_client;
pub(crate) mod event_log;
pub(crate) mod folder;
pub(crate) mod frame;
pub(crate) mod front_door;
pub(crate) mod http;
pub(crate) mod intruders;
pub(crate) mod mirror;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod pusher;
pub(crate) mod pusher_api;
pub(crate) mod random;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod redis_cluster;
pub(crate) mod resp;
pub(crate) mod room;
pub(crate) mod room_observer;
pub(crate) mod server;
pub(crate) mod signing_key;
pub(crate) mod socket;
pub(crate) mod store;
pub(crate) mod tick_deadline;
pub(crate) mod tls;
pub(crate) mod tls_client;
pub(crate) mod token;
pub(crate) mod upstream;
pub(crate) mod user_list;
pub(crate) mod webhooks;

use std::time::Duration;

pub(crate) use event_client::EventClient;
pub(crate) use frame::Frame;
pub(crate) use front_door::FrontDoor;
pub(crate) use intruders::Intruders;
pub(crate) use mirror::Mirror;
pub(crate) use node::{NODE_LOST_AFTER, Node, SHORT_TTL, SHORT_TTL_FLAG};
pub(crate) use process::Process;
pub(crate) use proxy::{Proxy, ProxyMode};
pub(crate) use pusher::PusherClient;
pub(crate) use random::Random;
pub(crate) use raw::RawClient;
pub(crate) use redis::Redis;
pub(crate) use redis_cluster::RedisCluster;
pub(crate) use room::Members;
pub(crate) use room_observer::{MembershipChange, RoomObservers};
pub(crate) use server::TestServer;
pub(crate) use store::Store;
pub(crate) use tick_deadline::TickDeadline;
pub(crate) use upstream::{Does, Upstream};
pub(crate) use user_list::UserList;

/// How long a test waits for a condition before it fails. It is long, so that tests on a loaded machine are slow and do
/// not fail.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);

/// A lease that a test can wait for.
pub(crate) const ONE_SECOND_TTL_FLAG: [&str; 2] = ["--ttl", "1s"];

/// A user id or room name, encoded for a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
