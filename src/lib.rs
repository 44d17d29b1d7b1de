//! rollcall: a presence engine. Who is here, right now?
pub mod acceptor;
pub mod config;
pub mod connection;
pub mod dialect;
pub mod fanout;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod presence;
pub mod server;
pub mod socket;
pub mod tick;
pub mod worker;

pub use config::Config;
pub use server::Server;
