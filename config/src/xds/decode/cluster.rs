//! Cluster: how endpoints are found, chosen and reached.

// Control planes still send what Envoy has deprecated.
#![allow(deprecated)]

use std::net::IpAddr;

use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as wire;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use eastgate_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use eastgate_proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use eastgate_proto::google::protobuf as pb;
use wire::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};

use super::endpoints::{self, Assignment, Names};
use super::values::{self, Address, duration};
use super::{Findings, Problem, health, load_balancing};
use crate::cluster::{Cluster, Dns, DnsFamily, LocalityEndpoints, ProxyVersion, RetryBudget, Skipped};

/// What `dns_refresh_rate` is where it is left out.
const DNS_REFRESH: std::time::Duration = std::time::Duration::from_secs(5);

/// A cluster as CDS has it, and what it takes to give it its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::xds) struct ClusterConfig {
    /// Without endpoints.
    pub(in crate::xds) cluster: Cluster,
    /// The name that EDS knows its endpoints by; none where CDS has them.
    pub(in crate::xds) service: Option<String>,
    inline: Assignment,
    socket: Socket,
    /// The first whose labels the endpoint has goes before `socket`.
    sockets: Vec<(Vec<(String, String)>, Socket)>,
}

/// What the control plane wants a connection wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Plain,
    ProxyProtocol(ProxyVersion),
    /// TLS or something else that would have to be made here.
    Wrapped,
}

impl ClusterConfig {
    /// The cluster with the endpoints that CDS itself gave it.
    pub(in crate::xds) fn without_assignment(&self) -> Cluster {
        self.with_assignment(self.inline.clone())
    }

    /// The cluster with these endpoints, less those that bare bytes must not reach.
    pub(in crate::xds) fn with_assignment(&self, assignment: Assignment) -> Cluster {
        let mut cluster = self.cluster.clone();
        let mut wrapped = 0_u32;
        cluster.overprovisioning_factor = assignment.overprovisioning_factor;
        cluster.localities = Vec::with_capacity(assignment.localities.len());
        for locality in assignment.localities {
            let mut endpoints = Vec::with_capacity(locality.endpoints.len());
            for assigned in locality.endpoints {
                match self.socket_for(&assigned.labels) {
                    Socket::Wrapped => wrapped = wrapped.saturating_add(1),
                    Socket::Plain | Socket::ProxyProtocol(_) => endpoints.push(assigned.endpoint),
                }
            }
            cluster.localities.push(LocalityEndpoints { endpoints, ..locality.place });
        }
        cluster.skipped = Skipped { internal: assignment.internal, wrapped };
        cluster
    }

    fn socket_for(&self, labels: &[(String, String)]) -> Socket {
        let has = |wanted: &[(String, String)]| wanted.iter().all(|label| labels.contains(label));
        self.sockets.iter().find(|(wanted, _)| has(wanted)).map_or(self.socket, |(_, socket)| *socket)
    }
}

pub(super) fn decode(message: wire::Cluster) -> Result<(ClusterConfig, Findings), Vec<Problem>> {
    let mut findings = Findings::default();
    match config(message, &mut findings) {
        Ok(config) => Ok((config, findings)),
        Err(problem) => Err(vec![problem]),
    }
}

