use fastrand::Rng;
use proptest::prelude::*;

use super::*;

fn rules() -> OutlierDetection {
    OutlierDetection {
        consecutive_failures: Some(5),
        consecutive_enforcing: 100,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_jitter: Duration::ZERO,
        max_ejection_percent: 50,
        always_eject_one: false,
        success_rate: None,
        failure_percentage: None,
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A cluster of endpoints whose counters are kept as the data path keeps them, and that does what it is told.
struct Cluster {
    rules: OutlierDetection,
    seen: Vec<Seen<'static>>,
    detector: Detector,
    out_for: Vec<Option<Cause>>,
}

impl Cluster {
    fn new(rules: OutlierDetection, endpoints: u8) -> Self {
        Self::of(rules, (0..endpoints).map(|_| None))
    }

    fn of(rules: OutlierDetection, gateways: impl Iterator<Item = Option<&'static str>>) -> Self {
        let seen: Vec<_> = gateways
            .zip(1..)
            .map(|(gateway, last)| Seen {
                address: ([10, 0, 0, last], 80).into(),
                gateway,
                ejected: false,
                reading: Reading::default(),
            })
            .collect();
        let detector = Detector::new(&rules, &seen, Duration::ZERO);
        let out_for = vec![None; seen.len()];
        Self { rules, seen, detector, out_for }
    }

    fn connects(&mut self, index: usize, times: u64) {
        let reading = &mut self.seen[index].reading;
        reading.connected += times;
        reading.failed_in_row = 0;
    }

    fn fails(&mut self, index: usize, times: u32) {
        let reading = &mut self.seen[index].reading;
        reading.failed += u64::from(times);
        reading.failed_in_row += times;
    }

    fn answers(&mut self, index: usize) {
        let reading = &mut self.seen[index].reading;
        reading.answered += 1;
        reading.unanswered_in_row = 0;
    }

    fn is_silent(&mut self, index: usize, times: u32) {
        self.seen[index].reading.unanswered_in_row += times;
    }

    fn look(&mut self, now: Duration) -> Vec<Verdict> {
        self.look_with(now, |_| 0)
    }

    fn look_with(&mut self, now: Duration, draw: impl FnMut(u64) -> u64) -> Vec<Verdict> {
        let verdicts = self.detector.look(&self.rules, &self.seen, now, draw);
        for verdict in &verdicts {
            let (address, out) = match verdict {
                Verdict::Eject { address, cause, .. } => (address, Some(*cause)),
                Verdict::Spare { address, .. }
                | Verdict::LetOff { address, .. }
                | Verdict::Return(address) => (address, None),
            };
            let index = self.seen.iter().position(|one| one.address == *address).unwrap();
            let one = &mut self.seen[index];
            one.ejected = out.is_some();
            (one.reading.failed_in_row, one.reading.unanswered_in_row) = (0, 0);
            self.out_for[index] = out;
        }
        verdicts
    }

    fn ejected(&mut self, index: usize, now: Duration) -> Option<Duration> {
        let address = self.seen[index].address;
        self.look(now).into_iter().find_map(|verdict| match verdict {
            Verdict::Eject { address: ejected, time, .. } if ejected == address => Some(time),
            _ => None,
        })
    }

    fn out(&self) -> usize {
        self.out_for.iter().flatten().count()
    }
}

#[test]
fn an_endpoint_is_ejected_by_the_fifth_failure_in_a_row_and_let_in_when_its_time_is_over() {
    let mut cluster = Cluster::new(rules(), 3);
    cluster.fails(0, 4);
    cluster.connects(0, 1);
    cluster.fails(0, 4);
    assert!(cluster.look(seconds(1)).is_empty());
    cluster.fails(0, 1);
    let address = cluster.seen[0].address;
    let ejected = Verdict::Eject { address, cause: Cause::Consecutive, time: seconds(30) };
    assert_eq!(cluster.look(seconds(2)), [ejected]);
    assert!(cluster.look(seconds(31)).is_empty());
    assert!(cluster.detector.due() <= seconds(32), "it is not looked at when the time is over");
    assert_eq!(cluster.look(seconds(32)), [Verdict::Return(address)]);
}

#[test]
fn the_time_grows_with_each_ejection_up_to_the_longest_and_shrinks_while_it_is_well() {
    let mut cluster = Cluster::new(rules(), 4);
    let mut now = seconds(0);
    let mut times = Vec::new();
    for _ in 0..12 {
        cluster.fails(0, 5);
        let time = cluster.ejected(0, now).unwrap();
        times.push(time.as_secs());
        now += time;
        cluster.look(now);
        now += seconds(1);
    }
    assert_eq!(times[..5], [30, 60, 90, 120, 150], "{times:?}");
    assert!(times.is_sorted() && times.iter().all(|time| *time <= 300), "{times:?}");
    assert_eq!(times[9..], [300; 3]);
    for _ in 0..4 {
        now += seconds(10);
        cluster.look(now);
    }
    cluster.fails(0, 5);
    let later = cluster.ejected(0, now).unwrap().as_secs();
    assert_eq!(later, 240, "eleven times, less four for as many good intervals, and one more");
}

#[test]
fn no_more_than_the_share_is_out_and_one_always_where_that_is_asked_for() {
    for (percent, always_one, expected) in
        [(50, false, 2), (10, false, 0), (10, true, 1), (100, false, 4), (0, false, 0)]
    {
        let rules =
            OutlierDetection { max_ejection_percent: percent, always_eject_one: always_one, ..rules() };
        let mut cluster = Cluster::new(rules, 4);
        (0..4).for_each(|index| cluster.fails(index, 5));
        let verdicts = cluster.look(seconds(1));
        assert_eq!(cluster.out(), expected, "{percent} % {always_one}");
        let spared = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Spare { .. })).count();
        assert_eq!(spared, 4 - expected);
    }
}

