//! Cluster.

use std::time::Duration;

use eastgate_proto::envoy::config::cluster::v3 as wire;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3 as endpoint;
use eastgate_proto::envoy::extensions::load_balancing_policies as policies;
use eastgate_proto::envoy::r#type::v3::Percent;
use wire::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

use super::super::cluster::decode;
use super::*;
use crate::cluster::{HashFunction, LeastRequest, Policy, Probe, RingHash, SlowStart};
use crate::xds::tests::made::{cla, eds_message, socket};

fn decoded(message: wire::Cluster) -> ClusterConfig {
    decode(message).unwrap().0
}

fn refused(message: wire::Cluster) -> String {
    told(&decode(message).unwrap_err())
}

fn of_type(kind: DiscoveryType, addresses: &[&str]) -> wire::Cluster {
    let mut message = eds_message("x", 1);
    message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
    let lb_endpoints = addresses.iter().map(|address| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket(address, 443),
            ..Default::default()
        })),
        ..Default::default()
    });
    let locality =
        endpoint::LocalityLbEndpoints { lb_endpoints: lb_endpoints.collect(), ..Default::default() };
    message.load_assignment =
        Some(endpoint::ClusterLoadAssignment { endpoints: vec![locality], ..Default::default() });
    message
}

fn addresses(message: wire::Cluster) -> Vec<String> {
    let cluster = decoded(message).without_assignment();
    cluster.endpoints().map(|endpoint| endpoint.address.to_string()).collect()
}

#[test]
fn each_way_to_find_endpoints_is_known_or_refused_by_name() {
    let mut named = eds_message("x", 1);
    assert_eq!(decoded(named.clone()).service.as_deref(), Some("x"));
    named.eds_cluster_config =
        Some(wire::cluster::EdsClusterConfig { service_name: "s".into(), ..Default::default() });
    assert_eq!(decoded(named).service.as_deref(), Some("s"));

    assert_eq!(addresses(of_type(DiscoveryType::Static, &["10.0.0.1"])), ["10.0.0.1:443"]);
    assert!(refused(of_type(DiscoveryType::Static, &["web.example"])).contains("is no IP address"));
    assert_eq!(addresses(of_type(DiscoveryType::StrictDns, &["a.example", "b.example"])).len(), 2);
    let logical = decoded(of_type(DiscoveryType::LogicalDns, &["a.example"])).cluster.dns.unwrap();
    assert!(logical.logical && logical.refresh == Duration::from_secs(5));
    assert!(
        refused(of_type(DiscoveryType::LogicalDns, &["a.example", "b.example"]))
            .contains("one endpoint, not 2")
    );
    let original = refused(of_type(DiscoveryType::OriginalDst, &[]));
    assert!(original.starts_with("type: ORIGINAL_DST"), "{original}");
    let mut custom = eds_message("x", 1);
    let kind =
        wire::cluster::CustomClusterType { name: "envoy.clusters.aggregate".into(), typed_config: None };
    custom.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(kind));
    assert!(refused(custom).starts_with("cluster_type: \"envoy.clusters.aggregate\""));
}

#[test]
fn each_policy_is_known_by_field_and_by_extension() {
    let field = |policy: LbPolicy| {
        let mut message = eds_message("x", 1);
        message.lb_policy = policy as i32;
        decode(message).map(|(config, _)| config.cluster.policy).map_err(|problems| told(&problems))
    };
    let ring = RingHash { minimum_size: 1024, maximum_size: 8_388_608, function: HashFunction::XxHash };
    assert_eq!(field(LbPolicy::RoundRobin), Ok(Policy::RoundRobin));
    assert_eq!(field(LbPolicy::LeastRequest), Ok(Policy::LeastRequest));
    assert_eq!(field(LbPolicy::Random), Ok(Policy::Random));
    assert_eq!(field(LbPolicy::RingHash), Ok(Policy::RingHash(ring)));
    assert_eq!(field(LbPolicy::Maglev), Ok(Policy::Maglev { table_size: 65_537 }));
    assert!(field(LbPolicy::ClusterProvided).unwrap_err().starts_with("lb_policy: CLUSTER_PROVIDED"));

    let extension = |extensions: Vec<pb::Any>| {
        let policies = extensions.into_iter().map(|any| wire::load_balancing_policy::Policy {
            typed_extension_config: Some(core::TypedExtensionConfig {
                name: String::new(),
                typed_config: Some(any),
            }),
        });
        wire::LoadBalancingPolicy { policies: policies.collect() }
    };
    let of = |extensions: Vec<pb::Any>| {
        let mut message = eds_message("x", 1);
        message.load_balancing_policy = Some(extension(extensions));
        decode(message).map(|(config, _)| config.cluster).map_err(|problems| told(&problems))
    };
    const POLICIES: &str = "envoy.extensions.load_balancing_policies.";
    let policy = |kind: &str, message: &dyn Fn() -> Vec<u8>| pb::Any {
        type_url: format!("{PREFIX}{POLICIES}{kind}"),
        value: message(),
    };
    let maglev = policies::maglev::v3::Maglev {
        table_size: Some(pb::UInt64Value { value: 101 }),
        ..Default::default()
    };
    let unknown = policy("pick_first.v3.PickFirst", &Vec::new);
    let maglev = policy("maglev.v3.Maglev", &|| maglev.encode_to_vec());
    assert_eq!(of(vec![unknown.clone(), maglev]).unwrap().policy, Policy::Maglev { table_size: 101 });
    assert!(of(vec![unknown]).unwrap_err().contains("pick_first.v3.PickFirst"));
    let inner = extension(vec![policy("random.v3.Random", &Vec::new)]);
    let outer = policies::wrr_locality::v3::WrrLocality { endpoint_picking_policy: Some(inner) };
    let weighted = of(vec![policy("wrr_locality.v3.WrrLocality", &|| outer.encode_to_vec())]).unwrap();
    assert!(weighted.policy == Policy::Random && weighted.locality_weighted);
}

