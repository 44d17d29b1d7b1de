//! Signing in. The application vouches for the user of a connection, who is then online for the users who watch this
//! user, and receives what the application sends to the user.
//!
//! A user who has signed in is a hidden user in a hidden room of the application. So sessions, leases, grace, kicks and
//! watching work on all nodes as they do for other users, and lists, counts and sinks leave the user out.

use std::collections::BTreeSet;

use super::decode::{Message, SignIn, UserData};
use super::encode::{put_error, put_signed_in};
use super::errors::SubscriptionError;
use super::socket::Socket;
use super::user_id::{signed_in_room, signed_in_user};
use super::{OVER_CAPACITY, UNAUTHORIZED, refuse};
use crate::protocol::{Client, Command};

/// The limit of users that a user watches.
const MAX_WATCHED: usize = 100;

/// The error for a watchlist that is longer. Its first users are watched.
const WATCHLIST_TOO_LONG: u16 = 4302;
/// The error if a user or connection has too much of something. Not [`OVER_CAPACITY`], with which clients would try
/// again and meet the same limit. The connection stays, because it can do everything else.
const OVER_QUOTA: u16 = 4004;

/// Why a client is not signed in: the code and the message of the error.
type SignInError = (Option<u16>, &'static str);

/// Handles `pusher:signin`.
pub(super) fn sign_in(client: &mut Client<'_>, socket: &mut Socket, message: &Message<'_>) {
    let Some(sign_in) = message.sign_in() else {
        return refuse(client, None, "pusher:signin needs data with auth and user_data, which are strings");
    };
    match try_sign_in(client, socket, &sign_in) {
        Ok(watchlist) => {
            put_signed_in(client.replies, &sign_in.user_data);
            watch(client, socket.app, watchlist);
        }
        Err((code, error)) => refuse(client, code, error),
    }
}

/// Signs in, or in again as the same user. Returns whom the user watches.
fn try_sign_in(client: &mut Client<'_>, socket: &mut Socket, sign_in: &SignIn) -> Result<Vec<String>, SignInError> {
    let SignIn { auth, user_data } = sign_in;
    let signed = [socket.id.as_bytes(), b"::user::", user_data.as_bytes()];
    if socket.read_app(client, |app| app.has_signed(auth, &signed)) != Some(true) {
        let message = "auth must be KEY:SIGNATURE, the HMAC-SHA256 of SOCKET_ID::user::USER_DATA";
        return Err((Some(UNAUTHORIZED), message));
    }
    socket.is_authorized = true;
    let UserData { member, watchlist } = UserData::read(user_data).map_err(|error| (None, error))?;
    if socket.signed_in.as_ref().is_some_and(|known| known.user_id != member.user_id) {
        return Err((Some(UNAUTHORIZED), "the connection is signed in as another user"));
    }
    join(client, socket.app, &member.user_id)?;
    socket.signed_in = Some(Box::new(member));
    Ok(watchlist)
}

fn join(client: &mut Client<'_>, app: u64, user_id: &str) -> Result<(), SignInError> {
    let user = signed_in_user(app, user_id);
    let too_many = (Some(OVER_QUOTA), "the user has too many connections");
    client.check_user(&user).map_err(|_| too_many)?;
    let session = client.identify(&user).ok_or(too_many)?;
    let join = Command::Join { room: &signed_in_room(app), state: None, audience: None, resume: None };
    let joined = client.execute_as(session, join).inspect_err(|_| client.forget(session));
    joined.map_err(|refused| match refused {
        refused if refused.is_temporary() => (Some(OVER_CAPACITY), SubscriptionError::of(refused).message),
        refused => (Some(OVER_QUOTA), SubscriptionError::of(refused).message),
    })
}

/// Watches these users, each once, and no others.
fn watch(client: &mut Client<'_>, app: u64, watchlist: Vec<String>) {
    let mut names = BTreeSet::new();
    let mut is_too_long = false;
    for user in watchlist {
        let name = signed_in_user(app, &user);
        match names.len() < MAX_WATCHED {
            true => drop(names.insert(name)),
            false => is_too_long |= !names.contains(&name),
        }
    }
    let former = client.watched();
    let former: Vec<&str> = former.iter().map(|user| &**user).filter(|user| !names.contains(*user)).collect();
    if !former.is_empty() {
        // Always executed.
        let _ = client.execute(Command::Unwatch { users: former });
    }
    if is_too_long {
        client.count_refusal();
        put_error(client.replies, Some(WATCHLIST_TOO_LONG), "the limit is 100 watched users; the first are watched");
    }
    if names.is_empty() {
        return;
    }
    let users = names.iter().map(String::as_str).collect();
    if client.execute(Command::Watch { users }).is_err() {
        refuse(client, Some(OVER_CAPACITY), "the server has too many watched users; this watchlist is not watched");
    }
}
