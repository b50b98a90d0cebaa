//! DestinationRule: how the endpoints of a service are chosen and reached, and which subsets it has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::export::Export;
use super::findings::Findings;
use super::schema::destination_rule::{self as schema, ClientTlsMode, Simple};
use super::schema::{Labels, PortSelector};
use crate::cluster::{self, Keepalive};
use crate::duration;
use crate::server_name::Pattern;

/// What Linux does where a DestinationRule gives only a part of `tcpKeepalive` (`tcp(7)`), and so what Istio's own
/// data plane ends up with.
const KERNEL_KEEPALIVE: Keepalive =
    Keepalive { time: Duration::from_secs(7200), interval: Duration::from_secs(75), probes: 9 };

/// A DestinationRule, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DestinationRule {
    /// As written; a name without dots is short for a service of the rule's namespace.
    pub(super) host: Pattern,
    pub(super) exported: Export,
    /// The clients that it is for, where it says so.
    pub(super) clients: Option<Labels>,
    pub(super) policies: Policies,
    pub(super) subsets: Vec<Subset>,
}

/// A named part of a service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subset {
    pub(super) name: String,
    pub(super) labels: Labels,
    policies: Policies,
}

/// A traffic policy and its port-level overrides.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Policies {
    all: Policy,
    ports: BTreeMap<u16, Policy>,
}

/// The parts of a traffic policy that a passthrough gateway can act on; `None` is not said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Policy {
    pub(super) balance: Option<cluster::Policy>,
    pub(super) pool: Option<Pool>,
    pub(super) tls: Option<ClientTlsMode>,
}

/// `connectionPool.tcp`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pool {
    pub(super) connect_timeout: Option<Duration>,
    pub(super) max_connections: Option<u32>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) keepalive: Option<Keepalive>,
}

impl Policy {
    /// This policy, with what `over` says in place of its own.
    fn overridden_by(&self, over: &Self) -> Self {
        Self {
            balance: over.balance.or(self.balance),
            pool: over.pool.clone().or_else(|| self.pool.clone()),
            tls: over.tls.or(self.tls),
        }
    }
}

impl Policies {
    /// The policy for one port. A port-level one inherits nothing: Istio gives what it leaves out the default, not
    /// the destination's.
    fn at(&self, port: u16) -> &Policy {
        self.ports.get(&port).unwrap_or(&self.all)
    }
}

impl DestinationRule {
    /// The policy for a port of the service, or of a subset of it.
    pub(super) fn policy(&self, port: u16, subset: Option<&Subset>) -> Policy {
        let whole = self.policies.at(port);
        subset.map_or_else(|| whole.clone(), |subset| whole.overridden_by(subset.policies.at(port)))
    }

    /// Does it say anything of the service as a whole?
    pub(super) fn has_policy(&self) -> bool {
        self.policies != Policies::default()
    }

    /// Checks a DestinationRule of this namespace.
    pub(super) fn parse(
        schema: &schema::DestinationRule,
        namespace: &str,
        findings: &mut Findings,
    ) -> Option<Self> {
        let wrong =
            |error| format!("{:?} is not a host: {error}; give a service's host or *.suffix", schema.host);
        let host = findings.take("spec.host", schema.host.parse::<Pattern>().map_err(wrong));
        let mut names = BTreeSet::new();
        let mut subsets = Vec::new();
        for (index, subset) in schema.subsets.iter().enumerate() {
            let field = format!("spec.subsets[{index}]");
            if !is_subset_name(&subset.name) {
                let reason =
                    format!("{:?} cannot be part of a server name; use letters, digits and -", subset.name);
                findings.refuse(format!("{field}.name"), reason);
            } else if !names.insert(&subset.name) {
                let reason = format!("there is another subset {}; give each a name of its own", subset.name);
                findings.refuse(format!("{field}.name"), reason);
            }
            let policies = parse_policies(subset.traffic_policy.as_ref(), &field, findings);
            subsets.push(Subset { name: subset.name.clone(), labels: subset.labels.clone(), policies });
        }
        let exported = Export::parse(&schema.export_to, namespace, "spec.exportTo", findings);
        let clients = schema.workload_selector.as_ref().map(|selector| selector.labels.clone());
        let policies = parse_policies(schema.traffic_policy.as_ref(), "spec", findings);
        Some(Self { host: host?, exported, clients, policies, subsets })
    }
}

