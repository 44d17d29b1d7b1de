//! rollcall: a presence engine. Who is here, right now?
//!
//! *In*: [`acceptor`] takes a socket, [`http`] serves it until it becomes a WebSocket, [`worker`] parks it as a [`connection`]. Bytes
//! become frames ([`socket`]), frames become commands ([`dialect`]), commands change who is where ([`presence`]) and mark it.
//!
//! *Out*: every 100 ms [`server`] has [`tick`] end leases, settle the marked rooms and encode each change once; every worker gets
//! one batch, and [`fanout`] writes it to those who look. What sessions here did goes to the [`store`], which also brings what other
//! nodes hold.
//!
//! ARCHITECTURE.md says what the parts must never do, and why they are as they are.

pub mod deadline;
pub mod inline_vec;
pub mod json;
pub mod memory_budget;
pub mod metrics;
pub mod os;

pub mod presence;

pub mod websocket;

pub mod store;

pub mod config;

pub mod auth;

pub mod broadcast;
pub mod protocol;

pub mod node;

pub mod connection;
pub mod fanout;
pub mod worker;

pub mod http;

pub mod acceptor;
pub mod health;
pub mod server;

pub use config::Config;
pub use server::Server;
