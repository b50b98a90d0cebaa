use std::collections::HashMap;

use eastgate_config::cluster::{HashFunction, LocalityEndpoints, RingHash};
use proptest::prelude::*;

use super::*;
use crate::upstream::endpoint::{InUse, Out, Stats};

fn endpoint(port: u16, weight: u32, health: Health) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        weight,
        health,
        group: 0,
        locality: Arc::default(),
        workload: Arc::default(),
        additional: Box::default(),
        stats: Arc::new(Stats::new(Instant::now())),
    })
}

fn balancer(policy: Policy, endpoints: &[Arc<Endpoint>]) -> Balancer {
    let mut config = cluster::Cluster::new("c", Vec::new());
    config.policy = policy;
    Balancer::new(&config, endpoints, Instant::now())
}

fn weighted(policy: Policy, weights: &[u32]) -> Balancer {
    let endpoints: Vec<_> =
        weights.iter().zip(1..).map(|(weight, port)| endpoint(port, *weight, Health::Healthy)).collect();
    balancer(policy, &endpoints)
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

fn spread(balancer: &Balancer, picks: usize) -> HashMap<u16, usize> {
    let mut draw = chance(7);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        *counts
            .entry(balancer.pick(&[], None, Instant::now(), &mut draw).unwrap().address.port())
            .or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_is_exactly_even_and_exactly_weighted() {
    assert_eq!(spread(&weighted(Policy::RoundRobin, &[1, 1, 1]), 999), [(1, 333), (2, 333), (3, 333)].into());
    assert_eq!(spread(&weighted(Policy::RoundRobin, &[3, 1]), 400), [(1, 300), (2, 100)].into());
}

#[test]
fn random_and_least_request_follow_the_weights() {
    for policy in [Policy::Random, Policy::LeastRequest] {
        let counts = spread(&weighted(policy, &[1, 1, 1]), 30_000);
        assert!(counts.values().all(|count| (9_500..10_500).contains(count)), "{policy:?} {counts:?}");
    }
    let counts = spread(&weighted(Policy::Random, &[3, 1]), 40_000);
    assert!((29_000..31_000).contains(&counts[&1]), "{counts:?}");
}

#[test]
fn least_request_prefers_the_less_busy_of_two() {
    let endpoints = [endpoint(1, 1, Health::Healthy), endpoint(2, 1, Health::Healthy)];
    let busy: Vec<_> = (0..5).map(|_| InUse::take(&endpoints[0], 0, 0)).collect();
    let balancer = balancer(Policy::LeastRequest, &endpoints);
    let counts = spread(&balancer, 4_000);
    // The busy one is taken only when both draws name it: one time in four.
    assert!((800..1_200).contains(&counts[&1]), "{counts:?}");
    drop(busy);
    assert_eq!(endpoints[0].stats.active(), 0);
}

#[test]
fn the_first_priority_with_healthy_endpoints_is_used_and_degraded_ones_last() {
    let of_priority = |priority| LocalityEndpoints { priority, ..LocalityEndpoints::default() };
    let standby = Endpoint { group: 1, ..Arc::into_inner(endpoint(1, 1, Health::Healthy)).unwrap() };
    let all = [
        Arc::new(standby),
        endpoint(2, 1, Health::Unhealthy),
        endpoint(3, 1, Health::Degraded),
        endpoint(4, 1, Health::Draining),
    ];
    let config = cluster::Cluster {
        localities: (0..2).map(of_priority).collect(),
        ..cluster::Cluster::new("c", Vec::new())
    };
    let ports = |all: &[Arc<Endpoint>]| -> Vec<u16> {
        let balancer = Balancer::new(&config, all, Instant::now());
        balancer.endpoints().iter().map(|endpoint| endpoint.address.port()).collect()
    };
    assert_eq!(ports(&all), [3]);
    assert_eq!(ports(&all[..2]), [1]);
    assert!(ports(&all[1..2]).is_empty());
}

#[test]
fn the_same_key_goes_to_the_same_endpoint_and_without_a_key_all_are_used() {
    for policy in [POLICIES[3], POLICIES[4]] {
        let balancer = weighted(policy, &[1, 1, 1]);
        let picked = |key| balancer.pick(&[], key, Instant::now(), chance(key.unwrap_or(5))).unwrap().address;
        assert!((0..100).all(|_| picked(Some(42)) == picked(Some(42))));
        let counts = spread(&balancer, 3_000);
        assert!(counts.len() == 3 && counts.values().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}

#[test]
fn what_went_out_since_the_choice_was_made_is_not_picked() {
    for policy in POLICIES {
        let endpoints: Vec<_> = (1..4).map(|port| endpoint(port, 1, Health::Healthy)).collect();
        let balancer = balancer(policy, &endpoints);
        endpoints[0].stats.take_out(Out::Outlier);
        assert!(!spread(&balancer, 300).contains_key(&1), "{policy:?}");
        endpoints[0].stats.let_in(Out::Outlier);
        assert!(spread(&balancer, 300).contains_key(&1), "{policy:?}");
    }
}

#[test]
fn an_empty_balancer_picks_nothing() {
    for policy in POLICIES {
        assert!(weighted(policy, &[]).pick(&[], None, Instant::now(), chance(1)).is_none());
    }
}

proptest! {
    #[test]
    fn each_endpoint_is_tried_once_and_then_none_is_left(
        weights in prop::collection::vec(1u32..200, 1..12), seed: u64, policy in 0..POLICIES.len(),
    ) {
        let balancer = weighted(POLICIES[policy], &weights);
        let mut tried = Vec::new();
        let mut draw = chance(seed);
        while let Some(endpoint) = balancer.pick(&tried, None, Instant::now(), &mut draw) {
            prop_assert!(!tried.contains(&endpoint.address));
            tried.push(endpoint.address);
        }
        prop_assert_eq!(tried.len(), weights.len());
    }
}