/// The name becomes a label of `outbound_.8000_.v1_.host`, where `_.` would end it.
fn is_subset_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty()
        && name.len() <= 61
        && name.bytes().all(word)
        && !name.contains("_.")
        && !name.contains("..")
}

fn parse_policies(schema: Option<&schema::TrafficPolicy>, parent: &str, findings: &mut Findings) -> Policies {
    let Some(schema) = schema else { return Policies::default() };
    let field = format!("{parent}.trafficPolicy");
    let all = parse_policy(schema, &field, findings);
    let mut ports = BTreeMap::new();
    for (index, port) in schema.port_level_settings.iter().enumerate() {
        let field = format!("{field}.portLevelSettings[{index}]");
        let number = port.port.as_ref().map_or(0, |PortSelector { number }| *number);
        let policy = parse_policy(port, &field, findings);
        if let Some(number) = findings.port(&format!("{field}.port.number"), number) {
            ports.insert(number, policy);
        }
    }
    Policies { all, ports }
}

fn parse_policy(schema: &schema::TrafficPolicy, field: &str, findings: &mut Findings) -> Policy {
    let ignored = [
        (
            "outlierDetection",
            &schema.outlier_detection,
            "endpoints are taken as healthy as the source says they are",
        ),
        ("proxyProtocol", &schema.proxy_protocol, "no PROXY header is sent to the endpoints"),
        ("tunnel", &schema.tunnel, "connections go straight to the endpoints"),
    ];
    for (name, value, consequence) in ignored {
        if !value.is_null() {
            findings.notice(format!("{field}.{name}"), format!("{name} is not used: {consequence}"));
        }
    }
    let balance = schema.load_balancer.as_ref();
    let pool = schema.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    Policy {
        balance: balance
            .and_then(|balance| parse_balance(balance, &format!("{field}.loadBalancer"), findings)),
        pool: pool.map(|pool| parse_pool(pool, &format!("{field}.connectionPool.tcp"), findings)),
        tls: schema.tls.as_ref().map(|tls| tls.mode),
    }
}

fn parse_balance(
    schema: &schema::LoadBalancer,
    field: &str,
    findings: &mut Findings,
) -> Option<cluster::Policy> {
    let ignored = [
        ("consistentHash", &schema.consistent_hash, "the default, LEAST_REQUEST, is used"),
        ("localityLbSetting", &schema.locality_lb_setting, "every locality is used by weight"),
        ("warmup", &schema.warmup, "a new endpoint gets its full share at once"),
        ("warmupDurationSecs", &schema.warmup_duration_secs, "a new endpoint gets its full share at once"),
    ];
    for (name, value, consequence) in ignored {
        if !value.is_null() && *value != Value::Bool(false) {
            findings.notice(format!("{field}.{name}"), format!("{name} is not used: {consequence}"));
        }
    }
    match schema.simple? {
        Simple::Unspecified => None,
        Simple::LeastConn | Simple::LeastRequest => Some(cluster::Policy::LeastRequest),
        Simple::RoundRobin => Some(cluster::Policy::RoundRobin),
        Simple::Random => Some(cluster::Policy::Random),
        Simple::Passthrough => {
            let reason = "PASSTHROUGH needs the client's original destination, which a gateway does not have; \
                          use LEAST_REQUEST, ROUND_ROBIN or RANDOM";
            findings.refuse(format!("{field}.simple"), reason);
            None
        }
    }
}

