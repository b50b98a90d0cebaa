//! A cluster in its compiled form: resolved endpoints, ready to be picked from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use eastgate_config::bootstrap;
use eastgate_config::cluster as config;
pub use eastgate_config::cluster::Resolutions;
use eastgate_config::endpoint::Address;
use eastgate_config::locality::Locality;

use super::balance::{Balancer, Process, Terms};
use super::connect_time::ConnectTime;
use super::endpoint::{self, Endpoint, Out};
use super::health::{Alarm, CheckCounts, Ejections, Hellos};
pub use super::limit::Limit;
use super::limit::Place;
use super::places::{Located, places};
use super::resolve::Wanted;
use super::{Error, retry};
use crate::metrics::Usage;

/// A cluster that the data path connects through.
#[derive(Debug)]
pub struct Cluster {
    /// What it was compiled from.
    pub config: Arc<config::Cluster>,
    /// Every endpoint, those included that take no new connections.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The choice among them, which changes with their health between two tables.
    balancer: ArcSwap<Balancer>,
    /// What is counted about it, carried over from table to table.
    pub stats: Arc<Stats>,
    /// Some endpoints are given by a DNS name, so that it may change while its configuration does not.
    has_names: bool,
    process: Arc<Process>,
}

/// What is counted about a cluster.
#[derive(Debug, Default)]
pub struct Stats {
    active: AtomicUsize,
    pending: AtomicUsize,
    retrying: AtomicUsize,
    /// Connections established.
    pub connected: AtomicU64,
    /// Attempts that an error ended.
    pub refused: AtomicU64,
    /// Attempts that the connect timeout ended.
    pub timed_out: AtomicU64,
    /// Connections refused because no endpoint takes any.
    pub no_endpoint: AtomicU64,
    overflows: [AtomicU64; Limit::ALL.len()],
    /// Endpoints passed over because they have as many connections as they may.
    pub endpoint_full: AtomicU64,
    /// Attempts begun beside one that was silent.
    pub hedged: AtomicU64,
    /// Those of them that answered first.
    pub hedge_won: AtomicU64,
    /// How long connecting takes.
    pub connect_time: ConnectTime,
    /// Bytes relayed from clients.
    pub to_upstream: AtomicU64,
    /// Bytes relayed to clients.
    pub to_client: AtomicU64,
    /// Wakes up whoever watches the health of its endpoints.
    pub alarm: Alarm,
    /// What became of its hellos.
    pub hellos: Hellos,
    /// How often they were ejected.
    pub ejections: Ejections,
    /// How often they were checked.
    pub checks: CheckCounts,
    /// Established connections that are over.
    pub disconnected: AtomicU64,
    /// The client connections, once there was one: most clusters of a large mesh are never asked for.
    usage: OnceLock<Arc<Usage>>,
}

impl Stats {
    /// Where the client connections that are led to it are counted.
    pub fn usage(&self) -> &Arc<Usage> {
        self.usage.get_or_init(Arc::default)
    }

    /// The same, unless none was ever led to it.
    pub fn used(&self) -> Option<&Usage> {
        self.usage.get().map(|usage| &**usage)
    }

    /// Open connections.
    pub fn active(&self) -> usize {
        self.active.load(Relaxed)
    }

    /// Connections that were refused, or retries that had to wait, because of this limit.
    pub fn overflow(&self, limit: Limit) -> &AtomicU64 {
        let [connections, pending, retries] = &self.overflows;
        match limit {
            Limit::Connections => connections,
            Limit::Pending => pending,
            Limit::Retries => retries,
        }
    }

    pub(super) fn inside(&self, limit: Limit) -> &AtomicUsize {
        match limit {
            Limit::Connections => &self.active,
            Limit::Pending => &self.pending,
            Limit::Retries => &self.retrying,
        }
    }
}

