//! Listener, its filter chains and their filters.

use std::collections::HashMap;
use std::time::Duration;

use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::listener::v3 as wire;
use eastgate_proto::envoy::config::rbac::v3 as rules;
use eastgate_proto::envoy::extensions::filters::{listener as inspectors, network};
use eastgate_proto::envoy::r#type::v3 as kinds;
use eastgate_proto::istio::{TcpClusterRewrite, TypedStruct};
use network::tcp_proxy::v3::{TcpProxy, tcp_proxy};

use super::super::listener::decode;
use super::*;
use crate::listener::{ConnectionLimit, FilterChain, HashPolicy, Transport};
use crate::rbac::{Action, Peer};
use crate::server_name::Pattern;
use crate::xds::tests::made::{chain, listener_message, socket};

const NETWORK: &str = "envoy.extensions.filters.network.";

fn filter(kind: &str, message: &impl Message) -> wire::Filter {
    let config_type = Some(wire::filter::ConfigType::TypedConfig(packed(kind, message)));
    wire::Filter { name: kind.into(), config_type }
}

fn proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    }
}

fn tcp_proxy(message: &TcpProxy) -> wire::Filter {
    filter(&format!("{NETWORK}tcp_proxy.v3.TcpProxy"), message)
}

fn sni_cluster() -> wire::Filter {
    filter(&format!("{NETWORK}sni_cluster.v3.SniCluster"), &network::sni_cluster::v3::SniCluster {})
}

/// A listener with a chain of these filters for `*.global`.
fn with(filters: Vec<wire::Filter>) -> wire::Listener {
    let mut message = listener_message("l", &[("*.global", "x")]);
    message.filter_chains[0].filters = filters;
    message
}

fn only_chain(message: wire::Listener) -> FilterChain {
    let (listener, findings) = decode(message, None).unwrap();
    assert_eq!(told(&findings.partial), "");
    listener.filter_chains[0].clone()
}

fn refused(message: wire::Listener) -> String {
    told(&decode(message, None).unwrap_err())
}

#[test]
fn istiods_chain_for_a_passthrough_service_is_read_whole() {
    let name = "outbound_.8000_._.httpbin.bar.svc.cluster.local";
    let mut message = listener_message("0.0.0.0_15443", &[(name, name)]);
    let alpn = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
    let matches = message.filter_chains[0].filter_chain_match.as_mut().unwrap();
    matches.application_protocols = alpn.map(String::from).to_vec();
    let stats = wire::Filter {
        name: "istio.stats".into(),
        config_type: Some(wire::filter::ConfigType::TypedConfig(packed(
            "udpa.type.v1.TypedStruct",
            &TypedStruct { type_url: "type.googleapis.com/stats.PluginConfig".into(), value: None },
        ))),
    };
    let hash = kinds::HashPolicy {
        policy_specifier: Some(kinds::hash_policy::PolicySpecifier::SourceIp(Default::default())),
    };
    let proxy = TcpProxy {
        idle_timeout: seconds(60),
        max_downstream_connection_duration: seconds(600),
        max_connect_attempts: number(3),
        hash_policy: vec![hash],
        access_log: vec![Default::default()],
        ..proxy(name)
    };
    message.filter_chains[0].filters = vec![stats, tcp_proxy(&proxy)];
    message.listener_filters = vec![wire::ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".into(),
        config_type: Some(wire::listener_filter::ConfigType::TypedConfig(packed(
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            &inspectors::tls_inspector::v3::TlsInspector {
                max_client_hello_size: number(16_384),
                ..Default::default()
            },
        ))),
        ..Default::default()
    }];
    message.listener_filters_timeout = seconds(5);

    let (listener, findings) = decode(message, None).unwrap();
    assert!(findings.partial.is_empty() && findings.notices.is_empty());
    assert_eq!(
        (listener.name.as_str(), listener.address.to_string()),
        ("0.0.0.0_15443", "0.0.0.0:15443".into())
    );
    assert_eq!(listener.options.max_client_hello, Some(16_384));
    assert_eq!(listener.options.inspect_timeout, Some(Duration::from_secs(5)));
    assert!(!listener.options.plain);
    let chain = &listener.filter_chains[0];
    assert_eq!((&*chain.name, chain.route.clusters[0].name.as_str()), (name, name));
    assert_eq!(chain.matches.server_names, [Pattern::Exact(name.parse().unwrap())]);
    assert_eq!(chain.matches.application_protocols, alpn);
    assert_eq!(chain.idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(chain.options.max_connection_duration, Some(Duration::from_secs(600)));
    assert_eq!(chain.options.max_connect_attempts, Some(3));
    assert_eq!(chain.options.hash_policy, Some(HashPolicy::SourceIp));
    assert!(chain.options.access_log);
}

