//! What the floor counts: all its state besides the sockets.

/// Printed at the end and served at `/v1/stats`.
#[derive(Debug, Default)]
pub(crate) struct FloorCounters {
    /// Open WebSockets.
    pub(crate) connections: u64,
    pub(crate) heartbeats: u64,
    /// Tick frames that were sent.
    pub(crate) deliveries: u64,
    /// Tick frames that a full socket did not take.
    pub(crate) skipped: u64,
}

impl FloorCounters {
    pub(crate) fn json(&self) -> String {
        let Self { connections, heartbeats, deliveries, skipped } = self;
        format!(
            r#"{{"connections":{connections},"heartbeats":{heartbeats},"deliveries":{deliveries},"skipped":{skipped}}}"#
        )
    }
}