fn parse_pool(schema: &schema::TcpSettings, field: &str, findings: &mut Findings) -> Pool {
    let max_connections = match u32::try_from(schema.max_connections) {
        Ok(0) => None,
        Ok(most) => Some(most),
        Err(_) => {
            let reason = format!("{} is not a number of connections; give 1 or more", schema.max_connections);
            findings.refuse(format!("{field}.maxConnections"), reason);
            None
        }
    };
    if !schema.max_connection_duration.is_null() {
        let message = "maxConnectionDuration is not used: a connection lasts until one side ends it";
        findings.notice(format!("{field}.maxConnectionDuration"), message);
    }
    let mut time = |name: &str, text: &Option<String>, least: Duration| {
        let field = format!("{field}.{name}");
        let time = findings.take(&field, duration::parse(text.as_deref()?))?;
        if time < least {
            let reason = format!("{} is too short; give 1ms or more", duration::format(time));
            findings.refuse(field, reason);
        }
        Some(time)
    };
    let connect_timeout = time("connectTimeout", &schema.connect_timeout, Duration::from_millis(1));
    let idle_timeout = time("idleTimeout", &schema.idle_timeout, Duration::ZERO);
    let keepalive = schema.tcp_keepalive.as_ref().map(|keepalive| Keepalive {
        time: time("tcpKeepalive.time", &keepalive.time, Duration::from_millis(1))
            .unwrap_or(KERNEL_KEEPALIVE.time),
        interval: time("tcpKeepalive.interval", &keepalive.interval, Duration::from_millis(1))
            .unwrap_or(KERNEL_KEEPALIVE.interval),
        probes: match u32::try_from(keepalive.probes) {
            Ok(0) | Err(_) => KERNEL_KEEPALIVE.probes,
            Ok(probes) => probes,
        },
    });
    Pool { connect_timeout, max_connections, idle_timeout, keepalive }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<DestinationRule>, Findings) {
        let mut findings = Findings::default();
        let schema: schema::DestinationRule = serde_saphyr::from_str(text).unwrap();
        (DestinationRule::parse(&schema, "bar", &mut findings), findings)
    }

    #[test]
    fn a_subset_overrides_the_whole_and_a_port_inherits_nothing() {
        let (rule, findings) = parse(
            "host: a.b\ntrafficPolicy: {loadBalancer: {simple: RANDOM}, tls: {mode: ISTIO_MUTUAL}, \
             connectionPool: {tcp: {connectTimeout: 3s}}, \
             portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]}\n\
             subsets: [{name: v1, labels: {v: '1'}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]",
        );
        assert!(findings.refusals.is_empty() && findings.notices.is_empty(), "{findings:?}");
        let rule = rule.unwrap();
        let v1 = rule.policy(80, rule.subsets.first());
        assert_eq!(v1.balance, Some(cluster::Policy::RoundRobin));
        assert_eq!(v1.pool.unwrap().connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(rule.policy(81, None), Policy { tls: Some(ClientTlsMode::Disable), ..Policy::default() });
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        let (_, findings) = parse(
            "host: 'a b'\nsubsets: [{name: v1}, {name: v1}, {name: a_.b}]\ntrafficPolicy: {loadBalancer: {simple: PASSTHROUGH}, \
             connectionPool: {tcp: {connectTimeout: soon, maxConnections: -1}}}",
        );
        let fields: Vec<&str> = findings.refusals.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.host",
                "spec.subsets[1].name",
                "spec.subsets[2].name",
                "spec.trafficPolicy.loadBalancer.simple",
                "spec.trafficPolicy.connectionPool.tcp.maxConnections",
                "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
            ]
        );
    }

    #[test]
    fn what_is_ignored_is_noticed() {
        let (_, findings) = parse(
            "host: a.b\ntrafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}, \
             loadBalancer: {consistentHash: {useSourceIp: true}, localityLbSetting: {enabled: true}}}",
        );
        assert_eq!(findings.notices.len(), 3);
    }
}
