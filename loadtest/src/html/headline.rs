//! Which figures the page of a series plots, and what each of them means.

/// One figure of a report's JSON.
pub(super) struct Headline {
    /// As in the report; for latencies `NAME_p99_us`.
    pub(super) figure: &'static str,
    pub(super) title: &'static str,
    /// Of the axis.
    pub(super) unit: &'static str,
    /// Divides the value for the axis.
    pub(super) scale: f64,
    pub(super) meaning: &'static str,
}

const fn of(
    figure: &'static str,
    title: &'static str,
    unit: &'static str,
    scale: f64,
    meaning: &'static str,
) -> Headline {
    Headline { figure, title, unit, scale, meaning }
}

/// In the order of the page. Figures that a report does not have are left out.
pub(super) const HEADLINES: &[Headline] = &[
    of(
        "server_cpu_per_heartbeat_us",
        "Server CPU time per heartbeat",
        "µs",
        1.0,
        "CPU time of all server threads, user and kernel, divided by the heartbeats. A flat line is good: the cost of \
         a heartbeat does not depend on the size. The cost falls where more heartbeats share one wake-up.",
    ),
    of(
        "server_cpu_per_delivery_us",
        "Server CPU time per delivery",
        "µs",
        1.0,
        "CPU time of the server divided by the presence messages that observers received. Most of it is the kernel's \
         send; only what exceeds a plain send loop is the server's own cost.",
    ),
    of(
        "server_cpu_per_connection_us",
        "Server CPU time per reconnect",
        "µs",
        1.0,
        "CPU time to detect that a connection is lost and to accept its client again (TCP, handshake, join), per \
         connection of the storm.",
    ),
    of(
        "server_rss_per_connection_bytes",
        "Memory per connection",
        "KB",
        1000.0,
        "User-space memory of the server, not backed by files, that each idle connection added. The kernel's memory \
         for the socket is not included; it is the same for every server.",
    ),
    of(
        "server_cpu_per_connection_ns_per_s",
        "Server CPU time per idle connection",
        "ns/s",
        1.0,
        "CPU time per second to keep a connection that only answers pings.",
    ),
    of(
        "join_to_seen_p99_us",
        "Join → seen, 99th percentile",
        "ms",
        1000.0,
        "Time from the planned join until an observer received it; 99 of 100 were faster. A server that coalesces \
         changes on a tick cannot be much below the tick. The rest is the time to write to all observers, and for the \
         generator to read.",
    ),
    of(
        "join_to_seen_p50_us",
        "Join → seen, median",
        "ms",
        1000.0,
        "The median of the same time. Coalescing alone costs half a tick.",
    ),
    of(
        "deliveries_per_s",
        "Deliveries per second",
        "1/s",
        1.0,
        "Presence messages that observers received. They grow with the number of observers; coalescing keeps them \
         below changes × observers.",
    ),
    of(
        "bytes_per_change_and_observer",
        "Bytes per change and observer",
        "bytes",
        1.0,
        "Payload that an observer received per join or leave. It grows with the room if the server sends whole lists, \
         and not if it sends differences.",
    ),
    of(
        "ack_round_trip_p99_us",
        "Heartbeat → ack, 99th percentile",
        "ms",
        1000.0,
        "Time from the planned heartbeat until its ack; 99 of 100 were faster.",
    ),
    of(
        "all_rejoined_s",
        "Time until all have rejoined",
        "s",
        1.0,
        "Time after all connections were reset at once; median of the rounds.",
    ),
    of(
        "handshakes_per_s",
        "Handshakes per second",
        "1/s",
        1.0,
        "Connections that the server accepted per second while all clients reconnected at once.",
    ),
    of(
        "connect_to_joined_p99_us",
        "Connect → joined, 99th percentile",
        "ms",
        1000.0,
        "Time from a client's connect until it has joined. A step of one second is the kernel's retry of a connect \
         that found the server's accept queue full.",
    ),
    of(
        "sent_per_s",
        "Sent per second",
        "1/s",
        1.0,
        "What the generator sent. If it is below the planned rate, the server or the generator could not keep up.",
    ),
    of("server_cpu_cores", "Server CPU", "cores", 1.0, "Number of cores that the server kept busy."),
    of(
        "generator_cpu_cores",
        "Generator CPU",
        "cores",
        1.0,
        "Number of cores that the generator kept busy. It has one thread, so near 1 the generator is the bottleneck.",
    ),
];

/// What the percentile curve of a latency means.
pub(super) fn latency_meaning(name: &str) -> &'static str {
    match name {
        "join_to_seen" => {
            "Time from the planned join until an observer received it, one value per join and observer. The curve \
             rises to the server's tick because of coalescing; the part above the tick, at the right, is what the \
             slowest observers waited."
        }
        "send_delay" => {
            "How late the generator was: time from the planned operation until the write. It is included in the other \
             latencies. If it is large, they describe the generator rather than the server."
        }
        "ack_round_trip" => "Time from the planned heartbeat until its ack.",
        "connect_to_joined" => "Time from a client's connect until it has joined.",
        "reset_to_joined" => {
            "Time from the planned reconnect until the client has joined, including waiting and failed attempts."
        }
        _ => "Time from the planned operation.",
    }
}