#[test]
fn the_old_chain_for_global_names_rewrites_the_cluster_that_the_name_chose() {
    let rewrite = TcpClusterRewrite {
        cluster_pattern: r"\.global$".into(),
        cluster_replacement: ".svc.cluster.local".into(),
    };
    let kind = "istio.envoy.config.filter.network.tcp_cluster_rewrite.v2alpha1.TcpClusterRewrite";
    let typed = filter(kind, &rewrite);
    let by_struct = TypedStruct {
        type_url: format!("{PREFIX}{kind}"),
        value: Some(fields(&[
            ("cluster_pattern", r"\.global$"),
            ("clusterReplacement", ".svc.cluster.local"),
        ])),
    };
    let by_struct = filter("xds.type.v3.TypedStruct", &by_struct);
    for rewrite in [typed, by_struct] {
        let chain = only_chain(with(vec![sni_cluster(), rewrite, tcp_proxy(&proxy("BlackHoleCluster"))]));
        assert_eq!(chain.route.clusters[0].name, "BlackHoleCluster");
        let route = chain.route.by_server_name.unwrap();
        assert_eq!(
            route.cluster_for("outbound_.8000_._.httpbin.bar.global").as_deref(),
            Some("outbound_.8000_._.httpbin.bar.svc.cluster.local")
        );
        assert_eq!(route.cluster_for("outbound|8000||httpbin.bar.global"), None);
    }
}

#[test]
fn sni_cluster_for_any_name_is_refused() {
    let mut message = with(vec![sni_cluster(), tcp_proxy(&proxy("BlackHoleCluster"))]);
    message.filter_chains[0].filter_chain_match = None;
    assert!(refused(message).contains("CVE-2021-31921"));
}

#[test]
fn a_rewrite_with_nothing_to_rewrite_does_nothing() {
    let kind = "istio.envoy.config.filter.network.tcp_cluster_rewrite.v2alpha1.TcpClusterRewrite";
    let on = TcpClusterRewrite { cluster_pattern: "a".into(), cluster_replacement: "b".into() };
    let chain = only_chain(with(vec![filter(kind, &on), tcp_proxy(&proxy("a"))]));
    assert_eq!((chain.route.by_server_name, chain.route.clusters[0].name.as_str()), (None, "a"));
    let off = TcpClusterRewrite::default();
    let chain = only_chain(with(vec![sni_cluster(), filter(kind, &off), tcp_proxy(&proxy("a"))]));
    assert!(chain.route.by_server_name.unwrap().rewrites.is_empty());
    let broken = TcpClusterRewrite { cluster_pattern: "(".into(), ..Default::default() };
    let said = refused(with(vec![sni_cluster(), filter(kind, &broken), tcp_proxy(&proxy("a"))]));
    assert!(said.contains("filters[1].typed_config.cluster_pattern"), "{said}");
}

#[test]
fn a_chain_without_names_is_plain_tcp_by_port() {
    let mut message = listener_message("0.0.0.0_15011", &[("x", "istiod")]);
    message.filter_chains[0].filter_chain_match = None;
    let (listener, _) = decode(message.clone(), None).unwrap();
    assert!(listener.options.plain);
    let chain = &listener.filter_chains[0];
    assert_eq!(chain.matches.server_names, [Pattern::Any]);
    assert_eq!(chain.matches.connection.transport, Transport::Any);
    // Beside a chain with a name it only is what is left, and the ClientHello is looked at.
    message.filter_chains.push(self::chain("a.b", "c"));
    let (listener, _) = decode(message, None).unwrap();
    assert!(!listener.options.plain);
}

#[test]
fn the_default_chain_is_kept_apart() {
    let mut message = listener_message("l", &[("a.b", "c")]);
    message.default_filter_chain = Some(chain("ignored.example", "d"));
    let (listener, _) = decode(message, None).unwrap();
    assert_eq!(listener.filter_chains.len(), 1);
    assert_eq!(listener.options.default_filter_chain.as_ref().unwrap().route.clusters[0].name, "d");
    assert!(listener.clusters().eq(["c", "d"]));
}