#[test]
fn sizes_that_would_allocate_without_bound_are_refused() {
    let maglev = |value| {
        let mut message = eds_message("x", 1);
        message.lb_policy = LbPolicy::Maglev as i32;
        let config = wire::cluster::MaglevLbConfig { table_size: Some(pb::UInt64Value { value }) };
        message.lb_config = Some(wire::cluster::LbConfig::MaglevLbConfig(config));
        message
    };
    for size in [0, 1, 65_536, 5_000_012, u64::MAX] {
        assert!(refused(maglev(size)).starts_with("maglev_lb_config.table_size"), "{size}");
    }
    assert!(decode(maglev(5_000_011)).is_ok());
    let mut ring = eds_message("x", 1);
    ring.lb_policy = LbPolicy::RingHash as i32;
    ring.lb_config = Some(wire::cluster::LbConfig::RingHashLbConfig(wire::cluster::RingHashLbConfig {
        maximum_ring_size: Some(pb::UInt64Value { value: u64::MAX }),
        ..Default::default()
    }));
    assert!(refused(ring).starts_with("ring_hash_lb_config.maximum_ring_size"));
}

#[test]
fn the_settings_of_a_destination_rule_arrive() {
    let mut message = eds_message("x", 10);
    message.lb_policy = LbPolicy::LeastRequest as i32;
    message.lb_config =
        Some(wire::cluster::LbConfig::LeastRequestLbConfig(wire::cluster::LeastRequestLbConfig {
            slow_start_config: Some(wire::cluster::SlowStartConfig {
                slow_start_window: seconds(30),
                aggression: Some(core::RuntimeDouble { default_value: 1.5, ..Default::default() }),
                min_weight_percent: Some(Percent { value: 10.0 }),
            }),
            ..Default::default()
        }));
    message.circuit_breakers = Some(wire::CircuitBreakers {
        thresholds: vec![wire::circuit_breakers::Thresholds {
            max_connections: number(7),
            max_pending_requests: number(u32::MAX),
            max_retries: number(3),
            retry_budget: Some(wire::circuit_breakers::thresholds::RetryBudget {
                budget_percent: Some(Percent { value: 35.5 }),
                ..Default::default()
            }),
            ..Default::default()
        }],
        per_host_thresholds: vec![wire::circuit_breakers::Thresholds {
            max_connections: number(2),
            ..Default::default()
        }],
    });
    message.outlier_detection = Some(wire::OutlierDetection {
        consecutive_5xx: number(9),
        consecutive_gateway_failure: number(4),
        enforcing_consecutive_gateway_failure: number(100),
        base_ejection_time: seconds(400),
        enforcing_success_rate: number(0),
        ..Default::default()
    });
    message.common_lb_config = Some(wire::cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        ..Default::default()
    });
    message.upstream_connection_options = Some(wire::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive { keepalive_time: number(60), ..Default::default() }),
        ..Default::default()
    });
    message.metadata = Some(core::Metadata {
        filter_metadata: [("istio".to_owned(), fields(&[("config", "/apis/x/dr")]))].into(),
        ..Default::default()
    });
    let cluster = decoded(message).cluster;
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
    let slow = SlowStart { window: Duration::from_secs(30), aggression: 1500, min_weight_percent: 10 };
    assert_eq!(cluster.slow_start, Some(slow));
    assert_eq!((cluster.max_connections, cluster.max_pending_connections), (Some(7), None));
    assert_eq!((cluster.max_retries, cluster.panic_threshold), (Some(3), Some(0)));
    let outlier = cluster.outlier_detection.unwrap();
    assert_eq!((outlier.consecutive_failures, outlier.success_rate), (Some(4), None));
    assert_eq!(outlier.max_ejection_time, Duration::from_secs(400));
    assert_eq!(cluster.keepalive.unwrap().time, Duration::from_secs(60));
    assert_eq!(cluster.origin, "/apis/x/dr");
}

