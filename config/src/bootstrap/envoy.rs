//! What an Envoy's bootstrap file says, as settings: so that Istio's agent may start the gateway in the place of an Envoy
//! (`ProxyConfig.binaryPath`), with the file that it makes for one
//! (`tools/packaging/common/envoy_bootstrap.json` in istio/istio).
//!
//! ```text
//! node, dynamic_resources.ads_config ─ envoy_grpc.cluster_name ─→ static_resources.clusters[]: a pipe or an address
//! static_resources.listeners[]: /stats/prometheus → admin.metrics_address, /healthz/ready → admin.readiness_address
//! ```

use serde_json::{Map, Value, json};

use super::Error;

/// The settings that a bootstrap amounts to, to be laid under environment and flags; and what of it is not served.
///
/// # Errors
/// It names no control plane that could be asked, or something in a form that is not understood.
pub fn settings(bootstrap: &Value) -> Result<(Map<String, Value>, Vec<String>), Error> {
    let mut unserved = Vec::new();
    let mut admin = listeners(bootstrap, &mut unserved);
    if let Some(address) = socket(&bootstrap["admin"]) {
        admin.insert("address".into(), address.into());
    }
    let ads = &bootstrap["dynamic_resources"]["ads_config"];
    let variant = match ads["api_type"].as_str() {
        Some("DELTA_GRPC" | "AGGREGATED_DELTA_GRPC") => "delta",
        Some("GRPC" | "AGGREGATED_GRPC") => "sotw",
        _ => {
            return wrong(
                "dynamic_resources.ads_config.api_type",
                "give GRPC or DELTA_GRPC: what is served comes over ADS",
            );
        }
    };
    let addresses = json!([control_plane(bootstrap, ads)?]);
    let settings = json!({
        "node": node(&bootstrap["node"]),
        "xds": {"addresses": addresses, "variant": variant},
        "admin": admin,
    });
    match settings {
        Value::Object(settings) => Ok((settings, unserved)),
        _ => wrong("bootstrap", "it is no object"),
    }
}

fn wrong<T>(key: &str, reason: &str) -> Result<T, Error> {
    Err(Error::Value { key: key.into(), reason: reason.into() })
}

fn node(node: &Value) -> Value {
    let part = |name: &str| node["locality"][name].as_str().unwrap_or_default();
    let locality = [part("region"), part("zone"), part("sub_zone")].join("/");
    json!({
        "id": node["id"].as_str().unwrap_or_default(),
        "service_cluster": node["cluster"].as_str().unwrap_or_default(),
        "locality": locality.trim_end_matches('/'),
        "metadata": node["metadata"].as_object().cloned().unwrap_or_default(),
    })
}

/// Where the cluster is that ADS names, in the words of `xds.addresses`.
fn control_plane(bootstrap: &Value, ads: &Value) -> Result<String, Error> {
    let field = "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name";
    let Some(name) = ads["grpc_services"][0]["envoy_grpc"]["cluster_name"].as_str() else {
        return wrong(field, "give the name of a static cluster");
    };
    let mut clusters = items(&bootstrap["static_resources"]["clusters"]);
    let Some(cluster) = clusters.find(|cluster| cluster["name"] == *name) else {
        return wrong(field, &format!("there is no static cluster {name}"));
    };
    let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    if let Some(path) = endpoint["address"]["pipe"]["path"].as_str() {
        return Ok(format!("unix:{path}"));
    }
    let Some(address) = socket(endpoint) else {
        return wrong(
            &format!("static_resources.clusters[{name}].load_assignment"),
            "give an endpoint with a pipe.path or a socket_address",
        );
    };
    let scheme = if cluster.get("transport_socket").is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{address}"))
}

