//! Finds the handler of a request. Only this file knows the paths of the HTTP API and their methods.
//!
//! A new endpoint is a line in [`ROUTES`] and a handler in its own file. WebSocket paths are not here: protocols define
//! them, see `upgrade.rs`.

use std::rc::Rc;
use std::sync::LazyLock;

use hyper::{Method, Request, StatusCode};

use super::access::Access;
use super::body::RequestBody;
use super::context::{Answer, Context};
use super::gate::{self, AllowedOrigin, Visitor};
use super::reply::Reply;
use super::request::{Target, wants_page};
use super::rights::Rights;
use super::thread::HttpThread;
use super::{api, kick, login, metrics, pages, probes, publish, pusher, rest, revoke, stats, users};
use crate::auth::Caller;
use crate::config::Pages;
use crate::node::Node;
use crate::peer::ClientAddress;

/// The API. `{name}` stands for one segment of the path, which [`Context::id`] decodes and checks. A GET route answers
/// HEAD as well. Routes are compared in this order, so the busiest path comes first.
static ROUTES: [Route; 25] = [
    post("/heartbeat", Access::Open, |context| Box::pin(rest::heartbeat(context))),
    get("/online_users", Access::Read, |context| Box::pin(rest::online_users(context))),
    get("/livez", Access::Nothing, |context| Box::pin(probes::livez(context))),
    get("/readyz", Access::Nothing, |context| Box::pin(probes::readyz(context))),
    get("/metrics", Access::Metrics, |context| Box::pin(metrics::metrics(context))),
    get("/v1/stats", Access::Metrics, |context| Box::pin(stats::stats(context))),
    get("/v1/rooms", Access::Read, |context| Box::pin(api::rooms(context))),
    get("/v1/rooms/{room}/members", Access::Read, |context| Box::pin(api::members(context))),
    get("/v1/rooms/{room}/count", Access::Read, |context| Box::pin(api::count(context))),
    post("/v1/rooms/{room}/messages", Access::Api, |context| Box::pin(publish::to_room(context))),
    post("/v1/users/status", Access::Read, |context| Box::pin(users::status(context))),
    post("/v1/users/{user}/messages", Access::Api, |context| Box::pin(publish::to_user(context))),
    post("/v1/users/{user}/kick", Access::Api, |context| Box::pin(kick::kick(context))),
    post("/v1/revoke", Access::Api, |context| Box::pin(revoke::revoke(context))),
    signed(Method::POST, "/apps/{app}/events", |context| Box::pin(pusher::events(context))),
    signed(Method::POST, "/apps/{app}/batch_events", |context| Box::pin(pusher::batch_events(context))),
    signed(Method::GET, "/apps/{app}/channels", |context| Box::pin(pusher::channels(context))),
    signed(Method::GET, "/apps/{app}/channels/{channel}", |context| Box::pin(pusher::channel(context))),
    signed(Method::GET, "/apps/{app}/channels/{channel}/users", |context| Box::pin(pusher::users(context))),
    signed(Method::POST, "/apps/{app}/users/{user}/terminate_connections", |context| {
        Box::pin(pusher::terminate_connections(context))
    }),
    signed(Method::POST, "/users/{user}/terminate_connections", |context| {
        Box::pin(pusher::terminate_connections_by_key(context))
    }),
    post("/login", Access::Open, |context| Box::pin(login::login(context))),
    post("/logout", Access::Open, |context| Box::pin(login::logout(context))),
    post("/login/session", Access::Open, |context| Box::pin(login::session(context))),
    get("/login/users", Access::Open, |context| Box::pin(login::users(context))),
];

/// [`ROUTES`], and a GET for each file of the pages.
static ALL_ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let file = |path| Route { is_file: true, ..get(path, Access::Nothing, |context| Box::pin(pages::file(context))) };
    let pages = pages::paths().map(file);
    ROUTES.iter().cloned().chain(pages).collect()
});

/// Responses of these paths include `degraded_since` while this node cannot reach the others.
const API_PREFIX: &str = "/v1/";

/// Where Pusher clients look for a transport without WebSockets.
const HTTP_TRANSPORT_PREFIX: &str = "/pusher/app";

