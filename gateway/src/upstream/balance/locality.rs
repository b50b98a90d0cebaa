//! How a priority's connections are shared by its localities.
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/locality_weight>
//! <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/zone_aware>

use std::collections::BTreeMap;
use std::sync::Arc;

use eastgate_config::cluster::Cluster;
use eastgate_config::endpoint::Health;

use super::super::endpoint::Endpoint;
use super::Process;

/// Localities by their place in the cluster's configuration, with their parts of the whole, which sum up to 1.
pub(super) type Parts = BTreeMap<usize, f64>;

/// As much in the gateway's own zone as its endpoints there can take, if all replicas do so and every endpoint is to have
/// the same; the rest where endpoints have room left. `None` where zones do not count. The endpoints are the eligible ones
/// of the first priority.
pub(super) fn by_zone(config: &Cluster, eligible: &[(&Arc<Endpoint>, f64)], here: &Process) -> Option<Parts> {
    let rule = config.zone_aware?;
    let all_replicas: u32 = here.replicas.values().sum();
    let mut endpoints: BTreeMap<usize, u32> = BTreeMap::new();
    for (endpoint, _) in eligible {
        *endpoints.entry(endpoint.group).or_default() += 1;
    }
    let place = |group: &usize| config.localities.get(*group).map(|group| &group.locality);
    let own = *endpoints.keys().find(|group| place(group) == Some(&here.locality))?;
    if endpoints.len() < 2 || all_replicas == 0 || (eligible.len() as u64) < rule.min_cluster_size {
        return None;
    }
    let of_endpoints: Parts =
        endpoints.iter().map(|(group, count)| (*group, f64::from(*count) / eligible.len() as f64)).collect();
    let of_replicas = |group: &usize| {
        let count = place(group).and_then(|place| here.replicas.get(place)).copied().unwrap_or(0);
        f64::from(count) / f64::from(all_replicas)
    };
    let forced = rule.force_from.is_some_and(|least| endpoints[&own] >= least);
    let stay = if forced { 1.0 } else { (of_endpoints[&own] / of_replicas(&own)).min(1.0) };
    let room = |group: &usize| (of_endpoints[group] - of_replicas(group)).max(0.0);
    let all_room: f64 = of_endpoints.keys().map(room).sum();
    let zoned = f64::from(rule.percent) / 100.0;
    let part = |(group, of_endpoints): (&usize, &f64)| {
        let away = match all_room > 0.0 {
            true => room(group) / all_room,
            false => 1.0 / endpoints.len() as f64,
        };
        let here = if *group == own { stay } else { 0.0 };
        (*group, zoned * (here + (1.0 - stay) * away) + (1.0 - zoned) * of_endpoints)
    };
    Some(of_endpoints.iter().map(part).collect())
}

/// By weight, less what a locality has lost: one with too few of its endpoints left gives to the others. `None` where
/// localities are not weighed.
pub(super) fn by_weight(
    config: &Cluster,
    priority: &[&Arc<Endpoint>],
    is_eligible: impl Fn(&Endpoint) -> bool,
    overprovisioning: u32,
) -> Option<Parts> {
    if !config.locality_weighted {
        return None;
    }
    let mut counts: BTreeMap<usize, (u32, u32)> = BTreeMap::new();
    for endpoint in priority.iter().filter(|endpoint| endpoint.health != Health::Draining) {
        let (eligible, total) = counts.entry(endpoint.group).or_default();
        *eligible += u32::from(is_eligible(endpoint));
        *total += 1;
    }
    let weight = |(group, (eligible, total)): (usize, (u32, u32))| {
        let weight = config.localities.get(group).and_then(|locality| locality.weight).unwrap_or(0);
        let left = f64::from(eligible) / f64::from(total);
        (group, f64::from(weight) * (left * f64::from(overprovisioning) / 100.0).min(1.0))
    };
    let weights: Parts = counts.into_iter().map(weight).filter(|(_, weight)| *weight > 0.0).collect();
    let sum: f64 = weights.values().sum();
    (sum > 0.0).then(|| weights.into_iter().map(|(group, weight)| (group, weight / sum)).collect())
}
