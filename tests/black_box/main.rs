//! Tests that see only what a client sees over WebSocket and HTTP. The server runs inside this process, or the binary
//! runs as processes of its own. `redis` needs a `redis-server`; `cargo test --test black_box -- --skip redis::` runs
//! the rest.

mod common;

mod bad_input;
mod chat;
mod chat_limits;
mod closing;
mod command_line;
mod cross_protocol;
mod event_log;
mod handshake;
mod http_api;
mod liveness;
mod login;
mod messages;
mod native_diffs;
mod native_errors;
mod native_presence;
mod online_status;
mod online_users;
mod random_input;
mod redis;
mod scale;
mod shutdown;
mod slow_client;
mod watch;
mod websocket;