/// The handler of a path and a method.
#[derive(Debug, Clone)]
struct Route {
    method: Method,
    path: &'static str,
    /// What its requests must show.
    needs: Access,
    /// The path has parameters.
    is_pattern: bool,
    /// Served only if the setting `--pages` includes it.
    is_file: bool,
    handler: fn(Context) -> Answer,
}

const fn get(path: &'static str, needs: Access, handler: fn(Context) -> Answer) -> Route {
    route(Method::GET, path, needs, handler)
}

const fn post(path: &'static str, needs: Access, handler: fn(Context) -> Answer) -> Route {
    route(Method::POST, path, needs, handler)
}

const fn signed(method: Method, path: &'static str, handler: fn(Context) -> Answer) -> Route {
    route(method, path, Access::Signature, handler)
}

const fn route(method: Method, path: &'static str, needs: Access, handler: fn(Context) -> Answer) -> Route {
    let (bytes, mut is_pattern, mut at) = (path.as_bytes(), false, 0);
    while at < bytes.len() {
        is_pattern |= bytes[at] == b'{';
        at += 1;
    }
    Route { method, path, needs, is_pattern, is_file: false, handler }
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        if !self.is_pattern {
            return self.path == path;
        }
        let (mut pattern, mut segments) = (self.path.split('/'), path.split('/'));
        loop {
            match (pattern.next(), segments.next()) {
                (Some(name), Some(segment)) if name == segment || name.starts_with('{') => {}
                (None, None) => return true,
                _ => return false,
            }
        }
    }
}

/// Whether `--internal-listen` serves this path: metrics, probes and the reference.
pub(super) fn is_internal(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/metrics" | "/v1/stats") || pages::is_reference(path)
}

/// The files that a port serves.
fn pages_of(node: &Node, is_internal: bool) -> Pages {
    if is_internal { pages::INTERNAL_PAGES } else { node.config.pages }
}

/// Answers a request that does not open a WebSocket.
pub(super) async fn answer(
    thread: Rc<HttpThread>,
    is_internal: bool,
    peer: ClientAddress,
    visitor: Visitor,
    target: Target,
    request: Request<RequestBody>,
) -> Reply {
    let (config, pages) = (&thread.node.config, pages_of(&thread.node, is_internal));
    let admitted = match admission(request.method(), &target.path, pages) {
        // Probes and files are the same for all clients.
        Access::Nothing => {
            return handle(thread, is_internal, visitor, target, request).await.unwrap_or_else(|reply| reply);
        }
        Access::Signature => gate::check_signed(&config.entry, &request),
        _ => gate::check(&config.entry, Some(peer), &request),
    };
    if let Err(refused) = admitted {
        return refused.into_reply();
    }
    let origin = AllowedOrigin::of(request.headers());
    let reply = match gate::is_preflight(&request) {
        true => preflight(&target.path, pages),
        false => handle(thread, is_internal, visitor, target, request).await,
    };
    origin.put(reply.unwrap_or_else(|refusal| refusal))
}

/// What a request to a path must show to be admitted. A path may have a file for all clients, and a POST that needs a
/// credential.
fn admission(method: &Method, path: &str, pages: Pages) -> Access {
    let has = |needs: Access| routes(path, pages).any(|route| route.needs == needs);
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads && has(Access::Nothing) {
        return Access::Nothing;
    }
    if has(Access::Signature) { Access::Signature } else { Access::Open }
}

