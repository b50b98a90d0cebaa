use std::collections::HashMap;

use eastgate_config::cluster::{HashFunction, LeastRequest, LocalityEndpoints, RingHash, SlowStart};
use proptest::prelude::*;

use super::*;
use crate::upstream::endpoint::{InUse, Out, Stats};

mod shares;

fn endpoint(port: u16, weight: u32, health: Health) -> Arc<Endpoint> {
    in_group(0, port, weight, health)
}

fn in_group(group: usize, port: u16, weight: u32, health: Health) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        weight,
        health,
        group,
        locality: Arc::default(),
        workload: Arc::default(),
        extras: Default::default(),
        additional: Box::default(),
        stats: Arc::new(Stats::new(Instant::now())),
    })
}

fn config(policy: Policy) -> Cluster {
    Cluster { policy, ..Cluster::new("c", Vec::new()) }
}

const fn process(peak_ewma: bool) -> Process {
    let locality = Locality { region: String::new(), zone: String::new(), subzone: String::new() };
    Process { peak_ewma, locality, local_cluster: String::new(), replicas: BTreeMap::new() }
}

static USUAL: Process = process(false);
static PEAK_EWMA: Process = process(true);

fn terms() -> Terms<'static> {
    Terms { now: Instant::now(), turn: 0, process: &USUAL }
}

fn balancer(policy: Policy, endpoints: &[Arc<Endpoint>]) -> Balancer {
    Balancer::new(&config(policy), endpoints, terms())
}

fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
    weights.iter().zip(1..).map(|(weight, port)| endpoint(port, *weight, Health::Healthy)).collect()
}

fn weighted(policy: Policy, weights: &[u32]) -> Balancer {
    balancer(policy, &endpoints(weights))
}

const POLICIES: [Policy; 5] = [
    Policy::RoundRobin,
    Policy::Random,
    Policy::LeastRequest,
    Policy::RingHash(RingHash { minimum_size: 1024, maximum_size: 8 << 20, function: HashFunction::XxHash }),
    Policy::Maglev { table_size: 65_537 },
];

/// A small generator with a fixed seed, so that a failure repeats.
fn chance(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    move |below| random.u64(..below)
}

