//! Traffic policies of DestinationRules: how endpoints are chosen and reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::findings::Findings;
use super::schema::PortSelector;
use super::schema::destination_rule::{self as schema, ClientTlsMode};
use crate::cluster::{self, Keepalive, UpstreamTls};
use crate::duration;
use crate::listener::{ChainOptions, HashPolicy};
use crate::spiffe::IdPattern;

mod balance;
mod outliers;

pub(super) use balance::Balance;
pub(super) use outliers::Outliers;

/// What Linux does where a DestinationRule gives only a part of `tcpKeepalive` (`tcp(7)`), and so what Istio's own
/// data plane ends up with.
const KERNEL_KEEPALIVE: Keepalive =
    Keepalive { time: Duration::from_secs(7200), interval: Duration::from_secs(75), probes: 9 };

/// A traffic policy and its port-level overrides.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Policies {
    all: Policy,
    ports: BTreeMap<u16, Policy>,
}

/// The parts of a traffic policy that a gateway without HTTP can act on; `None` is not said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Policy {
    pub(super) balance: Option<Balance>,
    pub(super) pool: Option<Pool>,
    pub(super) tls: Option<ClientTlsMode>,
    /// What `tls` says beyond its mode; `None` for `DISABLE`, and where the gateway does not speak it itself.
    pub(super) upstream_tls: Option<Arc<UpstreamTls>>,
    pub(super) outliers: Option<Box<Outliers>>,
    pub(super) proxy_protocol: Option<cluster::ProxyVersion>,
}

/// `connectionPool.tcp`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pool {
    pub(super) connect_timeout: Option<Duration>,
    pub(super) max_connections: Option<u32>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) keepalive: Option<Keepalive>,
}

impl Policy {
    /// This policy, with what `over` says in place of its own.
    pub(super) fn overridden_by(&self, over: &Self) -> Self {
        let tls = if over.tls.is_some() { over } else { self };
        Self {
            balance: over.balance.clone().or_else(|| self.balance.clone()),
            pool: over.pool.clone().or_else(|| self.pool.clone()),
            tls: tls.tls,
            upstream_tls: tls.upstream_tls.clone(),
            outliers: over.outliers.clone().or_else(|| self.outliers.clone()),
            proxy_protocol: over.proxy_protocol.or(self.proxy_protocol),
        }
    }

    /// This policy where the gateway speaks TLS itself to `host`, and to the mesh under the name `mesh_name`. Without
    /// names of its own it takes these, of the ServiceEntry.
    pub(super) fn originating(&self, host: &str, mesh_name: &str, names: &[String]) -> Self {
        let mut tls = self.upstream_tls.as_deref().cloned().unwrap_or_else(|| UpstreamTls::mesh(mesh_name));
        let default = if tls.mode == cluster::TlsMode::IstioMutual { mesh_name } else { host };
        tls.sni.get_or_insert_with(|| default.to_owned());
        if tls.subject_alt_names.is_empty() && !tls.insecure {
            let counts =
                |name: &&String| tls.mode != cluster::TlsMode::IstioMutual || name.starts_with("spiffe://");
            tls.subject_alt_names = names.iter().filter(counts).cloned().collect();
        }
        Self { upstream_tls: Some(Arc::new(tls)), ..self.clone() }
    }

    /// This policy where clients' own TLS is passed through, or nothing of the kind is spoken.
    pub(super) fn passing_through(&self) -> Self {
        Self { upstream_tls: None, ..self.clone() }
    }

    /// How long a connection may be silent.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.pool.as_ref().and_then(|pool| pool.idle_timeout)
    }

    /// What it says of a filter chain that leads to its service.
    pub(super) fn chain_options(&self) -> ChainOptions {
        let policy = self.balance.as_ref().and_then(|balance| balance.policy);
        let hashes = matches!(policy, Some(cluster::Policy::RingHash(_) | cluster::Policy::Maglev { .. }));
        ChainOptions {
            max_connection_duration: self.pool.as_ref().and_then(|pool| pool.max_connection_duration),
            hash_policy: hashes.then_some(HashPolicy::SourceIp),
            ..ChainOptions::default()
        }
    }
}

