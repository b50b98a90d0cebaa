//! How connections are shared by priorities and localities, against Envoy's published formulas.

use eastgate_config::cluster::ZoneAware;

use super::*;

/// So many endpoints of a locality, of which the first are healthy and the next degraded.
#[derive(Debug, Clone, Copy)]
struct Place {
    priority: u32,
    weight: Option<u32>,
    healthy: usize,
    degraded: usize,
    unhealthy: usize,
}

const fn place(priority: u32, healthy: usize, unhealthy: usize) -> Place {
    Place { priority, weight: None, healthy, degraded: 0, unhealthy }
}

fn made(policy: Policy, places: &[Place]) -> (Cluster, Vec<Arc<Endpoint>>) {
    let mut config = config(policy);
    config.localities = places.iter().map(|place| locality(place.priority, place.weight)).collect();
    config.locality_weighted = places.iter().any(|place| place.weight.is_some());
    let mut endpoints = Vec::new();
    for (group, place) in places.iter().enumerate() {
        let healths = std::iter::repeat_n(Health::Healthy, place.healthy)
            .chain(std::iter::repeat_n(Health::Degraded, place.degraded))
            .chain(std::iter::repeat_n(Health::Unhealthy, place.unhealthy));
        endpoints.extend(
            healths.zip(0..).map(|(health, n)| in_group(group, group as u16 * 100 + n + 1, 1, health)),
        );
    }
    (config, endpoints)
}

/// As the others, but with a ring of so many places that its own unevenness does not count.
const EVEN: [Policy; 5] = {
    let mut policies = POLICIES;
    policies[3] = Policy::RingHash(RingHash {
        minimum_size: 1 << 16,
        maximum_size: 8 << 20,
        function: HashFunction::XxHash,
    });
    policies
};
const PICKS: usize = 20_000;

/// What each place gets of all picks, in percent, and how many of its endpoints get any.
fn percents(config: &Cluster, endpoints: &[Arc<Endpoint>]) -> Vec<(f64, usize)> {
    let balancer = Balancer::new(config, endpoints, terms());
    let counts = spread(&balancer, PICKS);
    let of = |group: usize| {
        let here = counts.iter().filter(|(port, _)| usize::from(**port) / 100 == group);
        let sum: usize = here.clone().map(|(_, count)| count).sum();
        (sum as f64 * 100.0 / PICKS as f64, here.count())
    };
    (0..config.localities.len()).map(of).collect()
}

fn assert_close(places: &[Place], wanted: &[f64]) {
    for policy in EVEN {
        let (config, endpoints) = made(policy, places);
        let got = percents(&config, &endpoints);
        let close = got.iter().zip(wanted).all(|((got, _), wanted)| (got - wanted).abs() < 2.0);
        assert!(close, "{policy:?} {places:?}: {got:?} instead of {wanted:?}");
    }
}

#[test]
fn a_priority_gives_to_the_next_what_it_cannot_take() {
    assert_close(&[place(0, 10, 0), place(1, 10, 0)], &[100.0, 0.0]);
    assert_close(&[place(0, 5, 5), place(1, 10, 0)], &[70.0, 30.0]);
    assert_close(&[place(0, 0, 10), place(1, 10, 0)], &[0.0, 100.0]);
    assert_close(&[place(0, 1, 3), place(1, 1, 3), place(2, 4, 0)], &[35.0, 35.0, 30.0]);
}

#[test]
fn too_few_that_are_well_are_a_panic_in_which_all_are_used() {
    let (config, endpoints) = made(Policy::Random, &[place(0, 1, 3), place(1, 1, 7)]);
    assert!(Balancer::new(&config, &endpoints, terms()).groups().iter().all(|group| group.panic));
    // Of four and of eight endpoints: a third and two thirds of the connections.
    let got = percents(&config, &endpoints);
    assert!((got[0].0 - 34.0).abs() < 2.0 && got[0].1 == 4 && got[1].1 == 8, "{got:?}");
    // One priority has enough for both: no panic, although the other is nearly gone.
    let (config, endpoints) = made(Policy::Random, &[place(0, 1, 9), place(1, 9, 1)]);
    assert_eq!(percents(&config, &endpoints).iter().map(|(_, used)| *used).collect::<Vec<_>>(), [1, 9]);
    let (mut config, endpoints) = made(Policy::Random, &[place(0, 1, 9)]);
    config.panic_threshold = Some(0);
    assert_eq!(percents(&config, &endpoints), [(100.0, 1)]);
}

