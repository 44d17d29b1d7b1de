//! Figures that are worth a plot, and what each means in a sentence.

/// One figure of a report's JSON.
pub(super) struct Headline {
    /// As in the report; of latencies `NAME_p99_us`.
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

/// In the order of the page; those that a report does not have are left out.
pub(super) const HEADLINES: &[Headline] = &[
    of(
        "server_cpu_per_heartbeat_us",
        "Server CPU per heartbeat",
        "µs",
        1.0,
        "CPU time of all threads of the server, user and kernel, for each heartbeat it took. Flat is good: the cost of a \
         heartbeat does not depend on the size. It falls where more heartbeats share one wake-up.",
    ),
    of(
        "server_cpu_per_delivery_us",
        "Server CPU per delivery",
        "µs",
        1.0,
        "CPU time of the server for each presence message that an observer read. Most of it is the kernel's send; what is \
         above a plain send loop is the server's own.",
    ),
    of(
        "server_cpu_per_connection_us",
        "Server CPU per returning connection",
        "µs",
        1.0,
        "CPU time to notice that a connection is gone, take it back (TCP, handshake, join), for each of those in the storm.",
    ),
    of(
        "server_rss_per_connection_bytes",
        "Memory per connection",
        "KB",
        1000.0,
        "User-space memory of the server, not backed by files, that each idle connection added. The kernel's memory for its \
         socket comes on top and is the same for every server.",
    ),
    of(
        "server_cpu_per_connection_ns_per_s",
        "Server CPU per idle connection",
        "ns/s",
        1.0,
        "What it costs per second to hold a connection that only answers pings.",
    ),
    of(
        "join_to_seen_p99_us",
        "Join → seen, 99th percentile",
        "ms",
        1000.0,
        "From the planned time of a join to the moment an observer has read of it: 99 of 100 were faster. A server that \
         coalesces on a tick cannot be much below it; what is above is the time to write to everybody and to read it here.",
    ),
    of(
        "join_to_seen_p50_us",
        "Join → seen, median",
        "ms",
        1000.0,
        "The same for the middle: half a tick is what coalescing costs by itself.",
    ),
    of(
        "deliveries_per_s",
        "Deliveries per second",
        "1/s",
        1.0,
        "Presence messages read by observers. More observers mean more of them; coalescing keeps them below changes × observers.",
    ),
    of(
        "bytes_per_change_and_observer",
        "Bytes per change and observer",
        "bytes",
        1.0,
        "Payload that one observer had to read for one join or leave. Servers that send the whole list pay for the size of \
         the room here, servers that send differences do not.",
    ),
    of(
        "ack_round_trip_p99_us",
        "Heartbeat → ack, 99th percentile",
        "ms",
        1000.0,
        "From the planned time of a heartbeat to its answer: 99 of 100 were faster.",
    ),
    of(
        "all_in_s",
        "Time until all are in again",
        "s",
        1.0,
        "After all connections were cut at once: median of the rounds.",
    ),
    of(
        "handshakes_per_s",
        "Handshakes per second",
        "1/s",
        1.0,
        "Connections taken back per second while everybody wanted in at once.",
    ),
    of(
        "connect_to_in_p99_us",
        "Connect → in, 99th percentile",
        "ms",
        1000.0,
        "From the connect of one client to its being in. A step of a second is the kernel's retry of a connect that found the \
         server's queue full.",
    ),
    of(
        "sent_per_s",
        "Sent per second",
        "1/s",
        1.0,
        "What the generator sent; below what it was asked for, the server or the generator could not follow.",
    ),
    of("server_cpu_cores", "Server CPU", "cores", 1.0, "Cores the server kept busy."),
    of(
        "generator_cpu_cores",
        "Generator CPU",
        "cores",
        1.0,
        "Cores this generator kept busy: it has one thread, so near 1 it is the limit and not the server.",
    ),
];

/// What a curve of a latency means.
pub(super) fn latency_meaning(name: &str) -> &'static str {
    match name {
        "join_to_seen" => {
            "From the planned time of a join to the moment an observer had read of it, once for each join and observer. It \
             rises to the server's tick, which is coalescing; what is above that at the right is what the slowest waited."
        }
        "send_delay" => {
            "How late the generator itself was: from the planned time to the write. It is part of the other latencies, and \
             when it is large they say more about the generator than about the server."
        }
        "ack_round_trip" => "From the planned time of a heartbeat to its answer.",
        "connect_to_in" => "From the connect of one client to its being in.",
        "cut_to_in" => {
            "From the planned return of a client to its being in, failed attempts and the queue before it included."
        }
        _ => "From the planned time.",
    }
}