async fn handle(
    thread: Rc<HttpThread>,
    is_internal: bool,
    visitor: Visitor,
    target: Target,
    request: Request<RequestBody>,
) -> Result<Reply, Reply> {
    let pages = pages_of(&thread.node, is_internal);
    if *request.method() == Method::OPTIONS {
        return options(&thread.node, &target.path, pages);
    }
    let route = match find(request.method(), &target.path, pages) {
        Err(reply) if reply.status() == StatusCode::NOT_FOUND => {
            return Err(elsewhere(&thread.node, &target, &request).unwrap_or(reply));
        }
        found => found?,
    };
    // Who reaches that port may read what it serves.
    let needs = if is_internal { Access::Open } else { route.needs };
    let caller = needs.check(&thread.node, request.headers(), visitor.address.limited())?;
    let is_open_route = is_internal || matches!(needs, Access::Nothing | Access::Signature) || caller != Caller::Anyone;
    if thread.node.config.entry.is_closed && !is_open_route {
        return Err(gate::Refused::Closed.into_reply());
    }
    let rights = match caller {
        Caller::Anyone => Rights::of(&thread.node, route.path, &request, visitor.address.limited()).await?,
        Caller::Reader | Caller::Application(_) => Rights::default(),
    };
    let context = Context::new(Rc::clone(&thread), visitor, rights, caller, target, request, route.path);
    let reply = (route.handler)(context).await?;
    if !route.path.starts_with(API_PREFIX) {
        return Ok(reply);
    }
    Ok(match thread.node.store.degraded_since() {
        Some(since) => reply.and_number("degraded_since", since),
        None => reply,
    })
}

/// The answer to a page that asks whether it may send a request.
fn preflight(path: &str, pages: Pages) -> Result<Reply, Reply> {
    let allowed = allowed(path, pages);
    if allowed.is_empty() { Err(Reply::not_found(path)) } else { Ok(gate::preflight(&allowed)) }
}

/// The answer to OPTIONS: the methods of the path. `/` and `*` ask about the server as a whole. Load balancers check
/// health in this way (HAProxy's `option httpchk`), so a server that is not ready answers 503.
fn options(node: &Node, path: &str, pages: Pages) -> Result<Reply, Reply> {
    let allowed = allowed(path, pages);
    if matches!(path, "*" | "/") {
        probes::check_ready(node)?;
    } else if allowed.is_empty() {
        return Err(Reply::not_found(path));
    }
    Ok(Reply::options(&allowed))
}

/// A better answer than 404: the same path without a slash at its end, or a page for people.
fn elsewhere<B>(node: &Node, target: &Target, request: &Request<B>) -> Option<Reply> {
    if target.path.starts_with(HTTP_TRANSPORT_PREFIX) {
        let message = "there is no HTTP transport for Pusher clients; let them use WebSockets only: \
                       enabledTransports: [\"ws\", \"wss\"]";
        return Some(Reply::error(StatusCode::NOT_FOUND, "no_http_transport", message));
    }
    let without_slash = target.path.strip_suffix('/').filter(|path| !allowed(path, node.config.pages).is_empty());
    // A relative address, because a proxy may have removed a prefix from the path.
    let name = without_slash.and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
    match name {
        Some(name) if target.raw_query.is_empty() => Some(Reply::moved(&format!("../{name}"))),
        Some(name) => Some(Reply::moved(&format!("../{name}?{}", target.raw_query))),
        None if wants_page(request) && !is_api(&target.path) => pages::not_found(node.config.pages, &target.path),
        None => None,
    }
}

/// Whether only programs send requests for paths like this one. Their errors are JSON, whatever they accept.
fn is_api(path: &str) -> bool {
    [API_PREFIX, "/apps/", "/users/"].iter().any(|prefix| path.starts_with(prefix))
}

/// The route of a request: 404 if no route has the path, 405 if routes have the path but not the method.
fn find(method: &Method, path: &str, pages: Pages) -> Result<&'static Route, Reply> {
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    if let Some(route) = routes(path, pages).find(|route| route.method == *wanted) {
        return Ok(route);
    }
    let allowed = allowed(path, pages);
    Err(if allowed.is_empty() { Reply::not_found(path) } else { Reply::method_not_allowed(&allowed) })
}

/// The methods of a path, sorted. OPTIONS is not included.
fn allowed(path: &str, pages: Pages) -> Vec<Method> {
    let mut allowed: Vec<_> = routes(path, pages).map(|route| route.method.clone()).collect();
    if allowed.contains(&Method::GET) {
        allowed.push(Method::HEAD);
    }
    allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    allowed
}

fn routes(path: &str, pages: Pages) -> impl Iterator<Item = &'static Route> {
    let matching = ALL_ROUTES.iter().filter(move |route| route.matches(path));
    matching.filter(move |route| !route.is_file || pages::is_served(route.path, pages))
}

