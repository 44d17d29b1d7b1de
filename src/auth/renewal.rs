//! Verifies the next credential of a live connection.

use std::fmt;
use std::sync::Arc;

use super::callback::{Callback, Verdict};
use super::denied::{Denied, Reason};
use super::{Auth, Grant};
use crate::peer::PeerAddress;

/// What a connection needs verified before its grant expires.
pub struct RenewalRequest {
    /// The user of the connection.
    pub user: Arc<str>,
    /// What is verified.
    pub credential: NextCredential,
    /// The address of the client, if limits apply to it.
    pub address: Option<PeerAddress>,
}

/// The next credential of a connection.
pub enum NextCredential {
    /// A new token.
    Token(Box<str>),
    /// The application's word on this session of the user.
    Session(Option<Arc<str>>),
}

/// The new grant, or why there is none.
pub type Renewed = Result<Arc<Grant>, Denied>;

impl fmt::Debug for RenewalRequest {
    /// Without the credential, which is secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RenewalRequest").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Auth {
    /// Verifies the next credential of a connection. It must be of the same user.
    ///
    /// # Errors
    /// If it is not valid, or cannot be verified now.
    pub async fn renew(&self, request: &RenewalRequest, unix_ms: u64) -> Renewed {
        let undecided = || Denied::new(Reason::Undecided, "the credential cannot be verified now; try again later");
        match (&request.credential, &self.tokens, &self.callback) {
            (NextCredential::Token(token), Some(tokens), _) => {
                let verified = async {
                    self.rejections.check(request.address, unix_ms)?;
                    let (user, grant) = tokens.verify(token, unix_ms).await?;
                    if *user != *request.user {
                        return Err(Denied::new(Reason::OtherUser, "the token is of another user"));
                    }
                    Ok(Arc::new(grant))
                };
                verified.await.map_err(|denied| self.rejections.record(denied, request.address, unix_ms))
            }
            (NextCredential::Session(session), _, Some(callback)) => {
                confirm(callback, request, session.as_deref()).await
            }
            _ => Err(undecided()),
        }
    }
}

async fn confirm(callback: &Callback, request: &RenewalRequest, session: Option<&str>) -> Renewed {
    match callback.recheck(&request.user, session).await {
        Verdict::Accepted { user, grant } if user == request.user => Ok(grant),
        Verdict::Accepted { .. } => Err(Denied::new(Reason::Forbidden, "the session belongs to another user now")),
        Verdict::Refused(reason) => Err(Denied::new(Reason::Forbidden, reason.to_string())),
        Verdict::Undecided(_) => Err(Denied::new(Reason::Undecided, "the application did not answer")),
    }
}
