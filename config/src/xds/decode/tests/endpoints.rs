//! ClusterLoadAssignment.

use std::collections::HashMap;

use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as wire;
use wire::lb_endpoint::HostIdentifier;

use super::super::endpoints::{Names, decode};
use super::*;
use crate::endpoint::Health;
use crate::xds::tests::made::socket;

fn endpoint(address: Option<core::Address>) -> wire::LbEndpoint {
    let endpoint = wire::Endpoint { address, ..Default::default() };
    wire::LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
}

fn assignment(endpoints: Vec<wire::LbEndpoint>) -> wire::ClusterLoadAssignment {
    let locality = wire::LocalityLbEndpoints { lb_endpoints: endpoints, ..Default::default() };
    wire::ClusterLoadAssignment { cluster_name: "x".into(), endpoints: vec![locality], ..Default::default() }
}

fn refused(message: wire::ClusterLoadAssignment) -> String {
    told(&[decode(message, Names::Refused).unwrap_err()])
}

#[test]
fn the_gateway_of_another_network_is_told_from_a_pod() {
    let gateway = |port: u32, workload: Option<&str>| {
        let mut one = endpoint(socket("10.0.0.1", port));
        let metadata = workload.map(|workload| ("istio".to_owned(), fields(&[("workload", workload)])));
        let filter_metadata = metadata.into_iter().collect();
        one.metadata = Some(core::Metadata { filter_metadata, ..Default::default() });
        let decoded = decode(assignment(vec![one]), Names::Refused).unwrap();
        decoded.localities[0].endpoints[0].endpoint.extras.gateway.clone()
    };
    assert_eq!(gateway(15443, Some(";;;;east")).as_deref(), Some("east"));
    assert_eq!(gateway(15443, None).as_deref(), Some(""));
    assert_eq!(gateway(15443, Some("httpbin;bar;httpbin;v1;east")), None, "a pod may have this port, too");
    assert_eq!(gateway(8080, Some(";;;;east")), None);
}

#[test]
fn everything_that_istiod_says_of_an_endpoint_is_kept() {
    let mut one = endpoint(socket("10.0.0.1", 8080));
    one.load_balancing_weight = number(3);
    one.health_status = core::HealthStatus::Draining as i32;
    let metadata = HashMap::from([
        ("istio".to_owned(), fields(&[("workload", "httpbin;bar;httpbin;v1;c1")])),
        ("envoy.transport_socket_match".to_owned(), fields(&[("tlsMode", "istio")])),
    ]);
    one.metadata = Some(core::Metadata { filter_metadata: metadata, ..Default::default() });
    let Some(HostIdentifier::Endpoint(inner)) = &mut one.host_identifier else { unreachable!() };
    inner.additional_addresses = vec![wire::endpoint::AdditionalAddress { address: socket("fd00::1", 8080) }];
    inner.hostname = "h".into();
    inner.health_check_config =
        Some(wire::endpoint::HealthCheckConfig { port_value: 9, ..Default::default() });
    let mut message = assignment(vec![one]);
    let place = core::Locality { region: "r".into(), zone: "z".into(), sub_zone: "s".into() };
    message.endpoints[0].locality = Some(place);
    message.endpoints[0].load_balancing_weight = number(3);
    message.endpoints[0].priority = 2;

    let decoded = decode(message, Names::Refused).unwrap();
    let locality = &decoded.localities[0];
    assert_eq!((locality.place.locality.to_string(), locality.place.priority), ("r/z/s".into(), 2));
    assert_eq!(locality.place.weight, Some(3));
    let one = &locality.endpoints[0];
    assert_eq!(one.labels, [("tlsMode".to_owned(), "istio".to_owned())]);
    let one = &one.endpoint;
    assert_eq!(
        (one.address.to_string(), one.weight, one.health),
        ("10.0.0.1:8080".into(), 3, Health::Draining)
    );
    assert_eq!((&*one.workload, one.extras.hostname.as_str()), ("httpbin;bar;httpbin;v1;c1", "h"));
    assert_eq!(one.extras.additional_addresses, ["[fd00::1]:8080".parse().unwrap()]);
    assert_eq!(one.extras.health_check_port, Some(9));
}

