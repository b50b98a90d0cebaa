//! Which endpoint takes the next connection. Pure: time and chance come in as arguments.
//!
//! ```text
//!  endpoints, their flags ─ priority (loads) ─ locality (parts) ─→ shares of the groups
//!  pick:  Balancer ─ by share ─→ Group ─ by the cluster's policy ─→ Endpoint
//! ```
//!
//! A group is those endpoints of a priority, and of a locality where these are weighed, that are equally well. Its share
//! follows from Envoy's formulas. A group of no share is there for a connection that finds nothing left in another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use eastgate_config::cluster::{Cluster, Policy};
use eastgate_config::endpoint::Health;
use eastgate_config::locality::Locality;

use super::endpoint::Endpoint;

mod group;
pub mod hashing;
mod locality;
mod priority;
mod round_robin;
mod slow_start;

use group::{Asked, Draft};
pub use group::{Group, warmth};
use locality::Parts;
use priority::{Census, Load};

/// The endpoints that may be chosen, ready for the cluster's policy.
#[derive(Debug)]
pub struct Balancer {
    /// In the order in which they are turned to when the one that was drawn has no endpoint left.
    groups: Box<[Group]>,
    /// Running sums of their shares: a draw below the last finds its group.
    sums: Box<[u64]>,
    /// A connection's key chooses, not chance.
    by_key: bool,
    /// With too few endpoints that are well, all are used.
    panics: bool,
}

/// What a choice is prepared by, beside the cluster and its endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How old endpoints are shows against this.
    pub now: Instant,
    /// Where round robin goes on.
    pub turn: usize,
    /// What holds for all clusters.
    pub process: &'a Process,
}

/// What choices need to know of the process that they are made in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Whether least request weighs open connections with how long an endpoint takes (peak EWMA).
    pub peak_ewma: bool,
    /// Where the gateway stands.
    pub locality: Locality,
    /// The cluster of the gateway's own replicas, if it is known by name.
    pub local_cluster: String,
    /// How many of them are where, this one included; none where that is not known.
    pub replicas: BTreeMap<Locality, u32>,
}

/// A group's part of its priority, if it has all of it.
const WHOLE: f64 = 1e6;

impl Balancer {
    /// Prepares a choice among the endpoints as they are now.
    pub fn new(config: &Cluster, endpoints: &[Arc<Endpoint>], terms: Terms<'_>) -> Self {
        let mut priorities: BTreeMap<u32, Vec<&Arc<Endpoint>>> = BTreeMap::new();
        for endpoint in endpoints {
            let priority = config.localities.get(endpoint.group).map_or(0, |group| group.priority);
            priorities.entry(priority).or_default().push(endpoint);
        }
        let censuses: Vec<_> = priorities.values().map(|endpoints| Census::of(endpoints)).collect();
        let overprovisioning = config.overprovisioning_factor.unwrap_or(priority::OVERPROVISIONING);
        let threshold = config.panic_threshold.unwrap_or(priority::PANIC_THRESHOLD);
        let loads = priority::loads(&censuses, overprovisioning, threshold);
        let by_key = matches!(config.policy, Policy::RingHash(_) | Policy::Maglev { .. });
        let mut drafts = Vec::new();
        for ((priority, endpoints), load) in priorities.iter().zip(loads) {
            // Zones are those of the first priority, as in Envoy.
            let zoned = Some(terms.process).filter(|_| *priority == 0 && !by_key);
            let level = Level { config, priority: *priority, endpoints, overprovisioning, by_key, zoned };
            level.draft(load, &mut drafts);
        }
        drafts.sort_by_key(Draft::rank);
        let groups: Box<[_]> = drafts.iter().map(|draft| Group::new(config, draft, terms)).collect();
        let sums = groups.iter().scan(0, |sum, group| {
            *sum += group.share;
            Some(*sum)
        });
        Self { sums: sums.collect(), groups, by_key, panics: threshold > 0 }
    }

    /// The endpoints that new connections go to, as long as none of them fails.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.groups.iter().filter(|group| group.share > 0).flat_map(Group::endpoints)
    }

    /// The groups, in the order in which they stand in for one another.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Where round robin is.
    pub fn turn(&self) -> usize {
        self.groups.iter().map(Group::turn).max().unwrap_or_default()
    }

    /// An endpoint for a new connection, other than those tried before and those that went out since the choice was
    /// made; `None` when none is left. `key` is what the connection is hashed by, where it is; `draw(n)` gives a number
    /// below `n` by chance.
    pub fn pick(
        &self,
        tried: &[SocketAddr],
        key: Option<u64>,
        now: Instant,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<&Arc<Endpoint>> {
        let draw = &mut draw;
        // Without a key, any place is as good as another.
        let key = if self.by_key { key.unwrap_or_else(|| draw(u64::MAX)) } else { 0 };
        let asked = Asked { key, now, first: tried.is_empty() };
        let drawn = self.groups.get(self.drawn(key, draw))?;
        if let Some(picked) = left_of(drawn, asked, tried, draw) {
            return Some(picked);
        }
        // Whoever has to go elsewhere is spread there as all are.
        for equals in self.groups.chunk_by(|one, other| one.rank() == other.rank()) {
            let (before, from) = equals.split_at(drawn_by_part(equals, draw));
            let mut groups = from.iter().chain(before);
            if let Some(picked) = groups.find_map(|group| left_of(group, asked, tried, draw)) {
                return Some(picked);
            }
        }
        // All went out since: the choice that follows from it will be one in panic, where the cluster knows that.
        let mut groups = self.groups.iter().filter(|_| self.panics);
        groups.find_map(|group| group.pick(asked, draw, |endpoint| !tried.contains(&endpoint.address)))
    }

    /// The index of a group, drawn by share.
    fn drawn(&self, key: u64, draw: &mut impl FnMut(u64) -> u64) -> usize {
        let whole = self.sums.last().copied().unwrap_or_default();
        if self.groups.len() < 2 || whole == 0 {
            return 0;
        }
        let point = if self.by_key { key % whole } else { draw(whole) };
        self.sums.partition_point(|sum| *sum <= point)
    }
}

