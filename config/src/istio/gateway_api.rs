//! The Gateway API's Gateway and TLSRoute, in Istio's words: a TLS listener in `Passthrough` mode is a `PASSTHROUGH`
//! server, a TLSRoute a VirtualService with one `tls` route. What would lead to more than its author wrote, if it were
//! passed over, is refused. <https://gateway-api.sigs.k8s.io/reference/spec/>

use std::collections::BTreeMap;

use serde::Deserialize;

use super::findings::Findings;
use super::schema::{PortSelector, gateway, or_default, virtual_service};

/// The API group.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";
/// Gateways of other classes are other implementations'.
const CLASS: &str = "eastgate";
/// The option by which Istio's own Gateways ask for `AUTO_PASSTHROUGH`.
const LISTENER_PROTOCOL: &str = "gateway.istio.io/listener-protocol";

/// The name of a Gateway that VirtualServices cannot mean: Istio's kind of the same name has names of its own.
pub(super) fn gateway_name(name: &str) -> String {
    format!("{name} ({GROUP})")
}

/// `spec` of a Gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct GatewaySpec {
    gateway_class_name: String,
    #[serde(deserialize_with = "or_default")]
    listeners: Vec<Listener>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Listener {
    name: String,
    #[serde(deserialize_with = "or_default")]
    hostname: String,
    port: i64,
    protocol: String,
    tls: Option<ListenerTls>,
    #[serde(deserialize_with = "or_default")]
    allowed_routes: AllowedRoutes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListenerTls {
    #[serde(deserialize_with = "or_default")]
    mode: String,
    #[serde(deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AllowedRoutes {
    #[serde(deserialize_with = "or_default")]
    namespaces: From,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct From {
    #[serde(deserialize_with = "or_default")]
    from: String,
}

impl GatewaySpec {
    /// The servers of a Gateway of our class; none for another's.
    pub(super) fn translate(&self, findings: &mut Findings) -> Option<gateway::Gateway> {
        if self.gateway_class_name != CLASS {
            return None;
        }
        let mut servers = Vec::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            let field = format!("spec.listeners[{index}]");
            let tls =
                listener.tls.as_ref().filter(|tls| listener.protocol == "TLS" && tls.mode == "Passthrough");
            let Some(tls) = tls else {
                let message =
                    "nothing listens for it: this gateway serves protocol TLS with tls.mode Passthrough";
                findings.notice(field, message);
                continue;
            };
            let namespace = match listener.allowed_routes.namespaces.from.as_str() {
                "" | "Same" => ".",
                "All" => "*",
                other => {
                    let reason = format!("{other} is not supported; give Same or All");
                    findings.refuse(format!("{field}.allowedRoutes.namespaces.from"), reason);
                    continue;
                }
            };
            let auto =
                tls.options.get(LISTENER_PROTOCOL).is_some_and(|protocol| protocol == "auto-passthrough");
            let mode = if auto { gateway::TlsMode::AutoPassthrough } else { gateway::TlsMode::Passthrough };
            let hostname = if listener.hostname.is_empty() { "*" } else { &listener.hostname };
            servers.push(gateway::Server {
                port: Some(gateway::Port {
                    number: listener.port,
                    protocol: "TLS".to_owned(),
                    name: listener.name.clone(),
                    ..gateway::Port::default()
                }),
                hosts: vec![format!("{namespace}/{hostname}")],
                tls: Some(gateway::ServerTls { mode, ..gateway::ServerTls::default() }),
                ..gateway::Server::default()
            });
        }
        (!servers.is_empty()).then(|| gateway::Gateway { servers, ..gateway::Gateway::default() })
    }
}

/// `spec` of a TLSRoute.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RouteSpec {
    #[serde(deserialize_with = "or_default")]
    parent_refs: Vec<Reference>,
    #[serde(deserialize_with = "or_default")]
    hostnames: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    #[serde(deserialize_with = "or_default")]
    backend_refs: Vec<Reference>,
}

/// A `parentRef` or a `backendRef`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference {
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    section_name: Option<String>,
    port: Option<i64>,
    weight: Option<i64>,
}