#[test]
fn each_health_status_has_its_meaning() {
    use core::HealthStatus as Wire;
    let expected = [
        (Wire::Unknown, Health::Healthy),
        (Wire::Healthy, Health::Healthy),
        (Wire::Unhealthy, Health::Unhealthy),
        (Wire::Draining, Health::Draining),
        (Wire::Timeout, Health::Unhealthy),
        (Wire::Degraded, Health::Degraded),
    ];
    for (status, health) in expected {
        let mut one = endpoint(socket("10.0.0.1", 80));
        one.health_status = status as i32;
        let decoded = decode(assignment(vec![one]), Names::Refused).unwrap();
        assert_eq!(decoded.iter().next().unwrap().endpoint.health, health);
    }
}

#[test]
fn addresses_inside_an_envoy_are_skipped_and_counted() {
    let inside = core::Address {
        address: Some(core::address::Address::EnvoyInternalAddress(core::EnvoyInternalAddress::default())),
    };
    let message = assignment(vec![endpoint(Some(inside)), endpoint(socket("10.0.0.1", 80))]);
    let decoded = decode(message, Names::Refused).unwrap();
    assert_eq!((decoded.internal, decoded.iter().count()), (1, 1));
    assert!(!decoded.is_empty());
}

#[test]
fn an_endpoint_may_be_named_and_listed_once() {
    let mut message = assignment(vec![wire::LbEndpoint {
        host_identifier: Some(HostIdentifier::EndpointName("e".into())),
        ..Default::default()
    }]);
    assert!(refused(message.clone()).contains("endpoints[0].lb_endpoints[0].endpoint_name"));
    let named = wire::Endpoint { address: socket("10.0.0.9", 80), ..Default::default() };
    message.named_endpoints.insert("e".into(), named);
    assert_eq!(decode(message, Names::Refused).unwrap().iter().count(), 1);
}

#[test]
fn what_cannot_be_used_is_refused_by_its_field() {
    let at = "endpoints[0].lb_endpoints[0]";
    let name = refused(assignment(vec![endpoint(socket("web.example", 80))]));
    assert!(
        name.starts_with(&format!("{at}.endpoint.address.socket_address.address: \"web.example\"")),
        "{name}"
    );
    assert!(refused(assignment(vec![endpoint(socket("10.0.0.1", 65_536))])).contains("65536 is no port"));
    assert!(refused(assignment(vec![endpoint(None)])).contains("there is no address"));
    assert!(refused(assignment(vec![wire::LbEndpoint::default()])).contains("there is no endpoint"));
    let mut zero = endpoint(socket("10.0.0.1", 80));
    zero.load_balancing_weight = number(0);
    assert!(refused(assignment(vec![zero])).starts_with(&format!("{at}.load_balancing_weight")));
    let mut many = endpoint(socket("10.0.0.1", 80));
    if let Some(HostIdentifier::Endpoint(inner)) = &mut many.host_identifier {
        inner.additional_addresses = vec![wire::endpoint::AdditionalAddress::default(); 17];
    }
    assert!(refused(assignment(vec![many])).starts_with(&format!("{at}.endpoint.additional_addresses")));
    let mut far = assignment(vec![]);
    far.endpoints[0].priority = 129;
    assert!(refused(far).starts_with("endpoints[0].priority"));
}

#[test]
fn sums_of_weights_fit_in_32_bits() {
    let mut heavy = endpoint(socket("10.0.0.1", 80));
    heavy.load_balancing_weight = number(u32::MAX);
    let light = endpoint(socket("10.0.0.2", 80));
    assert!(decode(assignment(vec![heavy.clone()]), Names::Refused).is_ok());
    assert!(refused(assignment(vec![heavy, light])).starts_with("endpoints[0].lb_endpoints: the sum"));
    let mut localities = assignment(vec![]);
    localities.endpoints[0].load_balancing_weight = number(u32::MAX);
    localities.endpoints.push(localities.endpoints[0].clone());
    assert!(refused(localities).starts_with("endpoints: the sum"));
}

#[test]
fn istiods_locality_without_endpoints_or_weight_is_no_error() {
    let mut message = assignment(vec![]);
    message.endpoints[0].load_balancing_weight = number(0);
    let decoded = decode(message, Names::Refused).unwrap();
    assert!(decoded.is_empty() && decoded.localities[0].place.weight.is_none());
}
