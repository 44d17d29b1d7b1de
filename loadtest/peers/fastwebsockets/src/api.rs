//! The HTTP API: the WebSocket upgrade, and what the load generator compares results with.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fastwebsockets::upgrade::{is_upgrade_request, upgrade};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::{Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::connection;
use crate::hub::Hub;
use crate::wire::is_name;

const PAGE: usize = 1000;
const BAD_NAME: &str = "`user` and each `room` must be 1 to 128 bytes of text";

type JsonResponse = Response<Full<Bytes>>;

pub async fn respond(hub: Arc<Hub>, mut request: Request<Incoming>) -> Result<JsonResponse, Infallible> {
    if request.uri().path() == "/v1/connect" && is_upgrade_request(&request) {
        return Ok(connect(hub, &mut request));
    }
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let found = match segments[..] {
        ["v1", "rooms", room, "members"] => members(&hub, &decoded(room), &request),
        ["v1", "rooms", room, "count"] => {
            let room = decoded(room);
            json!({ "room": room, "count": hub.find(&room).map_or(0, |room| room.count()) }).to_string()
        }
        ["v1", "rooms"] => {
            let rooms = hub.list().into_iter().map(|(room, count)| json!({ "room": *room, "count": count }));
            json!({ "rooms": rooms.collect::<Vec<_>>() }).to_string()
        }
        ["v1", "stats"] => json!({
            "node": "fastwebsockets",
            "connections_accepted": hub.accepted.load(Ordering::Relaxed),
            "heartbeats": hub.heartbeats.load(Ordering::Relaxed),
        })
        .to_string(),
        ["livez" | "readyz"] => json!({ "status": "ok" }).to_string(),
        _ => return Ok(error(StatusCode::NOT_FOUND, "not_found", "not found")),
    };
    Ok(json_response(StatusCode::OK, found))
}

/// Answers the handshake and starts the task of the connection.
fn connect(hub: Arc<Hub>, request: &mut Request<Incoming>) -> JsonResponse {
    let all = |name| pairs(request).filter(move |(key, _)| key == name).map(|(_, value)| value);
    let user = all("user").next().unwrap_or_default();
    let rooms: Vec<String> = all("room").collect();
    if !is_name(&user) || !rooms.iter().all(|room| is_name(room)) {
        return error(StatusCode::BAD_REQUEST, "bad_request", BAD_NAME);
    }
    let offered =
        request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let speaks = offered.split(',').any(|protocol| protocol.trim() == connection::SUBPROTOCOL);
    let Ok((response, upgraded)) = upgrade(request) else {
        return error(StatusCode::BAD_REQUEST, "bad_request", "this is not a WebSocket handshake");
    };
    tokio::spawn(async move {
        if let Ok(socket) = upgraded.await {
            connection::serve(hub, socket, user, rooms).await;
        }
    });
    let mut response = response.map(|_| Full::default());
    if speaks {
        let protocol = HeaderValue::from_static(connection::SUBPROTOCOL);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    response
}

fn members(hub: &Hub, name: &str, request: &Request<Incoming>) -> String {
    let Some(room) = hub.find(name) else {
        return json!({ "room": name, "epoch": "", "seq": 0, "count": 0, "members": [] }).to_string();
    };
    let value = |name| pairs(request).find(|(key, _)| key == name).map(|(_, value)| value);
    let limit = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE).clamp(1, PAGE);
    room.members_page(&value("after").unwrap_or_default(), limit)
}

fn pairs(request: &Request<Incoming>) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned()
}

fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

fn error(status: StatusCode, code: &str, message: &str) -> JsonResponse {
    json_response(status, json!({ "error": { "code": code, "message": message } }).to_string())
}

fn json_response(status: StatusCode, body: String) -> JsonResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