#[test]
fn a_rule_that_is_enforced_in_so_many_of_a_hundred_cases_ejects_in_so_many() {
    let mut random = Rng::with_seed(7);
    for percent in [1, 30, 75, 100] {
        let rules = OutlierDetection { consecutive_enforcing: percent, ..rules() };
        let mut ejected = 0;
        for _ in 0..2_000 {
            let mut cluster = Cluster::new(rules.clone(), 3);
            cluster.fails(0, 5);
            match cluster.look_with(seconds(1), |below| random.u64(..below))[..] {
                [Verdict::Eject { .. }] => ejected += 1,
                [Verdict::LetOff { cause: Cause::Consecutive, .. }] => {}
                ref other => panic!("{other:?}"),
            }
        }
        let wanted = 20 * percent;
        println!("enforcing {percent} %: {ejected} of 2,000 outliers ejected");
        assert!(wanted.abs_diff(ejected) <= 80, "{ejected} of 2,000 at {percent} %");
    }
    // The other rules have a chance of their own.
    let share = FailurePercentage { threshold: 85, minimum_hosts: 1, request_volume: 50, enforcing: 20 };
    let rules =
        OutlierDetection { failure_percentage: Some(share), consecutive_failures: None, ..self::rules() };
    for (drawn, ejects) in [(19, true), (20, false)] {
        let mut cluster = Cluster::new(rules.clone(), 3);
        cluster.fails(0, 60);
        cluster.look_with(seconds(10), |_| drawn);
        assert_eq!(cluster.out() == 1, ejects, "{drawn}");
    }
}

#[test]
fn who_answers_no_hello_is_ejected_while_the_others_answer_and_not_when_nobody_does() {
    let mut cluster = Cluster::new(rules(), 4);
    (0..4).for_each(|index| cluster.is_silent(index, 5));
    assert!(cluster.look(seconds(1)).is_empty(), "these are bad hellos, not bad endpoints");
    (1..4).for_each(|index| cluster.answers(index));
    let verdicts = cluster.look(seconds(2));
    assert!(matches!(verdicts[..], [Verdict::Eject { cause: Cause::Handshakes, .. }]), "{verdicts:?}");
}

#[test]
fn what_fails_behind_a_gateway_is_not_held_against_it() {
    let mut cluster = Cluster::of(rules(), [Some("east"), Some("east"), None, None].into_iter());
    cluster.is_silent(0, 50);
    (1..4).for_each(|index| cluster.answers(index));
    assert!(cluster.look(seconds(1)).is_empty());
    cluster.fails(0, 5);
    assert!(cluster.ejected(0, seconds(2)).is_some(), "that it cannot be connected to is its own");
}

