//! The network filters of a chain: what they do to a connection becomes a route and options.

use std::sync::Arc;

use eastgate_proto::Message;
use eastgate_proto::envoy::config::core::v3 as core;
use eastgate_proto::envoy::config::listener::v3 as wire;
use eastgate_proto::envoy::extensions::filters::network;
use eastgate_proto::envoy::r#type::v3 as kinds;
use eastgate_proto::google::protobuf as pb;
use eastgate_proto::istio::{TcpClusterRewrite, TypedStruct};
use kinds::hash_policy::PolicySpecifier;
use network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use wire::filter::ConfigType;

use super::values::{self, duration};
use super::{Problem, rbac};
use crate::listener::{ChainOptions, ConnectionLimit, HashPolicy, RateLimit};
use crate::route::{ByServerName, Rewrite, Route, WeightedCluster};

const SNI_CLUSTER: &str = "envoy.filters.network.sni_cluster";
const REWRITE: &str = "envoy.filters.network.tcp_cluster_rewrite";
/// Envoy's floor; a bucket that is filled more often than this is a busy loop.
const MIN_FILL: std::time::Duration = std::time::Duration::from_millis(50);

/// What the filters of a chain come to.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) route: Route,
    pub(super) idle_timeout: Option<std::time::Duration>,
    pub(super) options: ChainOptions,
}

#[derive(Debug, Default)]
struct Reader {
    by_server_name: Option<ByServerName>,
    options: ChainOptions,
}

/// Filters run in order and `tcp_proxy` ends them, as in Envoy.
pub(super) fn decode(filters: &[wire::Filter]) -> Result<Filters, Problem> {
    let Some((last, before)) = filters.split_last() else {
        return Err(Problem::at("filters", "there are none, and nothing says where connections go"));
    };
    let mut reader = Reader::default();
    for (index, filter) in before.iter().enumerate() {
        reader.filter(filter).map_err(|problem| problem.inside(&format!("filters[{index}]")))?;
    }
    let at = format!("filters[{}]", before.len());
    reader.last(last).map_err(|problem| problem.inside(&at))
}

