//! What the requests of a route must show. Each route in `router.rs` states it, and it is decided here only.

use hyper::header::{self, HeaderMap};

use super::reply::Reply;
use crate::auth::{Caller, bearer};
use crate::node::Node;
use crate::peer::PeerAddress;
use crate::websocket::Refusal;

/// What a request must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing, wherever it comes from: probes and files.
    Nothing,
    /// Nothing but an allowed origin: what clients do for themselves. Its handler checks who they are.
    Open,
    /// The signature of an application, which the handler checks.
    Signature,
    /// A key once the server has keys; where users prove who they are, a key or the credential of a user.
    Read,
    /// A key, once the server has keys or users prove who they are. On `--internal-listen`, nothing.
    Metrics,
    /// An API key, in every mode.
    Api,
}

impl Access {
    fn needs_key(self, node: &Node) -> bool {
        match self {
            Self::Nothing | Self::Open | Self::Signature => false,
            // Where users prove who they are, their credentials may read as well: `rights.rs` decides.
            Self::Read => node.auth.keys.exist() && node.config.identity.is_open(),
            Self::Metrics => node.auth.keys.exist() || !node.config.identity.is_open(),
            Self::Api => true,
        }
    }

    fn admits(self, caller: Caller) -> bool {
        self != Self::Api || matches!(caller, Caller::Application(_))
    }

    /// Who sent a request, if it shows what this route needs. A missing key is 401, a wrong one 403: it counts as a
    /// failed authentication of the address, and an address with too many of them gets 429.
    pub(super) fn check(self, node: &Node, headers: &HeaderMap, address: Option<PeerAddress>) -> Result<Caller, Reply> {
        if matches!(self, Self::Nothing | Self::Open | Self::Signature) {
            return Ok(Caller::Anyone);
        }
        let (auth, unix_ms, needs_key) = (&node.auth, node.now().unix_ms, self.needs_key(node));
        let key = bearer(headers).map_err(|_| Reply::bad_request("send one key: Authorization: Bearer KEY"))?;
        let Some(key) = key else { return if needs_key { Err(self.missing()) } else { Ok(Caller::Anyone) } };
        auth.check_failures(address, unix_ms).map_err(|refusal| refused(&refusal))?;
        match auth.keys.find(&key) {
            Some(caller) if self.admits(caller) => Ok(caller),
            // Nobody guesses a key that another route accepts.
            Some(_) if needs_key => Err(self.wrong()),
            None if needs_key => {
                auth.reject_key(address, unix_ms);
                Err(self.wrong())
            }
            _ => Ok(Caller::Anyone),
        }
    }

    fn missing(self) -> Reply {
        let flag = if self == Self::Api { "--api-key" } else { "--api-key or --read-key" };
        let message = format!("a key is missing; send one of the server's {flag} as Authorization: Bearer KEY");
        Reply::refusal(401, "unauthorized", &message)
    }

    fn wrong(self) -> Reply {
        let message = match self {
            Self::Api => "the key is wrong: this needs one of the server's --api-key",
            _ => "the key is wrong: this needs one of the server's --api-key or --read-key",
        };
        Reply::refusal(403, "forbidden", message)
    }
}

/// The answer to a request whose credential is refused.
pub(super) fn refused(refusal: &Refusal) -> Reply {
    match refusal {
        Refusal::Http { status, code, message, retry_after_s } => {
            let reply = Reply::refusal(*status, code, message);
            match retry_after_s {
                Some(seconds) => reply.and(header::RETRY_AFTER, &seconds.to_string()),
                None => reply,
            }
        }
        Refusal::Close { reason, .. } => Reply::refusal(403, "forbidden", reason),
    }
}
