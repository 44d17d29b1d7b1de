//! Clients cannot fill the log: what they cause is logged through `warn_limited!`, or below INFO.

use super::scanner;
use super::sources;

/// The folders whose code runs because of what clients do.
const SERVE_CLIENTS: [&str; 9] = [
    "src/auth",
    "src/broadcast",
    "src/connection",
    "src/fanout",
    "src/http",
    "src/presence",
    "src/protocol",
    "src/websocket",
    "src/worker",
];

#[test]
fn log_lines_that_clients_can_cause_are_limited() {
    for file in sources::rust(&SERVE_CLIENTS) {
        let code = scanner::code(&file.text);
        for line in ["info!", "warn!", "error!"] {
            let is_logged = code
                .match_indices(line)
                .any(|(at, _)| !code[..at].ends_with(|char: char| char.is_alphanumeric() || char == '_'));
            assert!(!is_logged, "{} uses {line}: a client could fill the log; use log_limit::warn_limited!", file.path);
        }
    }
}
