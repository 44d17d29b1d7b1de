//! A request that an application has signed.

use std::ops::Deref;

use bytes::Bytes;
use hyper::{Method, StatusCode};

use super::params::Params;
use crate::auth::App;
use crate::http::access::refused;
use crate::http::context::Context;
use crate::http::reply::Reply;
use crate::signature::md5;

/// Signatures are valid for this long, in seconds: what a request took, and how far clocks may differ.
const MAX_AGE_S: u64 = 600;

/// A request whose signature is right. Dereferences to its context.
pub(super) struct Call {
    pub(super) app: App,
    pub(super) params: Params,
    pub(super) body: Bytes,
    context: Context,
}

impl Deref for Call {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Call {
    /// A request to the application in its path.
    pub(super) async fn of_app(context: Context) -> Result<Self, Reply> {
        let id = context.segment("app")?;
        let is_it = |app: &App| app.id.to_string() == id;
        let app = id.parse().ok().and_then(|id| context.node().auth.apps.by_id(id)).filter(is_it);
        let app = app.ok_or_else(|| {
            let message = "this server has no application with this ID (--pusher-app)";
            Reply::error(StatusCode::NOT_FOUND, "unknown_app", message)
        })?;
        Self::of(context, |_| Some(app)).await
    }

    /// A request to the application that has its key.
    pub(super) async fn of_key(context: Context) -> Result<Self, Reply> {
        let apps = context.node().auth.apps.current();
        Self::of(context, |key| apps.iter().find(|app| app.key(key).is_some()).cloned()).await
    }

    /// The room of a channel of the application.
    pub(super) fn room(&self, channel: &str) -> Result<String, Reply> {
        let room = self.node().config.pusher.rooms.room(self.app.id, channel);
        room.ok_or_else(|| {
            let message = "this presence channel is a room of all protocols (--pusher-rooms), whose name has 1 to 128 \
                           characters after presence-";
            Reply::bad_request(message)
        })
    }

    /// Whether a channel is a room of all protocols.
    pub(super) fn is_shared(&self, channel: &str) -> bool {
        self.node().config.pusher.rooms.is_shared(self.app.id, channel)
    }

    /// Checks the signature, and only then reads the body.
    async fn of(context: Context, app: impl FnOnce(&str) -> Option<App>) -> Result<Self, Reply> {
        let params = Params::read(&context.target.raw_query).map_err(Reply::bad_request)?;
        let app = authorize(&context, &params, app)?;
        let body = context.body().await?;
        match params.get("body_md5") {
            Some(digest) if digest.eq_ignore_ascii_case(&md5(&body)) => {}
            // The signature covers everything else.
            None if *context.method() != Method::POST || body.is_empty() => {}
            None => return Err(unauthorized("body_md5 is missing, the MD5 of the body in hexadecimal digits")),
            Some(_) => {
                reject(&context);
                return Err(unauthorized("body_md5 is not the MD5 of the body in hexadecimal digits"));
            }
        }
        Ok(Self { app, params, body, context })
    }
}

fn authorize(context: &Context, params: &Params, app: impl FnOnce(&str) -> Option<App>) -> Result<App, Reply> {
    let needed = |name: &str| params.get(name).ok_or_else(|| unauthorized(&format!("{name} is missing in the query")));
    let (key, time) = (needed("auth_key")?, needed("auth_timestamp")?);
    let signature = needed("auth_signature")?;
    let (auth, now) = (&context.node().auth, context.node().now().unix_ms);
    auth.check_failures(context.visitor.address.limited(), now).map_err(|refusal| refused(&refusal))?;
    let app = app(key);
    let Some((app, key)) = app.as_ref().and_then(|app| Some((app, app.key(key)?))) else {
        reject(context);
        return Err(unauthorized("auth_key does not belong to this application"));
    };
    if !params.are_signed(signature, key.secret.as_bytes(), context.method().as_str(), &context.target.path) {
        reject(context);
        let message = "auth_signature is wrong: it must be the HMAC-SHA256, with the secret that belongs to auth_key, \
                       of the method, the path and the sorted query, in three lines";
        return Err(unauthorized(message));
    }
    let age_s = time.parse().map(|time: u64| time.abs_diff(now / 1000));
    match age_s {
        Ok(age_s) if age_s <= MAX_AGE_S => {}
        Ok(age_s) => {
            let message =
                format!("auth_timestamp is {age_s} s from the clock of this server; the limit is {MAX_AGE_S} s");
            return Err(unauthorized(&message));
        }
        Err(_) => return Err(unauthorized("auth_timestamp must be a whole number, in seconds")),
    }
    if app.options.disabled {
        return Err(Reply::error(StatusCode::FORBIDDEN, "disabled_app", "the application is disabled"));
    }
    Ok(app.clone())
}

/// Counts a failed authentication of the address.
fn reject(context: &Context) {
    let node = context.node();
    node.auth.reject_signature(context.visitor.address.limited(), node.now().unix_ms);
}

fn unauthorized(message: &str) -> Reply {
    Reply::error(StatusCode::UNAUTHORIZED, "unauthorized", message)
}
