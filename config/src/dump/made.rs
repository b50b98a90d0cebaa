//! Envoy's words for what came from another source than xDS, as far as it has any; what it has none for stands in the
//! metadata under `eastgate`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Policy, Resolutions};
use crate::endpoint::{Address, Endpoint, Health};
use crate::listener::{FilterChain, Listener, Transport};
use crate::locality::Locality;
use crate::route::Route;
use crate::xds::{CLUSTER, ENDPOINTS, LISTENER};

pub(super) fn listener(listener: &Listener) -> Value {
    let mut value = json!({
        "@type": LISTENER,
        "name": listener.name,
        "address": socket(listener.address),
        "filter_chains": listener.filter_chains.iter().map(chain).collect::<Vec<_>>(),
    });
    if let Some(default) = &listener.options.default_filter_chain {
        value["default_filter_chain"] = chain(default);
    }
    if !listener.options.plain {
        value["listener_filters"] = json!([{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        }]);
    }
    if !listener.rewrites.is_empty() {
        value["metadata"] = ours("rewrites", json!(listener.rewrites));
    }
    value
}

fn chain(chain: &FilterChain) -> Value {
    let mut matches = json!({});
    // Envoy's empty list takes every name; `*` itself is no name there.
    let names: Vec<_> = chain.matches.server_names.iter().map(ToString::to_string).collect();
    if !names.is_empty() && !names.iter().any(|name| name == "*") {
        matches["server_names"] = json!(names);
    }
    if !chain.matches.application_protocols.is_empty() {
        matches["application_protocols"] = json!(chain.matches.application_protocols);
    }
    match chain.matches.connection.transport {
        Transport::Tls => matches["transport_protocol"] = json!("tls"),
        Transport::Raw => matches["transport_protocol"] = json!("raw_buffer"),
        Transport::Any => {}
    }
    if let Some(port) = chain.matches.connection.destination_port {
        matches["destination_port"] = json!(port);
    }
    let mut value = json!({
        "name": chain.name,
        "filter_chain_match": matches,
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": proxy(&chain.route, chain.idle_timeout),
        }],
    });
    if !chain.matches.sent_as.is_empty() {
        let patterns: Vec<_> = chain.matches.sent_as.iter().map(ToString::to_string).collect();
        value["metadata"] = ours("sent_as", json!(patterns));
    }
    value
}

fn proxy(route: &Route, idle_timeout: Option<Duration>) -> Value {
    let mut value = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    });
    match route.clusters.as_slice() {
        [] => {}
        [one] => {
            value["stat_prefix"] = json!(one.name);
            value["cluster"] = json!(one.name);
        }
        several => {
            let weighted: Vec<_> =
                several.iter().map(|one| json!({ "name": one.name, "weight": one.weight })).collect();
            value["stat_prefix"] = json!("weighted");
            value["weighted_clusters"] = json!({ "clusters": weighted });
        }
    }
    if let Some(timeout) = idle_timeout {
        value["idle_timeout"] = seconds(timeout);
    }
    value
}

pub(super) fn cluster(cluster: &Cluster) -> Value {
    let kind = match &cluster.dns {
        Some(dns) if dns.logical => "LOGICAL_DNS",
        Some(_) => "STRICT_DNS",
        None => "EDS",
    };
    let policy = match cluster.policy {
        Policy::LeastRequest => "LEAST_REQUEST",
        Policy::RoundRobin => "ROUND_ROBIN",
        Policy::Random => "RANDOM",
        Policy::RingHash(_) => "RING_HASH",
        Policy::Maglev { .. } => "MAGLEV",
    };
    let mut value = json!({
        "@type": CLUSTER,
        "name": cluster.name,
        "type": kind,
        "connect_timeout": seconds(cluster.connect_timeout),
        "lb_policy": policy,
    });
    if let Some(most) = cluster.max_connections {
        value["circuit_breakers"] = json!({ "thresholds": [{ "max_connections": most }] });
    }
    value
}

pub(super) fn assignment(cluster: &Cluster, resolved: &Resolutions) -> Value {
    let localities = cluster.localities.iter().map(|group| {
        let endpoints = group.endpoints.iter().flat_map(|one| endpoints(one, cluster, resolved));
        let mut value = json!({
            "locality": locality(&group.locality),
            "lb_endpoints": endpoints.collect::<Vec<_>>(),
        });
        if group.priority > 0 {
            value["priority"] = json!(group.priority);
        }
        if let Some(weight) = group.weight {
            value["load_balancing_weight"] = json!(weight);
        }
        value
    });
    json!({
        "@type": ENDPOINTS,
        "cluster_name": cluster.name,
        "endpoints": localities.collect::<Vec<_>>(),
    })
}

/// One for each address that the endpoint's name stands for.
fn endpoints(one: &Endpoint, cluster: &Cluster, resolved: &Resolutions) -> Vec<Value> {
    match &one.address {
        Address::Socket(address) => vec![endpoint(one, *address, "")],
        Address::Dns { host, port } => {
            cluster.resolve(host, resolved).map(|ip| endpoint(one, (ip, *port).into(), host)).collect()
        }
    }
}

fn endpoint(endpoint: &Endpoint, address: SocketAddr, host: &str) -> Value {
    let health = match endpoint.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Draining => "DRAINING",
        Health::Unhealthy => "UNHEALTHY",
    };
    let mut value = json!({
        "endpoint": { "address": socket(address) },
        "health_status": health,
        "load_balancing_weight": endpoint.weight,
    });
    if !host.is_empty() {
        value["endpoint"]["hostname"] = json!(host);
    }
    if !endpoint.workload.is_empty() {
        value["metadata"] = json!({ "filter_metadata": { "istio": { "workload": endpoint.workload } } });
    }
    value
}

fn locality(locality: &Locality) -> Value {
    let mut value = json!({});
    let parts = [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.subzone)];
    for (name, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
        value[name] = json!(part);
    }
    value
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn ours(key: &str, value: Value) -> Value {
    json!({ "filter_metadata": { "eastgate": { key: value } } })
}

/// Protobuf's JSON form of a duration.
fn seconds(duration: Duration) -> Value {
    json!(format!("{}s", duration.as_secs_f64()))
}