impl Cluster {
    /// Compiles a cluster. Returns the old one where nothing changed, and takes its counters along in any case.
    /// Endpoints that are not in the old one are as old as `now`.
    pub fn build(
        config: &Arc<config::Cluster>,
        resolved: &Resolutions,
        old: Option<&Arc<Self>>,
        now: Instant,
        process: &Arc<Process>,
    ) -> Arc<Self> {
        // Most clusters of most snapshots: nothing of them needs to be looked at.
        if let Some(old) = old.filter(|old| !old.has_names && Arc::ptr_eq(&old.config, config)) {
            return Arc::clone(old);
        }
        let places = places(config, resolved);
        if let Some(old) = old
            && (Arc::ptr_eq(&old.config, config) || old.config == *config)
            && old
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.address, &endpoint.additional))
                .eq(places.iter().map(|place| (place.address, &place.additional)))
        {
            return Arc::clone(old);
        }
        let known: HashMap<SocketAddr, &Arc<Endpoint>> =
            old.iter().flat_map(|old| &old.endpoints).map(|endpoint| (endpoint.address, endpoint)).collect();
        let begins = known.is_empty();
        let localities: Vec<Arc<Locality>> =
            config.localities.iter().map(|group| Arc::new(group.locality.clone())).collect();
        // Borrowed, because a vector that is made out of another one keeps its room: eight times what this one needs.
        let endpoints: Vec<_> = places
            .iter()
            .map(|Located { address, additional, group, endpoint }| {
                let stats = known.get(address).map(|known| Arc::clone(&known.stats));
                Arc::new(Endpoint {
                    address: *address,
                    weight: endpoint.weight.max(1),
                    health: endpoint.health,
                    group: *group,
                    locality: localities.get(*group).map(Arc::clone).unwrap_or_default(),
                    workload: Arc::clone(&endpoint.workload),
                    additional: additional.clone(),
                    extras: endpoint.extras.clone(),
                    stats: stats.unwrap_or_else(|| new_stats(config, begins, now)),
                })
            })
            .collect();
        let turn = old.map_or(0, |old| old.balancer().turn());
        let balancer = Balancer::new(config, &endpoints, Terms { now, turn, process });
        let stats = old.map(|old| Arc::clone(&old.stats)).unwrap_or_default();
        let has_names = config.endpoints().any(|endpoint| matches!(endpoint.address, Address::Dns { .. }));
        let balancer = ArcSwap::from_pointee(balancer);
        Arc::new(Self {
            config: Arc::clone(config),
            endpoints,
            balancer,
            stats,
            has_names,
            process: Arc::clone(process),
        })
    }

    /// The choice among its endpoints at this moment. To be let go before the next await.
    pub fn balancer(&self) -> Guard<Arc<Balancer>> {
        self.balancer.load()
    }

    /// Is the time that endpoints take of use to the balancer?
    pub(super) fn peak_ewma(&self) -> bool {
        self.process.peak_ewma
    }

    /// Makes the choice anew, of the endpoints as they are now: for whoever took some out or let some in
    /// ([`endpoint::Stats::take_out`]), and while new ones are slowly started. Of the current table's cluster: one that
    /// is built at the same time may not have seen the change.
    pub fn rebalance(&self, now: Instant) {
        let terms = Terms { now, turn: self.balancer().turn(), process: &self.process };
        self.balancer.store(Arc::new(Balancer::new(&self.config, &self.endpoints, terms)));
    }

    /// Are there endpoints on their way to their share, so that the balancer ages? Not while all are equally new. A balancer
    /// of after the last of them has come to its share is wanted, too: `since` is how old the current one may be.
    pub fn warms(&self, now: Instant, since: Duration) -> bool {
        let Some(slow_start) = self.config.slow_start else { return false };
        let first_seen = || self.endpoints.iter().map(|endpoint| endpoint.stats.first_seen());
        let youngest = first_seen().max();
        first_seen().min() != youngest
            && youngest.is_some_and(|at| now.saturating_duration_since(at) < slow_start.window + since)
    }

    /// The same cluster, with another idea of the process.
    pub fn in_process(&self, process: &Arc<Process>, now: Instant) -> Self {
        let terms = Terms { now, turn: self.balancer().turn(), process };
        Self {
            config: Arc::clone(&self.config),
            endpoints: self.endpoints.clone(),
            balancer: ArcSwap::from_pointee(Balancer::new(&self.config, &self.endpoints, terms)),
            stats: Arc::clone(&self.stats),
            has_names: self.has_names,
            process: Arc::clone(process),
        }
    }

    /// The endpoints that are out for this reason.
    pub fn out_for(&self, reason: Out) -> u64 {
        let endpoints = self.endpoints.iter();
        endpoints.filter(|endpoint| endpoint.stats.out().any(|out| out == reason)).count() as u64
    }

    /// Is there an endpoint that is given by a DNS name?
    pub fn has_names(&self) -> bool {
        self.has_names
    }

    /// The DNS names that endpoints are given by, and how they are to be looked up.
    pub fn names(&self) -> impl Iterator<Item = (&str, Wanted)> {
        let wanted = Wanted::new(self.config.dns.as_ref());
        self.config.endpoints().filter_map(move |endpoint| match &endpoint.address {
            Address::Dns { host, .. } => Some((&**host, wanted)),
            Address::Socket(_) => None,
        })
    }

    /// Takes a place among the connections, whether the cluster may have it or not.
    pub(super) fn extra_place(&self) -> Place {
        self.stats.inside(Limit::Connections).fetch_add(1, Relaxed);
        Place { stats: Arc::clone(&self.stats), limit: Limit::Connections }
    }

    /// Takes a place, or nothing when all are taken.
    pub(super) fn take(&self, limit: Limit, rules: &bootstrap::Upstream) -> Option<Place> {
        let place = Place { stats: Arc::clone(&self.stats), limit };
        // Counted first, so that a place that goes too far takes itself back by its drop.
        (self.stats.inside(limit).fetch_add(1, Relaxed) < self.most(limit, rules)).then_some(place)
    }

    /// Takes a place, or counts and says that all are taken.
    pub(super) fn admit(&self, limit: Limit, rules: &bootstrap::Upstream) -> Result<Place, Error> {
        self.take(limit, rules).ok_or_else(|| {
            self.stats.overflow(limit).fetch_add(1, Relaxed);
            let (cluster, most) = (self.config.name.clone(), self.most(limit, rules));
            Error::Overflow { cluster, limit, most }
        })
    }

    fn most(&self, limit: Limit, rules: &bootstrap::Upstream) -> usize {
        let config = &self.config;
        let given = |limit: Option<u32>| limit.map_or(usize::MAX, |limit| limit as usize);
        match limit {
            Limit::Connections => given(config.max_connections),
            Limit::Pending => given(config.max_pending_connections),
            // As in Envoy, a budget goes before a number.
            Limit::Retries => match (config.retry_budget, config.max_retries) {
                (None, Some(most)) => most as usize,
                (budget, _) => retry::allowed(budget.unwrap_or(rules.retry_budget), self.stats.active()),
            },
        }
    }
}