#[test]
fn a_match_is_read_to_its_last_field() {
    let range =
        |address: &str, len| core::CidrRange { address_prefix: address.into(), prefix_len: number(len) };
    let mut message = listener_message("l", &[("*.b", "c")]);
    let matches = message.filter_chains[0].filter_chain_match.as_mut().unwrap();
    matches.destination_port = number(443);
    matches.prefix_ranges = vec![range("10.0.0.0", 8)];
    matches.source_prefix_ranges = vec![range("fd00::", 8)];
    matches.direct_source_prefix_ranges = vec![range("192.168.0.0", 16)];
    matches.source_ports = vec![1, 65_535];
    matches.source_type = 2;
    matches.transport_protocol = "tls".into();
    let connection = only_chain(message.clone()).matches.connection;
    assert_eq!((connection.destination_port, connection.transport), (Some(443), Transport::Tls));
    assert_eq!(connection.destination_ranges[0].to_string(), "10.0.0.0/8");
    assert_eq!(connection.source_ranges[0].to_string(), "fd00::/8");
    assert_eq!(connection.direct_source_ranges[0].to_string(), "192.168.0.0/16");
    assert_eq!(connection.source_ports, [1, 65_535]);

    let wrong = |change: &dyn Fn(&mut wire::FilterChainMatch), field: &str| {
        let mut message = message.clone();
        change(message.filter_chains[0].filter_chain_match.as_mut().unwrap());
        let said = refused(message);
        assert!(said.starts_with(&format!("filter_chains[0] (*.b).filter_chain_match.{field}")), "{said}");
    };
    wrong(&|matches| matches.destination_port = number(65_536), "destination_port");
    wrong(&|matches| matches.prefix_ranges = vec![range("10.0.0.0", 33)], "prefix_ranges[0]");
    wrong(&|matches| matches.transport_protocol = "quic".into(), "transport_protocol");
    wrong(&|matches| matches.transport_protocol = "raw_buffer".into(), "transport_protocol");
    wrong(&|matches| matches.address_suffix = "1".into(), "address_suffix");
    wrong(&|matches| matches.source_type = 9, "source_type");
    wrong(&|matches| matches.server_names.push("a*b".into()), "server_names[1]");
}

#[test]
fn rules_are_enforced_or_the_chain_is_refused() {
    let policy = |permission: rules::permission::Rule, principal: rules::principal::Identifier| {
        let policy = rules::Policy {
            permissions: vec![rules::Permission { rule: Some(permission) }],
            principals: vec![rules::Principal { identifier: Some(principal) }],
            ..Default::default()
        };
        let rbac = rules::Rbac {
            action: rules::rbac::Action::Deny as i32,
            policies: HashMap::from([("p".to_owned(), policy)]),
            ..Default::default()
        };
        let message = network::rbac::v3::Rbac { rules: Some(rbac), ..Default::default() };
        with(vec![filter(&format!("{NETWORK}rbac.v3.RBAC"), &message), tcp_proxy(&proxy("x"))])
    };
    use rules::permission::Rule;
    use rules::principal::Identifier;
    let office = core::CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(8) };
    let chain = only_chain(policy(Rule::DestinationPort(15443), Identifier::RemoteIp(office)));
    let rbac = &chain.options.rbac[0];
    assert_eq!(rbac.action, Action::Deny);
    let peer = |remote: &str| {
        let remote = remote.parse().unwrap();
        Peer {
            destination: "1.1.1.1:15443".parse().unwrap(),
            direct_remote: remote,
            remote,
            server_name: "a.global",
        }
    };
    assert!(!rbac.allows(&peer("10.2.3.4")) && rbac.allows(&peer("11.2.3.4")));
    let said = refused(policy(Rule::UrlPath(Default::default()), Identifier::Any(true)));
    assert!(
        said.starts_with(
            "filter_chains[0] (*.global).filters[0].typed_config.rules.policies[\"p\"].permissions[0].url_path"
        ),
        "{said}"
    );
}