#[test]
fn outlier_detection_counts_what_is_enforced() {
    let failures = |detection: wire::OutlierDetection| {
        let message = wire::Cluster { outlier_detection: Some(detection), ..eds_message("x", 1) };
        let decoded = decoded(message).cluster.outlier_detection.unwrap();
        decoded.consecutive_failures.map(|failures| (failures, decoded.consecutive_enforcing))
    };
    assert_eq!(failures(wire::OutlierDetection::default()), Some((5, 100)));
    let none = wire::OutlierDetection { enforcing_consecutive_5xx: number(0), ..Default::default() };
    assert_eq!(failures(none), None);
    let local = wire::OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(2),
        consecutive_5xx: number(1),
        ..Default::default()
    };
    assert_eq!(failures(local), Some((2, 100)));
    let both = |gateway| wire::OutlierDetection {
        enforcing_consecutive_5xx: number(40),
        consecutive_gateway_failure: number(gateway),
        enforcing_consecutive_gateway_failure: number(70),
        ..Default::default()
    };
    assert_eq!([6, 5, 4].map(|gateway| failures(both(gateway))), [(5, 40), (5, 70), (4, 70)].map(Some));
}

#[test]
fn health_checks_over_tcp_http_and_grpc_are_made() {
    use core::health_check::{
        GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload,
    };
    let check = |checker: HealthChecker| {
        let one = core::HealthCheck {
            timeout: seconds(1),
            interval: seconds(5),
            health_checker: Some(checker),
            ..Default::default()
        };
        let message = wire::Cluster { health_checks: vec![one], ..eds_message("x", 1) };
        decode(message)
            .map(|(config, _)| config.cluster.health_checks[0].probe.clone())
            .map_err(|problems| told(&problems))
    };
    let text = |text: &str| Payload { payload: Some(payload::Payload::Text(text.into())) };
    let tcp = |send: &str| TcpHealthCheck { send: Some(text(send)), ..Default::default() };
    let probe = check(HealthChecker::TcpHealthCheck(tcp("50494e47")));
    assert_eq!(probe, Ok(Probe::Tcp { send: b"PING".to_vec(), receive: vec![] }));
    let wrong = check(HealthChecker::TcpHealthCheck(tcp("5g"))).unwrap_err();
    assert!(wrong.starts_with("health_checks[0].tcp_health_check.send"), "{wrong}");
    let http = |path: &str| HttpHealthCheck { path: path.into(), ..Default::default() };
    let probe = check(HealthChecker::HttpHealthCheck(http("/ready")));
    assert_eq!(probe, Ok(Probe::Http { host: String::new(), path: "/ready".into(), expected: vec![] }));
    let smuggled = check(HealthChecker::HttpHealthCheck(http("/ HTTP/1.1\r\nx: y")));
    assert!(smuggled.unwrap_err().contains("http_health_check.path"));
    let grpc = |authority: &str| GrpcHealthCheck {
        service_name: "shop".into(),
        authority: authority.into(),
        ..Default::default()
    };
    let probe = check(HealthChecker::GrpcHealthCheck(grpc("a.b")));
    assert_eq!(probe, Ok(Probe::Grpc { service: "shop".into(), authority: "a.b".into() }));
    let smuggled = check(HealthChecker::GrpcHealthCheck(grpc("a b")));
    assert!(smuggled.unwrap_err().starts_with("health_checks[0].grpc_health_check.authority"));
}

fn tls() -> core::TransportSocket {
    let kind = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let any = super::packed(kind, &eastgate_proto::Named::default());
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any)),
    }
}

fn assigned(labels: &[&[(&str, &str)]]) -> Assignment {
    let hosts: Vec<u8> = (1..=labels.len() as u8).collect();
    let mut message =
        endpoint::ClusterLoadAssignment::decode(cla("x", &hosts).any.unwrap().value.as_slice()).unwrap();
    for (one, labels) in message.endpoints[0].lb_endpoints.iter_mut().zip(labels) {
        let metadata = [("envoy.transport_socket_match".to_owned(), fields(labels))].into();
        one.metadata = Some(core::Metadata { filter_metadata: metadata, ..Default::default() });
    }
    super::super::endpoints::decode(message, super::super::endpoints::Names::Refused).unwrap()
}

