//! `loadBalancer`: how an endpoint is chosen for a connection.

use std::time::Duration;

use super::super::findings::Findings;
use super::super::localities::Localities;
use super::super::schema::destination_rule::{self as schema, Simple};
use super::{SHORTEST, time};
use crate::cluster::{self, HashFunction, MAX_MAGLEV_TABLE, MAX_RING, RingHash, SlowStart};

/// Where a DestinationRule gives no size, as Istio has it.
const DEFAULT_RING: u64 = 1024;

/// How an endpoint is chosen. A subset's or port's replaces the destination's as a whole, as in Istio.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::istio) struct Balance {
    /// `None` is the default.
    pub(in crate::istio) policy: Option<cluster::Policy>,
    /// How a new endpoint comes to its share, where the policy can do that.
    pub(in crate::istio) slow_start: Option<SlowStart>,
    /// What the places of gateway and endpoints mean.
    pub(in crate::istio) localities: Localities,
}

impl Balance {
    pub(super) fn parse(schema: &schema::LoadBalancer, field: &str, findings: &mut Findings) -> Self {
        let policy = parse_policy(schema, field, findings);
        let mut slow_start = parse_warmup(schema, field, findings);
        if slow_start.is_some()
            && !matches!(
                policy.unwrap_or_default(),
                cluster::Policy::RoundRobin | cluster::Policy::LeastRequest
            )
        {
            let message = "warmup is not used: only ROUND_ROBIN and LEAST_REQUEST start new endpoints slowly";
            findings.notice(format!("{field}.warmup"), message);
            slow_start = None;
        }
        let setting = schema.locality_lb_setting.as_ref();
        let localities = setting
            .map(|setting| Localities::parse(setting, &format!("{field}.localityLbSetting"), findings));
        Self { policy, slow_start, localities: localities.unwrap_or_default() }
    }
}

fn parse_warmup(schema: &schema::LoadBalancer, field: &str, findings: &mut Findings) -> Option<SlowStart> {
    let old = schema::Warmup { duration: schema.warmup_duration_secs.clone(), ..schema::Warmup::default() };
    let (name, warmup) = match &schema.warmup {
        Some(warmup) => ("warmup.duration", warmup),
        None => ("warmupDurationSecs", &old),
    };
    let window = time(warmup.duration.as_ref(), format!("{field}.{name}"), SHORTEST, findings)?;
    let mut within = |name: &str, given: Option<f64>, default: f64, least: f64, most: f64| {
        let given = given.unwrap_or(default);
        let wrong = || format!("{given} is out of range; give {least} to {most}");
        let fits = (least..=most).contains(&given).then_some(given);
        findings.take(&format!("{field}.warmup.{name}"), fits.ok_or_else(wrong)).unwrap_or(default)
    };
    Some(SlowStart {
        window: window.max(Duration::from_millis(1)),
        aggression: (within("aggression", warmup.aggression, 1.0, 1.0, 1000.0) * 1000.0).round() as u32,
        min_weight_percent: within("minimumPercent", warmup.minimum_percent, 10.0, 0.0, 100.0).round() as u32,
    })
}

fn parse_policy(
    schema: &schema::LoadBalancer,
    field: &str,
    findings: &mut Findings,
) -> Option<cluster::Policy> {
    if let Some(hash) = &schema.consistent_hash {
        if schema.simple.is_some_and(|simple| simple != Simple::Unspecified) {
            let reason = "there is simple, too; give one or the other";
            findings.refuse(format!("{field}.consistentHash"), reason);
        }
        return parse_hash(hash, &format!("{field}.consistentHash"), findings);
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

/// Of all that Istio can hash, a connection has only the client's address.
fn parse_hash(
    schema: &schema::ConsistentHash,
    field: &str,
    findings: &mut Findings,
) -> Option<cluster::Policy> {
    if !schema.use_source_ip {
        let message = "consistentHash is not used: a connection has no HTTP request to hash, so the default, \
                       LEAST_REQUEST, is used; set useSourceIp to hash the client's address";
        findings.notice(field, message);
        return None;
    }
    let mut refuse = |name: &str, given: i64, wanted: &str| {
        findings.refuse(format!("{field}.{name}"), format!("{given} is not a size; give {wanted}"));
        None
    };
    if let Some(maglev) = &schema.maglev {
        let given = maglev.table_size;
        let size = u64::try_from(given).unwrap_or_default();
        let policy = cluster::Policy::maglev((given != 0).then_some(size));
        let wanted = format!("a prime up to {MAX_MAGLEV_TABLE}");
        return policy.or_else(|| refuse("maglev.tableSize", given, &wanted));
    }
    let (name, given) = match &schema.ring_hash {
        Some(ring) => ("ringHash.minimumRingSize", ring.minimum_ring_size),
        None => ("minimumRingSize", schema.minimum_ring_size),
    };
    let size = u64::try_from(given).ok().filter(|size| *size <= MAX_RING);
    let Some(size) = size else { return refuse(name, given, &format!("1 to {MAX_RING}")) };
    let minimum_size = if size == 0 { DEFAULT_RING } else { size };
    let function = HashFunction::XxHash;
    Some(cluster::Policy::RingHash(RingHash { minimum_size, maximum_size: MAX_RING, function }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Balance, Findings) {
        let mut findings = Findings::default();
        let schema: schema::LoadBalancer = serde_saphyr::from_str(text).unwrap();
        (Balance::parse(&schema, "b", &mut findings), findings)
    }

    #[test]
    fn a_warmup_is_a_slow_start_by_its_old_name_too() {
        let minute = SlowStart { window: Duration::from_secs(60), aggression: 1000, min_weight_percent: 10 };
        assert_eq!(parse("{warmupDurationSecs: 60s}").0.slow_start, Some(minute));
        let (balance, findings) = parse("{warmup: {duration: 60s, minimumPercent: 30, aggression: 1.5}}");
        let wanted = SlowStart { aggression: 1500, min_weight_percent: 30, ..minute };
        assert_eq!((balance.slow_start, findings.refusals.len()), (Some(wanted), 0));
        let (_, findings) = parse("{warmup: {duration: 60s, minimumPercent: 130}}");
        assert_eq!(findings.refusals[0].0, "b.warmup.minimumPercent");
        let (balance, findings) = parse("{simple: RANDOM, warmup: {duration: 60s}}");
        assert_eq!((balance.slow_start, findings.notices.len()), (None, 1));
    }
}
