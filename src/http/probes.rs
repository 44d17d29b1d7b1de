//! Health probes for load balancers and containers: `/livez` and `/readyz`.

use std::sync::atomic::Ordering;

use bytes::BufMut;
use hyper::{StatusCode, header};

use super::context::Context;
use super::reply::Reply;

/// `GET /livez`: the process answers.
pub(super) async fn livez(_: Context) -> Result<Reply, Reply> {
    Ok(ok())
}

/// `GET /readyz`: the server takes new clients. A degraded server is ready: an outage of Redis must not take every node
/// out of service.
pub(super) async fn readyz(context: Context) -> Result<Reply, Reply> {
    if context.node().draining.load(Ordering::Relaxed) {
        let reply =
            Reply::error(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is stopping; use another node");
        return Err(reply.and(header::RETRY_AFTER, "5"));
    }
    Ok(match context.node().store.degraded_since() {
        Some(since) => {
            Reply::json(|buffer| buffer.put_slice(br#"{"status":"degraded"}"#)).and_number("degraded_since", since)
        }
        None => ok(),
    })
}

fn ok() -> Reply {
    Reply::json(|buffer| buffer.put_slice(br#"{"status":"ok"}"#))
}
