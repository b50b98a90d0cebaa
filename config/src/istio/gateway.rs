//! Gateway: which ports are open, and which hosts may be asked for there.

use std::net::IpAddr;

use super::export::is_namespace;
use super::findings::Findings;
use super::schema::Labels;
use super::schema::gateway::{self as schema, TlsMode};
use crate::server_name::Pattern;

/// A Gateway, checked; servers that this source does not serve are gone, with a notice each.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gateway {
    pub(super) selector: Labels,
    pub(super) servers: Vec<Server>,
}

/// One server that is served.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Server {
    /// Its own field path.
    pub(super) field: String,
    pub(super) port: u16,
    pub(super) bind: Option<IpAddr>,
    pub(super) kind: ServerKind,
    pub(super) hosts: Vec<Host>,
}

/// Where the routes of a server come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// TLS by server name, and the names from the services.
    AutoPassthrough,
    /// TLS by server name, and the names from the `tls` routes of VirtualServices.
    Passthrough,
    /// Any bytes, by the `tcp` routes of VirtualServices.
    Tcp,
}

/// An entry of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Only services and VirtualServices of this namespace; `None` is any.
    pub(super) namespace: Option<String>,
    pub(super) pattern: Pattern,
}

impl Host {
    /// May something of this namespace be exposed under the host?
    pub(super) fn admits(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
    }

    /// Reads `host`, `namespace/host`, `./host` or `*/host`.
    fn parse(text: &str, own_namespace: &str) -> Result<Self, String> {
        let (namespace, host) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.split_once('/').map_or(text, |(_, host)| host)),
            Some((".", host)) => (Some(own_namespace.to_owned()), host),
            Some((namespace, host)) if is_namespace(namespace) => (Some(namespace.to_owned()), host),
            Some((other, _)) => {
                return Err(format!(
                    "{other:?} is not a namespace; give a namespace, . (this one) or * (any)"
                ));
            }
        };
        let pattern = host
            .parse::<Pattern>()
            .map_err(|error| format!("{host:?} is not a host: {error}; give a name, *.suffix or *"))?;
        Ok(Self { namespace, pattern })
    }
}

impl Gateway {
    /// One that serves nothing.
    pub(super) fn none() -> Self {
        Self { selector: Labels::new(), servers: Vec::new() }
    }

    /// Checks a Gateway of this namespace.
    pub(super) fn parse(gateway: &schema::Gateway, namespace: &str, findings: &mut Findings) -> Self {
        if gateway.servers.is_empty() {
            findings
                .refuse("spec.servers", "a Gateway needs at least one server; add one with a port and hosts");
        }
        let servers = gateway.servers.iter().enumerate();
        let servers = servers
            .filter_map(|(index, server)| {
                parse_server(server, format!("spec.servers[{index}]"), namespace, findings)
            })
            .collect();
        Self { selector: gateway.selector.clone(), servers }
    }
}

fn parse_server(
    server: &schema::Server,
    field: String,
    namespace: &str,
    findings: &mut Findings,
) -> Option<Server> {
    let Some(port) = &server.port else {
        findings.refuse(format!("{field}.port"), "a server needs a port; give its number, name and protocol");
        return None;
    };
    let number = findings.port(&format!("{field}.port.number"), port.number);
    let bind = parse_bind(&server.bind, &field, findings);
    let hosts = parse_hosts(&server.hosts, &field, namespace, findings);
    let kind = parse_kind(server, &port.protocol, &field, findings);
    Some(Server { port: number?, bind: bind?, hosts, kind: kind?, field })
}

/// The outer `None` is a refusal, the inner one no `bind`.
fn parse_bind(bind: &str, field: &str, findings: &mut Findings) -> Option<Option<IpAddr>> {
    if bind.is_empty() {
        return Some(None);
    }
    let reason = format!(
        "{bind:?} is not an IP address; give one, or leave bind out (a Unix socket is not supported)"
    );
    findings.take(&format!("{field}.bind"), bind.parse().map(Some).map_err(|_| reason))
}

fn parse_hosts(hosts: &[String], field: &str, namespace: &str, findings: &mut Findings) -> Vec<Host> {
    if hosts.is_empty() {
        findings.refuse(
            format!("{field}.hosts"),
            "a server needs at least one host, such as *.global or *.local",
        );
    }
    let hosts = hosts.iter().enumerate();
    hosts
        .filter_map(|(index, host)| {
            findings.take(&format!("{field}.hosts[{index}]"), Host::parse(host, namespace))
        })
        .collect()
}

