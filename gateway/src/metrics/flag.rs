//! How a connection ended, in the word that Envoy has for it
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>): in the access log, in metrics, and
//! in docs/flags.md, which is made from this.

use serde::{Serialize, Serializer};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// In the ordinary way, by a FIN from each side.
    Ordinary,
    /// By the client.
    ClientLeft,
    /// By the endpoint.
    UpstreamBroke,
    /// No filter chain takes it.
    NoRoute,
    /// No endpoint takes connections.
    NoHealthyUpstream,
    /// No endpoint could be reached.
    UpstreamFailed,
    /// The cluster's limits are reached.
    UpstreamFull,
    /// It took too long, or lived as long as it may.
    TimedOut,
    /// It was silent for too long.
    Idle,
    /// The client sent what cannot be read.
    ProtocolError,
    /// The gateway's limits are reached.
    Overload,
    /// Connections come too fast.
    RateLimited,
    /// The route leads to a cluster that there is none of.
    NoCluster,
    /// The client may not come here.
    Denied,
    /// The gateway ended it.
    EndedHere,
    /// It came back to the gateway.
    Loop,
}

/// What docs/flags.md says of a flag.
#[derive(Debug)]
pub struct Page {
    /// What has happened.
    pub meaning: &'static str,
    /// Why, as a rule.
    pub cause: &'static str,
    /// What helps.
    pub remedy: &'static str,
}

impl Flag {
    /// Every flag. A flag's place here is its number.
    pub const ALL: [Self; 16] = [
        Self::Ordinary,
        Self::ClientLeft,
        Self::UpstreamBroke,
        Self::NoRoute,
        Self::NoHealthyUpstream,
        Self::UpstreamFailed,
        Self::UpstreamFull,
        Self::TimedOut,
        Self::Idle,
        Self::ProtocolError,
        Self::Overload,
        Self::RateLimited,
        Self::NoCluster,
        Self::Denied,
        Self::EndedHere,
        Self::Loop,
    ];