#[test]
fn an_endpoint_that_drains_takes_no_connection_in_a_panic_while_another_is_there() {
    let all = [endpoint(1, 1, Health::Draining), endpoint(2, 1, Health::Unhealthy)];
    assert_eq!(spread(&balancer(Policy::RoundRobin, &all), 10), [(2, 10)].into());
    assert_eq!(spread(&balancer(Policy::RoundRobin, &all[..1]), 10), [(1, 10)].into());
}

#[test]
fn an_endpoint_that_drains_counts_neither_as_well_nor_as_ill() {
    let (mut config, _) = made(Policy::Random, &[place(0, 0, 0), place(1, 0, 0)]);
    config.panic_threshold = Some(0);
    let all = [
        in_group(0, 1, 1, Health::Healthy),
        in_group(0, 2, 1, Health::Draining),
        in_group(0, 3, 1, Health::Draining),
        in_group(1, 101, 1, Health::Healthy),
    ];
    assert_eq!(percents(&config, &all), [(100.0, 1), (0.0, 0)]);
}

#[test]
fn flags_count_as_ill_health_when_the_choice_is_made_anew() {
    let (config, endpoints) = made(Policy::LeastRequest, &[place(0, 4, 0), place(1, 4, 0)]);
    endpoints[0].stats.take_out(Out::Outlier);
    endpoints[1].stats.take_out(Out::FailedCheck);
    let got = percents(&config, &endpoints);
    assert!((got[0].0 - 70.0).abs() < 2.0 && got[0].1 == 2, "{got:?}");
}

