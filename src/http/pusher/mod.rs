//! The HTTP API of applications whose clients have channels: publishing events, asking about channels, and closing the
//! connections of a user.
//!
//! Each request is signed with the secret of an application ([`Call`]) and concerns that application only. Errors are
//! text: libraries of applications show it to people.

mod cache;
mod call;
mod channels;
mod counts;
mod events;
mod params;
mod terminate;

use std::future::Future;

use super::context::Context;
use super::reply::Reply;
use call::Call;

/// `POST /apps/{app}/events`: publishes an event to channels.
pub(super) async fn events(context: Context) -> Result<Reply, Reply> {
    in_text(async { events::one(&Call::of_app(context).await?) }).await
}

/// `POST /apps/{app}/batch_events`: publishes several events.
pub(super) async fn batch_events(context: Context) -> Result<Reply, Reply> {
    in_text(async { events::batch(&Call::of_app(context).await?) }).await
}

/// `GET /apps/{app}/channels`: all channels of the application that have subscribers.
pub(super) async fn channels(context: Context) -> Result<Reply, Reply> {
    in_text(async { channels::list(&Call::of_app(context).await?).await }).await
}

/// `GET /apps/{app}/channels/{channel}`.
pub(super) async fn channel(context: Context) -> Result<Reply, Reply> {
    in_text(async { channels::one(&Call::of_app(context).await?).await }).await
}

/// `GET /apps/{app}/channels/{channel}/users`: the members of a presence channel.
pub(super) async fn users(context: Context) -> Result<Reply, Reply> {
    in_text(async { channels::users(&Call::of_app(context).await?).await }).await
}

/// `POST /apps/{app}/users/{user}/terminate_connections`: closes the connections that are signed in as this user.
pub(super) async fn terminate_connections(context: Context) -> Result<Reply, Reply> {
    in_text(async { terminate::terminate(&Call::of_app(context).await?).await }).await
}

/// `POST /users/{user}/terminate_connections`, which Python's library sends: the key names the application.
pub(super) async fn terminate_connections_by_key(context: Context) -> Result<Reply, Reply> {
    in_text(async { terminate::terminate(&Call::of_key(context).await?).await }).await
}

async fn in_text(answer: impl Future<Output = Result<Reply, Reply>>) -> Result<Reply, Reply> {
    answer.await.map_err(Reply::into_text)
}