impl Policies {
    /// The policy for one port. A port-level one inherits nothing: Istio gives what it leaves out the default, not
    /// the destination's.
    pub(super) fn at(&self, port: u16) -> &Policy {
        self.ports.get(&port).unwrap_or(&self.all)
    }

    /// Checks the traffic policy of this parent.
    pub(super) fn parse(
        schema: Option<&schema::TrafficPolicy>,
        parent: &str,
        findings: &mut Findings,
    ) -> Self {
        let Some(schema) = schema else { return Self::default() };
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
        Self { all, ports }
    }
}

fn parse_policy(schema: &schema::TrafficPolicy, field: &str, findings: &mut Findings) -> Policy {
    let ignored = [("tunnel", &schema.tunnel, "connections go straight to the endpoints")];
    for (name, value, consequence) in ignored {
        if !value.is_null() {
            findings.notice(format!("{field}.{name}"), format!("{name} is not used: {consequence}"));
        }
    }
    let balance = schema.load_balancer.as_ref();
    let pool = schema.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    let outliers = schema.outlier_detection.as_ref();
    Policy {
        balance: balance.map(|balance| Balance::parse(balance, &format!("{field}.loadBalancer"), findings)),
        pool: pool.map(|pool| parse_pool(pool, &format!("{field}.connectionPool.tcp"), findings)),
        tls: schema.tls.as_ref().map(|tls| tls.mode),
        upstream_tls: schema
            .tls
            .as_ref()
            .and_then(|tls| upstream_tls(tls, &format!("{field}.tls"), findings))
            .map(Arc::new),
        proxy_protocol: schema.proxy_protocol.as_ref().map(|header| match header.version {
            schema::ProxyVersion::V1 => cluster::ProxyVersion::V1,
            schema::ProxyVersion::V2 => cluster::ProxyVersion::V2,
        }),
        outliers: outliers.map(|outliers| {
            Box::new(Outliers::parse(outliers, &format!("{field}.outlierDetection"), findings))
        }),
    }
}

fn upstream_tls(schema: &schema::ClientTls, field: &str, findings: &mut Findings) -> Option<UpstreamTls> {
    check_tls(schema, field, findings);
    let mode = match schema.mode {
        ClientTlsMode::Disable => return None,
        ClientTlsMode::Simple => cluster::TlsMode::Simple,
        ClientTlsMode::Mutual => cluster::TlsMode::Mutual,
        ClientTlsMode::IstioMutual => cluster::TlsMode::IstioMutual,
    };
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Some(UpstreamTls {
        mode,
        sni: given(&schema.sni),
        subject_alt_names: schema.subject_alt_names.clone(),
        certificate: given(&schema.client_certificate),
        key: given(&schema.private_key),
        roots: given(&schema.ca_certificates),
        revocations: given(&schema.ca_crl),
        credential: given(&schema.credential_name).map(secret_name),
        insecure: schema.insecure_skip_verify,
    })
}

/// `kubernetes://NAME` is a longer way to say `NAME`.
fn secret_name(given: String) -> String {
    given.strip_prefix("kubernetes://").map(str::to_owned).unwrap_or(given)
}

/// What contradicts itself, as Istio's own validation has it.
fn check_tls(schema: &schema::ClientTls, field: &str, findings: &mut Findings) {
    let files = [
        ("clientCertificate", &schema.client_certificate),
        ("privateKey", &schema.private_key),
        ("caCertificates", &schema.ca_certificates),
        ("caCrl", &schema.ca_crl),
    ];
    let by_secret = !schema.credential_name.is_empty();
    if by_secret && secret_name(schema.credential_name.clone()).contains(['/', ':']) {
        let reason = "give the name of a Secret in the gateway's own namespace; no other is read";
        findings.refuse(format!("{field}.credentialName"), reason);
    }
    if by_secret && let Some((name, _)) = files.iter().find(|(_, path)| !path.is_empty()) {
        let reason = format!("there is {name}, too; give the Secret or files, not both");
        findings.refuse(format!("{field}.credentialName"), reason);
    }
    if schema.mode == ClientTlsMode::IstioMutual {
        for (index, name) in schema.subject_alt_names.iter().enumerate() {
            findings.take(&format!("{field}.subjectAltNames[{index}]"), name.parse::<IdPattern>());
        }
    }
    if schema.mode == ClientTlsMode::Mutual && !by_secret {
        for (name, _) in files.iter().take(2).filter(|(_, path)| path.is_empty()) {
            let reason = format!("MUTUAL needs {name}; give the path of a PEM file, or set SIMPLE");
            findings.refuse(format!("{field}.{name}"), reason);
        }
    }
    if schema.insecure_skip_verify
        && !(schema.ca_certificates.is_empty() && schema.subject_alt_names.is_empty())
    {
        let reason = "nothing is verified with it, and yet there is caCertificates or subjectAltNames to verify by; \
                      leave one of them out";
        findings.refuse(format!("{field}.insecureSkipVerify"), reason);
    }
}