/// How many of so many picks go to each port.
fn spread(balancer: &Balancer, picks: usize) -> HashMap<u16, usize> {
    let mut draw = chance(7);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let picked = balancer.pick(&[], None, Instant::now(), &mut draw).unwrap();
        *counts.entry(picked.address.port()).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_is_exactly_even_and_exactly_weighted() {
    assert_eq!(spread(&weighted(Policy::RoundRobin, &[1, 1, 1]), 999), [(1, 333), (2, 333), (3, 333)].into());
    assert_eq!(spread(&weighted(Policy::RoundRobin, &[3, 1]), 400), [(1, 300), (2, 100)].into());
}

#[test]
fn round_robin_goes_on_where_the_balancer_before_was() {
    let endpoints = endpoints(&[1, 1, 1]);
    let mut balancer = balancer(Policy::RoundRobin, &endpoints);
    let mut picked = Vec::new();
    for _ in 0..6 {
        picked.push(balancer.pick(&[], None, Instant::now(), chance(1)).unwrap().address.port());
        balancer = Balancer::new(
            &config(Policy::RoundRobin),
            &endpoints,
            Terms { turn: balancer.turn(), ..terms() },
        );
    }
    assert_eq!(picked, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn least_request_follows_the_weights_and_random_does_not() {
    for (policy, weights) in [(Policy::Random, [3, 1, 1]), (Policy::LeastRequest, [1, 1, 1])] {
        let counts = spread(&weighted(policy, &weights), 30_000);
        assert!(counts.values().all(|count| (9_500..10_500).contains(count)), "{policy:?} {counts:?}");
    }
    let counts = spread(&weighted(Policy::LeastRequest, &[3, 1]), 40_000);
    assert!((29_000..31_000).contains(&counts[&1]), "{counts:?}");
}

#[test]
fn least_request_prefers_the_less_busy_of_two() {
    let endpoints = endpoints(&[1, 1]);
    let busy: Vec<_> = (0..10).map(|_| InUse::take(&endpoints[0], 0, 0)).collect();
    let balancer = balancer(Policy::LeastRequest, &endpoints);
    let counts = spread(&balancer, 4_000);
    // The busy one is taken only when both draws name it: one time in four.
    assert!((800..1_200).contains(&counts[&1]), "{counts:?}");
    drop(busy);
    assert_eq!(endpoints[0].stats.active(), 0);
}

/// How many connections each of these endpoints has when so many were picked and none has ended.
fn kept(how: LeastRequest, weights: &[u32], connections: usize) -> Vec<u32> {
    let endpoints = endpoints(weights);
    let config = Cluster { least_request: how, ..config(Policy::LeastRequest) };
    let balancer = Balancer::new(&config, &endpoints, terms());
    let mut draw = chance(3);
    let pick = |_| InUse::take(balancer.pick(&[], None, Instant::now(), &mut draw).unwrap(), 0, 0).unwrap();
    let _open: Vec<_> = (0..connections).map(pick).collect();
    endpoints.iter().map(|endpoint| endpoint.stats.active()).collect()
}

#[test]
fn tunnels_that_stay_open_are_spread_by_weight() {
    let even = kept(LeastRequest::default(), &[1; 10], 1_000);
    assert!(even.iter().all(|open| (95..=105).contains(open)), "{even:?}");
    let weighted = kept(LeastRequest::default(), &[3, 1], 400);
    assert!(weighted[0].abs_diff(300) <= 10, "{weighted:?}");
}

#[test]
fn more_choices_and_a_look_at_all_come_closer_to_even() {
    let all = kept(LeastRequest { full_scan: true, ..LeastRequest::default() }, &[1; 10], 1_000);
    assert_eq!(all, [100; 10]);
    let difference = |choices| {
        let open = kept(LeastRequest { choices, ..LeastRequest::default() }, &[1; 50], 1_000);
        open.iter().max().unwrap() - open.iter().min().unwrap()
    };
    assert!(difference(10) < difference(2));
}

#[test]
fn a_look_at_all_gives_equal_ones_the_same_chance() {
    let least_request = LeastRequest { full_scan: true, ..LeastRequest::default() };
    let endpoints = endpoints(&[1, 1, 1]);
    let _busy = InUse::take(&endpoints[1], 0, 0).unwrap();
    let config = Cluster { least_request, ..config(Policy::LeastRequest) };
    let counts = spread(&Balancer::new(&config, &endpoints, terms()), 2_000);
    assert!(!counts.contains_key(&2) && (900..1_100).contains(&counts[&1]), "{counts:?}");
}

#[test]
fn without_a_bias_open_connections_do_not_count_where_weights_differ() {
    let open = kept(LeastRequest { active_request_bias: 0, ..LeastRequest::default() }, &[2, 1], 3_000);
    assert!(open[0].abs_diff(2_000) <= 100, "{open:?}");
    let strong = kept(LeastRequest { active_request_bias: 2_000, ..LeastRequest::default() }, &[4, 1], 600);
    assert!(strong[0].abs_diff(400) <= 30, "as the square root of the weight: {strong:?}");
}

#[test]
fn a_new_endpoint_begins_with_little_and_comes_to_its_share() {
    let began = Instant::now();
    let slow_start =
        SlowStart { window: std::time::Duration::from_secs(100), aggression: 1000, min_weight_percent: 10 };
    for policy in [Policy::RoundRobin, Policy::LeastRequest] {
        let config = Cluster { slow_start: Some(slow_start), ..config(policy) };
        let old = endpoint(1, 1, Health::Healthy);
        let later = began + std::time::Duration::from_secs(100);
        let stats = Arc::new(Stats::new(later));
        let new = Arc::new(Endpoint { stats, ..Arc::into_inner(endpoint(2, 1, Health::Healthy)).unwrap() });
        let share = |age: u64| {
            let now = later + std::time::Duration::from_secs(age);
            let both = [Arc::clone(&old), Arc::clone(&new)];
            spread(&Balancer::new(&config, &both, Terms { now, ..terms() }), 11_000)[&2]
        };
        for (age, wanted) in [(0, 1_000), (50, 3_667), (99, 5_472), (100, 5_500), (1_000, 5_500)] {
            assert!(share(age).abs_diff(wanted) < 250, "{policy:?} {age} s: {}", share(age));
        }
    }
}

#[test]
fn peak_ewma_leaves_the_slow_one_and_looks_at_it_again_when_its_peak_has_faded() {
    let endpoints = endpoints(&[1, 1, 1]);
    let config = config(Policy::LeastRequest);
    let balancer = Balancer::new(&config, &endpoints, Terms { process: &PEAK_EWMA, ..terms() });
    let now = Instant::now();
    for (endpoint, took) in endpoints.iter().zip([10, 10, 500]) {
        endpoint.stats.took(std::time::Duration::from_millis(took), now);
    }
    let mut draw = chance(7);
    let mut of_the_slow_one = |now| {
        let picked = (0..900).map(|_| balancer.pick(&[], None, now, &mut draw).unwrap().address.port());
        picked.filter(|port| *port == 3).count()
    };
    // Only when both draws name it: one time in nine.
    assert!((60..140).contains(&of_the_slow_one(now)));
    let later = now + std::time::Duration::from_secs(60);
    endpoints[..2]
        .iter()
        .for_each(|endpoint| endpoint.stats.took(std::time::Duration::from_millis(10), later));
    // By then it is taken for the fastest, until somebody asks it.
    assert!(of_the_slow_one(later) > 400);
}

#[test]
fn peak_ewma_spreads_by_open_connections_where_all_are_as_fast_and_asks_a_new_one_but_not_with_all() {
    let endpoints = endpoints(&[1, 1, 1]);
    let config = config(Policy::LeastRequest);
    let balancer = Balancer::new(&config, &endpoints, Terms { process: &PEAK_EWMA, ..terms() });
    let now = Instant::now();
    endpoints[..2].iter().for_each(|endpoint| endpoint.stats.took(std::time::Duration::from_millis(10), now));
    let mut draw = chance(7);
    let mut open = Vec::new();
    let mut opened = |count| {
        for _ in 0..count {
            open.push(InUse::take(balancer.pick(&[], None, now, &mut draw).unwrap(), 0, 0).unwrap());
        }
        endpoints.iter().map(|endpoint| endpoint.stats.active()).collect::<Vec<_>>()
    };
    // One in nine draws it twice; the others leave it to that one.
    let before = opened(90);
    assert!((1..25).contains(&before[2]) && before[0].abs_diff(before[1]) < 10, "{before:?}");
    endpoints[2].stats.took(std::time::Duration::from_millis(10), now);
    let after = opened(210);
    assert!(after.iter().all(|open| (90..110).contains(open)), "{after:?}");
}

#[test]
fn the_same_key_goes_to_the_same_endpoint_and_without_a_key_all_are_used() {
    for policy in [POLICIES[3], POLICIES[4]] {
        let balancer = weighted(policy, &[1, 1, 1]);
        let picked = |key: Option<u64>| {
            let draw = chance(key.unwrap_or(5));
            balancer.pick(&[], key, Instant::now(), draw).unwrap().address
        };
        assert!((0..100).all(|_| picked(Some(42)) == picked(Some(42))));
        let counts = spread(&balancer, 3_000);
        assert!(counts.len() == 3 && counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}

#[test]
fn what_went_out_since_the_choice_was_made_is_not_picked() {
    for policy in POLICIES {
        let endpoints = endpoints(&[1, 1, 1]);
        let balancer = balancer(policy, &endpoints);
        endpoints[0].stats.take_out(Out::Outlier);
        assert!(!spread(&balancer, 300).contains_key(&1), "{policy:?}");
        endpoints[0].stats.let_in(Out::Outlier);
        assert!(spread(&balancer, 300).contains_key(&1), "{policy:?}");
    }
}

#[test]
fn when_all_went_out_since_then_all_are_picked_but_where_the_cluster_never_panics() {
    let endpoints = endpoints(&[1, 1]);
    let [panics, never] = [None, Some(0)].map(|panic_threshold| {
        let config = Cluster { panic_threshold, ..config(Policy::LeastRequest) };
        Balancer::new(&config, &endpoints, terms())
    });
    endpoints.iter().for_each(|endpoint| assert!(endpoint.stats.take_out(Out::FailedCheck)));
    assert_eq!(spread(&panics, 100).len(), 2);
    assert!(never.pick(&[], None, Instant::now(), chance(1)).is_none());
}

#[test]
fn an_empty_balancer_picks_nothing() {
    for policy in POLICIES {
        assert!(weighted(policy, &[]).pick(&[], None, Instant::now(), chance(1)).is_none());
    }
}

#[test]
fn those_that_have_to_go_to_another_priority_are_spread_there_by_its_localities_weights() {
    let mut config = config(Policy::LeastRequest);
    config.locality_weighted = true;
    config.localities = vec![locality(0, Some(1)), locality(1, Some(1)), locality(1, Some(3))];
    let endpoints: Vec<_> = (0..3).map(|group| in_group(group, group as u16, 1, Health::Healthy)).collect();
    let balancer = Balancer::new(&config, &endpoints, terms());
    let mut draw = chance(7);
    let mut picks = [0; 3];
    for _ in 0..4_000 {
        let tried = [endpoints[0].address];
        let picked = balancer.pick(&tried, None, Instant::now(), &mut draw).unwrap();
        picks[picked.group] += 1;
    }
    assert!(picks[0] == 0 && (900..1_100).contains(&picks[1]), "{picks:?}");
}

/// A priority's locality of these endpoints.
fn locality(priority: u32, weight: Option<u32>) -> LocalityEndpoints {
    LocalityEndpoints { priority, weight, ..LocalityEndpoints::default() }
}

proptest! {
    #[test]
    fn each_endpoint_is_tried_once_and_then_none_is_left(
        places in prop::collection::vec((0usize..6, 1u32..200), 1..12), seed: u64, policy in 0..POLICIES.len(),
    ) {
        let mut config = config(POLICIES[policy]);
        config.localities = (0..6).map(|group| locality(group / 2, None)).collect();
        let endpoints: Vec<_> = places
            .iter()
            .zip(1..)
            .map(|((group, weight), port)| in_group(*group, port, *weight, Health::Healthy))
            .collect();
        let balancer = Balancer::new(&config, &endpoints, terms());
        let mut tried = Vec::new();
        let mut draw = chance(seed);
        while let Some(endpoint) = balancer.pick(&tried, None, Instant::now(), &mut draw) {
            prop_assert!(!tried.contains(&endpoint.address));
            tried.push(endpoint.address);
        }
        prop_assert_eq!(tried.len(), places.len());
    }
}