#[test]
fn limits_of_a_chain_and_of_the_listener_are_read() {
    let tokens = kinds::TokenBucket { max_tokens: 10, tokens_per_fill: number(5), fill_interval: seconds(1) };
    let limit = network::connection_limit::v3::ConnectionLimit {
        max_connections: Some(pb::UInt64Value { value: 100 }),
        delay: seconds(1),
        ..Default::default()
    };
    let rate = network::local_ratelimit::v3::LocalRateLimit {
        token_bucket: Some(tokens),
        share_key: "k".into(),
        ..Default::default()
    };
    let limit_kind = format!("{NETWORK}connection_limit.v3.ConnectionLimit");
    let rate_kind = format!("{NETWORK}local_ratelimit.v3.LocalRateLimit");
    let mut message =
        with(vec![filter(&limit_kind, &limit), filter(&rate_kind, &rate), tcp_proxy(&proxy("x"))]);
    let listener_filter = |kind: &str, message: Vec<u8>| wire::ListenerFilter {
        config_type: Some(wire::listener_filter::ConfigType::TypedConfig(pb::Any {
            type_url: format!("{PREFIX}envoy.extensions.filters.listener.{kind}"),
            value: message,
        })),
        ..Default::default()
    };
    let header = inspectors::proxy_protocol::v3::ProxyProtocol {
        allow_requests_without_proxy_protocol: true,
        ..Default::default()
    };
    let listener_rate =
        inspectors::local_ratelimit::v3::LocalRateLimit { token_bucket: Some(tokens), ..Default::default() };
    message.listener_filters = vec![
        listener_filter("proxy_protocol.v3.ProxyProtocol", header.encode_to_vec()),
        listener_filter("local_ratelimit.v3.LocalRateLimit", listener_rate.encode_to_vec()),
    ];
    let (listener, _) = decode(message.clone(), None).unwrap();
    assert!(listener.options.proxy_protocol.unwrap().optional);
    assert_eq!(listener.options.rate_limit.unwrap().max_tokens, 10);
    let options = &listener.filter_chains[0].options;
    let delay = Duration::from_secs(1);
    assert_eq!(options.connection_limit, Some(ConnectionLimit { max_connections: 100, delay }));
    assert_eq!(options.rate_limit.as_ref().unwrap().share_key, "k");

    message.listener_filters.push(listener_filter("original_dst.v3.OriginalDst", vec![]));
    let said = refused(message);
    assert!(said.starts_with("listener_filters[2].typed_config: the listener filter"), "{said}");
}

#[test]
fn what_cannot_be_ignored_is_refused_by_its_name() {
    let said = refused(with(vec![
        filter(&format!("{NETWORK}ext_authz.v3.ExtAuthz"), &eastgate_proto::Named::default()),
        tcp_proxy(&proxy("x")),
    ]));
    assert!(said.contains(
        "filters[0].typed_config: the network filter \"envoy.extensions.filters.network.ext_authz"
    ));
    let http = filter(
        &format!("{NETWORK}http_connection_manager.v3.HttpConnectionManager"),
        &eastgate_proto::Named::default(),
    );
    assert!(refused(with(vec![http])).contains("only tcp_proxy can end a chain"));
    assert!(refused(with(vec![])).contains("filters: there are none"));
    let tunnel = TcpProxy { tunneling_config: Some(Default::default()), ..proxy("x") };
    assert!(refused(with(vec![tcp_proxy(&tunnel)])).contains("filters[0].typed_config.tunneling_config"));
    let mut tls = listener_message("l", &[("a.b", "c")]);
    tls.filter_chains[0].transport_socket =
        Some(core::TransportSocket { name: "envoy.transport_sockets.tls".into(), config_type: None });
    assert!(refused(tls).contains("filter_chains[0] (a.b).transport_socket"));
    let mut original = listener_message("l", &[("a.b", "c")]);
    original.use_original_dst = Some(pb::BoolValue { value: true });
    assert!(refused(original).starts_with("use_original_dst"));
    let mut name = listener_message("l", &[("a.b", "c")]);
    name.address = socket("web.example", 1);
    assert!(refused(name).starts_with("address: a listener binds an IP address"));
    assert!(refused(listener_message("l", &[])).starts_with("filter_chains: there are none"));
}

#[test]
fn weights_are_summed_up_in_32_bits_and_not_all_zero() {
    let weighted = |weights: &[u32]| {
        let clusters = weights.iter().map(|weight| tcp_proxy::weighted_cluster::ClusterWeight {
            name: "c".into(),
            weight: *weight,
            metadata_match: None,
        });
        let specifier = tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: clusters.collect(),
        });
        with(vec![tcp_proxy(&TcpProxy { cluster_specifier: Some(specifier), ..Default::default() })])
    };
    assert_eq!(only_chain(weighted(&[1, 3])).route.clusters[1].weight, 3);
    for wrong in [&[][..], &[0, 0], &[u32::MAX, 1]] {
        assert!(refused(weighted(wrong)).contains("weighted_clusters: the sum of the weights"));
    }
}

#[test]
fn a_small_message_makes_no_mountain_of_keys_or_names() {
    let mut wide = listener_message("l", &[("a.b", "c")]);
    let matches = wide.filter_chains[0].filter_chain_match.as_mut().unwrap();
    matches.server_names = (0..1000).map(|number| format!("n{number}.example")).collect();
    matches.application_protocols = (0..1000).map(|number| format!("p{number}")).collect();
    assert!(refused(wide).contains("its names times its protocols are more than 65536"));
    let mut many = listener_message("l", &[]);
    many.filter_chains = vec![wire::FilterChain::default(); 50_000];
    assert!(decode(many, None).is_err());
}