fn config(message: wire::Cluster, findings: &mut Findings) -> Result<ClusterConfig, Problem> {
    refuse_what_is_unsafe(&message)?;
    let mut cluster = Cluster::new(&message.name, Vec::new());
    cluster.localities.clear();
    if let Some(timeout) = duration("connect_timeout", message.connect_timeout)? {
        if timeout.is_zero() {
            return Err(Problem::at("connect_timeout", "it must be more than 0"));
        }
        // What is left out is Envoy's 5 s; Istio always sends its own.
        cluster.connect_timeout = timeout;
    } else {
        cluster.connect_timeout = std::time::Duration::from_secs(5);
    }
    load_balancing::decode(&message, &mut cluster)?;
    circuit_breakers(&message, &mut cluster)?;
    cluster.source_addresses = sources(message.upstream_bind_config.as_ref())
        .map_err(|problem| problem.inside("upstream_bind_config"))?;
    cluster.outlier_detection = health::outlier_detection(message.outlier_detection)?;
    cluster.health_checks = health::checks(message.health_checks)?;
    cluster.close_on_health_failure = message.close_connections_on_host_health_failure;
    let options = message.upstream_connection_options;
    cluster.keepalive = options.and_then(|options| options.tcp_keepalive).map(values::keepalive);
    if let Some(istio) = message.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get("istio"))
    {
        cluster.origin = values::text_at(istio, &["config"]).unwrap_or_default().into();
    }
    let socket = socket(message.transport_socket.as_ref())?;
    let mut sockets = Vec::new();
    for one in &message.transport_socket_matches {
        let wanted = one.r#match.as_ref().map(values::labels).unwrap_or_default();
        sockets.push((wanted, self::socket(one.transport_socket.as_ref())?));
    }
    proxy_protocol(socket, &sockets, &mut cluster)?;
    if socket == Socket::Wrapped {
        let message = "its connections would have to be wrapped in TLS here, and bare bytes must not reach its \
                       endpoints: it stays without any";
        findings.notices.push(Problem::at("transport_socket", message));
    }
    let mut config = ClusterConfig { cluster, service: None, inline: Assignment::default(), socket, sockets };
    discovery(
        message.name,
        message.cluster_discovery_type,
        &mut config,
        Rest {
            eds: message.eds_cluster_config,
            assignment: message.load_assignment,
            refresh: message.dns_refresh_rate,
            respect_ttl: message.respect_dns_ttl,
            family: message.dns_lookup_family,
        },
    )?;
    Ok(config)
}

/// What the kinds of discovery need of the message.
struct Rest {
    eds: Option<wire::cluster::EdsClusterConfig>,
    assignment: Option<ClusterLoadAssignment>,
    refresh: Option<pb::Duration>,
    respect_ttl: bool,
    family: i32,
}

fn discovery(
    name: String,
    kind: Option<ClusterDiscoveryType>,
    config: &mut ClusterConfig,
    rest: Rest,
) -> Result<(), Problem> {
    let kind = match kind {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(value)) => DiscoveryType::try_from(value)
            .map_err(|_| Problem::at("type", format!("{value} is no discovery type that is known here")))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => return dns_cluster(custom, config, rest),
    };
    match kind {
        DiscoveryType::Eds => {
            let service = rest.eds.map(|eds| eds.service_name).filter(|service| !service.is_empty());
            config.service = Some(service.unwrap_or(name));
        }
        DiscoveryType::Static => config.inline = inline(rest.assignment, Names::Refused)?,
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let logical = kind == DiscoveryType::LogicalDns;
            let refresh = duration("dns_refresh_rate", rest.refresh)?.unwrap_or(DNS_REFRESH);
            let family = family(rest.family);
            config.cluster.dns = Some(Dns { logical, refresh, respect_ttl: rest.respect_ttl, family });
            config.inline = inline(rest.assignment, Names::Allowed)?;
            one_if_logical(config)?;
        }
        DiscoveryType::OriginalDst => {
            let reason = "ORIGINAL_DST (a DestinationRule with the load balancer PASSTHROUGH) would connect to \
                          wherever the client says";
            return Err(Problem::at("type", reason));
        }
    }
    Ok(())
}

/// `envoy.clusters.dns`, which stands for both kinds of DNS in newer Envoys.
fn dns_cluster(
    custom: wire::cluster::CustomClusterType,
    config: &mut ClusterConfig,
    rest: Rest,
) -> Result<(), Problem> {
    let refuse = |reason: String| Problem::at("cluster_type", reason);
    let any = custom.typed_config.unwrap_or_default();
    if !any.type_url.ends_with("/envoy.extensions.clusters.dns.v3.DnsCluster") {
        return Err(refuse(format!("{:?} is no cluster type that is known here", custom.name)));
    }
    let dns = DnsCluster::decode(any.value.as_slice()).map_err(|error| refuse(error.to_string()))?;
    config.cluster.dns = Some(Dns {
        logical: dns.all_addresses_in_single_endpoint,
        refresh: duration("cluster_type.dns_refresh_rate", dns.dns_refresh_rate)?.unwrap_or(DNS_REFRESH),
        respect_ttl: dns.respect_dns_ttl,
        // The extension counts its families from 1, after one for "unspecified".
        family: family(dns.dns_lookup_family.saturating_sub(1).max(0)),
    });
    config.inline = inline(rest.assignment, Names::Allowed)?;
    one_if_logical(config)
}