/// The kind of a server that this source serves; anything else is refused or noticed here.
fn parse_kind(
    server: &schema::Server,
    protocol: &str,
    field: &str,
    findings: &mut Findings,
) -> Option<ServerKind> {
    let protocol_field = format!("{field}.port.protocol");
    let mode = server.tls.as_ref().map(|tls| tls.mode);
    let has_tls = match protocol.to_ascii_uppercase().as_str() {
        "TLS" | "HTTPS" => true,
        // Istio only adds a filter that looks into these protocols.
        "TCP" | "MONGO" | "MYSQL" | "REDIS" if mode.is_none() => return Some(ServerKind::Tcp),
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "TCP" | "MONGO" | "MYSQL" | "REDIS" => false,
        "" => {
            findings.refuse(protocol_field, "a server's port needs a protocol; give TLS or TCP");
            return None;
        }
        _ => {
            findings.refuse(protocol_field, format!("{protocol:?} is not a protocol; give TLS or TCP"));
            return None;
        }
    };
    match (has_tls, mode) {
        (true, None) => {
            let reason =
                format!("a {protocol} server needs tls; give tls.mode AUTO_PASSTHROUGH or PASSTHROUGH");
            findings.refuse(format!("{field}.tls"), reason);
            None
        }
        (true, Some(TlsMode::Passthrough)) => Some(ServerKind::Passthrough),
        (true, Some(TlsMode::AutoPassthrough)) => Some(ServerKind::AutoPassthrough),
        (false, Some(TlsMode::Passthrough | TlsMode::AutoPassthrough)) => {
            let reason = format!("a {protocol} port cannot pass TLS through; set the protocol to TLS");
            findings.refuse(protocol_field, reason);
            None
        }
        (_, mode) => {
            let what = mode.map_or_else(|| format!("a {protocol} server"), |mode| format!("TLS mode {mode}"));
            let message = format!(
                "{what} is not served by this source: nothing listens for it; TCP, AUTO_PASSTHROUGH and PASSTHROUGH \
                 are served"
            );
            findings.notice(field, message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Gateway, Findings) {
        let mut findings = Findings::default();
        let schema: schema::Gateway = serde_saphyr::from_str(text).unwrap();
        (Gateway::parse(&schema, "istio-system", &mut findings), findings)
    }

    #[test]
    fn hosts_come_with_and_without_a_namespace() {
        let (gateway, findings) = parse(
            "servers: [{port: {number: 15443, name: tls, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, \
             hosts: ['*.global', 'bar/*.local', './a.b', '*/c.d']}]",
        );
        assert!(findings.refusals.is_empty(), "{findings:?}");
        let namespaces: Vec<_> =
            gateway.servers[0].hosts.iter().map(|host| host.namespace.as_deref()).collect();
        assert_eq!(namespaces, [None, Some("bar"), Some("istio-system"), None]);
        assert!(gateway.servers[0].hosts[1].admits("bar") && !gateway.servers[0].hosts[1].admits("foo"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        let (_, findings) = parse(
            "servers: [{port: {number: 70000, protocol: TLS}, bind: 'unix:///x', tls: {mode: PASSTHROUGH}, \
             hosts: ['a b', 'No/x']}, {port: {number: 1, protocol: HTTP}, tls: {mode: PASSTHROUGH}, hosts: ['*']}, \
             {port: {number: 1, protocol: TLS}, hosts: ['*']}, {hosts: ['*']}]",
        );
        let fields: Vec<&str> = findings.refusals.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.servers[0].port.number",
                "spec.servers[0].bind",
                "spec.servers[0].hosts[0]",
                "spec.servers[0].hosts[1]",
                "spec.servers[1].port.protocol",
                "spec.servers[2].tls",
                "spec.servers[3].port",
            ]
        );
        assert_eq!(findings.refusals[0].1, "70000 is not a port; give one from 1 to 65535");
    }

    #[test]
    fn a_server_that_is_not_served_is_noticed_and_never_silent() {
        let (gateway, findings) = parse(
            "servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}, \
             {port: {number: 81, protocol: TCP}, tls: {mode: SIMPLE}, hosts: ['*']}, \
             {port: {number: 443, protocol: HTTPS}, tls: {mode: SIMPLE}, hosts: ['*']}]",
        );
        assert!(gateway.servers.is_empty() && findings.refusals.is_empty());
        assert_eq!(findings.notices.len(), 3);
        assert!(findings.notices[2].1.starts_with("TLS mode SIMPLE is not served"));
    }

    #[test]
    fn plain_ports_are_tcp_whatever_is_spoken_there() {
        let (gateway, findings) = parse(
            "servers: [{port: {number: 15011, protocol: TCP}, hosts: ['*']}, \
             {port: {number: 3306, protocol: MySQL}, hosts: ['*']}]",
        );
        assert!(findings.refusals.is_empty() && findings.notices.is_empty(), "{findings:?}");
        assert!(gateway.servers.iter().all(|server| server.kind == ServerKind::Tcp));
    }
}