impl Reader {
    fn filter(&mut self, filter: &wire::Filter) -> Result<(), Problem> {
        let any = config(filter)?;
        let kind = any.map_or(filter.name.as_str(), values::kind);
        let empty = pb::Any::default();
        let any = any.unwrap_or(&empty);
        match kind {
            SNI_CLUSTER | "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => {
                self.by_server_name.get_or_insert_default();
                Ok(())
            }
            "istio.envoy.config.filter.network.tcp_cluster_rewrite.v2alpha1.TcpClusterRewrite" => {
                self.rewrite(&read(any)?)
            }
            "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct" => {
                self.typed_struct(&filter.name, &read(any)?)
            }
            "envoy.extensions.filters.network.rbac.v3.RBAC" => self.rbac(&read(any)?),
            "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => self.limit(&read(any)?),
            "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" => self.rate(&read(any)?),
            kind if only_observes(kind) => Ok(()),
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
                Err(Problem::at("typed_config", "nothing can come after tcp_proxy"))
            }
            kind => {
                Err(Problem::at("typed_config", format!("the network filter {kind:?} is not known here")))
            }
        }
    }

    fn last(mut self, filter: &wire::Filter) -> Result<Filters, Problem> {
        let any = config(filter)?;
        match any.map(|any| (values::kind(any), any)) {
            Some(("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", any)) => {
                let message: TcpProxy = read(any)?;
                let idle_timeout = duration("typed_config.idle_timeout", message.idle_timeout)?;
                let route = self.tcp_proxy(message).map_err(|problem| problem.inside("typed_config"))?;
                Ok(Filters { route, idle_timeout, options: self.options })
            }
            other => {
                let name = other.map_or(filter.name.as_str(), |(kind, _)| kind);
                let reason = format!("the last filter is {name:?}; only tcp_proxy can end a chain here");
                Err(Problem::at("typed_config", reason))
            }
        }
    }

    fn rewrite(&mut self, message: &TcpClusterRewrite) -> Result<(), Problem> {
        // An empty pattern is how the filter is switched off. Without sni_cluster before it there is no
        // per-connection cluster, and then Istio's filter does nothing either.
        let Some(route) = self.by_server_name.as_mut().filter(|_| !message.cluster_pattern.is_empty()) else {
            return Ok(());
        };
        let rewrite = Rewrite::new(&message.cluster_pattern, &message.cluster_replacement)
            .map_err(|error| Problem::at("typed_config.cluster_pattern", error.to_string()))?;
        route.rewrites.push(rewrite);
        Ok(())
    }

    fn typed_struct(&mut self, name: &str, message: &TypedStruct) -> Result<(), Problem> {
        let kind = message.type_url.rsplit('/').next().unwrap_or_default();
        if name == REWRITE || kind.ends_with(".TcpClusterRewrite") {
            let fields = message.value.clone().unwrap_or_default();
            // protobuf's JSON form knows both spellings.
            let text = |snake: &str, camel: &str| {
                values::text_at(&fields, &[snake])
                    .or_else(|| values::text_at(&fields, &[camel]))
                    .unwrap_or_default()
                    .to_owned()
            };
            return self.rewrite(&TcpClusterRewrite {
                cluster_pattern: text("cluster_pattern", "clusterPattern"),
                cluster_replacement: text("cluster_replacement", "clusterReplacement"),
            });
        }
        if only_observes(kind) {
            return Ok(());
        }
        Err(Problem::at("typed_config", format!("the network filter {kind:?} is not known here")))
    }

    fn rbac(&mut self, message: &network::rbac::v3::Rbac) -> Result<(), Problem> {
        if message.matcher.is_some() {
            return Err(Problem::at("typed_config.matcher", "matching trees are not evaluated here"));
        }
        let Some(rules) = &message.rules else { return Ok(()) };
        let rules = rbac::decode(rules).map_err(|problem| problem.inside("typed_config.rules"))?;
        self.options.rbac.extend(rules.map(Arc::new));
        Ok(())
    }

    fn limit(&mut self, message: &network::connection_limit::v3::ConnectionLimit) -> Result<(), Problem> {
        if is_off(message.runtime_enabled.as_ref()) {
            return Ok(());
        }
        let max_connections = message.max_connections.map_or(0, |limit| limit.value);
        if max_connections == 0 {
            return Err(Problem::at("typed_config.max_connections", "it must be at least 1"));
        }
        if self.options.connection_limit.is_some() {
            return Err(Problem::at("typed_config", "the chain has two connection limits"));
        }
        let delay = duration("typed_config.delay", message.delay)?.unwrap_or_default();
        self.options.connection_limit = Some(ConnectionLimit { max_connections, delay });
        Ok(())
    }

    fn rate(&mut self, message: &network::local_ratelimit::v3::LocalRateLimit) -> Result<(), Problem> {
        if is_off(message.runtime_enabled.as_ref()) {
            return Ok(());
        }
        if self.options.rate_limit.is_some() {
            return Err(Problem::at("typed_config", "the chain has two rate limits"));
        }
        let mut limit = bucket(message.token_bucket)?;
        limit.share_key.clone_from(&message.share_key);
        self.options.rate_limit = Some(limit);
        Ok(())
    }

    fn tcp_proxy(&mut self, message: TcpProxy) -> Result<Route, Problem> {
        let unsafe_fields = [
            (message.on_demand.is_some(), "on_demand", "clusters are not asked for when they are needed"),
            (message.tunneling_config.is_some(), "tunneling_config", "connections are not put into HTTP"),
            (
                message.metadata_match.is_some(),
                "metadata_match",
                "endpoints are not chosen by their metadata",
            ),
        ];
        if let Some((_, field, reason)) = unsafe_fields.into_iter().find(|(present, ..)| *present) {
            return Err(Problem::at(field, reason));
        }
        let attempts = message.max_connect_attempts.map(|attempts| attempts.value);
        if attempts == Some(0) {
            return Err(Problem::at("max_connect_attempts", "it must be at least 1"));
        }
        self.options.max_connect_attempts = attempts;
        self.options.max_connection_duration =
            duration("max_downstream_connection_duration", message.max_downstream_connection_duration)?;
        let jitter = message.max_downstream_connection_duration_jitter_percentage;
        self.options.max_duration_jitter_percent =
            values::percent("max_downstream_connection_duration_jitter_percentage", jitter)?;
        self.options.access_log = !message.access_log.is_empty();
        self.options.hash_policy = match message.hash_policy.first().map(|one| &one.policy_specifier) {
            None | Some(None) => None,
            Some(Some(PolicySpecifier::SourceIp(_))) => Some(HashPolicy::SourceIp),
            Some(Some(PolicySpecifier::FilterState(_))) => {
                return Err(Problem::at("hash_policy[0].filter_state", "only the source address is hashed"));
            }
        };
        let clusters = clusters(message.cluster_specifier)?;
        Ok(Route { clusters, by_server_name: self.by_server_name.take() })
    }
}

