//! How an endpoint is chosen: the old fields of a cluster and the extensions that replace them.

use eastgate_proto::Message;
use eastgate_proto::envoy::config::cluster::v3 as wire;
use eastgate_proto::envoy::extensions::load_balancing_policies as policies;
use eastgate_proto::google::protobuf as pb;
use policies::common::v3::SlowStartConfig;
use policies::common::v3::locality_lb_config::LocalityConfigSpecifier;
use policies::least_request::v3::least_request::SelectionMethod;
use policies::{maglev, random, ring_hash, round_robin, wrr_locality};
use wire::cluster::{LbConfig, LbPolicy, common_lb_config};

use super::Problem;
use super::values::{self, duration, percent, thousandths};
use crate::cluster::{
    Cluster, HashFunction, LeastRequest, MAX_MAGLEV_TABLE, MAX_RING, Policy, RingHash, SlowStart, ZoneAware,
};

pub(super) fn decode(message: &wire::Cluster, cluster: &mut Cluster) -> Result<(), Problem> {
    if let Some(common) = &message.common_lb_config {
        use common_lb_config::LocalityConfigSpecifier as Specifier;
        cluster.panic_threshold =
            percent("common_lb_config.healthy_panic_threshold", common.healthy_panic_threshold)?;
        match &common.locality_config_specifier {
            Some(Specifier::LocalityWeightedLbConfig(_)) => cluster.locality_weighted = true,
            Some(Specifier::ZoneAwareLbConfig(config)) => {
                let mut rule = zone_aware(config.routing_enabled, config.min_cluster_size)
                    .map_err(|problem| problem.inside("common_lb_config.zone_aware_lb_config"))?;
                rule.fail_on_panic = config.fail_traffic_on_panic;
                cluster.zone_aware = Some(rule);
            }
            None => {}
        }
        if common.override_host_status.is_some() {
            let reason = "endpoints are not chosen by the client here";
            return Err(Problem::at("common_lb_config.override_host_status", reason));
        }
    }
    if let Some(extension) = &message.load_balancing_policy {
        return extensions(extension, cluster).map_err(|problem| problem.inside("load_balancing_policy"));
    }
    cluster.policy = policy(message)?;
    if let Some(LbConfig::LeastRequestLbConfig(config)) = &message.lb_config {
        let bias = config.active_request_bias.as_ref().map(|bias| bias.default_value);
        cluster.least_request = least_request(config.choice_count, bias)
            .map_err(|problem| problem.inside("least_request_lb_config"))?;
    }
    let slow_start = match &message.lb_config {
        Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config.as_ref(),
        Some(LbConfig::LeastRequestLbConfig(config)) => config.slow_start_config.as_ref(),
        _ => None,
    };
    cluster.slow_start = slow_start
        .map(|config| {
            let aggression = config.aggression.as_ref().map(|aggression| aggression.default_value);
            self::slow_start(config.slow_start_window, aggression, config.min_weight_percent)
        })
        .transpose()
        .map_err(|problem| problem.inside("slow_start_config"))?
        .flatten();
    Ok(())
}

fn policy(message: &wire::Cluster) -> Result<Policy, Problem> {
    let known = LbPolicy::try_from(message.lb_policy)
        .map_err(|_| Problem::at("lb_policy", format!("{} is not known here", message.lb_policy)))?;
    match known {
        LbPolicy::RoundRobin => Ok(Policy::RoundRobin),
        LbPolicy::LeastRequest => Ok(Policy::LeastRequest),
        LbPolicy::Random => Ok(Policy::Random),
        LbPolicy::RingHash => {
            let config = match &message.lb_config {
                Some(LbConfig::RingHashLbConfig(config)) => *config,
                _ => Default::default(),
            };
            let murmur = config.hash_function == 1;
            ring(config.minimum_ring_size, config.maximum_ring_size, murmur)
                .map_err(|problem| problem.inside("ring_hash_lb_config"))
        }
        LbPolicy::Maglev => {
            let size = match &message.lb_config {
                Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
                _ => None,
            };
            table(size).map_err(|problem| problem.inside("maglev_lb_config"))
        }
        LbPolicy::ClusterProvided => {
            Err(Problem::at("lb_policy", "CLUSTER_PROVIDED belongs to cluster types that are not known here"))
        }
        LbPolicy::LoadBalancingPolicyConfig => Err(Problem::at("load_balancing_policy", "there is none")),
    }
}

fn ring(
    minimum: Option<pb::UInt64Value>,
    maximum: Option<pb::UInt64Value>,
    murmur: bool,
) -> Result<Policy, Problem> {
    let minimum_size = minimum.map_or(1024, |size| size.value);
    let maximum_size = maximum.map_or(MAX_RING, |size| size.value);
    if maximum_size > MAX_RING || maximum_size == 0 {
        return Err(Problem::at("maximum_ring_size", format!("it must be from 1 to {MAX_RING}")));
    }
    if minimum_size > maximum_size {
        return Err(Problem::at("minimum_ring_size", "it is more than maximum_ring_size"));
    }
    let function = if murmur { HashFunction::MurmurHash2 } else { HashFunction::XxHash };
    Ok(Policy::RingHash(RingHash { minimum_size, maximum_size, function }))
}

fn table(size: Option<pb::UInt64Value>) -> Result<Policy, Problem> {
    let wrong = || Problem::at("table_size", format!("it must be a prime up to {MAX_MAGLEV_TABLE}"));
    Policy::maglev(size.map(|size| size.value)).ok_or_else(wrong)
}