/// The `address.socket_address` of an object, as HOST:PORT.
fn socket(of: &Value) -> Option<String> {
    let address = &of["address"]["socket_address"];
    let (host, port) = (address["address"].as_str()?, address["port_value"].as_u64()?);
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// The static listeners that stand for something here; those that do not are named.
fn listeners(bootstrap: &Value, unserved: &mut Vec<String>) -> Map<String, Value> {
    // Where there is none for it, nothing is bound: the agent may want the port.
    let mut admin = Map::from_iter([("readiness_address".to_owned(), json!(""))]);
    for listener in items(&bootstrap["static_resources"]["listeners"]) {
        let setting = prefixes(listener).find_map(|prefix| match prefix {
            "/stats/prometheus" => Some("metrics_address"),
            "/healthz/ready" => Some("readiness_address"),
            _ => None,
        });
        match (setting, socket(listener)) {
            (Some(setting), Some(address)) => _ = admin.insert(setting.into(), address.into()),
            _ => unserved.push(format!(
                "static listener {} of the bootstrap is not served",
                listener["name"].as_str().unwrap_or("without a name")
            )),
        }
    }
    admin
}

fn items(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter()
}

/// What the routes of a listener's HTTP filters match.
fn prefixes(listener: &Value) -> impl Iterator<Item = &str> {
    items(&listener["filter_chains"])
        .flat_map(|chain| items(&chain["filters"]))
        .flat_map(|filter| items(&filter["typed_config"]["route_config"]["virtual_hosts"]))
        .flat_map(|host| items(&host["routes"]))
        .filter_map(|route| route["match"]["prefix"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Layers;

    /// In the shape of what Istio's agent writes, which `.ci/e2e agent` has the agent itself write.
    fn bootstrap() -> Value {
        let route = |prefix: &str| {
            json!([{"filters": [{"typed_config": {"route_config": {
                "virtual_hosts": [{"routes": [{"match": {"prefix": prefix}}]}]}}}]}])
        };
        let listener = |port: u16, chains: Value| {
            json!({"name": format!("0.0.0.0_{port}"), "filter_chains": chains,
                "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}}})
        };
        json!({
            "node": {"id": "router~10.0.0.1~gw.ns~ns.svc.cluster.local", "cluster": "gw.ns",
                "locality": {"region": "r", "zone": "z"}, "metadata": {"NETWORK": "n1", "INSTANCE_IPS": "10.0.0.1"}},
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
            "dynamic_resources": {"ads_config": {"api_type": "DELTA_GRPC",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]}},
            "static_resources": {
                "clusters": [{"name": "xds-grpc", "load_assignment": {"endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": {"pipe": {"path": "./etc/istio/proxy/XDS"}}}}]}]}}],
                "listeners": [
                    listener(15090, route("/stats/prometheus")),
                    listener(15021, route("/healthz/ready")),
                    listener(9, json!([])),
                ],
            },
        })
    }

    #[test]
    fn what_the_agent_writes_is_settings() {
        let (settings, unserved) = settings(&bootstrap()).unwrap();
        assert_eq!(unserved, ["static listener 0.0.0.0_9 of the bootstrap is not served"]);
        let settings = Layers::new().map(&settings).unwrap().settings().unwrap();
        assert_eq!(settings.node.id, "router~10.0.0.1~gw.ns~ns.svc.cluster.local");
        assert_eq!(settings.node.locality, "r/z");
        assert_eq!(settings.node.metadata["NETWORK"], "n1");
        assert_eq!(settings.xds.addresses[0].to_string(), "unix:./etc/istio/proxy/XDS");
        assert_eq!(settings.admin.metrics_address.unwrap().port(), 15090);
        assert_eq!(settings.admin.readiness_address.unwrap().port(), 15021);
    }

    #[test]
    fn a_control_plane_on_an_address_is_spoken_to_as_its_cluster_says() {
        let mut given = bootstrap();
        let cluster = &mut given["static_resources"]["clusters"][0];
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] =
            json!({"socket_address": {"address": "::1", "port_value": 15010}});
        assert_eq!(settings(&given).unwrap().0["xds"]["addresses"], json!(["http://[::1]:15010"]));
        given["static_resources"]["clusters"][0]["transport_socket"] =
            json!({"name": "envoy.transport_sockets.tls"});
        assert_eq!(settings(&given).unwrap().0["xds"]["addresses"], json!(["https://[::1]:15010"]));
    }

    #[test]
    fn one_without_a_control_plane_is_refused_by_the_field() {
        let mut given = bootstrap();
        given["static_resources"]["clusters"][0]["name"] = json!("other");
        let error = settings(&given).unwrap_err().to_string();
        assert!(error.contains("cluster_name: there is no static cluster xds-grpc"), "{error}");
        given["dynamic_resources"] = json!({});
        assert!(settings(&given).unwrap_err().to_string().contains("ads_config.api_type"));
    }
}
