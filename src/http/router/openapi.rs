//! The route table and `src/web/openapi.json` agree: paths, methods, parameters and credentials. Clients in Python
//! check the requests and answers that the document describes, see `tests/clients/test_openapi.py`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::*;
use crate::http::upgrade;
use crate::protocol::Protocol;

/// Files that the document describes. Files that pages load are not a part of the API.
const FILES: [&str; 2] = ["/openapi.json", "/docs"];
/// Says which protocol the WebSocket at a path speaks.
const WEBSOCKET: &str = "x-websocket";

fn document() -> Value {
    serde_json::from_str(include_str!("../../web/openapi.json")).unwrap()
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

/// All operations, by method and path.
fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let paths = object(&document["paths"]).iter();
    let operations = paths.flat_map(|(path, methods)| {
        object(methods)
            .iter()
            .map(move |(method, operation)| ((method.to_ascii_uppercase(), path.clone()), operation.clone()))
    });
    operations.collect()
}

fn routes_with_access() -> BTreeMap<(String, String), Access> {
    let all = ALL_ROUTES.iter().filter(|route| !route.is_file || FILES.contains(&route.path));
    // GET answers HEAD as well; the introduction of the document says so.
    all.map(|route| ((route.method.to_string(), route.path.to_owned()), route.needs)).collect()
}

#[test]
fn the_document_has_each_route_and_no_other() {
    let document = document();
    let mut documented = operations(&document);
    documented.retain(|_, operation| operation.get(WEBSOCKET).is_none());
    let documented: BTreeSet<_> = documented.into_keys().collect();
    let routes: BTreeSet<_> = routes_with_access().into_keys().collect();
    let missing: Vec<_> = routes.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&routes).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:?}; documented only: {unknown:?}");
}

/// The alternatives of credentials that the document names, each as the sorted names of its schemes.
fn credentials(operation: &Value) -> BTreeSet<String> {
    let alternatives = operation["security"].as_array().unwrap_or_else(|| panic!("no security: {operation}"));
    let names = alternatives.iter().map(|schemes| object(schemes).keys().cloned().collect::<Vec<_>>().join(" "));
    names.collect()
}

#[test]
fn the_document_names_the_credentials_that_a_route_needs() {
    let (document, routes) = (document(), routes_with_access());
    for ((method, path), operation) in operations(&document) {
        let named = credentials(&operation);
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        // Without tokens and keys, `none` is enough where users read: that alternative is empty.
        let is_right = match routes.get(&(method.clone(), path.clone())) {
            None => operation.get(WEBSOCKET).is_some(),
            Some(Access::Nothing) => named.is_empty(),
            Some(Access::Open) => named.is_empty() || named.contains(&"") && !named.iter().any(|name| is_key(name)),
            Some(Access::Read) => named == ["", "apiKey", "readKey", "token"],
            Some(Access::Metrics) => named == ["", "apiKey", "readKey"],
            Some(Access::Api) => named == ["apiKey"],
            Some(Access::Signature) => {
                named == ["pusherKey pusherSignature pusherTime"]
                    || method == "POST" && named == ["pusherDigest pusherKey pusherSignature pusherTime"]
            }
        };
        assert!(is_right, "{method} {path} names {named:?}");
        let needs_credential = !named.is_empty() && !named.contains(&"");
        assert!(!needs_credential || operation["responses"].get("401").is_some(), "{method} {path} without 401");
    }
}

fn is_key(name: &str) -> bool {
    ["apiKey", "readKey"].contains(&name)
}

#[test]
fn the_document_has_the_websocket_of_each_protocol() {
    let document = document();
    let mut protocols = BTreeSet::new();
    for ((method, path), operation) in operations(&document) {
        let Some(name) = operation.get(WEBSOCKET).and_then(Value::as_str) else { continue };
        assert_eq!(method, "GET", "{path}");
        let request = Request::get(path.replace(['{', '}'], "")).header("upgrade", "websocket").body(()).unwrap();
        let accepted = upgrade::accept(&Target::of(&request), &request);
        assert_eq!(accepted.map(|(protocol, _)| protocol.rules().name), Some(name), "{path}");
        assert!(find(&Method::GET, &path, Pages::All).is_err(), "{path} is a route as well");
        protocols.insert(name.to_owned());
    }
    let all = Protocol::ALL.iter().map(|protocol| protocol.rules().name).filter(|name| *name != "echo");
    assert_eq!(protocols, all.map(str::to_owned).collect());
}

/// What a reference points at.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(to) => document.pointer(to.trim_start_matches('#')).unwrap_or_else(|| panic!("{to} does not exist")),
        None => value,
    }
}

#[test]
fn the_document_has_each_parameter_of_a_path() {
    let document = document();
    for ((method, path), operation) in operations(&document) {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters = parameters.map(|parameter| resolved(&document, parameter));
        let documented: BTreeSet<_> = parameters
            .filter(|parameter| parameter["in"] == "path" && parameter["required"] == true)
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        assert_eq!(documented, names.map(str::to_owned).collect(), "{method} {path}");
    }
}

/// Collects the targets of all references in a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn each_component_is_used_and_exists() {
    let document = document();
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    let kinds = object(&document["components"]).iter().filter(|(kind, _)| *kind != "securitySchemes");
    let components: BTreeSet<_> = kinds
        .flat_map(|(kind, components)| object(components).keys().map(move |name| format!("#/components/{kind}/{name}")))
        .collect();
    assert_eq!(components, used);
    let schemes: BTreeSet<_> = object(&document["components"]["securitySchemes"]).keys().cloned().collect();
    let named = operations(&document).into_values().flat_map(|operation| credentials(&operation));
    let named: BTreeSet<_> = named
        .flat_map(|names| names.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(schemes, named);
}

#[test]
fn each_operation_has_a_name_of_its_own_and_a_known_tag() {
    let document = document();
    let tags: BTreeSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].clone().to_string()).collect();
    let mut ids = BTreeSet::new();
    for ((method, path), operation) in operations(&document) {
        assert!(tags.contains(&operation["tags"][0].to_string()), "{method} {path}");
        assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}");
    }
}
