//! Finds the handler of a request. Only this file knows the paths of the HTTP API and their methods.
//!
//! A new endpoint is a line in [`ROUTES`] and a handler in its own file. WebSocket paths are not here: protocols define
//! them, see `upgrade.rs`.

use std::rc::Rc;
use std::sync::LazyLock;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::context::{Answer, Context};
use super::reply::Reply;
use super::request::Target;
use super::thread::HttpThread;
use super::{api, kick, login, pages, probes, rest, stats};

/// The API. `{name}` stands for one segment of the path, which [`Context::id`] decodes and checks. A GET route answers
/// HEAD as well. Routes are compared in this order, so the busiest path comes first.
static ROUTES: [Route; 15] = [
    post("/heartbeat", |context| Box::pin(rest::heartbeat(context))),
    get("/online_users", |context| Box::pin(rest::online_users(context))),
    get("/livez", |context| Box::pin(probes::livez(context))),
    get("/readyz", |context| Box::pin(probes::readyz(context))),
    get("/metrics", |context| Box::pin(stats::metrics(context))),
    get("/v1/stats", |context| Box::pin(stats::stats(context))),
    get("/v1/rooms", |context| Box::pin(api::rooms(context))),
    get("/v1/rooms/{room}/members", |context| Box::pin(api::members(context))),
    get("/v1/rooms/{room}/count", |context| Box::pin(api::count(context))),
    post("/v1/users/status", |context| Box::pin(api::users_status(context))),
    post("/v1/users/{user}/kick", |context| Box::pin(kick::kick(context))),
    post("/login", |context| Box::pin(login::login(context))),
    post("/logout", |context| Box::pin(login::logout(context))),
    get("/login/session", |context| Box::pin(login::session(context))),
    get("/login/users", |context| Box::pin(login::users(context))),
];

/// [`ROUTES`], and a GET for each file of the pages.
static ALL_ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let pages = pages::paths().map(|path| get(path, |context| Box::pin(pages::file(context))));
    ROUTES.iter().cloned().chain(pages).collect()
});

/// Responses of these paths include `degraded_since` while this node cannot reach the others.
const API_PREFIX: &str = "/v1/";

/// The handler of a path and a method.
#[derive(Debug, Clone)]
struct Route {
    method: Method,
    path: &'static str,
    /// The path has parameters.
    is_pattern: bool,
    handler: fn(Context) -> Answer,
}

const fn get(path: &'static str, handler: fn(Context) -> Answer) -> Route {
    route(Method::GET, path, handler)
}

const fn post(path: &'static str, handler: fn(Context) -> Answer) -> Route {
    route(Method::POST, path, handler)
}

const fn route(method: Method, path: &'static str, handler: fn(Context) -> Answer) -> Route {
    let (bytes, mut is_pattern, mut at) = (path.as_bytes(), false, 0);
    while at < bytes.len() {
        is_pattern |= bytes[at] == b'{';
        at += 1;
    }
    Route { method, path, is_pattern, handler }
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

/// Answers a request that does not open a WebSocket.
pub(super) async fn answer(thread: Rc<HttpThread>, target: Target, request: Request<Incoming>) -> Result<Reply, Reply> {
    let route = find(request.method(), &target.path)?;
    let context = Context::new(Rc::clone(&thread), target, request, route.path);
    let reply = (route.handler)(context).await?;
    if !route.path.starts_with(API_PREFIX) {
        return Ok(reply);
    }
    Ok(match thread.node.store.degraded_since() {
        Some(since) => reply.and_number("degraded_since", since),
        None => reply,
    })
}

/// The route of a request: 404 if no route has the path, 405 if routes have the path but not the method.
fn find(method: &Method, path: &str) -> Result<&'static Route, Reply> {
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    let mut allowed = Vec::new();
    for route in ALL_ROUTES.iter().filter(|route| route.matches(path)) {
        if route.method == *wanted {
            return Ok(route);
        }
        allowed.push(route.method.clone());
    }
    if allowed.is_empty() {
        return Err(Reply::not_found(path));
    }
    if allowed.contains(&Method::GET) {
        allowed.push(Method::HEAD);
    }
    allowed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Err(Reply::method_not_allowed(&allowed))
}

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
        find(&method, path).map(|route| route.path).map_err(refused)
    }

    #[test]
    fn each_path_answers_its_methods_and_names_them_otherwise() {
        let check = |allowed: &str, pattern: &'static str, path: &str| {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "CONNECT"] {
                let is_allowed = allowed.split(", ").any(|name| name == method);
                let want = if is_allowed { Ok(pattern) } else { Err((405, allowed.to_owned())) };
                assert_eq!(found(method, path), want, "{method} {path}");
            }
        };
        for path in ["/livez", "/readyz", "/metrics", "/online_users", "/v1/stats", "/v1/rooms"] {
            check("GET, HEAD", path, path);
        }
        for path in ["/login/session", "/login/users", "/", "/chat", "/presence.js", "/favicon.svg"] {
            check("GET, HEAD", path, path);
        }
        for path in ["/heartbeat", "/logout", "/v1/users/status"] {
            check("POST", path, path);
        }
        check("GET, HEAD, POST", "/login", "/login");
        for room in ["lobby", "a%2Fb", "..", "%00", "", "count", "members", "%7Broom%7D", "{room}"] {
            check("GET, HEAD", "/v1/rooms/{room}/members", &format!("/v1/rooms/{room}/members"));
            check("GET, HEAD", "/v1/rooms/{room}/count", &format!("/v1/rooms/{room}/count"));
            check("POST", "/v1/users/{user}/kick", &format!("/v1/users/{room}/kick"));
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