#[test]
fn the_last_gateway_of_a_network_stays() {
    let all = OutlierDetection { max_ejection_percent: 100, ..rules() };
    let mut cluster = Cluster::of(all, [Some("east"), Some("east"), Some("west"), None].into_iter());
    (0..4).for_each(|index| cluster.fails(index, 5));
    cluster.look(seconds(1));
    let causes: Vec<_> = cluster.out_for.iter().map(Option::is_some).collect();
    assert_eq!(causes, [true, false, false, true]);
}

#[test]
fn far_fewer_successes_than_the_mean_and_too_many_failures_are_seen_when_the_interval_is_over() {
    let rate = SuccessRate { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900, enforcing: 100 };
    let mut cluster =
        Cluster::new(OutlierDetection { success_rate: Some(rate), consecutive_failures: None, ..rules() }, 6);
    let hundred = |cluster: &mut Cluster, bad: u32| {
        (0..6).for_each(|index| cluster.connects(index, 100));
        cluster.fails(0, bad);
    };
    hundred(&mut cluster, 50);
    assert!(cluster.look(seconds(9)).is_empty());
    assert!(cluster.ejected(0, seconds(10)).is_some());
    assert_eq!(cluster.out_for[0], Some(Cause::SuccessRate));

    let share = FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50, enforcing: 100 };
    let rules = OutlierDetection { failure_percentage: Some(share), consecutive_failures: None, ..rules() };
    let mut cluster = Cluster::new(rules, 6);
    hundred(&mut cluster, 100 * 84 / 16 - 1);
    assert!(cluster.look(seconds(10)).is_empty(), "84 %");
    hundred(&mut cluster, 100 * 85 / 15 + 1);
    assert!(cluster.ejected(0, seconds(20)).is_some());
    assert_eq!(cluster.out_for[0], Some(Cause::FailurePercentage));
}

#[test]
fn shares_need_enough_connections_of_enough_endpoints() {
    let share = FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50, enforcing: 100 };
    let rules = OutlierDetection { failure_percentage: Some(share), consecutive_failures: None, ..rules() };
    for (endpoints, volume, ejects) in [(5, 50, true), (4, 50, false), (5, 49, false)] {
        let mut cluster = Cluster::new(rules.clone(), endpoints);
        (1..usize::from(endpoints)).for_each(|index| cluster.connects(index, 50));
        cluster.fails(0, volume);
        assert_eq!(cluster.ejected(0, seconds(10)).is_some(), ejects, "{endpoints} {volume}");
    }
}

#[test]
fn it_is_quiet_again_when_nothing_failed_for_an_interval_and_nobody_has_anything_to_serve() {
    let mut cluster = Cluster::new(rules(), 3);
    assert!(cluster.detector.is_quiet(&cluster.seen));
    cluster.fails(0, 5);
    cluster.look(seconds(1));
    assert!(!cluster.detector.is_quiet(&cluster.seen));
    for now in 1..6 {
        cluster.look(seconds(now * 10 + 1));
    }
    assert!(cluster.detector.is_quiet(&cluster.seen));
}

#[test]
fn an_endpoint_that_somebody_else_let_in_is_judged_again() {
    let mut cluster = Cluster::new(rules(), 3);
    cluster.fails(0, 5);
    assert!(cluster.ejected(0, seconds(1)).is_some());
    cluster.seen[0].ejected = false;
    cluster.fails(0, 5);
    assert_eq!(cluster.ejected(0, seconds(2)), Some(seconds(60)));
}