#[test]
fn localities_share_by_weight_and_lose_with_their_endpoints() {
    let weighed = |weight, healthy, unhealthy| Place { weight: Some(weight), ..place(0, healthy, unhealthy) };
    assert_close(&[weighed(1, 5, 0), weighed(3, 1, 0)], &[25.0, 75.0]);
    // Envoy's own example: 1 to 2, and what a locality has lost beyond the overprovisioning goes to the other.
    assert_close(&[weighed(1, 4, 0), weighed(2, 3, 1)], &[33.3, 66.7]);
    assert_close(&[weighed(1, 4, 0), weighed(2, 2, 2)], &[100.0 / 2.4, 140.0 / 2.4]);
    assert_close(&[weighed(1, 4, 0), weighed(2, 1, 3)], &[100.0 / 1.7, 70.0 / 1.7]);
    // A locality without a weight gets nothing.
    assert_close(&[weighed(1, 1, 0), place(0, 5, 0)], &[100.0, 0.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every place's percentage of the connections, as the formulas have it: a priority's load, and in it a locality's
    /// part, `weight * min(1, 1.4 * available)` against the sum of these.
    #[test]
    fn shares_are_what_envoys_formulas_say(
        places in prop::collection::vec((0u32..3, 1u32..5, 0usize..6, 0usize..4), 1..7), policy in 0..POLICIES.len(),
    ) {
        let places: Vec<_> = places
            .iter()
            .map(|(priority, weight, healthy, unhealthy)| Place { weight: Some(*weight), ..place(*priority, *healthy, *unhealthy) })
            .collect();
        let (mut config, endpoints) = made(EVEN[policy], &places);
        config.panic_threshold = Some(0);
        prop_assume!(places.iter().any(|place| place.healthy > 0));
        let mut left = 1.0;
        let sum = |priority: u32, of: fn(&Place) -> usize| {
            places.iter().filter(|place| place.priority == priority).map(of).sum::<usize>() as f64
        };
        let capacity = |priority| {
            let total = sum(priority, |place| place.healthy + place.unhealthy);
            if total == 0.0 { 0.0 } else { (1.4 * sum(priority, |place| place.healthy) / total).min(1.0) }
        };
        let normal = (0..3).map(capacity).sum::<f64>().min(1.0);
        let loads: Vec<f64> = (0..3).map(|priority| {
            let load = (capacity(priority) / normal).min(left);
            left -= load;
            load
        }).collect();
        let effective = |place: &Place| {
            let total = place.healthy + place.unhealthy;
            let available = if total == 0 { 0.0 } else { place.healthy as f64 / total as f64 };
            f64::from(place.weight.unwrap_or(0)) * (1.4 * available).min(1.0)
        };
        let got = percents(&config, &endpoints);
        for (place, (got, _)) in places.iter().zip(got) {
            let of_priority = places.iter().filter(|other| other.priority == place.priority);
            let all: f64 = of_priority.map(effective).sum();
            let part = if all == 0.0 { 0.0 } else { effective(place) / all };
            let wanted = loads[place.priority as usize] * part * 100.0;
            prop_assert!((got - wanted).abs() < 4.0, "{places:?}: {place:?} gets {got} and not {wanted}");
        }
    }
}

/// So many endpoints in each zone, and replicas of the gateway, which is in the first: what each zone gets.
fn zoned(rule: ZoneAware, endpoints: [usize; 3], replicas: [u32; 3]) -> Vec<f64> {
    let (mut config, endpoints) = made(Policy::Random, &endpoints.map(|count| place(0, count, 0)));
    let zone = |zone: usize| Locality { zone: format!("z{zone}"), ..Locality::default() };
    for (index, locality) in config.localities.iter_mut().enumerate() {
        locality.locality = zone(index);
    }
    config.zone_aware = Some(rule);
    let replicas = (0..3).map(|index| (zone(index), replicas[index])).filter(|(_, count)| *count > 0);
    let process = Process { locality: zone(0), replicas: replicas.collect(), ..Process::default() };
    let balancer = Balancer::new(&config, &endpoints, Terms { process: &process, ..terms() });
    let mut shares = vec![0.0; 3];
    for (port, count) in spread(&balancer, PICKS) {
        shares[usize::from(port) / 100] += count as f64 * 100.0 / PICKS as f64;
    }
    shares
}

#[test]
fn connections_stay_in_the_zone_as_far_as_it_has_its_share_of_the_endpoints() {
    let rule = ZoneAware { percent: 100, min_cluster_size: 6, force_from: None, fail_on_panic: false };
    for (rule, endpoints, replicas, wanted) in [
        // As many endpoints there, in proportion, as replicas, or more: all stay.
        (rule, [4, 4, 4], [1, 1, 1], [100.0, 0.0, 0.0]),
        (rule, [6, 3, 3], [1, 1, 1], [100.0, 0.0, 0.0]),
        // 20 % of the endpoints for 50 % of the replicas: two fifths stay, and the rest goes where there is room, 40 to 0.
        (rule, [2, 6, 2], [5, 2, 3], [40.0, 60.0, 0.0]),
        (rule, [2, 5, 3], [6, 2, 2], [33.3, 50.0, 16.7]),
        // Half of the connections are not asked about zones.
        (ZoneAware { percent: 50, ..rule }, [4, 4, 4], [1, 1, 1], [66.7, 16.7, 16.7]),
        (ZoneAware { force_from: Some(2), ..rule }, [2, 6, 2], [5, 2, 3], [100.0, 0.0, 0.0]),
        // Too few, none in the zone, and replicas that are not known: zones do not count.
        (rule, [1, 3, 1], [1, 1, 1], [20.0, 60.0, 20.0]),
        (rule, [0, 5, 5], [1, 1, 1], [0.0, 50.0, 50.0]),
        (rule, [2, 6, 2], [0, 0, 0], [20.0, 60.0, 20.0]),
    ] {
        let got = zoned(rule, endpoints, replicas);
        let close = got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 2.0);
        assert!(close, "{rule:?} {endpoints:?} {replicas:?}: {got:?} instead of {wanted:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Envoy's page on zone-aware routing, in its ten-thousandths. Zones without room left get nothing, and where none has
    /// any, all have the same chance.
    #[test]
    fn zones_get_what_envoys_formula_says(
        endpoints in (1usize..8, 0usize..8, 0usize..8), replicas in (0u32..6, 0u32..6, 0u32..6),
    ) {
        let (endpoints, replicas): ([usize; 3], [u32; 3]) = (endpoints.into(), replicas.into());
        let all_endpoints: usize = endpoints.iter().sum();
        let all_replicas: u32 = replicas.iter().sum();
        let rule = ZoneAware { percent: 100, min_cluster_size: 6, force_from: None, fail_on_panic: false };
        let got = zoned(rule, endpoints, replicas);
        let used = endpoints.iter().filter(|count| **count > 0).count();
        let wanted: Vec<f64> = if all_endpoints < 6 || used < 2 || all_replicas == 0 {
            endpoints.iter().map(|count| *count as f64 * 100.0 / all_endpoints as f64).collect()
        } else {
            let upstream = endpoints.map(|count| (10_000 * count / all_endpoints) as f64);
            let local = replicas.map(|count| f64::from(10_000 * count / all_replicas));
            let stays = if upstream[0] >= local[0] { 1.0 } else { upstream[0] / local[0] };
            let room: Vec<f64> = (0..3)
                .map(|zone| if endpoints[zone] == 0 { 0.0 } else { (upstream[zone] - local[zone]).max(0.0) })
                .collect();
            let all_room: f64 = room.iter().sum();
            let away = |zone: usize| match all_room > 0.0 {
                true => room[zone] / all_room,
                false => f64::from(u8::from(endpoints[zone] > 0)) / used as f64,
            };
            (0..3).map(|zone| 100.0 * (if zone == 0 { stays } else { 0.0 } + (1.0 - stays) * away(zone))).collect()
        };
        let close = got.iter().zip(&wanted).all(|(got, wanted)| (got - wanted).abs() < 2.0);
        prop_assert!(close, "{:?} {:?}: {:?} instead of {:?}", endpoints, replicas, got, wanted);
    }

    /// Envoy's page on the panic threshold: a priority panics where all together have not enough, and less than the threshold of its
    /// own are well; then all of its endpoints are used, and where all panic, each gets its share of the endpoints.
    #[test]
    fn priorities_panic_where_envoys_formula_says(
        counts in prop::collection::vec((0usize..6, 0usize..6), 1..4), threshold in prop_oneof![Just(0_u32), Just(50), Just(100)],
    ) {
        let places: Vec<_> = counts.iter().zip(0..).map(|((healthy, ill), priority)| place(priority, *healthy, *ill)).collect();
        prop_assume!(counts.iter().all(|(healthy, ill)| healthy + ill > 0));
        prop_assume!(threshold > 0 || counts.iter().any(|(healthy, _)| *healthy > 0));
        let (mut config, endpoints) = made(Policy::Random, &places);
        config.panic_threshold = Some(threshold);
        let capacity: Vec<usize> = counts.iter().map(|(healthy, ill)| (140 * healthy / (healthy + ill)).min(100)).collect();
        let normal = capacity.iter().sum::<usize>().min(100);
        let panics: Vec<bool> = counts
            .iter()
            .map(|(healthy, ill)| normal < 100 && healthy * 100 < (healthy + ill) * threshold as usize)
            .collect();
        let all: usize = counts.iter().map(|(healthy, ill)| healthy + ill).sum();
        let mut left = 100;
        let loads: Vec<usize> = (0..counts.len()).map(|index| match panics.iter().all(|panic| *panic) {
            true => 100 * (counts[index].0 + counts[index].1) / all,
            false => {
                let load = (capacity[index] * 100).checked_div(normal).unwrap_or(0).min(left);
                left -= load;
                load
            }
        }).collect();
        let got = percents(&config, &endpoints);
        for (index, ((share, used), (healthy, ill))) in got.into_iter().zip(counts).enumerate() {
            // What integers have left over goes to the first.
            prop_assert!((share - loads[index] as f64).abs() < 4.0, "{}: {} and not {}", index, share, loads[index]);
            if loads[index] > 2 {
                prop_assert_eq!(used, if panics[index] { healthy + ill } else { healthy });
            }
        }
    }
}
