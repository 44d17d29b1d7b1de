//! The body of a request. If the handler does not read all of it, the server skips the rest or closes the connection.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap};

use super::reply::{Reply, thousands};

/// The longest body. 1,000 user ids of 128 bytes fit, escaped.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// The server skips an unread body up to this length: a longer one costs more than another connection.
const MAX_SKIPPED_BYTES: usize = 64 * 1024;
/// The time for the rest of an unread body. Most bodies arrive together with their request.
const SKIP_TIME: Duration = Duration::from_millis(50);

/// The body of a request, which one reader takes. Clones are the same body.
#[derive(Clone)]
pub(super) struct RequestBody {
    /// `None` once it is read to its end.
    rest: Rc<Cell<Option<Incoming>>>,
    /// The client sends it only after an interim response (RFC 9110, 10.1.1), or never.
    is_announced: bool,
}

impl RequestBody {
    /// The body of a request with these headers.
    pub(super) fn new(body: Incoming, headers: &HeaderMap) -> Self {
        let rest = Some(body).filter(|body| !body.is_end_stream());
        Self { rest: Rc::new(Cell::new(rest)), is_announced: headers.contains_key(header::EXPECT) }
    }

    /// The whole body, within its limits of bytes and time. Does not wait for a body with too long a `Content-Length`.
    pub(super) async fn read(&self, time: Duration) -> Result<Bytes, Reply> {
        let too_large = || {
            let message = format!("the body is too large; the limit is {} bytes", thousands(MAX_BODY_BYTES));
            Err(Reply::error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message))
        };
        let Some(mut body) = self.rest.take() else { return Ok(Bytes::new()) };
        let result = if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
            too_large()
        } else {
            match tokio::time::timeout(time, Limited::new(&mut body, MAX_BODY_BYTES).collect()).await {
                Ok(Ok(body)) => return Ok(body.to_bytes()),
                Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => too_large(),
                Ok(Err(error)) => Err(Reply::bad_request(&format!("the body cannot be read: {error}"))),
                Err(_) => {
                    let message = format!("the body did not arrive in time; the limit is {time:?}");
                    Err(Reply::error(StatusCode::REQUEST_TIMEOUT, "timeout", &message))
                }
            }
        };
        self.rest.set(Some(body));
        result
    }

    /// Skips the unread rest. False if more may come: then the connection must be closed after the answer, or the
    /// rest would be taken for another request.
    pub(super) async fn skip_rest(&self) -> bool {
        let Some(body) = self.rest.take() else { return true };
        if self.is_announced || body.size_hint().lower() > MAX_SKIPPED_BYTES as u64 {
            return false;
        }
        let mut body = Limited::new(body, MAX_SKIPPED_BYTES);
        let skip = async {
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(SKIP_TIME, skip).await.unwrap_or(false)
    }
}