/// The counters of an endpoint that has just come. Where the source wants its endpoints checked, it is out until it has passed;
/// but not where the cluster begins with it, for then all would be out, and Envoy makes the whole cluster wait.
fn new_stats(config: &config::Cluster, begins: bool, now: Instant) -> Arc<endpoint::Stats> {
    let stats = endpoint::Stats::new(now);
    if !config.health_checks.is_empty() && !begins {
        stats.take_out(Out::FailedCheck);
    }
    Arc::new(stats)
}

#[cfg(test)]
mod tests {
    use eastgate_config::endpoint::Endpoint as Configured;

    use super::*;

    fn config(ports: &[u16]) -> Arc<config::Cluster> {
        let endpoint = |port: &u16| Configured::new(Address::Socket(([10, 0, 0, 1], *port).into()));
        Arc::new(config::Cluster::new("c", ports.iter().map(endpoint).collect()))
    }

    #[test]
    fn an_unchanged_cluster_is_not_rebuilt() {
        let one =
            Cluster::build(&config(&[1, 2]), &Resolutions::new(), None, Instant::now(), &Arc::default());
        let two = Cluster::build(
            &config(&[1, 2]),
            &Resolutions::new(),
            Some(&one),
            Instant::now(),
            &Arc::default(),
        );
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn endpoints_have_no_more_room_than_they_need() {
        let cluster =
            Cluster::build(&config(&[1, 2, 3]), &Resolutions::new(), None, Instant::now(), &Arc::default());
        assert_eq!(cluster.endpoints.capacity(), 3);
    }

    #[test]
    fn what_a_cluster_begins_with_is_in_until_it_is_checked_and_what_comes_later_is_out() {
        let checked = |ports: &[u16]| {
            let mut checked = (*config(ports)).clone();
            checked.health_checks.push(config::HealthCheck {
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                unhealthy_threshold: 1,
                healthy_threshold: 1,
                jitter: Duration::ZERO,
                no_traffic_interval: None,
                port: None,
                probe: config::Probe::Tcp { send: Vec::new(), receive: Vec::new() },
            });
            Arc::new(checked)
        };
        let build = |ports: &[u16], old: Option<&Arc<Cluster>>| {
            Cluster::build(&checked(ports), &Resolutions::new(), old, Instant::now(), &Arc::default())
        };
        let out = |cluster: &Cluster| -> Vec<bool> {
            cluster.endpoints.iter().map(|endpoint| endpoint.stats.is_out()).collect()
        };
        let none = build(&[], None);
        let one = build(&[1, 2], Some(&none));
        assert_eq!(out(&one), [false, false]);
        assert_eq!(out(&build(&[1, 2, 3], Some(&one))), [false, false, true]);
    }

    #[test]
    fn counters_outlive_a_change_by_cluster_and_address() {
        let one =
            Cluster::build(&config(&[1, 2]), &Resolutions::new(), None, Instant::now(), &Arc::default());
        one.endpoints[1].stats.count_refused();
        let two = Cluster::build(
            &config(&[2, 3]),
            &Resolutions::new(),
            Some(&one),
            Instant::now(),
            &Arc::default(),
        );
        assert_eq!(two.endpoints[0].stats.refused(), 1);
        assert_eq!(two.endpoints[1].stats.refused(), 0);
        assert!(Arc::ptr_eq(&one.stats, &two.stats));
    }

    #[test]
    fn a_cluster_warms_while_one_endpoint_is_newer_than_the_others_and_a_moment_longer() {
        let slow = |ports| {
            let window = Duration::from_secs(60);
            let slow_start = config::SlowStart { window, aggression: 1000, min_weight_percent: 10 };
            Arc::new(config::Cluster { slow_start: Some(slow_start), ..(*config(ports)).clone() })
        };
        let (began, second) = (Instant::now(), Duration::from_secs(1));
        let one = Cluster::build(&slow(&[1, 2]), &Resolutions::new(), None, began, &Arc::default());
        assert!(!one.warms(began, second), "all are equally new");
        let later = began + 100 * second;
        let two = Cluster::build(&slow(&[1, 3]), &Resolutions::new(), Some(&one), later, &Arc::default());
        assert!(two.warms(later, second) && two.warms(later + 60 * second, second));
        assert!(!two.warms(later + 61 * second, second));
    }

    #[test]
    fn a_dns_name_stands_for_all_its_addresses_and_changes_with_them() {
        let endpoint = Configured::new(Address::Dns { host: "gw.example".into(), port: 15443 });
        let config = Arc::new(config::Cluster::new("c", vec![endpoint]));
        let one = Cluster::build(&config, &Resolutions::new(), None, Instant::now(), &Arc::default());
        assert!(one.endpoints.is_empty());
        let resolved: Resolutions =
            [("gw.example".into(), vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()])].into();
        let two = Cluster::build(&config, &resolved, Some(&one), Instant::now(), &Arc::default());
        let addresses: Vec<_> = two.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:15443", "10.0.0.2:15443"]);
    }