/// One of a group's endpoints that was not tried, and that is not out where that counts.
fn left_of<'a>(
    group: &'a Group,
    asked: Asked,
    tried: &[SocketAddr],
    draw: &mut impl FnMut(u64) -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let is_left =
        |endpoint: &Endpoint| (group.panic || !endpoint.stats.is_out()) && !tried.contains(&endpoint.address);
    group.pick(asked, draw, is_left)
}

/// The index of one of these groups, which are equally good.
fn drawn_by_part(groups: &[Group], draw: &mut impl FnMut(u64) -> u64) -> usize {
    if groups.len() < 2 {
        return 0;
    }
    let mut point = draw(groups.iter().map(|group| group.part).sum::<u64>().max(1));
    let is_past = |group: &Group| point.checked_sub(group.part).map(|left| point = left).is_none();
    groups.iter().position(is_past).unwrap_or(0)
}

/// A priority, on its way to being groups.
struct Level<'a> {
    config: &'a Cluster,
    priority: u32,
    endpoints: &'a [&'a Arc<Endpoint>],
    overprovisioning: u32,
    by_key: bool,
    /// Where the gateway is, if that may count here.
    zoned: Option<&'a Process>,
}

impl<'a> Level<'a> {
    fn draft(&self, load: Load, drafts: &mut Vec<Draft<'a>>) {
        if load.panic && self.config.zone_aware.is_some_and(|rule| rule.fail_on_panic) {
            return;
        }
        if load.panic {
            // Who drains is well, and wants no new connections all the same.
            let drains = |endpoint: &Endpoint| endpoint.health == Health::Draining;
            let all_drain = self.endpoints.iter().all(|endpoint| drains(endpoint));
            let members = self.members(|endpoint| all_drain || !drains(endpoint));
            return drafts.push(self.group((false, true), (load.healthy, 1.0), members));
        }
        for (degraded, load) in [(false, load.healthy), (true, load.degraded)] {
            let is_eligible = |endpoint: &Endpoint| {
                endpoint.takes_connections() && (endpoint.health == Health::Degraded) == degraded
            };
            let members = self.members(is_eligible);
            let by_zone = self.zoned.and_then(|here| locality::by_zone(self.config, &members, here));
            let by_weight =
                || locality::by_weight(self.config, self.endpoints, is_eligible, self.overprovisioning);
            match by_zone.or_else(by_weight) {
                Some(parts) if self.by_key => {
                    drafts.push(self.group((degraded, false), (load, 1.0), weighed(&parts, members)));
                }
                Some(parts) => {
                    for (locality, part) in parts {
                        let here = members.iter().filter(|(endpoint, _)| endpoint.group == locality);
                        drafts.push(self.group((degraded, false), (load, part), here.copied().collect()));
                    }
                }
                None => drafts.push(self.group((degraded, false), (load, 1.0), members)),
            }
        }
        drafts.retain(|draft| !draft.endpoints.is_empty());
    }

    fn members(&self, is_eligible: impl Fn(&Endpoint) -> bool) -> Vec<(&'a Arc<Endpoint>, f64)> {
        let eligible = self.endpoints.iter().filter(|endpoint| is_eligible(endpoint));
        eligible.map(|endpoint| (*endpoint, 1.0)).collect()
    }

    /// A group that has this part of the priority's load, in percent.
    fn group(
        &self,
        (degraded, panic): (bool, bool),
        (load, part): (u64, f64),
        endpoints: Vec<(&'a Arc<Endpoint>, f64)>,
    ) -> Draft<'a> {
        let part = (part * WHOLE).round() as u64;
        Draft { priority: self.priority, degraded, panic, share: load * part, part, endpoints }
    }
}

/// One group of all localities, whose endpoints' weights make up for the localities' parts: a hash chooses among all.
fn weighed<'a>(parts: &Parts, members: Vec<(&'a Arc<Endpoint>, f64)>) -> Vec<(&'a Arc<Endpoint>, f64)> {
    let weight = |endpoint: &Endpoint| f64::from(endpoint.weight.max(1));
    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    for (endpoint, _) in &members {
        *sums.entry(endpoint.group).or_default() += weight(endpoint);
    }
    let whole: f64 = sums.values().sum();
    let members = members.into_iter().filter_map(|(endpoint, _)| {
        let part = parts.get(&endpoint.group)?;
        Some((endpoint, part * whole / sums.get(&endpoint.group)?))
    });
    members.collect()
}

#[cfg(test)]
mod tests;
