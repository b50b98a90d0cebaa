//! Plain clients of a service outside of the mesh, for whom a DestinationRule has the gateway speak TLS.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::net::SocketAddr;

use serde_json::{Value, json};

pub const HOST: &str = "secure.example.com";

/// A TCP server whose clients are led to a service outside of the mesh, with this `tls` for it.
pub fn documents(endpoint: SocketAddr, tls: &Value) -> [(&'static str, Value); 4] {
    let resource = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": { "name": "secure", "namespace": "istio-system" },
            "spec": spec,
        })
    };
    let server = json!({ "port": { "name": "tcp", "number": 9443, "protocol": "TCP" }, "hosts": ["*"] });
    let destination = json!({ "host": HOST, "port": { "number": 9443 } });
    [
        ("gateway.json", resource("Gateway", json!({ "selector": {}, "servers": [server] }))),
        ("entry.json", resource("ServiceEntry", entry(endpoint))),
        (
            "service.json",
            resource(
                "VirtualService",
                json!({
                    "hosts": [HOST],
                    "gateways": ["secure"],
                    "tcp": [{ "route": [{ "destination": destination }] }],
                }),
            ),
        ),
        ("rule.json", rule(tls)),
    ]
}

pub fn entry(endpoint: SocketAddr) -> Value {
    json!({
        "hosts": [HOST],
        "location": "MESH_EXTERNAL",
        "resolution": "STATIC",
        "ports": [{ "name": "tcp", "number": 9443, "protocol": "TCP" }],
        "endpoints": [{ "address": endpoint.ip(), "ports": { "tcp": endpoint.port() } }],
    })
}

pub fn rule(tls: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": { "name": "secure", "namespace": "istio-system" },
        "spec": { "host": HOST, "trafficPolicy": { "tls": tls } },
    })
}

/// A Secret in the gateway's namespace.
pub fn secret(name: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "istio-system" }, "stringData": data,
    })
}