#[cfg(test)]
mod openapi;

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header;

    /// The path of the route, or the status and `Allow` of the refusal.
    fn found(method: &str, path: &str) -> Result<&'static str, (u16, String)> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let refused = |reply: Reply| {
            let response = reply.into_response();
            let allow = response.headers().get(header::ALLOW).map(|allow| allow.to_str().unwrap().to_owned());
            (response.status().as_u16(), allow.unwrap_or_default())
        };
        find(&method, path, Pages::All).map(|route| route.path).map_err(refused)
    }

    #[test]
    fn each_path_answers_its_methods_and_names_them_otherwise() {
        let check = |allowed: &str, pattern: &'static str, path: &str| {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "CONNECT"] {
                let is_allowed = allowed.split(", ").any(|name| name == method);
                let want = if is_allowed { Ok(pattern) } else { Err((405, format!("{allowed}, OPTIONS"))) };
                assert_eq!(found(method, path), want, "{method} {path}");
            }
        };
        for path in ["/livez", "/readyz", "/metrics", "/online_users", "/v1/stats", "/v1/rooms"] {
            check("GET, HEAD", path, path);
        }
        for path in ["/login/users", "/", "/chat", "/presence.js", "/favicon.svg"] {
            check("GET, HEAD", path, path);
        }
        for path in ["/heartbeat", "/logout", "/login/session", "/v1/users/status", "/v1/revoke"] {
            check("POST", path, path);
        }
        check("GET, HEAD, POST", "/login", "/login");
        for room in ["lobby", "a%2Fb", "..", "%00", "", "count", "members", "%7Broom%7D", "{room}"] {
            check("GET, HEAD", "/v1/rooms/{room}/members", &format!("/v1/rooms/{room}/members"));
            check("GET, HEAD", "/v1/rooms/{room}/count", &format!("/v1/rooms/{room}/count"));
            check("POST", "/v1/users/{user}/kick", &format!("/v1/users/{room}/kick"));
            check("POST", "/v1/rooms/{room}/messages", &format!("/v1/rooms/{room}/messages"));
            check("POST", "/v1/users/{user}/messages", &format!("/v1/users/{room}/messages"));
        }
    }

    #[test]
    fn other_paths_are_not_found() {
        let unknown = [
            "/nothing",
            "/v1",
            "/v1/",
            "/v1/rooms/",
            "/v1/rooms/lobby",
            "/v1/rooms/lobby/",
            "/v1/rooms/lobby/nothing",
            "/v1/rooms/lobby/members/",
            "/v1/rooms/lobby/members/more",
            "/v1/rooms/a/b/members",
            "/v1/users/7",
            "/v1/users/status/",
            "/v1/users/7/kick/",
            "/v1/users/kick",
            "/v2/rooms",
            "/V1/rooms",
            "/v1/Rooms",
            "/v1/%72ooms",
            "/livez/",
            "//livez",
            "/livez%20",
            "/login/",
            "/login/nothing",
            "/logout/users",
            "/chat/",
            "//",
            "*",
            "",
            "/..%2f..%2fetc/passwd",
            "/ws/a/b",
            "/{page}",
            "/v1/rooms/{room}",
            "/index.html",
        ];
        for path in unknown {
            for method in ["GET", "HEAD", "POST", "DELETE"] {
                assert_eq!(found(method, path), Err((404, String::new())), "{method} {path}");
            }
        }
    }

    #[test]
    fn every_route_is_documented_and_reachable() {
        let documents = include_str!("../../docs/protocols.md");
        for Route { method, path, .. } in &ROUTES {
            let request = format!("{method} {path}");
            let mut rests = documents.split(&request).skip(1);
            assert!(rests.any(|rest| rest.starts_with(['`', ' ', '?', '\n'])), "{request}");
        }
        for Route { method, path, .. } in ALL_ROUTES.iter() {
            let other = ALL_ROUTES.iter().filter(|route| route.method == *method && route.matches(path));
            assert_eq!(other.map(|route| route.path).collect::<Vec<_>>(), [*path], "{method}");
        }
    }
}