proptest! {
    /// Envoy's formula: ejected is who succeeds less often than the mean less so many standard deviations of those that were
    /// asked often enough, if these are enough.
    #[test]
    fn success_rates_are_judged_by_envoys_formula(
        counts in prop::collection::vec((0u64..400, 0u32..400), 1..12), minimum_hosts in 1u32..8, stdev_factor in 500u32..2500,
    ) {
        let rate = SuccessRate { minimum_hosts, request_volume: 100, stdev_factor, enforcing: 100 };
        let all = OutlierDetection {
            success_rate: Some(rate), consecutive_failures: None, max_ejection_percent: 100, ..rules()
        };
        let mut cluster = Cluster::new(all, counts.len() as u8);
        for (index, (connected, failed)) in counts.iter().enumerate() {
            cluster.connects(index, *connected);
            cluster.fails(index, *failed);
        }
        cluster.look(seconds(10));
        let rates: Vec<Option<f64>> = counts
            .iter()
            .map(|(connected, failed)| {
                let total = connected + u64::from(*failed);
                (total >= 100).then(|| 100.0 * *connected as f64 / total as f64)
            })
            .collect();
        let known: Vec<f64> = rates.iter().flatten().copied().collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let deviation = (known.iter().map(|rate| (rate - mean) * (rate - mean)).sum::<f64>() / known.len() as f64).sqrt();
        let threshold = mean - deviation * f64::from(stdev_factor) / 1000.0;
        for (index, rate) in rates.iter().enumerate() {
            // What stands on the threshold itself may be rounded either way.
            let Some(rate) = rate.filter(|rate| (rate - threshold).abs() > 1e-6) else { continue };
            let ejected = known.len() >= minimum_hosts as usize && rate < threshold;
            prop_assert_eq!(cluster.out_for[index].is_some(), ejected, "{} of {:?}", rate, rates);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Minutes of failures, with endpoints that come, go, fall ill and get well, at any settings.
    #[test]
    fn whatever_happens_the_share_holds_and_nobody_is_out_for_longer_than_the_longest(
        seed: u64, endpoints in 1u8..12, percent in 0u32..=100, always: bool, jitter in 0u64..5_000, gateways in 0u8..4,
    ) {
        let rules = OutlierDetection {
            max_ejection_percent: percent,
            always_eject_one: always,
            max_ejection_jitter: Duration::from_millis(jitter),
            success_rate: Some(SuccessRate { minimum_hosts: 3, request_volume: 10, stdev_factor: 1900, enforcing: 100 }),
            failure_percentage: Some(FailurePercentage { threshold: 85, minimum_hosts: 3, request_volume: 10, enforcing: 100 }),
            ..rules()
        };
        let longest = rules.max_ejection_time + rules.max_ejection_jitter;
        let kinds = (0..endpoints).map(|index| (index < gateways).then_some("east"));
        let mut cluster = Cluster::of(rules, kinds);
        let mut random = Rng::with_seed(seed);
        let mut ill = vec![false; usize::from(endpoints)];
        let mut since: Vec<Option<Duration>> = vec![None; usize::from(endpoints)];
        for tick in 0..400u64 {
            let now = Duration::from_millis(tick * 700);
            for (index, is_ill) in ill.iter_mut().enumerate() {
                *is_ill ^= random.u8(..) < 5;
                // Nobody is sent to an endpoint that is out, but for connections that were under way.
                match (cluster.seen[index].ejected && random.u8(..) > 20, *is_ill) {
                    (true, _) => {}
                    (false, true) => cluster.fails(index, random.u32(..3)),
                    (false, false) => cluster.connects(index, random.u64(1..4)),
                }
            }
            let verdicts = cluster.look_with(now, |below| random.u64(..below));
            let out = cluster.out();
            let allowed = (usize::from(endpoints) * percent as usize / 100).max(usize::from(always));
            prop_assert!(out <= allowed, "{out} of {endpoints} are out at {percent} %");
            let gateways = usize::from(gateways.min(endpoints));
            let gateways_out = cluster.out_for[..gateways].iter().flatten().count();
            prop_assert!(gateways == 0 || gateways_out < gateways, "the last gateway is out");
            for (index, since) in since.iter_mut().enumerate() {
                match (cluster.out_for[index], *since) {
                    (Some(_), None) => *since = Some(now),
                    (Some(_), Some(then)) => prop_assert!(now - then <= longest + Duration::from_millis(700)),
                    (None, _) => *since = None,
                }
            }
            prop_assert!(cluster.detector.due() > now, "it wants to be looked at for ever: {verdicts:?}");
        }
    }
}
