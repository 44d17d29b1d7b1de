//! The HTTP API of an application with Pusher clients, as the application calls it.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use wire::signature::{hex, md5};

use super::http::{self, Response};
use super::pusher::App;

/// A request before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) app: App,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Parameters besides those of the signature, as `name=value`.
    pub(crate) query: Vec<&'a str>,
    pub(crate) body: String,
    /// Seconds since the Unix epoch.
    pub(crate) timestamp: u64,
    /// Whether the MD5 of the body is signed.
    pub(crate) has_md5: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn get(app: App, path: &'a str) -> Self {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
        Self { app, method: "GET", path, query: Vec::new(), body: String::new(), timestamp, has_md5: false }
    }

    pub(crate) fn post(app: App, path: &'a str, body: &Value) -> Self {
        Self { method: "POST", body: body.to_string(), has_md5: true, ..Self::get(app, path) }
    }

    pub(crate) fn with(mut self, parameter: &'a str) -> Self {
        self.query.push(parameter);
        self
    }

    /// The path and the query, signed.
    pub(crate) fn target(&self) -> String {
        let Self { app, method, path, .. } = self;
        let mut pairs: Vec<String> = self.query.iter().map(|pair| (*pair).to_owned()).collect();
        pairs.push(format!("auth_key={}", app.key));
        pairs.push(format!("auth_timestamp={}", self.timestamp));
        pairs.push("auth_version=1.0".to_owned());
        if self.has_md5 {
            pairs.push(format!("body_md5={}", md5(self.body.as_bytes())));
        }
        pairs.sort_unstable();
        let text = format!("{method}\n{path}\n{}", pairs.join("&"));
        let signature = hex(app.secret, &text);
        format!("{path}?{}&auth_signature={signature}", pairs.join("&"))
    }

    pub(crate) async fn send(&self, address: SocketAddr) -> Response {
        http::request(address, self.method, &self.target(), &[], self.body.as_bytes()).await
    }

    /// The answer. Fails if it is an error.
    pub(crate) async fn ok(&self, address: SocketAddr) -> Value {
        let answer = self.send(address).await;
        assert_eq!(answer.status, 200, "{self:?}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }

    /// The text of the error, which has this status.
    pub(crate) async fn error(&self, address: SocketAddr, status: u16) -> String {
        text_error(&self.send(address).await, status)
    }
}

/// The text of an error with this status.
pub(crate) fn text_error(answer: &Response, status: u16) -> String {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, status, "{text}");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{answer:?}");
    assert!(!text.is_empty() && !text.starts_with('{'), "{text}");
    text
}