impl RouteSpec {
    /// The VirtualService that says the same, of this namespace.
    pub(super) fn translate(
        &self,
        namespace: &str,
        findings: &mut Findings,
    ) -> virtual_service::VirtualService {
        let mut gateways = Vec::new();
        let mut matches = Vec::new();
        for (index, parent) in self.parent_refs.iter().enumerate() {
            if parent.kind.as_deref().is_some_and(|kind| kind != "Gateway") {
                continue;
            }
            if parent.section_name.is_some() {
                let reason = "a listener by name is not supported, and without it the route would be on all of the \
                              Gateway's; give its port instead";
                findings.refuse(format!("spec.parentRefs[{index}].sectionName"), reason);
            }
            let of = parent.namespace.as_deref().unwrap_or(namespace);
            let gateway = format!("{of}/{}", gateway_name(&parent.name));
            matches.push(virtual_service::TlsMatch {
                sni_hosts: self.hostnames.clone(),
                port: parent.port,
                gateways: vec![gateway.clone()],
                ..virtual_service::TlsMatch::default()
            });
            gateways.push(gateway);
        }
        if self.hostnames.is_empty() {
            findings.refuse("spec.hostnames", "a TLSRoute needs hostnames here; give at least one");
        }
        let route = virtual_service::TlsRoute { matches, route: self.destinations(namespace, findings) };
        let tls = if gateways.is_empty() { Vec::new() } else { vec![route] };
        let hosts = self.hostnames.clone();
        virtual_service::VirtualService { hosts, gateways, tls, ..virtual_service::VirtualService::default() }
    }

    fn destinations(
        &self,
        namespace: &str,
        findings: &mut Findings,
    ) -> Vec<virtual_service::RouteDestination> {
        let [rule] = self.rules.as_slice() else {
            findings.refuse("spec.rules", "a TLSRoute has one rule here; give just one");
            return Vec::new();
        };
        let mut destinations = Vec::new();
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            let field = format!("spec.rules[0].backendRefs[{index}]");
            if backend.kind.as_deref().is_some_and(|kind| kind != "Service") {
                findings.refuse(format!("{field}.kind"), "only a Service is a backend here; give one");
            }
            if backend.namespace.as_deref().is_some_and(|other| other != namespace) {
                let reason = "another namespace's Service would need a ReferenceGrant, which is not read; put the route \
                              into the Service's namespace";
                findings.refuse(format!("{field}.namespace"), reason);
            }
            let port = backend.port.map(|number| PortSelector { number });
            if port.is_none() {
                findings.refuse(format!("{field}.port"), "a Service needs a port; give its number");
            }
            // A name without dots is a Service of this namespace.
            let destination =
                virtual_service::Destination { host: backend.name.clone(), port, ..Default::default() };
            let weight = backend.weight.unwrap_or(1);
            destinations.push(virtual_service::RouteDestination { destination: Some(destination), weight });
        }
        destinations
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::istio::{Index, Options};
    use crate::snapshot::Snapshot;

    fn resource(kind: &str, name: &str, version: &str, spec: Value) -> Value {
        json!({
            "apiVersion": version, "kind": kind, "metadata": { "name": name, "namespace": "bar" }, "spec": spec,
        })
    }

    fn gateway(class: &str, listener: Value) -> Value {
        let spec = json!({ "gatewayClassName": class, "listeners": [listener] });
        resource("Gateway", "g", "gateway.networking.k8s.io/v1", spec)
    }

    fn listener(hostname: &str, mode: &str) -> Value {
        json!({ "name": "tls", "hostname": hostname, "port": 8443, "protocol": "TLS", "tls": { "mode": mode } })
    }

    fn route(parent: Value, backends: Value) -> Value {
        let spec = json!({ "parentRefs": [parent], "hostnames": ["a.example.com"], "rules": [{ "backendRefs": backends }] });
        resource("TLSRoute", "r", "gateway.networking.k8s.io/v1alpha2", spec)
    }

    fn service(name: &str) -> Value {
        resource("Service", name, "v1", json!({ "ports": [{ "port": 443 }] }))
    }

    fn snapshot(resources: Vec<Value>) -> Snapshot {
        let mut index = Index::default();
        for resource in resources {
            let _ = index.apply(resource);
        }
        index.snapshot(&Options::default())
    }

