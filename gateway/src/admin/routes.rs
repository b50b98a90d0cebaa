//! What the admin port has, once: the index, the OpenAPI description and the answer to a wrong method are made from it.

use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, Value, json};

/// A path and what one may do there.
pub(super) struct Route {
    pub(super) path: &'static str,
    /// Others only look.
    pub(super) changes: bool,
    summary: &'static str,
    parameters: &'static [Parameter],
    /// What it answers with, beside 200 and 400.
    codes: &'static [u16],
    json: Form,
}

/// In which form a path answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Page,
    Text,
    Json,
    /// As text, or with `?format=json` as JSON.
    Either,
}

struct Parameter {
    name: &'static str,
    meaning: &'static str,
    /// An example, which also says how it is written.
    example: &'static str,
    needed: bool,
}

const fn optional(name: &'static str, meaning: &'static str, example: &'static str) -> Parameter {
    Parameter { name, meaning, example, needed: false }
}

const fn needed(name: &'static str, meaning: &'static str, example: &'static str) -> Parameter {
    Parameter { name, meaning, example, needed: true }
}

const fn look(
    path: &'static str,
    summary: &'static str,
    json: Form,
    parameters: &'static [Parameter],
) -> Route {
    Route { path, changes: false, summary, parameters, codes: &[], json }
}

const fn change(
    path: &'static str,
    summary: &'static str,
    json: Form,
    parameters: &'static [Parameter],
) -> Route {
    Route { path, changes: true, summary, parameters, codes: &[], json }
}

const fn or(route: Route, codes: &'static [u16]) -> Route {
    Route { codes, ..route }
}

const SELECTION: &[Parameter] = &[
    optional("sni", "of this server name", "httpbin.example.com"),
    optional("endpoint", "to this endpoint", "10.0.0.1:8443"),
    optional("cluster", "through this cluster", "httpbin"),
    optional("older_than", "of at least this age", "1h"),
    optional("id", "this one", "0-17"),
    optional("client_random", "whose ClientHello's random bytes begin so", "3f9a"),
];

/// Every path.
pub(super) const ROUTES: &[Route] = &[
    or(
        look(
            "/ready",
            "LIVE when connections are taken, else what is waited for",
            Form::Text,
            &[optional("verbose", "with remarks", "")],
        ),
        &[503],
    ),
    or(look("/healthz/ready", "the same, for Kubernetes", Form::Text, &[]), &[503]),
    look("/server_info", "version, state and age of the process", Form::Json, &[]),
    look(
        "/stats",
        "metrics, one a line",
        Form::Either,
        &[
            optional("filter", "a regular expression for names", "downstream"),
            optional("usedonly", "without those that are 0", ""),
        ],
    ),
    look("/stats/prometheus", "metrics for Prometheus", Form::Text, &[]),
    look(
        "/clusters",
        "every endpoint: health, why it is out, load",
        Form::Either,
        &[optional("filter", "clusters whose name has this in it", "httpbin")],
    ),
    look("/listeners", "where the listeners are bound", Form::Either, &[]),
    look(
        "/config_dump",
        "what is configured, in Envoy's shape",
        Form::Json,
        &[
            optional("include_eds", "with endpoints", "true"),
            optional("resource", "one list", "dynamic_listeners"),
            optional("mask", "some fields", "cluster"),
            optional("name_regex", "names", "httpbin.*"),
            optional("include_snapshot", "with what the gateway made of it", "true"),
        ],
    ),
    look("/certs", "the certificate that the gateway itself shows", Form::Json, &[]),
    look("/memory", "what the process holds", Form::Json, &[]),
    look("/hot_restart_version", "of Envoy's protocol", Form::Text, &[]),
    look(
        "/explain",
        "where a connection goes and why",
        Form::Either,
        &[
            needed("sni", "the server name, as a client sends it", "outbound_.8000_._.httpbin.bar.global"),
            optional("alpn", "a protocol that it offers (repeatable)", "istio"),
            optional("source", "its address", "10.0.0.9"),
            optional("port", "where it goes", "15443"),
        ],
    ),
    look(
        "/connections",
        "open tunnels, the oldest first, with what the kernel knows of both sides",
        Form::Either,
        &[
            optional("sni", "of this server name", "httpbin.example.com"),
            optional("endpoint", "to this endpoint", "10.0.0.1:8443"),
            optional("cluster", "through this cluster", "httpbin"),
            optional("older_than", "of at least this age", "1h"),
            optional("id", "this one", "0-17"),
            optional("client_random", "whose ClientHello's random bytes begin so", "3f9a"),
            optional("limit", "so many at the most", "100"),
        ],
    ),
    change("/connections/kill", "ends the open tunnels that are meant", Form::Json, SELECTION),
    look(
        "/top",
        "the busiest clusters, endpoints and names",
        Form::Either,
        &[
            optional("by", "connections (open ones), made, bytes or failures", "connections"),
            optional("filter", "clusters whose name has this in it", "httpbin"),
            optional("limit", "so many of each", "20"),
            optional("offset", "after so many", "0"),
        ],
    ),
    look("/failures", "the latest connections that failed, and why", Form::Either, &[]),
    look("/audit", "every name that is reachable from outside, and what makes it so", Form::Either, &[]),
    or(look("/names", "what DNS answers, host by host", Form::Either, &[]), &[503]),
    look("/rejections", "what was refused and why, and notices", Form::Json, &[]),
    or(look("/xds", "where the conversation with the control plane stands", Form::Either, &[]), &[404, 503]),
    or(look("/xds/log", "its last pushes, and what each changed", Form::Either, &[]), &[404, 503]),
    or(
        look(
            "/xds/diff",
            "what changed between two pushes",
            Form::Either,
            &[needed("from", "a version, or #NUMBER", "#1"), needed("to", "a version, or #NUMBER", "#2")],
        ),
        &[404, 503],
    ),
    or(change("/xds/release", "lets go of what the guard keeps back", Form::Text, &[]), &[404, 503]),
    look("/logging", "the log's level", Form::Text, &[]),
    change(
        "/logging",
        "sets the log's level, of all or of some modules",
        Form::Text,
        &[
            optional("level", "error, warn, info, debug or a filter", "info"),
            optional("paths", "modules with their levels", "source::xds:debug,dns:warn"),
        ],
    ),
    change("/reopen_logs", "opens the access log's file anew, as after SIGHUP", Form::Text, &[]),
    change("/healthcheck/fail", "not ready until /healthcheck/ok", Form::Text, &[]),
    change("/healthcheck/ok", "takes that back", Form::Text, &[]),
    change(
        "/drain_listeners",
        "accepts nobody any more; open connections go on",
        Form::Text,
        &[
            optional("graceful", "is not ready for drain.grace first", ""),
            optional("inboundonly", "Envoy's; there are no other listeners", ""),
            optional("skip_exit", "Envoy's; the process goes on in any case", ""),
        ],
    ),
    change("/quitquitquit", "leaves, as after SIGTERM", Form::Text, &[]),
    look("/status", "the status page", Form::Page, &[]),
    look("/openapi.json", "this, for programs", Form::Json, &[]),
    look("/help", "this, for people", Form::Text, &[]),
];

