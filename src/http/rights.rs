//! What a request to the HTTP API may read: everything, or what the credential of its sender allows.

use std::sync::Arc;

use hyper::{Method, Request, StatusCode};

use super::access::refused;
use super::reply::Reply;
use crate::auth::{Action, Grant, Identity, Permissions};
use crate::node::Node;
use crate::peer::PeerAddress;

/// Separates the parts of a position in a list of which the client sees only some entries. No name contains it.
const SEPARATOR: char = '\t';

/// What a request may do.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// Without one, everything is allowed.
    grant: Option<Arc<Grant>>,
}

impl Rights {
    /// What a request to this route may do.
    pub(super) async fn of<B>(
        node: &Node,
        pattern: &str,
        request: &Request<B>,
        address: Option<PeerAddress>,
    ) -> Result<Self, Reply> {
        let reads_room = match pattern {
            "/v1/rooms/{room}/members" | "/v1/rooms/{room}/count" | "/online_users" => true,
            "/v1/rooms" | "/v1/users/status" => false,
            _ => return Ok(Self::default()),
        };
        let reads_room = reads_room && matches!(*request.method(), Method::GET | Method::HEAD);
        let identified = node.auth.identify_reader(request.headers(), address, node.now().unix_ms, reads_room).await;
        match identified {
            Ok(None) => Ok(Self::default()),
            Ok(Some(Identity { grant, .. })) => Ok(Self { grant }),
            Err(refusal) => Err(refused(&refusal)),
        }
    }

    /// Refuses a request that may not do this in the room.
    pub(super) fn check(&self, action: Action, room: &str) -> Result<(), Reply> {
        let is_allowed = self.restricted().is_none_or(|permissions| permissions.allow(action, room));
        is_allowed
            .then_some(())
            .ok_or_else(|| forbidden(&format!("your credential does not allow `{}` in this room", action.name())))
    }

    /// The permissions, unless everything is allowed.
    pub(super) fn restricted(&self) -> Option<&Permissions> {
        self.grant.as_ref().map(|grant| &*grant.permissions).filter(|permissions| !permissions.is_everything())
    }

    /// The work of checks of this many names, in bytes.
    pub(super) fn check_work(&self, names: usize) -> usize {
        self.restricted().map_or(0, |permissions| permissions.check_work() * names)
    }
}

fn forbidden(message: &str) -> Reply {
    Reply::error(StatusCode::FORBIDDEN, "forbidden", message)
}

/// A position in a sorted list: behind a name, and behind this many entries after it. A client that may see only some
/// entries must not learn the names of the others from the `next` of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position<'a> {
    pub(super) after: &'a str,
    pub(super) skipped: usize,
}

impl<'a> Position<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        let parts = text.rsplit_once(SEPARATOR);
        let parsed = parts.and_then(|(after, skipped)| Some(Self { after, skipped: skipped.parse().ok()? }));
        parsed.unwrap_or(Self { after: text, skipped: 0 })
    }

    pub(super) fn text(self) -> String {
        match self.skipped {
            0 => self.after.to_owned(),
            skipped => format!("{}{SEPARATOR}{skipped}", self.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        for (text, after, skipped) in [("", "", 0), ("a", "a", 0), ("a\t7", "a", 7), ("\t1000", "", 1000)] {
            assert_eq!(Position::read(text), Position { after, skipped });
            assert_eq!(Position { after, skipped }.text(), text);
        }
        for text in ["a\t", "a\t-1", "a\tb", "a\t99999999999999999999"] {
            assert_eq!(Position::read(text), Position { after: text, skipped: 0 });
        }
    }
}