#[test]
fn bare_bytes_never_reach_an_endpoint_that_is_to_be_spoken_to_in_tls() {
    // istiod's ordinary outbound clusters: mutual TLS for what has a sidecar, nothing for the rest.
    let mut message = eds_message("x", 1);
    message.transport_socket_matches = vec![
        wire::cluster::TransportSocketMatch {
            name: "tlsMode-istio".into(),
            r#match: Some(fields(&[("tlsMode", "istio")])),
            transport_socket: Some(tls()),
        },
        wire::cluster::TransportSocketMatch {
            name: "tlsMode-disabled".into(),
            r#match: Some(fields(&[])),
            transport_socket: Some(core::TransportSocket {
                name: "envoy.transport_sockets.raw_buffer".into(),
                config_type: None,
            }),
        },
    ];
    let assignment = assigned(&[&[("tlsMode", "istio")], &[]]);
    let cluster = decoded(message).with_assignment(assignment.clone());
    assert_eq!((cluster.endpoints().count(), cluster.skipped.wrapped), (1, 1));
    assert_eq!(cluster.endpoints().next().unwrap().address.to_string(), "10.0.0.2:80");
    // The cluster of a passthrough gateway has no socket, and takes both.
    let cluster = decoded(eds_message("x", 1)).with_assignment(assignment.clone());
    assert_eq!((cluster.endpoints().count(), cluster.skipped.wrapped), (2, 0));

    let message = wire::Cluster { transport_socket: Some(tls()), ..eds_message("x", 1) };
    let (config, findings) = decode(message).unwrap();
    assert!(told(&findings.notices).starts_with("transport_socket: "));
    assert_eq!(config.with_assignment(assignment).skipped.wrapped, 2);
}

#[test]
fn least_request_is_taken_over_with_its_choices_and_bias_or_a_look_at_all() {
    let bias = |value| Some(core::RuntimeDouble { default_value: value, runtime_key: "k".into() });
    let mut message = eds_message("x", 1);
    message.lb_policy = LbPolicy::LeastRequest as i32;
    let config = wire::cluster::LeastRequestLbConfig {
        choice_count: number(5),
        active_request_bias: bias(0.5),
        ..Default::default()
    };
    message.lb_config = Some(wire::cluster::LbConfig::LeastRequestLbConfig(config.clone()));
    let least_request = decode(message.clone()).unwrap().0.cluster.least_request;
    assert_eq!(least_request, LeastRequest { choices: 5, active_request_bias: 500, full_scan: false });
    let one = wire::cluster::LeastRequestLbConfig { choice_count: number(1), ..config };
    message.lb_config = Some(wire::cluster::LbConfig::LeastRequestLbConfig(one));
    assert!(refused(message).starts_with("least_request_lb_config.choice_count"));
}

#[test]
fn connections_come_from_the_addresses_that_are_named() {
    let socket = |address: &str, port| core::SocketAddress {
        address: address.into(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    let message = |config: core::BindConfig| {
        let mut message = eds_message("x", 1);
        message.upstream_bind_config = Some(config);
        message
    };
    let extra = core::ExtraSourceAddress { address: Some(socket("fd00::9", 0)), ..Default::default() };
    let both = core::BindConfig {
        source_address: Some(socket("10.0.0.9", 0)),
        extra_source_addresses: vec![extra],
        ..Default::default()
    };
    let addresses = decoded(message(both)).cluster.source_addresses;
    assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.9", "fd00::9"]);
    for (address, port) in [("10.0.0.9", 80), ("a.b", 0)] {
        let config = core::BindConfig { source_address: Some(socket(address, port)), ..Default::default() };
        assert!(refused(message(config)).starts_with("upstream_bind_config.source_address"));
    }
    let freebind = Some(pb::BoolValue { value: true });
    let config = core::BindConfig { freebind, ..Default::default() };
    assert!(refused(message(config)).starts_with("upstream_bind_config.freebind"));
}

#[test]
fn what_would_send_connections_elsewhere_is_refused_by_its_field() {
    let mut subsets = eds_message("x", 1);
    subsets.lb_subset_config = Some(wire::cluster::LbSubsetConfig {
        subset_selectors: vec![Default::default()],
        ..Default::default()
    });
    assert!(refused(subsets.clone()).starts_with("lb_subset_config"));
    let any_endpoint = wire::cluster::lb_subset_config::LbSubsetFallbackPolicy::AnyEndpoint;
    subsets.lb_subset_config.as_mut().unwrap().set_fallback_policy(any_endpoint);
    assert!(decode(subsets).is_ok());
    assert!(refused(eds_message("x", 0)).starts_with("connect_timeout"));
    assert!(refused(eds_message("x", -1)).starts_with("connect_timeout"));
    assert!(refused(eds_message("x", i64::MAX)).starts_with("connect_timeout"));
}