    #[test]
    fn the_connection_limit_holds_and_a_dropped_place_is_free_again() {
        let mut limited = (*config(&[1])).clone();
        limited.max_connections = Some(1);
        let cluster =
            Cluster::build(&Arc::new(limited), &Resolutions::new(), None, Instant::now(), &Arc::default());
        let rules = bootstrap::Upstream::default();
        let place = cluster.take(Limit::Connections, &rules);
        assert!(place.is_some() && cluster.take(Limit::Connections, &rules).is_none());
        drop(place);
        assert!(cluster.admit(Limit::Connections, &rules).is_ok());
    }

    #[test]
    fn no_limit_is_passed_however_many_threads_ask_and_all_places_are_free_again_in_the_end() {
        let mut limited = (*config(&[1])).clone();
        (limited.max_connections, limited.max_pending_connections) = (Some(3), Some(2));
        limited.max_retries = Some(1);
        let cluster =
            Cluster::build(&Arc::new(limited), &Resolutions::new(), None, Instant::now(), &Arc::default());
        let rules = bootstrap::Upstream::default();
        for (limit, most) in Limit::ALL.into_iter().zip([3, 2, 1]) {
            let (held, highest, taken) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                let ask = || {
                    for _ in 0..5_000 {
                        let Some(place) = cluster.take(limit, &rules) else { continue };
                        highest.fetch_max(held.fetch_add(1, Relaxed) + 1, Relaxed);
                        taken.fetch_add(1, Relaxed);
                        std::hint::spin_loop();
                        held.fetch_sub(1, Relaxed);
                        drop(place);
                    }
                };
                (0..6).for_each(|_| drop(scope.spawn(ask)));
            });
            assert!(highest.into_inner() <= most && taken.into_inner() > 0, "{limit:?}");
            assert_eq!(cluster.stats.inside(limit).load(Relaxed), 0);
        }
    }

    #[test]
    fn retries_have_a_share_of_the_connections_unless_the_cluster_says_a_number() {
        let rules = bootstrap::Upstream::default();
        let taken = |config: config::Cluster, active: usize| {
            let cluster =
                Cluster::build(&Arc::new(config), &Resolutions::new(), None, Instant::now(), &Arc::default());
            let _active: Vec<_> = (0..active).map(|_| cluster.take(Limit::Connections, &rules)).collect();
            let retries: Vec<_> =
                std::iter::from_fn(|| cluster.take(Limit::Retries, &rules)).take(1_000).collect();
            retries.len()
        };
        let mut config = (*config(&[1])).clone();
        assert_eq!([0, 100].map(|active| taken(config.clone(), active)), [3, 20]);
        config.max_retries = Some(7);
        assert_eq!(taken(config.clone(), 100), 7);
        config.retry_budget = Some(config::RetryBudget { percent: 50, min_concurrency: 1 });
        assert_eq!([0, 100].map(|active| taken(config.clone(), active)), [1, 50]);
    }
}
