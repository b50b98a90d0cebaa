//! `localityLbSetting`: what the places of the gateway and of the endpoints mean for a cluster. As istiod has it
//! (`pilot/pkg/networking/core/loadbalancer` in istio/istio).

use std::collections::BTreeMap;

use super::Options;
use super::catalog::Member;
use super::findings::Findings;
use super::schema::destination_rule as schema;
use crate::cluster::LocalityEndpoints;
use crate::endpoint::Endpoint;
use crate::locality::Locality;

/// How many ranks there are by place: of the same subzone, zone, region, of the region to fail over to, and others.
const RANKS: u32 = 5;

/// The rules of a DestinationRule for its localities. The default is Istio's: fail over from near to far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Localities {
    off: bool,
    /// From the gateway's place to shares of others, in percent.
    distribute: Vec<(Area, Vec<(Area, u32)>)>,
    /// From region to region.
    failover: Vec<(String, String)>,
    /// Labels that an endpoint and the gateway have in common, the first counting most; with a value, that an endpoint has.
    failover_priority: Vec<(String, Option<String>)>,
}

/// A region, zone and subzone; an asterisk, and a part that is left out, is any.
#[derive(Debug, Clone, PartialEq)]
struct Area(Vec<String>);

impl Area {
    fn new(text: &str) -> Self {
        Self(text.splitn(3, '/').map(str::to_owned).collect())
    }

    fn has(&self, place: &Locality) -> bool {
        let parts = [&place.region, &place.zone, &place.subzone];
        // Only a region that is not known has no name.
        let is_any = |index: usize, wanted: &str| wanted == "*" || (index > 0 && wanted.is_empty());
        let mut parts = self.0.iter().zip(parts).enumerate();
        parts.all(|(index, (wanted, part))| is_any(index, wanted) || wanted == part)
    }

    /// How much of a place it names.
    fn exactness(&self) -> usize {
        self.0.iter().filter(|part| !matches!(part.as_str(), "*" | "")).count()
    }
}

