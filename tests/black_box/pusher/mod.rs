//! The Pusher protocol, as stock clients speak it.

mod cache;
mod cache_cluster;
mod channels;
mod client_events;
mod cluster;
mod connecting;
mod events;
mod metrics;
mod presence;
mod questions;
mod rooms;
mod signatures;
mod signin;
mod slow;
mod subscription_count;
mod watchlist;

pub(crate) use rooms::ROOMS_FLAGS;
pub(crate) use subscription_count::{COUNTING_FLAGS, wait_for_count};

use serde_json::Value;

use crate::common::PusherClient;
use crate::common::TestServer;
use crate::common::pusher::APP;

/// A client of the server's application.
async fn client(server: &TestServer) -> PusherClient {
    PusherClient::connect(server.address(), APP).await
}

/// The message of the last `pusher:error`, with its code.
fn last_error(client: &PusherClient) -> (Value, String) {
    let errors = client.of("pusher:error");
    let data = &errors.last().expect("an error")["data"];
    (data["code"].clone(), data["message"].as_str().expect("a message").to_owned())
}