    fn one() -> Value {
        json!([{ "name": "s", "port": 443 }])
    }

    #[test]
    fn a_tls_route_leads_from_a_passthrough_listener_to_services_by_weight() {
        let backends = json!([{ "name": "s", "port": 443, "weight": 3 }, { "name": "t", "port": 443 }]);
        let resources = vec![
            gateway("eastgate", listener("*.example.com", "Passthrough")),
            route(json!({ "name": "g", "port": 8443 }), backends),
            service("s"),
            service("t"),
        ];
        let snapshot = snapshot(resources);
        assert!(snapshot.rejections.is_empty(), "{:?}", snapshot.rejections);
        let chains = &snapshot.listeners["0.0.0.0_8443"].filter_chains;
        assert_eq!(chains.len(), 1);
        assert_eq!(chains[0].matches.server_names, ["a.example.com".parse().unwrap()]);
        let weights: Vec<_> =
            chains[0].route.clusters.iter().map(|to| (to.name.as_str(), to.weight)).collect();
        assert_eq!(weights.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), [3, 1]);
        assert!(weights.iter().all(|(name, _)| snapshot.clusters.contains_key(*name)));
    }

    #[test]
    fn gateways_of_other_classes_and_listeners_that_end_tls_are_not_served() {
        for gateway in [
            gateway("istio", listener("*.example.com", "Passthrough")),
            gateway("eastgate", listener("*.example.com", "Terminate")),
        ] {
            let snapshot = snapshot(vec![gateway, route(json!({ "name": "g" }), one()), service("s")]);
            assert!(snapshot.listeners.is_empty() && snapshot.rejections.is_empty());
        }
    }

    #[test]
    fn a_route_of_another_namespace_needs_the_listeners_leave() {
        let mut route = route(json!({ "name": "g", "namespace": "bar" }), one());
        route["metadata"]["namespace"] = json!("foo");
        let mut theirs = service("s");
        theirs["metadata"]["namespace"] = json!("foo");
        let chains = |from: &str| {
            let mut listener = listener("*.example.com", "Passthrough");
            listener["allowedRoutes"] = json!({ "namespaces": { "from": from } });
            let snapshot = snapshot(vec![gateway("eastgate", listener), route.clone(), theirs.clone()]);
            snapshot.listeners["0.0.0.0_8443"].filter_chains.len()
        };
        assert_eq!((chains("Same"), chains("All")), (0, 1));
    }

    #[test]
    fn an_istio_gateway_of_the_same_name_is_another_one() {
        let server = json!({
            "port": { "number": 9443, "name": "tls", "protocol": "TLS" }, "hosts": ["*.example.com"],
            "tls": { "mode": "PASSTHROUGH" },
        });
        let istio = resource("Gateway", "g", "networking.istio.io/v1", json!({ "servers": [server] }));
        let mine = gateway("eastgate", listener("*.example.com", "Passthrough"));
        let snapshot = snapshot(vec![istio, mine, route(json!({ "name": "g" }), one()), service("s")]);
        assert_eq!(snapshot.listeners["0.0.0.0_8443"].filter_chains.len(), 1);
        assert!(snapshot.listeners["0.0.0.0_9443"].filter_chains.is_empty());
    }

    #[test]
    fn what_would_lead_to_more_than_was_written_is_refused_by_field() {
        let refused = |resource: Value| snapshot(vec![resource]).rejections[0].place.field.clone();
        assert_eq!(
            refused(route(json!({ "name": "g", "sectionName": "x" }), one())),
            "spec.parentRefs[0].sectionName"
        );
        let foreign = json!([{ "name": "s", "namespace": "foo", "port": 443 }]);
        assert_eq!(refused(route(json!({ "name": "g" }), foreign)), "spec.rules[0].backendRefs[0].namespace");
        let mut selecting = listener("*.example.com", "Passthrough");
        selecting["allowedRoutes"] = json!({ "namespaces": { "from": "Selector" } });
        assert_eq!(
            refused(gateway("eastgate", selecting)),
            "spec.listeners[0].allowedRoutes.namespaces.from"
        );
    }
}