/// All of it, for people.
pub(super) fn index() -> String {
    let line = |route: &Route| {
        let post = if route.changes { "POST: " } else { "" };
        let names: Vec<_> = route.parameters.iter().map(|parameter| parameter.name).collect();
        let json = (route.json == Form::Either).then_some("format=json");
        let names: Vec<_> = names.into_iter().chain(json).collect();
        let names = if names.is_empty() { String::new() } else { format!(" (?{})", names.join(", ")) };
        format!("{:22} {post}{}{names}\n", route.path, route.summary)
    };
    ROUTES.iter().map(line).collect()
}

/// All of it, for programs: OpenAPI 3.
pub(super) async fn openapi() -> Json<Value> {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let method = if route.changes { "post" } else { "get" };
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[method] = operation(route, method);
    }
    Json(json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Eastgate's admin port",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What changes something wants POST. On an address that is not loopback: TLS and a bearer token.",
        },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{}, { "token": [] }],
        "paths": paths,
    }))
}

fn operation(route: &Route, method: &str) -> Value {
    let one = |parameter: &Parameter| {
        json!({
            "name": parameter.name,
            "in": "query",
            "description": parameter.meaning,
            "required": parameter.needed,
            "schema": { "type": "string" },
            "example": parameter.example,
        })
    };
    let format = json!({
        "name": "format", "in": "query", "required": false, "description": "the form of the answer",
        "schema": { "type": "string", "enum": ["text", "json"] },
    });
    let mut parameters: Vec<_> = route.parameters.iter().map(one).collect();
    parameters.extend((route.json == Form::Either).then_some(format));
    let text = ("text/plain", json!({ "schema": { "type": "string" } }));
    let object = ("application/json", json!({ "schema": { "type": "object" } }));
    let content: Map<String, Value> = match route.json {
        Form::Page => vec![("text/html", json!({ "schema": { "type": "string" } }))],
        Form::Text => vec![text],
        Form::Json => vec![object],
        Form::Either => vec![text, object],
    }
    .into_iter()
    .map(|(kind, schema)| (kind.to_owned(), schema))
    .collect();
    let why = json!({ "text/plain": { "schema": { "type": "string" } } });
    let mut responses =
        Map::from_iter([("200".to_owned(), json!({ "description": "as asked", "content": content }))]);
    for code in [400, 401, 403, 405].iter().chain(route.codes) {
        responses.insert(code.to_string(), json!({ "description": "why not", "content": why }));
    }
    json!({
        "operationId": format!("{method}{}", route.path.replace(['/', '.'], "_")),
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses,
    })
}

/// A path that is there, asked in another way than it answers to.
pub(super) async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let changes = |route: &&Route| route.path == path && route.changes;
    let (allowed, text) = match ROUTES.iter().find(changes) {
        Some(_) if request.method() == Method::GET => {
            ("POST", format!("{path} changes something, and so wants POST: curl -X POST ...{path}\n"))
        }
        Some(_) => ("POST", format!("{path} wants POST\n")),
        None => ("GET", format!("{path} only looks, and so wants GET\n")),
    };
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allowed)], text).into_response()
}

/// No such path.
pub(super) async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, format!("there is no such path; there are:\n{}", index())).into_response()
}
