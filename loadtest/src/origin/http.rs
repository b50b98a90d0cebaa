//! What a pod answers, in the manner of httpbin.

use std::fmt;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::content::{Content, Digest};

/// The response header that holds the pod's name, whatever was asked for.
pub const POD_HEADER: HeaderName = HeaderName::from_static("x-pod");

/// What a request for an unknown path is told.
const PATHS: &str = "GET /get, /headers, /hostname, /status/CODE, /bytes/N; POST /post, /sha256";

type Body = Either<Full<Bytes>, Content>;

/// What is known of a connection once its handshake is done.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) pod: HeaderValue,
    pub(super) peer: SocketAddr,
    pub(super) server_name: Option<String>,
    pub(super) alpn: Option<String>,
    pub(super) version: Option<&'static str>,
    pub(super) client: Vec<String>,
}

impl Facts {
    fn json(&self) -> Value {
        json!({
            "hostname": self.pod.to_str().unwrap_or_default(),
            "peer": self.peer.to_string(),
            "server_name": self.server_name,
            "alpn": self.alpn,
            "tls": self.version,
            "client": self.client,
        })
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let (server_name, alpn) = (text(&self.server_name), text(&self.alpn));
        write!(f, "server_name={server_name} alpn={alpn} tls={}", self.version.unwrap_or("-"))?;
        if self.client.is_empty() { Ok(()) } else { write!(f, " client={}", self.client.join(",")) }
    }
}

/// Answers one request; fails only where the client goes away in the middle of its body.
pub(super) async fn answer(
    facts: &Facts,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let writes = matches!(head.method, Method::POST | Method::PUT);
    let mut response = match *segments {
        ["get"] if reads => get(facts, &head),
        ["headers"] if reads => json_response(&json!({ "headers": headers(&head.headers) })),
        ["hostname"] if reads => json_response(&facts.json()),
        ["status", code] => status(code),
        ["bytes", length] if reads => content(length),
        ["post" | "sha256"] if writes => json_response(&digest(body).await?),
        _ => problem(StatusCode::NOT_FOUND, &format!("no {} {path} here; there is {PATHS}", head.method)),
    };
    response.headers_mut().insert(POD_HEADER, facts.pod.clone());
    Ok(response)
}

fn get(facts: &Facts, head: &hyper::http::request::Parts) -> Response<Body> {
    json_response(&json!({
        "method": head.method.as_str(),
        "url": head.uri.to_string(),
        "headers": headers(&head.headers),
        "origin": facts.peer.ip().to_string(),
        "connection": facts.json(),
    }))
}

fn headers(headers: &HeaderMap) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    // A header that stands twice is shown as one, as HTTP reads it.
    let joined = |name: &HeaderName| headers.get_all(name).iter().map(text).collect::<Vec<_>>().join(", ");
    Value::Object(headers.keys().map(|name| (name.to_string(), joined(name).into())).collect::<Map<_, _>>())
}

fn status(code: &str) -> Response<Body> {
    // 1xx would not end the exchange, so the client would wait for ever.
    let code = code.parse::<u16>().ok().filter(|code| (200..1000).contains(code));
    match code.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(code) => respond(code, "text/plain", Full::default()),
        None => problem(StatusCode::BAD_REQUEST, "a status is a number from 200 to 999"),
    }
}

fn content(length: &str) -> Response<Body> {
    let Ok(length) = length.parse() else {
        return problem(StatusCode::BAD_REQUEST, "a length is a number of bytes");
    };
    let mut response = Response::new(Either::Right(Content::new(length)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

async fn digest(mut body: Incoming) -> Result<Value, hyper::Error> {
    let mut digest = Digest::default();
    while let Some(frame) = body.frame().await {
        if let Some(bytes) = frame?.data_ref() {
            digest.add(bytes);
        }
    }
    let (sha256, length) = digest.finish();
    Ok(json!({ "sha256": sha256, "length": length }))
}

fn json_response(value: &Value) -> Response<Body> {
    respond(StatusCode::OK, "application/json", Full::from(format!("{value:#}\n")))
}

fn problem(status: StatusCode, text: &str) -> Response<Body> {
    respond(status, "application/json", Full::from(format!("{:#}\n", json!({ "error": text }))))
}

fn respond(status: StatusCode, kind: &'static str, body: Full<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