fn zone_aware(
    enabled: Option<eastgate_proto::envoy::r#type::v3::Percent>,
    size: Option<pb::UInt64Value>,
) -> Result<ZoneAware, Problem> {
    Ok(ZoneAware {
        percent: percent("routing_enabled", enabled)?.unwrap_or(100),
        min_cluster_size: size.map_or(6, |size| size.value),
        force_from: None,
        fail_on_panic: false,
    })
}

fn least_request(choices: Option<pb::UInt32Value>, bias: Option<f64>) -> Result<LeastRequest, Problem> {
    let usual = LeastRequest::default();
    let choices = choices.map_or(usual.choices, |count| count.value);
    if choices < 2 {
        return Err(Problem::at("choice_count", "it must be at least 2"));
    }
    let active_request_bias = thousandths("active_request_bias", bias)?.unwrap_or(usual.active_request_bias);
    Ok(LeastRequest { choices, active_request_bias, ..usual })
}

fn slow_start(
    window: Option<pb::Duration>,
    aggression: Option<f64>,
    min_weight: Option<eastgate_proto::envoy::r#type::v3::Percent>,
) -> Result<Option<SlowStart>, Problem> {
    let Some(window) = duration("slow_start_window", window)?.filter(|window| !window.is_zero()) else {
        return Ok(None);
    };
    Ok(Some(SlowStart {
        window,
        aggression: thousandths("aggression", aggression)?.unwrap_or(1000),
        min_weight_percent: percent("min_weight_percent", min_weight)?.unwrap_or(10),
    }))
}

/// The first policy that is known counts, as xDS has it for extension lists.
fn extensions(message: &wire::LoadBalancingPolicy, cluster: &mut Cluster) -> Result<(), Problem> {
    let mut refused = Vec::new();
    for policy in &message.policies {
        let Some(any) =
            policy.typed_extension_config.as_ref().and_then(|config| config.typed_config.as_ref())
        else {
            continue;
        };
        match values::kind(any) {
            "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality" => {
                let outer: wrr_locality::v3::WrrLocality = read(any)?;
                cluster.locality_weighted = true;
                // One level: a policy inside another that is itself of this kind makes no sense.
                let inner = outer.endpoint_picking_policy.unwrap_or_default();
                for policy in &inner.policies {
                    let config = policy.typed_extension_config.as_ref();
                    if let Some(any) = config.and_then(|config| config.typed_config.as_ref())
                        && extension(any, cluster)?
                    {
                        return Ok(());
                    }
                }
            }
            _ if extension(any, cluster)? => return Ok(()),
            _ => {}
        }
        refused.push(values::kind(any).to_owned());
    }
    Err(Problem::at("policies", format!("none of them is known here: {}", refused.join(", "))))
}

fn read<M: Message + Default>(any: &pb::Any) -> Result<M, Problem> {
    M::decode(any.value.as_slice()).map_err(|error| Problem::at("typed_config", error.to_string()))
}

/// Takes over one policy; false where it is not known.
fn extension(any: &pb::Any, cluster: &mut Cluster) -> Result<bool, Problem> {
    let kind = values::kind(any);
    let Some(kind) = kind.strip_prefix("envoy.extensions.load_balancing_policies.") else { return Ok(false) };
    let mut slow = None;
    let mut locality = None;
    cluster.policy = match kind {
        "round_robin.v3.RoundRobin" => {
            let config: round_robin::v3::RoundRobin = read(any)?;
            (slow, locality) = (config.slow_start_config, config.locality_lb_config);
            Policy::RoundRobin
        }
        "least_request.v3.LeastRequest" => {
            let config: policies::least_request::v3::LeastRequest = read(any)?;
            let bias = config.active_request_bias.as_ref().map(|bias| bias.default_value);
            let full_scan = config.selection_method() == SelectionMethod::FullScan;
            cluster.least_request = LeastRequest { full_scan, ..least_request(config.choice_count, bias)? };
            (slow, locality) = (config.slow_start_config, config.locality_lb_config);
            Policy::LeastRequest
        }
        "random.v3.Random" => {
            locality = read::<random::v3::Random>(any)?.locality_lb_config;
            Policy::Random
        }
        "ring_hash.v3.RingHash" => {
            let config: ring_hash::v3::RingHash = read(any)?;
            cluster.locality_weighted |= config.locality_weighted_lb_config.is_some();
            ring(config.minimum_ring_size, config.maximum_ring_size, config.hash_function == 2)?
        }
        "maglev.v3.Maglev" => {
            let config: maglev::v3::Maglev = read(any)?;
            cluster.locality_weighted |= config.locality_weighted_lb_config.is_some();
            table(config.table_size)?
        }
        _ => return Ok(false),
    };
    match locality.and_then(|locality| locality.locality_config_specifier) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => cluster.locality_weighted = true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(config)) => {
            let mut rule = zone_aware(config.routing_enabled, config.min_cluster_size)
                .map_err(|problem| problem.inside("locality_lb_config.zone_aware_lb_config"))?;
            rule.fail_on_panic = config.fail_traffic_on_panic;
            rule.force_from =
                config.force_local_zone.map(|force| force.min_size.map_or(1, |size| size.value));
            cluster.zone_aware = Some(rule);
        }
        None => {}
    }
    if let Some(SlowStartConfig { slow_start_window, aggression, min_weight_percent }) = slow {
        let aggression = aggression.map(|aggression| aggression.default_value);
        cluster.slow_start = slow_start(slow_start_window, aggression, min_weight_percent)?;
    }
    Ok(true)
}