fn one_if_logical(config: &ClusterConfig) -> Result<(), Problem> {
    let logical = config.cluster.dns.as_ref().is_some_and(|dns| dns.logical);
    match config.inline.iter().count() {
        1 => Ok(()),
        _ if !logical => Ok(()),
        count => Err(Problem::at("load_assignment", format!("LOGICAL_DNS needs one endpoint, not {count}"))),
    }
}

fn inline(assignment: Option<ClusterLoadAssignment>, names: Names) -> Result<Assignment, Problem> {
    match assignment {
        None => Ok(Assignment::default()),
        Some(assignment) => {
            endpoints::decode(assignment, names).map_err(|problem| problem.inside("load_assignment"))
        }
    }
}

fn family(value: i32) -> DnsFamily {
    match DnsLookupFamily::try_from(value) {
        Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
        Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
        Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
        Ok(DnsLookupFamily::All) => DnsFamily::All,
        Ok(DnsLookupFamily::Auto) | Err(_) => DnsFamily::Auto,
    }
}

/// The thresholds of the default priority are the ones of TCP. Istio writes the largest number for "no limit".
fn circuit_breakers(message: &wire::Cluster, cluster: &mut Cluster) -> Result<(), Problem> {
    let Some(breakers) = &message.circuit_breakers else { return Ok(()) };
    let limit =
        |value: Option<pb::UInt32Value>| value.map(|value| value.value).filter(|value| *value != u32::MAX);
    let of_each = breakers.per_host_thresholds.iter().find(|limits| limits.priority == 0);
    cluster.max_connections_per_endpoint = of_each.and_then(|limits| limit(limits.max_connections));
    let Some(limits) = breakers.thresholds.iter().find(|limits| limits.priority == 0) else { return Ok(()) };
    cluster.max_connections = limit(limits.max_connections);
    cluster.max_pending_connections = limit(limits.max_pending_requests);
    cluster.max_retries = limit(limits.max_retries);
    if let Some(budget) = limits.retry_budget {
        let field = "circuit_breakers.thresholds.retry_budget.budget_percent";
        let default = RetryBudget::default();
        cluster.retry_budget = Some(RetryBudget {
            percent: values::percent(field, budget.budget_percent)?.unwrap_or(default.percent),
            min_concurrency: budget
                .min_retry_concurrency
                .map_or(default.min_concurrency, |least| least.value),
        });
    }
    Ok(())
}

/// Where connections to the cluster come from.
fn sources(config: Option<&core::BindConfig>) -> Result<Vec<IpAddr>, Problem> {
    use core::address::Address::SocketAddress;
    let Some(config) = config else { return Ok(Vec::new()) };
    let extra = &config.extra_source_addresses;
    let unsafe_fields = [
        (
            config.freebind.is_some_and(|freebind| freebind.value),
            "freebind",
            "addresses are this machine's own",
        ),
        (!config.socket_options.is_empty(), "socket_options", "sockets get no options of others"),
        (
            extra.iter().any(|one| one.socket_options.is_some()),
            "extra_source_addresses.socket_options",
            "sockets get no options of others",
        ),
        (
            config.local_address_selector.is_some(),
            "local_address_selector",
            "the first address of the endpoint's family is taken",
        ),
    ];
    if let Some((_, field, reason)) = unsafe_fields.into_iter().find(|(present, ..)| *present) {
        return Err(Problem::at(field, reason));
    }
    let addresses = config.source_address.iter().map(|address| ("source_address", Some(address)));
    let addresses = addresses.chain(extra.iter().map(|one| ("extra_source_addresses", one.address.as_ref())));
    let more = config.additional_source_addresses.iter();
    let addresses = addresses.chain(more.map(|address| ("additional_source_addresses", Some(address))));
    let checked = addresses.map(|(field, address)| {
        let address = core::Address { address: address.cloned().map(SocketAddress) };
        match values::address(field, Some(&address))? {
            Address::Ip(address) if address.port() == 0 => Ok(address.ip()),
            Address::Ip(_) => Err(Problem::at(field, "a port would do for one connection; give 0")),
            Address::Name(..) | Address::Internal => Err(Problem::at(field, "it is no IP address")),
        }
    });
    checked.collect()
}

