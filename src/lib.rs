//! rollcall: a presence server. Who is online right now?
//!
//! *In*: [`http`] serves a new socket until it becomes a WebSocket; then a [`worker`] has it as a [`connection`].
//! Bytes become messages ([`websocket`]), messages become commands ([`protocol`]), and commands change [`presence`] and
//! mark the rooms that changed.
//!
//! *Out*: on each tick [`server`] has [`broadcast`] end leases, settle the marked rooms and encode each change once.
//! Each worker receives one batch, and [`fanout`] writes it to the observers. The [`store`] receives what the sessions
//! of this node changed, and reports the members on other nodes.
//!
//! The modules are listed in their dependency order: a module imports only from those before it. ARCHITECTURE.md has
//! the map and the invariants.

pub mod deadline;
pub mod idle_sockets;
pub mod inline_vec;
pub mod json;
pub mod log_limit;
pub mod memory_budget;
pub mod origin;
pub mod os;
pub mod outside;
pub mod pattern;
pub mod peer;
pub mod proxy_header;
pub mod query;
pub mod quota;
pub mod signature;
pub mod work_budget;

pub mod tls;

pub mod metrics;

pub mod presence;

pub mod revocations;

pub mod websocket;

pub mod outgoing;

pub mod store;

pub mod config;

pub mod logging;

pub mod auth;

pub mod broadcast;
pub mod protocol;

pub mod node;

pub mod connection;
pub mod fanout;
pub mod worker;

pub mod http;

pub mod health;
pub mod server;

pub use config::Config;
pub use server::Server;
