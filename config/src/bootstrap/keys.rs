//! The table of settings.

use super::ENV_PREFIX;

/// One setting: its path in the file, and what it means.
#[derive(Debug)]
pub struct Key {
    /// Such as `inspect.timeout`.
    pub path: &'static str,
    /// One line for people.
    pub meaning: &'static str,
}

impl Key {
    /// The environment variable, such as `EASTGATE_INSPECT_TIMEOUT`.
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.path.replace('.', "_").to_uppercase())
    }
}

const fn key(path: &'static str, meaning: &'static str) -> Key {
    Key { path, meaning }
}

/// Every setting, in the order of the file.
pub const KEYS: &[Key] = &[
    key("node.id", "the id of the gateway's xDS node; empty: made as Istio's agent makes it"),
    key("node.service_cluster", "the cluster of the xDS node; empty: the app label and the namespace"),
    key("node.locality", "where the gateway stands, as REGION/ZONE/SUBZONE; empty: by its labels"),
    key("node.namespace", "the namespace that the gateway runs in"),
    key(
        "node.labels",
        "the gateway's labels; a Gateway applies whose selector they meet (none: every Gateway)",
    ),
    key("node.cluster_domain", "the suffix of the cluster's own names"),
    key("node.address", "the gateway's own address in its xDS node; empty: INSTANCE_IP, or the first found"),
    key("node.trust_domain", "the SPIFFE trust domain of the gateway's own certificate"),
    key(
        "node.network",
        "the network of the gateway, its cluster's Pods, and every endpoint that names none; empty: as istio-system is labelled",
    ),
    key(
        "node.network_view",
        "networks whose endpoints are used; empty: the gateway's own, and for an egress gateway: external",
    ),
    key("node.local_cluster", "the cluster of the gateway's own replicas, for zone-aware routing"),
    key("node.metadata", "a map laid over the xDS node's metadata; values are text, as Istio wants them"),
    key("source.mesh_dir", "a directory of Istio and Kubernetes resources to serve, watched for changes"),
    key("source.xds_file", "a file of xDS resources to serve, as a DiscoveryResponse, watched for changes"),
    key(
        "source.kubernetes.config",
        "serve what a Kubernetes API has: in-cluster, the path of a kubeconfig, or auto (in a Pod, else as kubectl)",
    ),
    key("source.kubernetes.context", "the kubeconfig's context; empty: its current one"),
    key(
        "source.kubernetes.remote_dir",
        "a directory of kubeconfigs of the mesh's other clusters, each named by its file; their services count, too",
    ),
    key(
        "source.kubernetes.remote_secrets",
        "the same from Secrets of node.namespace labelled istio/multiCluster=true",
    ),
    key(
        "source.kubernetes.secrets",
        "Secrets of node.namespace that credentialName of DestinationRules may name, each watched by its name; no other is read",
    ),
    key("source.kubernetes.remote_timeout", "how long the first table waits for the other clusters"),
    key("source.kubernetes.look_again", "how often a kind that is not installed is looked for"),
    key("source.kubernetes.coalesce", "changes within this time become one table"),
    key("source.kubernetes.page_size", "objects in one answer to a list"),
    key(
        "xds.addresses",
        "control planes by priority: HOST:15012 is TLS, HOST:15010 and http:// plaintext, or unix:/PATH",
    ),
    key("xds.variant", "delta or sotw (state of the world)"),
    key("xds.token_path", "the bearer token, read for every stream and sent over TLS or a Unix socket only"),
    key("xds.root_paths", "the mesh root certificate: the first of these files that there is"),
    key("xds.server_name", "the name in the control plane's certificate, where it is not the address's"),
    key(
        "xds.certificate_path",
        "a client certificate chain for the control plane, read for every connection",
    ),
    key("xds.key_path", "its key"),
    key(
        "xds.csr",
        "have the mesh's CA issue the client certificate, renew it at half its life, and keep it in xds.state_dir",
    ),
    key("xds.ca_address", "that CA, written as in xds.addresses; empty: the first of these"),
    key("xds.certificate_lifetime", "asked of the CA"),
    key(
        "xds.state_dir",
        "where the accepted resources (and xds.csr's certificate) are kept for a start without a control plane",
    ),
    key("xds.init_timeout", "how long a new cluster waits for its first endpoints"),
    key("xds.response_timeout", "a control plane that still owes an answer this long is given up"),
    key("xds.coalesce", "changes within this time become one table"),
    key("xds.guard.action", "for an update that takes away suspiciously much: off, warn or hold"),
    key("xds.guard.max_removed_percent", "more than this share of clusters going at once is suspicious"),
    key("xds.guard.min_removed", "if it is at least so many"),
    key("xds.guard.hold_for", "how long hold keeps them"),
    key("xds.max_message_bytes", "the largest message of a control plane"),
    key(
        "dns.addresses",
        "answer DNS for the mesh's names here, over UDP and TCP, such as 0.0.0.0:53; none: off",
    ),
    key("dns.grpc_address", "the same for CoreDNS's grpc plugin, such as 0.0.0.0:8053; empty: off"),
    key("dns.zones", "domains that are the mesh's alone: another name in them does not exist"),
    key("dns.ttl", "how long an answer may be kept"),
    key("dns.negative_ttl", "how long it may be kept that there is no such name or address"),
    key(
        "dns.automatic_addresses",
        "give ServiceEntries without addresses some of 240.240.0.0/16 and 2001:2::/48",
    ),
    key("dns.forward", "resolvers, such as 10.96.0.10:53, for names that are not the mesh's; none: REFUSED"),
    key("dns.forward_timeout", "for the answer of each of them"),
    key("dns.max_forwards", "queries that wait for one of them at once"),
    key("dns.max_udp_bytes", "the largest answer over UDP, for a client that takes as much"),
    key("dns.max_query_bytes", "the largest query"),
    key("dns.max_connections", "open TCP connections, and as many of gRPC"),
    key("dns.idle_timeout", "for the next query on a TCP connection, and each of its bytes"),
    key("listen.address", "where a listener binds whose Gateway does not say"),
    key("listen.ports", "Gateway port to bind address, such as {15443: 127.0.0.1:8443}, where they differ"),
    key(
        "listen.proxy_protocol_from",
        "load balancers (ranges) whose connections begin with a PROXY protocol header; nobody else's may",
    ),
    key(
        "listen.exact_balance",
        "give each connection to the data thread that has the fewest, for few and long ones",
    ),
    key("inspect.max_hello_bytes", "the largest ClientHello, up to 131072"),
    key("inspect.timeout", "for the whole ClientHello, from accept"),
    key("routing.require_istio_alpn", "AUTO_PASSTHROUGH takes mesh clients only (they offer an istio ALPN)"),
    key(
        "routing.rewrites",
        "{pattern, replacement} list for AUTO_PASSTHROUGH; empty: .global to .svc.CLUSTER_DOMAIN",
    ),
    key("upstream.connect_timeout", "for one attempt, where no DestinationRule says"),
    key("upstream.connect_attempts", "endpoints to try before the client is refused"),
    key(
        "upstream.answer_timeout",
        "an endpoint that has not begun to answer the ClientHello for this long is left for another; 0: never",
    ),
    key("upstream.connect_deadline", "for all attempts of a connection together"),
    key(
        "upstream.hedge.on",
        "try another endpoint beside one that has not answered within the cluster's 99th percentile",
    ),
    key("upstream.hedge.floor", "but not sooner than this"),
    key("upstream.hedge.ceiling", "nor later than this"),
    key(
        "upstream.retry_backoff",
        "the longest wait before a third attempt; it doubles up to ten times as long, by chance from 0",
    ),
    key(
        "upstream.retry_budget.percent",
        "of a cluster's connections, how many may be in a further attempt at once",
    ),
    key("upstream.retry_budget.min_concurrency", "and how many at least"),
    key(
        "upstream.source_addresses",
        "addresses that connections come from: the first of the endpoint's family; none: the kernel chooses",
    ),
    key("upstream.max_connections_per_endpoint", "open connections of one endpoint; 0: no limit"),
    key("upstream.max_connects_per_endpoint", "those of them that it has not answered yet; 0: no limit"),
    key(
        "upstream.hold_empty",
        "for so long after the start, a client waits whose cluster has no endpoint yet; 0: it is refused at once",
    ),
    key(
        "upstream.dns.servers",
        "resolvers, such as 10.96.0.10:53, for endpoints given by a DNS name; none: those of /etc/resolv.conf",
    ),
    key(
        "upstream.dns.search",
        "use the system's search domains; otherwise a name is looked up as it is written",
    ),
    key("upstream.dns.min_ttl", "an answer is not looked up again before this, whatever its time to live"),
    key("upstream.dns.max_ttl", "and not later than this"),
    key("upstream.dns.timeout", "for one question to one server"),
    key("upstream.dns.retry", "after a look-up that gave no address; twice as long each time"),
    key("upstream.dns.max_retry", "up to this; also how long it is believed that there is no such name"),
    key("upstream.dns.max_lookups", "names that are looked up at once"),
    key(
        "upstream.peak_ewma",
        "LEAST_REQUEST weighs open connections with how long endpoints take to connect, so that slow ones get fewer",
    ),
    key("upstream.hash_by", "what RING_HASH and MAGLEV choose by: source_ip or server_name"),
    key(
        "health.check",
        "how endpoints are checked where the source does not say: off, tcp (connect) or tls (a ClientHello)",
    ),
    key("health.interval", "between two checks of an endpoint"),
    key("health.timeout", "for one check"),
    key("health.jitter", "up to so much is added to each interval at random"),
    key("health.unhealthy_threshold", "failed checks in a row that take an endpoint out"),
    key("health.healthy_threshold", "passed checks in a row that let it in again"),
    key("health.protocols", "what the tls check offers (ALPN)"),
    key("health.max_probes", "checks at the same time, those of the source included; others wait"),
    key("relay.idle_timeout", "close a connection that is silent in both directions for this long"),
    key("relay.keepalive.time", "silence before the first TCP keepalive probe, on both sides"),
    key("relay.keepalive.interval", "between keepalive probes"),
    key("relay.keepalive.probes", "unanswered probes before a connection is given up"),
    key(
        "relay.max_pipes",
        "pipes of 256 KiB that a data thread moves bulk through in the kernel; 0 copies all bytes",
    ),
    key(
        "tls.certs_dir",
        "the gateway's certificate in the mesh (cert-chain.pem, key.pem, root-cert.pem), for TCP servers with ISTIO_MUTUAL",
    ),
    key(
        "relay.max_duration",
        "close a connection that is as old as this, where its route says nothing; 0: never",
    ),
    key(
        "relay.max_duration_jitter",
        "and up to so many percent later, by chance, so that not all come back at once",
    ),
    key(
        "relay.shed.idle",
        "close connections that are idle for so long where their endpoint has more than its share, a few at a time; 0: never",
    ),
    key("relay.shed.tolerance_percent", "how much more than its share an endpoint may have before that"),
    key("vm.config_dir", "a VM's directory (cluster.env and so on) to serve, watched for changes"),
    key("vm.certs_dir", "its certificates; empty: that directory, or /etc/certs where it holds none"),
    key("vm.gateway", "the mesh's gateway, for ${CLUSTER_GW_ADDR}; empty: by cluster.env or hosts"),
    key("vm.ca_address", "the mesh's CA, written as in xds.addresses; empty: by cluster.env; - for none"),
    key("vm.ca_server_name", "the name in the CA's certificate, where it is not the address's"),
    key(
        "vm.redirect",
        "where the firewall redirects outbound connections; empty: services' addresses are bound",
    ),
    key(
        "vm.inbound",
        "service port to local address, such as {8888: 127.0.0.1:8888}, beside ISTIO_INBOUND_PORTS",
    ),
    key("vm.inbound_address", "the VM's address in the mesh; empty: ISTIO_SVC_IP, or the first found"),
    key("vm.inbound_redirect", "where the firewall redirects inbound connections; empty: each port is bound"),
    key(
        "vm.allow",
        "who may connect, as in AuthorizationPolicy principals; empty: the VM's own trust domain",
    ),
    key("limits.max_connections", "open client connections; 0 takes what the file descriptors allow"),
    key("limits.max_pending_hellos", "clients whose ClientHello is not complete yet"),
    key(
        "limits.max_connections_per_client",
        "open connections of one client address, or of one /64 of IPv6; 0: no limit",
    ),
    key("limits.accept_rate", "connections accepted in a second; more wait in the kernel; 0 is no limit"),
    key("limits.reserved_files", "file descriptors that are left for everything but connections"),
    key(
        "limits.memory_bytes",
        "memory that the process may use; 0 is what its cgroup says, if that says anything",
    ),
    key("limits.memory_pause_percent", "of that memory: above it nobody is accepted"),
    key(
        "limits.memory_shed_percent",
        "of that memory: above it idle connections are closed, the newest first",
    ),
    key("threads", "data threads; 0 is one for each core"),
    key(
        "admin.address",
        "metrics, /clusters, /config_dump; IP:PORT or unix:/PATH; elsewhere than on loopback it wants TLS and a token",
    ),
    key(
        "admin.tls_cert_path",
        "the admin port's certificate chain, read for every connection; empty: no TLS",
    ),
    key("admin.tls_key_path", "its key"),
    key("admin.token_path", "a file with the bearer token that whoever asks must know; empty: none"),
    key("admin.insecure", "serve the admin port to other machines without TLS or a token"),
    key("admin.readiness_address", "/healthz/ready for Kubernetes; empty for none"),
    key(
        "admin.metrics_address",
        "/stats/prometheus alone, for a scraper from outside, such as 0.0.0.0:15090; empty for none",
    ),
    key("access_log.path", "one record for each connection; - is standard output, empty is off"),
    key("access_log.format", "json or text"),
    key(
        "access_log.format_string",
        "a line by Envoy's operators, such as [%START_TIME%] %RESPONSE_FLAGS% %UPSTREAM_HOST%; goes before the format",
    ),
    key(
        "access_log.fields",
        "a JSON object by such strings, such as {sni: \"%REQUESTED_SERVER_NAME%\"}; goes before the format",
    ),
    key("access_log.only_failures", "leave out connections that ended in the ordinary way"),
    key("access_log.min_duration", "and of these, those that were shorter"),
    key(
        "access_log.sample_percent",
        "of the others, record so many of a hundred; those that failed are all recorded",
    ),
    key(
        "metrics.istio",
        "Istio's standard metrics of TCP (istio_tcp_...) beside our own, of the services that were asked for",
    ),
    key("metrics.envoy", "Envoy's names (envoy_cluster_..., envoy_listener_...) beside our own"),
    key(
        "metrics.server_names",
        "so many server names have metrics of their own, those with most connections, failures or bytes; 0: none",
    ),
    key(
        "otlp.address",
        "an OpenTelemetry collector's OTLP/gRPC port, such as http://otel-collector:4317 or https://otel.example:4317; empty: none",
    ),
    key("otlp.ca_path", "the certificates by which an https collector is verified; empty: this machine's"),
    key("otlp.logs", "send it a log record of each connection that the access log's filter lets through"),
    key("otlp.traces", "send it a span of each, with its phases and its attempts to connect as spans below"),
    key("log.level", "error, warn, info, debug, or a tracing filter such as info,eastgate=debug"),
    key("log.format", "text or json"),
    key(
        "drain.grace",
        "after SIGTERM, how long clients are still accepted while it is told that it is not ready",
    ),
    key("drain.timeout", "after that, how long open connections may go on"),
    key(
        "drain.close_idle",
        "meanwhile, connections that are silent for this long are closed; 0s: only at the end",
    ),
    key(
        "drain.spread",
        "idle connections, and the rest at the end, are closed over this long and not all at once",
    ),
    key(
        "drain.removed_endpoints",
        "connections to an endpoint that is taken away or becomes unhealthy: keep, close-idle, or close-within 30s",
    ),
    key(
        "restart.socket",
        "a Unix socket where a new process takes over from this one without losing a connection; empty: none",
    ),
    key(
        "security.landlock",
        "keep the process from all files but those that the settings name and the system's libraries, resolver and roots",
    ),
    key(
        "security.seccomp",
        "keep the process from system calls that it has no use for, such as execve; no program is started any more",
    ),
    key(
        "security.readable",
        "with security.landlock, further files and directories to be read, such as those that DestinationRules name",
    ),
];
