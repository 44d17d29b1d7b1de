//! Tests that see only what a client sees: a server inside this process or the binary as processes of its own, over
//! WebSocket and HTTP. `redis` needs a `redis-server`; run the rest alone with `cargo test --test black_box -- --skip redis::`.

mod common;

mod bad_input;
mod chat;
mod closing;
mod command_line;
mod cross_protocol;
mod event_log;
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