    /// As it stands in the access log: Envoy's short form.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// Envoy's long form, as `%RESPONSE_FLAGS_LONG%` has it.
    pub fn long_name(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Ordinary => ("-", "-"),
            Self::ClientLeft => ("DC", "DownstreamConnectionTermination"),
            Self::UpstreamBroke => ("UC", "UpstreamConnectionTermination"),
            Self::NoRoute => ("NR", "NoRouteFound"),
            Self::NoHealthyUpstream => ("UH", "NoHealthyUpstream"),
            Self::UpstreamFailed => ("UF", "UpstreamConnectionFailure"),
            Self::UpstreamFull => ("UO", "UpstreamOverflow"),
            Self::TimedOut => ("DT", "DurationTimeout"),
            Self::Idle => ("SI", "StreamIdleTimeout"),
            Self::ProtocolError => ("DPE", "DownstreamProtocolError"),
            Self::Overload => ("OM", "OverloadManagerTerminated"),
            Self::RateLimited => ("RL", "RateLimited"),
            Self::NoCluster => ("NC", "NoClusterFound"),
            Self::Denied => ("UAEX", "UnauthorizedExternalService"),
            Self::EndedHere => ("LR", "LocalReset"),
            Self::Loop => ("LOOP", "Loop"),
        }
    }

    /// What an operator should know of it.
    pub fn page(self) -> Page {
        let page = |meaning, cause, remedy| Page { meaning, cause, remedy };
        match self {
            Self::Ordinary => page(
                "both sides have finished, each with a FIN",
                "the connection did what it was for",
                "nothing",
            ),
            Self::ClientLeft => page(
                "the client broke the connection, or left before it led anywhere",
                "a client that gave up waiting, crashed or was cut off by a NAT or load balancer; a port scan or TCP health check, if \
                 no byte came",
                "look at the client, and at `error` for what the kernel said; where many leave before a connect, look at slow connects \
                 in troubleshooting.md",
            ),
            Self::UpstreamBroke => page(
                "the endpoint broke a connection that it had taken",
                "the pod crashed or was killed, or something between gateway and pod lost the connection",
                "look at the pod at `endpoint`: restarts, memory, its own log at that time",
            ),
            Self::NoRoute => page(
                "no filter chain of the listener takes the server name, or none for the protocols that the client offers; or the \
                 listener is gone",
                "the host is in no Gateway's `hosts`, the service does not exist, or the client has no sidecar and does not offer `istio`",
                "`eastgate explain --sni NAME --alpn istio` says which step failed and which name is nearest",
            ),
            Self::NoHealthyUpstream => page(
                "the cluster has no endpoint that takes connections",
                "no pod is ready, all are ejected or fail their checks, or none speaks mesh TLS (`security.istio.io/tlsMode: istio`)",
                "`/clusters` says of each endpoint why it is out",
            ),
            Self::UpstreamFailed => page(
                "no endpoint that was tried took the connection or completed its handshake",
                "nothing listens at the pod's port, a NetworkPolicy or firewall is between, the endpoints are stale, or TLS that the \
                 gateway itself speaks is refused",
                "`error` names the last endpoint and what the system or TLS said; try the same from the gateway's own pod",
            ),
            Self::UpstreamFull => page(
                "the cluster, or each of its endpoints, has as many connections as it may",
                "a limit is lower than the load: connectionPool.tcp.maxConnections, circuit breakers, upstream.max_connections_per_endpoint",
                "raise the limit that `error` names, or add pods",
            ),
            Self::TimedOut => page(
                "the ClientHello took longer than inspect.timeout, or the connection is as old as it may become",
                "a silent client (a health check, a scanner, a lost packet), or relay.max_duration or a route's maximum",
                "`error` says which of the two; see docs/settings.md for the limits",
            ),
            Self::Idle => page(
                "nothing was sent in either direction for the idle timeout",
                "a forgotten connection, or one whose peer vanished without a word",
                "have applications send keepalives, or raise relay.idle_timeout or the DestinationRule's connectionPool.tcp.idleTimeout",
            ),
            Self::ProtocolError => page(
                "what the client sent is no acceptable ClientHello or PROXY protocol header, or its TLS handshake with the gateway failed",
                "something else speaks to the port: HTTP, a load balancer that terminates TLS or sends PROXY headers, a scanner",
                "`error` has the reason; `eastgate hello FILE` explains a captured ClientHello",
            ),
            Self::Overload => page(
                "a limit of the gateway itself is reached, or memory is short",
                "more clients at once than limits.* allow, one client with too many connections, a filter chain's connection_limit",
                "`error` names the limit; docs/capacity.md says what a gateway can take",
            ),
            Self::RateLimited => page(
                "connections came faster than the listener's or filter chain's rate limit",
                "a burst, or a limit (local_ratelimit) that is too low",
                "raise the limit, or have clients keep their connections",
            ),
            Self::NoCluster => page(
                "the filter chain leads to a cluster that no source has given",
                "half of a configuration: the control plane has sent a listener and not its cluster",
                "`/rejections` and `eastgate xds status` tell whether the cluster was refused",
            ),
            Self::Denied => page(
                "an AuthorizationPolicy or RBAC rule does not let this client in, or its certificate is not one of those that may be",
                "that is what the rules say; behind a load balancer the client's address may be the load balancer's",
                "`error` names the rule; `listen.proxy_protocol_from` has the gateway learn the client's own address",
            ),
            Self::EndedHere => page(
                "the gateway ended the connection",
                "it leaves and drain.timeout is over, the endpoint was taken away (drain.removed_endpoints), it has more than its share \
                 (relay.shed), or an operator closed it",
                "`error` says which; clients should connect again",
            ),
            Self::Loop => page(
                "the same ClientHello is on its way through this gateway already",
                "one of the cluster's endpoints is the gateway itself, or leads back to it",
                "take that endpoint out of the service; `error` names the cluster",
            ),
        }
    }
}

impl std::fmt::Display for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Flag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_flag_has_its_place_and_a_name_of_its_own() {
        assert!(Flag::ALL.iter().enumerate().all(|(place, flag)| *flag as usize == place));
        let names: BTreeSet<_> = Flag::ALL.iter().flat_map(|flag| [flag.name(), flag.long_name()]).collect();
        assert_eq!(names.len(), 2 * Flag::ALL.len() - 1, "the ordinary end alone has one name for both");
    }
}