/// A duration that is given and not shorter than this.
fn time(text: Option<&String>, field: String, least: Duration, findings: &mut Findings) -> Option<Duration> {
    let time = findings.take(&field, duration::parse(text?))?;
    if time < least {
        findings.refuse(field, format!("{} is too short; give 1ms or more", duration::format(time)));
    }
    Some(time)
}

/// The shortest time that means something.
const SHORTEST: Duration = Duration::from_millis(1);

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
    let mut time = |name: &str, text: &Option<String>, least: Duration| {
        time(text.as_ref(), format!("{field}.{name}"), least, findings)
    };
    let connect_timeout = time("connectTimeout", &schema.connect_timeout, SHORTEST);
    let idle_timeout = time("idleTimeout", &schema.idle_timeout, Duration::ZERO);
    let max_connection_duration = time("maxConnectionDuration", &schema.max_connection_duration, SHORTEST);
    let keepalive = schema.tcp_keepalive.as_ref().map(|keepalive| Keepalive {
        time: time("tcpKeepalive.time", &keepalive.time, SHORTEST).unwrap_or(KERNEL_KEEPALIVE.time),
        interval: time("tcpKeepalive.interval", &keepalive.interval, SHORTEST)
            .unwrap_or(KERNEL_KEEPALIVE.interval),
        probes: match u32::try_from(keepalive.probes) {
            Ok(0) | Err(_) => KERNEL_KEEPALIVE.probes,
            Ok(probes) => probes,
        },
    });
    Pool { connect_timeout, max_connections, idle_timeout, max_connection_duration, keepalive }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Policy, Findings) {
        let mut findings = Findings::default();
        let schema: schema::TrafficPolicy = serde_saphyr::from_str(text).unwrap();
        (parse_policy(&schema, "p", &mut findings), findings)
    }

    fn refused(text: &str) -> Vec<String> {
        parse(text).1.refusals.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn a_hash_of_the_source_is_a_ring_or_a_table_and_says_so_to_the_chain() {
        let of =
            |hash: &str| parse(&format!("loadBalancer: {{consistentHash: {{useSourceIp: true{hash}}}}}"));
        let ring = |text: &str| match of(text).0.balance.and_then(|balance| balance.policy) {
            Some(cluster::Policy::RingHash(ring)) => ring.minimum_size,
            other => panic!("{other:?}"),
        };
        assert_eq!(ring(""), 1024);
        assert_eq!(ring(", minimumRingSize: 64"), 64);
        assert_eq!(ring(", ringHash: {minimumRingSize: 128}"), 128);
        let (policy, _) = of(", maglev: {}");
        let maglev = policy.balance.as_ref().and_then(|balance| balance.policy);
        assert_eq!(maglev, Some(cluster::Policy::Maglev { table_size: 65_537 }));
        assert_eq!(policy.chain_options().hash_policy, Some(HashPolicy::SourceIp));
        assert_eq!(parse("loadBalancer: {simple: RANDOM}").0.chain_options(), ChainOptions::default());
    }

    #[test]
    fn a_hash_of_what_a_connection_has_not_is_noticed_and_one_of_no_size_refused() {
        let (policy, findings) = parse("loadBalancer: {consistentHash: {httpHeaderName: x-user}}");
        let hash = policy.balance.and_then(|balance| balance.policy);
        assert_eq!((hash, findings.notices.len(), findings.refusals.len()), (None, 1, 0));
        let of = |rest: &str| refused(&format!("loadBalancer: {{{rest}}}"));
        let hash = "p.loadBalancer.consistentHash";
        assert_eq!(
            of("consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}"),
            [format!("{hash}.maglev.tableSize")]
        );
        assert_eq!(
            of("consistentHash: {useSourceIp: true, minimumRingSize: -1}"),
            [format!("{hash}.minimumRingSize")]
        );
        assert_eq!(of("simple: RANDOM, consistentHash: {useSourceIp: true}"), [hash]);
    }

    #[test]
    fn the_lowest_number_of_failures_counts_and_zero_switches_a_kind_off() {
        let failures = |text: &str| {
            let (policy, findings) = parse(&format!("outlierDetection: {{{text}}}"));
            assert!(findings.refusals.is_empty() && findings.notices.len() == 1, "{findings:?}");
            policy.outliers.unwrap().detection.consecutive_failures
        };
        assert_eq!(failures(""), Some(5));
        assert_eq!(failures("consecutive5xxErrors: 7, consecutiveGatewayErrors: 3"), Some(3));
        assert_eq!(failures("consecutive5xxErrors: 0"), None);
        assert_eq!(failures("consecutiveErrors: 9"), Some(9));
        let split = "splitExternalLocalOriginErrors: true, consecutive5xxErrors: 1";
        assert_eq!(failures(&format!("{split}, consecutiveLocalOriginFailures: 2")), Some(2));
        assert_eq!(failures(split), Some(5));
        assert_eq!(
            refused("outlierDetection: {maxEjectionPercent: 101, interval: 0s, consecutive5xxErrors: -1}"),
            ["interval", "maxEjectionPercent", "consecutive5xxErrors"]
                .map(|field| format!("p.outlierDetection.{field}"))
        );
    }

    #[test]
    fn tls_settings_that_contradict_themselves_are_refused() {
        let of = |text: &str| refused(&format!("tls: {{{text}}}"));
        assert_eq!(of("mode: MUTUAL"), ["p.tls.clientCertificate", "p.tls.privateKey"]);
        assert_eq!(of("mode: MUTUAL, credentialName: c"), [""; 0]);
        assert_eq!(of("mode: SIMPLE, credentialName: 'kubernetes://c'"), [""; 0]);
        for elsewhere in ["other/c", "kubernetes://other/c", "configmap://c"] {
            assert_eq!(of(&format!("mode: SIMPLE, credentialName: '{elsewhere}'")), ["p.tls.credentialName"]);
        }
        assert_eq!(of("mode: SIMPLE, credentialName: c, caCertificates: r"), ["p.tls.credentialName"]);
        let insecure = "mode: SIMPLE, insecureSkipVerify: true";
        assert_eq!(of(&format!("{insecure}, subjectAltNames: [a]")), ["p.tls.insecureSkipVerify"]);
        assert_eq!(of(insecure), [""; 0]);
    }

    #[test]
    fn what_a_rule_does_not_say_of_its_tls_is_filled_in() {
        let of = |text: &str, names: &[String]| {
            let policy = parse(text).0.originating("a.b", "outbound_.80_._.a.b", names);
            policy.upstream_tls.unwrap().as_ref().clone()
        };
        assert_eq!(of("", &[]), UpstreamTls::mesh("outbound_.80_._.a.b"));
        let simple = of("tls: {mode: SIMPLE}", &["x.y".to_owned()]);
        assert_eq!(
            (simple.sni.as_deref(), &*simple.subject_alt_names),
            (Some("a.b"), &["x.y".to_owned()][..])
        );
        let own = of("tls: {mode: SIMPLE, sni: c.d, subjectAltNames: [e.f]}", &["x.y".to_owned()]);
        assert_eq!((own.sni.as_deref(), &*own.subject_alt_names), (Some("c.d"), &["e.f".to_owned()][..]));
    }

    #[test]
    fn tls_settings_are_carried_whole() {
        let (policy, _) = parse("tls: {mode: MUTUAL, clientCertificate: c, privateKey: k, sni: a.b}");
        let tls = policy.upstream_tls.unwrap();
        assert_eq!(
            (tls.mode, tls.sni.as_deref(), tls.key.as_deref()),
            (cluster::TlsMode::Mutual, Some("a.b"), Some("k"))
        );
        assert_eq!(parse("tls: {mode: DISABLE}").0.upstream_tls, None);
    }
}
