//! Health probes for load balancers and containers: `/livez` and `/readyz`.

use std::sync::atomic::Ordering;

use bytes::BufMut;
use hyper::{StatusCode, header};

use super::context::Context;
use super::reply::Reply;
use crate::node::Node;

/// `GET /livez`: the process answers.
pub(super) async fn livez(_: Context) -> Result<Reply, Reply> {
    Ok(ok())
}

/// `GET /readyz`: the server takes new clients. A degraded server is ready: an outage of Redis must not take every node
/// out of service.
pub(super) async fn readyz(context: Context) -> Result<Reply, Reply> {
    check_ready(context.node())?;
    Ok(match context.node().store.degraded_since() {
        Some(since) => {
            Reply::json(|buffer| buffer.put_slice(br#"{"status":"degraded"}"#)).and_number("degraded_since", since)
        }
        None => ok(),
    })
}

/// Refuses unless the server takes new clients.
pub(super) fn check_ready(node: &Node) -> Result<(), Reply> {
    if node.stopping.load(Ordering::Relaxed) {
        let reply =
            Reply::error(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is stopping; use another node");
        return Err(reply.and(header::RETRY_AFTER, "5"));
    }
    if let Some(since) = node.stalled_for() {
        let message = format!("no tick was completed for {} ms: the server does not keep up", since.as_millis());
        return Err(Reply::error(StatusCode::SERVICE_UNAVAILABLE, "stalled", &message).and(header::RETRY_AFTER, "1"));
    }
    if node.is_short_of_memory.load(Ordering::Relaxed) {
        let message = "the server takes more memory than --max-memory and accepts no clients; use another node";
        return Err(Reply::error(StatusCode::SERVICE_UNAVAILABLE, "memory", message).and(header::RETRY_AFTER, "1"));
    }
    Ok(())
}

fn ok() -> Reply {
    Reply::json(|buffer| buffer.put_slice(br#"{"status":"ok"}"#))
}