fn clusters(specifier: Option<tcp_proxy::ClusterSpecifier>) -> Result<Vec<WeightedCluster>, Problem> {
    use tcp_proxy::ClusterSpecifier;
    let weighted = match specifier {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => return Ok(Route::to(name).clusters),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted.clusters,
        _ => return Err(Problem::at("cluster", "there is none")),
    };
    let mut sum = 0;
    let mut clusters = Vec::with_capacity(weighted.len());
    for (index, one) in weighted.into_iter().enumerate() {
        let field = |field: &str| format!("weighted_clusters.clusters[{index}].{field}");
        if one.metadata_match.is_some() {
            return Err(Problem::at(field("metadata_match"), "endpoints are not chosen by their metadata"));
        }
        if one.name.is_empty() {
            return Err(Problem::at(field("name"), "there is none"));
        }
        sum += u64::from(one.weight);
        clusters.push(WeightedCluster { name: one.name, weight: one.weight });
    }
    match u32::try_from(sum) {
        Ok(1..) => Ok(clusters),
        _ => Err(Problem::at("weighted_clusters", "the sum of the weights must be from 1 to 4,294,967,295")),
    }
}

/// None where the filter has a name and nothing else.
fn config(filter: &wire::Filter) -> Result<Option<&pb::Any>, Problem> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(Some(any)),
        Some(ConfigType::ConfigDiscovery(_)) => {
            Err(Problem::at("config_discovery", "filters are not discovered on their own"))
        }
        None => Ok(None),
    }
}

fn read<M: Message + Default>(any: &pb::Any) -> Result<M, Problem> {
    M::decode(any.value.as_slice()).map_err(|error| Problem::at("typed_config", error.to_string()))
}

/// Istio's filters that count connections or talk to their peer inside a TLS session that is not ours.
fn only_observes(kind: &str) -> bool {
    matches!(
        kind,
        "istio.stats"
            | "stats.PluginConfig"
            | "istio.metadata_exchange"
            | "envoy.tcp.metadata_exchange.config.MetadataExchange"
            | "io.istio.network.peer_metadata.Config"
    )
}

pub(super) fn is_off(flag: Option<&core::RuntimeFeatureFlag>) -> bool {
    flag.and_then(|flag| flag.default_value).is_some_and(|value| !value.value)
}

pub(super) fn bucket(message: Option<kinds::TokenBucket>) -> Result<RateLimit, Problem> {
    let wrong =
        |field: &str, reason: &str| Err(Problem::at(format!("typed_config.token_bucket{field}"), reason));
    let Some(message) = message else { return wrong("", "there is none") };
    if message.max_tokens == 0 {
        return wrong(".max_tokens", "it must be at least 1");
    }
    let tokens_per_fill = message.tokens_per_fill.map_or(1, |tokens| tokens.value);
    if tokens_per_fill == 0 {
        return wrong(".tokens_per_fill", "it must be at least 1");
    }
    match duration("typed_config.token_bucket.fill_interval", message.fill_interval)? {
        Some(fill_interval) if fill_interval >= MIN_FILL => Ok(RateLimit {
            max_tokens: message.max_tokens,
            tokens_per_fill,
            fill_interval,
            share_key: String::new(),
        }),
        _ => wrong(".fill_interval", "it must be at least 50 ms"),
    }
}