impl Localities {
    pub(super) fn parse(schema: &schema::LocalityLbSetting, field: &str, findings: &mut Findings) -> Self {
        let fails_over = !schema.failover.is_empty() || !schema.failover_priority.is_empty();
        if fails_over && !schema.distribute.is_empty() {
            let reason = "there is failover or failoverPriority, too; give one or the other";
            findings.refuse(format!("{field}.distribute"), reason);
        }
        let mut distribute = Vec::new();
        for (index, rule) in schema.distribute.iter().enumerate() {
            let field = format!("{field}.distribute[{index}].to");
            let share = |(to, percent): (&String, &i64)| Some((Area::new(to), u32::try_from(*percent).ok()?));
            let mut shares: Vec<_> = rule.to.iter().filter_map(share).collect();
            let sum: u64 = shares.iter().map(|(_, percent)| u64::from(*percent)).sum();
            if sum != 100 || shares.len() != rule.to.len() {
                findings.refuse(
                    field,
                    "the shares are no percentages of a whole; give numbers that add up to 100",
                );
            }
            // What names a place exactly has it before what names it with others.
            shares.sort_by_key(|(area, _)| std::cmp::Reverse(area.exactness()));
            distribute.push((Area::new(&rule.from), shares));
        }
        for (index, rule) in schema.failover.iter().enumerate() {
            if rule.from == rule.to || rule.from.is_empty() || rule.to.is_empty() {
                let reason = format!("{:?} to {:?} is no failover; give two regions", rule.from, rule.to);
                findings.refuse(format!("{field}.failover[{index}]"), reason);
            }
        }
        let label = |text: &String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        };
        Self {
            off: schema.enabled == Some(false),
            distribute,
            failover: schema.failover.iter().map(|rule| (rule.from.clone(), rule.to.clone())).collect(),
            failover_priority: schema.failover_priority.iter().map(label).collect(),
        }
    }

    /// Groups endpoints by priority and locality. `fails_over` is whether endpoints that fail are left out: without
    /// outlier detection, nothing would ever come to a later priority. Also whether the localities' weights count.
    pub(super) fn place<'m>(
        &self,
        members: impl Iterator<Item = &'m Member<'m>>,
        options: &Options,
        fails_over: bool,
    ) -> (Vec<LocalityEndpoints>, bool) {
        let fails_over = fails_over && !self.off && self.distribute.is_empty();
        let mut places: BTreeMap<(u32, &Locality), Vec<Endpoint>> = BTreeMap::new();
        for member in members {
            let rank = if fails_over { self.rank(member, options) } else { 0 };
            places.entry((rank, &member.locality)).or_default().push(member.endpoint.clone());
        }
        let mut ranks: Vec<u32> = places.keys().map(|(rank, _)| *rank).collect();
        ranks.dedup();
        let localities = places.into_iter().map(|((rank, locality), endpoints)| LocalityEndpoints {
            locality: locality.clone(),
            // Priorities are counted without gaps.
            priority: ranks.partition_point(|other| *other < rank) as u32,
            endpoints,
            ..LocalityEndpoints::default()
        });
        let mut localities = localities.collect();
        let rule = self.distribute.iter().filter(|_| !self.off).find(|(from, _)| from.has(&options.locality));
        if let Some((_, shares)) = rule {
            weigh(&mut localities, shares);
        }
        (localities, rule.is_some())
    }

    /// Lower is nearer.
    fn rank(&self, member: &Member<'_>, options: &Options) -> u32 {
        let labels = self.failover_priority.iter();
        let in_common = labels.take_while(|(name, value)| {
            let own = label(&options.labels, &options.locality, name);
            value.as_deref().or(own) == label(member.labels, &member.locality, name)
        });
        let by_label = self.failover_priority.len() - in_common.count();
        let by_place = match self.failover_priority.is_empty() || !self.failover.is_empty() {
            true => self.rank_of_place(&options.locality, &member.locality),
            false => 0,
        };
        by_label as u32 * RANKS + by_place
    }

    fn rank_of_place(&self, here: &Locality, there: &Locality) -> u32 {
        // A gateway that does not know where it is finds nothing near.
        if *here == Locality::default() {
            return 0;
        }
        let same = [here.region == there.region, here.zone == there.zone, here.subzone == there.subzone];
        match same {
            [true, true, true] => 0,
            [true, true, false] => 1,
            [true, false, _] => 2,
            [false, ..] => {
                let to = self.failover.iter().find(|(from, _)| *from == here.region).map(|(_, to)| to);
                3 + u32::from(to.is_some_and(|to| *to != there.region))
            }
        }
    }
}

/// A label of a workload; those of its place it has even if nobody wrote them.
fn label<'a>(labels: &'a BTreeMap<String, String>, place: &'a Locality, name: &str) -> Option<&'a str> {
    let part = match name {
        "topology.kubernetes.io/region" => &place.region,
        "topology.kubernetes.io/zone" => &place.zone,
        "topology.istio.io/subzone" => &place.subzone,
        _ => return labels.get(name).map(String::as_str),
    };
    Some(part.as_str()).filter(|part| !part.is_empty()).or_else(|| labels.get(name).map(String::as_str))
}

/// Gives the localities their shares. Several in one area have its share by their endpoints' weights; those in none go.
fn weigh(localities: &mut Vec<LocalityEndpoints>, shares: &[(Area, u32)]) {
    let area_of = |locality: &Locality| shares.iter().position(|(area, _)| area.has(locality));
    let weight_of = |place: &LocalityEndpoints| -> u64 {
        place.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum()
    };
    let mut totals = vec![0; shares.len()];
    for place in localities.iter() {
        if let Some(area) = area_of(&place.locality) {
            totals[area] += weight_of(place);
        }
    }
    for place in localities.iter_mut() {
        let area = area_of(&place.locality);
        let share =
            area.map(|area| (u64::from(shares[area].1) * weight_of(place)).div_ceil(totals[area].max(1)));
        place.weight = share.and_then(|share| u32::try_from(share).ok()).filter(|share| *share > 0);
    }
    localities.retain(|place| place.weight.is_some());
}

#[cfg(test)]
mod tests;
