//! The echo protocol for conformance suites, on `/` and `/echo`, with large limits. Its connections join no room.

use super::{AtClose, CloseCodes, Handshake, Identity, Missed, OnClose, Presence, Protocol, Rules, Upgrade};
use crate::presence::Reason;
use crate::websocket::Refusal;
use crate::websocket::decoder::Limits;
use crate::websocket::put_message;

const LEAVE: AtClose = AtClose::Leave(Reason::Closed);

pub(super) static RULES: Rules = Rules {
    name: "echo",
    presence: Presence::Connection,
    missed: Missed::Snapshot,
    observes_first: false,
    events: None,
    identity: Identity::PerSubscription,
    on_close: OnClose { clean: LEAVE, lost: LEAVE, drained: LEAVE },
    close_codes: CloseCodes::STANDARD,
    limits: Limits::ECHO,
    subprotocol: None,
    audiences: 0,
    counting: None,
    status: None,
    user_message: None,
    health: None,
    renewed: None,
    upgrade,
    greet: |_, _| {},
    receive: |client, _, text| put_message(client.replies, true, text),
    receive_binary: Some(|client, data| put_message(client.replies, false, data)),
    too_big: None,
    alarm: None,
    encoders: |_| Vec::new(),
};

fn upgrade(handshake: &Handshake<'_>) -> Option<Result<Upgrade, Refusal>> {
    let is_echo = matches!(handshake.path, "/" | "/echo") && handshake.is_upgrade;
    is_echo.then(|| Ok(Upgrade::new(Protocol::Echo, None)))
}
