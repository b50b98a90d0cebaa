//! Takes idle connections from endpoints that have notably more than their share, a few at a time, so that endpoints
//! that came later get theirs: a tunnel may live for days, and stays where it was once connected.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use eastgate_config::bootstrap::Shed;
use eastgate_config::cluster::Policy;
use prometheus::IntCounter;
use tokio::time::Instant;

use crate::open::{self, Ask, Connection, End, Registry};
use crate::table::Table;
use crate::upstream::Cluster;

/// Connections are looked at this often, and more often where they count as idle sooner.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Of what an endpoint has too many of, one in so many goes at each look, and one at least.
const GENTLY: u32 = 10;

/// How many connections endpoints may lose at one look, by cluster and address.
type Quotas = HashMap<String, HashMap<SocketAddr, AtomicU32>>;

/// Looks after all clusters for as long as it is polled.
pub async fn run(open: Registry, table: Arc<ArcSwap<Table>>, rules: Shed, shed: IntCounter) {
    let every = (rules.idle / 4).clamp(Duration::from_millis(50), LOOK_EVERY);
    loop {
        tokio::time::sleep(every).await;
        let quotas: Quotas = table.load().clusters().filter_map(|cluster| quotas(cluster, &rules)).collect();
        if quotas.is_empty() {
            continue;
        }
        let (quotas, shed) = (Arc::new(quotas), shed.clone());
        let look = move || {
            let now = Instant::now();
            open::each(|connection| {
                // Asked of all, because quiet is what was quiet between two looks.
                if connection.quiet(now) >= rules.idle && take(&quotas, connection) {
                    shed.inc_by(connection.ask(Ask::End(End::Surplus)).into());
                }
            });
        };
        open.ask(look).await;
    }
}

/// Is this one of those that its endpoint may lose?
fn take(quotas: &Quotas, connection: &Connection) -> bool {
    let address = connection.upstream.endpoint.endpoint().address;
    let quota = quotas.get(&connection.cluster.config.name).and_then(|cluster| cluster.get(&address));
    quota.is_some_and(|left| left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok())
}

/// What the endpoints of a cluster may lose now. Where a hash says which endpoint has a connection, there is no share.
fn quotas(cluster: &Arc<Cluster>, rules: &Shed) -> Option<(String, HashMap<SocketAddr, AtomicU32>)> {
    if matches!(cluster.config.policy, Policy::RingHash(_) | Policy::Maglev { .. }) {
        return None;
    }
    let balancer = cluster.balancer();
    let endpoints: Vec<_> = balancer.endpoints().collect();
    let loads: Vec<_> = endpoints.iter().map(|endpoint| (endpoint.weight, endpoint.stats.active())).collect();
    let surplus = surplus(&loads, rules.tolerance_percent);
    let quotas: HashMap<_, _> = endpoints
        .iter()
        .zip(surplus)
        .filter(|(_, surplus)| *surplus > 0)
        .map(|(endpoint, surplus)| (endpoint.address, AtomicU32::new(surplus.div_ceil(GENTLY))))
        .collect();
    (!quotas.is_empty()).then(|| (cluster.config.name.clone(), quotas))
}

/// What each endpoint, by its weight and its connections, has beyond its share and so many percent of it, and beyond one
/// more than its share in any case: a share need not be a whole number.
fn surplus(loads: &[(u32, u32)], tolerance_percent: u32) -> Vec<u32> {
    let weights: u64 = loads.iter().map(|(weight, _)| u64::from(*weight)).sum();
    let all: u64 = loads.iter().map(|(_, count)| u64::from(*count)).sum();
    let most = |weight: u32| {
        let share = u128::from(all) * u128::from(weight);
        let weights = u128::from(weights.max(1));
        let tolerated = (share * (100 + u128::from(tolerance_percent))).div_ceil(weights * 100);
        tolerated.max(share.div_ceil(weights) + 1)
    };
    loads
        .iter()
        .map(|(weight, count)| u128::from(*count).saturating_sub(most(*weight)))
        .map(|surplus| u32::try_from(surplus).unwrap_or(u32::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_endpoint_keeps_its_share_and_the_tolerance() {
        assert_eq!(surplus(&[(1, 100), (1, 0)], 20), [40, 0]);
        assert_eq!(surplus(&[(1, 60), (1, 40)], 20), [0, 0]);
        assert_eq!(surplus(&[(3, 75), (1, 25)], 0), [0, 0], "a heavier one has more");
        assert_eq!(surplus(&[(1, 2), (1, 0)], 0), [0, 0], "one more than the share is nothing");
        assert_eq!(surplus(&[(1, 1_000)], 0), [0], "there is nowhere else to go");
        assert_eq!(surplus(&[], 0), [0_u32; 0]);
    }

    proptest! {
        #[test]
        fn there_is_room_elsewhere_for_what_is_shed(
            loads in prop::collection::vec((1_u32..100, 0_u32..10_000), 1..20), tolerance in 0_u32..100,
        ) {
            let surplus = surplus(&loads, tolerance);
            let weights: u32 = loads.iter().map(|(weight, _)| weight).sum();
            let all: u32 = loads.iter().map(|(_, count)| count).sum();
            for ((weight, count), surplus) in loads.iter().zip(&surplus) {
                let share = f64::from(all) * f64::from(*weight) / f64::from(weights);
                prop_assert!(*surplus == 0 || f64::from(count - surplus) >= share, "nobody goes below its share");
            }
        }
    }
}