fn refuse_what_is_unsafe(message: &wire::Cluster) -> Result<(), Problem> {
    // With any endpoint to fall back to, a connection that asks for no subset may go to all: none here asks for one.
    let any_endpoint = wire::cluster::lb_subset_config::LbSubsetFallbackPolicy::AnyEndpoint;
    let subsets = message.lb_subset_config.as_ref().is_some_and(|subsets| {
        !subsets.subset_selectors.is_empty() && subsets.fallback_policy() != any_endpoint
    });
    let unsafe_fields = [
        // Each endpoint is compared with each of them; istiod sends two or three.
        (message.transport_socket_matches.len() > 100, "transport_socket_matches", "there are more than 100"),
        (
            subsets,
            "lb_subset_config",
            "endpoints are not chosen by their metadata here, and its fallback_policy is not ANY_ENDPOINT",
        ),
        (
            message.transport_socket_matcher.is_some(),
            "transport_socket_matcher",
            "how endpoints are to be spoken to cannot be told",
        ),
    ];
    match unsafe_fields.into_iter().find(|(present, ..)| *present) {
        Some((_, field, reason)) => Err(Problem::at(field, reason)),
        None => Ok(()),
    }
}

fn socket(socket: Option<&core::TransportSocket>) -> Result<Socket, Problem> {
    use core::transport_socket::ConfigType;
    let Some(socket) = socket else { return Ok(Socket::Plain) };
    if is_raw(socket) {
        return Ok(Socket::Plain);
    }
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else { return Ok(Socket::Wrapped) };
    match values::kind(any) {
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport" => {
            let wrong = |error| Problem::at("transport_socket.typed_config", format!("{error}"));
            let outer = ProxyProtocolUpstreamTransport::decode(any.value.as_slice()).map_err(wrong)?;
            // The socket inside is not decoded any further: each level is an `Any` of its own, whose depth no
            // decoder bounds.
            if !outer.transport_socket.as_ref().is_none_or(is_raw) {
                return Ok(Socket::Wrapped);
            }
            let v2 = outer.config.is_some_and(|config| config.version == 1);
            Ok(Socket::ProxyProtocol(if v2 { ProxyVersion::V2 } else { ProxyVersion::V1 }))
        }
        _ => Ok(Socket::Wrapped),
    }
}

/// Does the socket carry bytes as they are?
pub(super) fn is_raw(socket: &core::TransportSocket) -> bool {
    use core::transport_socket::ConfigType;
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            values::kind(any) == "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
        }
        None => socket.name == "envoy.transport_sockets.raw_buffer",
    }
}

fn proxy_protocol(
    socket: Socket,
    sockets: &[(Vec<(String, String)>, Socket)],
    cluster: &mut Cluster,
) -> Result<(), Problem> {
    if let Socket::ProxyProtocol(version) = socket {
        cluster.proxy_protocol = Some(version);
    }
    let differs = |other: &Socket| *other != Socket::Wrapped && *other != socket;
    if cluster.proxy_protocol.is_some() && sockets.iter().any(|(_, other)| differs(other))
        || sockets.iter().any(|(_, other)| matches!(other, Socket::ProxyProtocol(_)) && differs(other))
    {
        let reason = "the PROXY protocol is sent to all endpoints of a cluster or to none";
        return Err(Problem::at("transport_socket_matches", reason));
    }
    Ok(())
}
