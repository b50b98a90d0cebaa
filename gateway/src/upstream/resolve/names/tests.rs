use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> UpstreamDns {
    UpstreamDns { max_lookups: 2, ..UpstreamDns::default() }
}

fn wanted(names: &[&str]) -> BTreeMap<String, Wanted> {
    names.iter().map(|name| ((*name).to_owned(), Wanted::new(None))).collect()
}

fn v4(last: &[u8]) -> Found {
    Found::Addresses(last.iter().map(|last| [10, 0, 0, *last].into()).collect(), 60 * SECOND)
}

fn v6(last: &[u16]) -> Found {
    Found::Addresses(last.iter().map(|last| [1, 0, 0, 0, 0, 0, 0, *last].into()).collect(), 60 * SECOND)
}

const NONE: Found = Found::None(None);

fn failed() -> Found {
    Found::Failed("no answer".into())
}

/// One wanted name, and the time.
struct One {
    names: Names,
    now: Instant,
}

impl One {
    fn new(how: Wanted) -> Self {
        let now = Instant::now();
        let mut names = Names::new(settings());
        names.want(&[("a".to_owned(), how)].into(), now);
        Self { names, now }
    }

    /// Looks it up when it is due, and gives how long that was waited for.
    fn look_up(&mut self, found: [Found; 2], chance: f64) -> (Duration, Settled) {
        let due = self.names.next().unwrap();
        let waited = due.saturating_duration_since(self.now);
        self.now = self.now.max(due);
        assert_eq!(self.names.due(self.now), ["a"]);
        (waited, self.names.settle("a", found, self.now, chance).unwrap())
    }

    fn addresses(&self) -> Vec<String> {
        let resolutions = self.names.resolutions();
        resolutions.get("a").into_iter().flatten().map(ToString::to_string).collect()
    }
}

#[test]
fn the_time_to_live_counts_within_its_bounds_and_with_jitter() {
    let mut one = One::new(Wanted::new(None));
    let of = |seconds| Found::Addresses(vec![[10, 0, 0, 1].into()], seconds * SECOND);
    assert_eq!(one.look_up([of(60), NONE], 0.0).0, Duration::ZERO);
    assert_eq!(one.look_up([of(0), NONE], 0.0).0, 60 * SECOND);
    assert_eq!(one.look_up([of(86_400), NONE], 0.0).0, settings().min_ttl);
    assert_eq!(one.look_up([of(100), NONE], 1.0).0, settings().max_ttl);
    assert_eq!(one.look_up([of(100), NONE], 1.0).0, 110 * SECOND);
}

#[test]
fn a_cluster_that_does_not_respect_it_says_how_often() {
    let dns = |respect_ttl, seconds| cluster::Dns {
        logical: false,
        refresh: seconds * SECOND,
        respect_ttl,
        family: Default::default(),
    };
    let waits = |how| {
        let mut one = One::new(how);
        one.look_up([v4(&[1]), NONE], 0.0);
        one.look_up([v4(&[1]), NONE], 0.0).0
    };
    let (by_rate, by_ttl) = (Wanted::new(Some(&dns(false, 20))), Wanted::new(Some(&dns(true, 1))));
    assert_eq!([waits(by_rate), waits(by_ttl), waits(by_ttl.and(by_rate))], [20, 60, 20].map(|n| n * SECOND));
    assert_eq!(waits(Wanted::new(Some(&dns(false, 0)))), SECOND);
}

#[test]
fn what_is_no_answer_with_addresses_changes_nothing_however_often_it_comes() {
    let mut one = One::new(Wanted::new(None));
    assert!(one.look_up([v4(&[2, 1]), NONE], 0.0).1.changed);
    for round in 0..20 {
        let (_, settled) = one.look_up(if round % 2 == 0 { [failed(), failed()] } else { [NONE, NONE] }, 0.5);
        assert!(!settled.changed && !settled.recovered);
        assert_eq!(settled.began_to_fail.is_some(), round == 0, "told once an episode");
        assert_eq!(one.addresses(), ["10.0.0.1", "10.0.0.2"]);
    }
    assert_eq!(one.names.counts(), Counts { stale: 1, ..Counts::default() });
    let settled = one.look_up([v4(&[1, 2]), NONE], 0.0).1;
    assert!(settled.recovered && !settled.changed, "a rotated answer is no change");
}

#[test]
fn a_family_that_does_not_answer_keeps_what_it_had_and_one_that_has_none_loses_it() {
    let mut one = One::new(Wanted::new(None));
    one.look_up([v4(&[1]), v6(&[6])], 0.0);
    assert!(!one.look_up([v4(&[1]), failed()], 0.0).1.changed);
    assert_eq!(one.addresses(), ["10.0.0.1", "1::6"]);
    assert!(one.look_up([v4(&[1]), NONE], 0.0).1.changed);
    assert_eq!(one.addresses(), ["10.0.0.1"]);
}

#[test]
fn failures_back_off_up_to_a_limit_and_begin_anew_after_an_answer() {
    let mut one = One::new(Wanted::new(None));
    let mut waits: Vec<_> = (0..8).map(|_| one.look_up([failed(), failed()], 1.0).0.as_secs()).collect();
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(one.look_up([v4(&[1]), NONE], 0.0).0, 30 * SECOND);
    waits = (0..3).map(|_| one.look_up([failed(), NONE], 0.0).0.as_millis() as u64).collect();
    assert_eq!(waits, [60_000, 500, 1_000], "half of the wait is by chance");
}

#[test]
fn that_there_is_no_such_name_is_believed_for_its_time_to_live_up_to_the_longest_wait() {
    let none = |seconds: u32| [Found::None(Some(seconds * SECOND)), Found::None(Some(seconds * SECOND))];
    let mut one = One::new(Wanted::new(None));
    one.look_up(none(10), 0.0);
    assert_eq!(one.look_up(none(3_600), 0.0).0, 10 * SECOND);
    assert_eq!(one.look_up(none(0), 0.0).0, settings().max_retry);
    assert_eq!(one.look_up(none(0), 0.0).0, 4 * SECOND, "it backs off all the same");
    assert_eq!(one.names.counts(), Counts { unknown: 1, ..Counts::default() });
}

#[test]
fn where_the_order_counts_it_is_that_of_the_answer() {
    let logical =
        cluster::Dns { logical: true, refresh: SECOND, respect_ttl: true, family: Default::default() };
    let mut one = One::new(Wanted::new(Some(&logical)));
    one.look_up([v4(&[2, 1]), NONE], 0.0);
    assert_eq!(one.addresses(), ["10.0.0.2", "10.0.0.1"]);
    assert!(one.look_up([v4(&[1, 2]), NONE], 0.0).1.changed);
    assert_eq!(one.addresses()[0], "10.0.0.1");
}

#[test]
fn so_many_names_are_looked_up_at_once_and_a_name_that_nobody_wants_is_forgotten() {
    let now = Instant::now();
    let mut names = Names::new(settings());
    names.want(&wanted(&["a", "b", "c"]), now);
    assert_eq!((names.due(now), names.next()), (vec!["a".to_owned(), "b".into()], None));
    assert!(names.settle("a", [v4(&[1]), NONE], now, 0.0).unwrap().changed);
    assert_eq!(names.due(now), ["c"]);
    // One that is being looked up goes, and leaves its room.
    assert!(names.want(&wanted(&["c", "d"]), now));
    assert_eq!(names.settle("b", [v4(&[1]), NONE], now, 0.0), None);
    assert_eq!(names.due(now), ["d"]);
    assert!(names.resolutions().is_empty());
}

fn found() -> impl Strategy<Value = Found> {
    prop_oneof![
        proptest::collection::vec(1_u8..5, 1..4).prop_map(|last| v4(&last)),
        Just(NONE),
        Just(failed()),
        (0_u32..100_000).prop_map(|seconds| Found::None(Some(seconds * SECOND))),
    ]
}

proptest! {
    #[test]
    fn a_name_that_has_been_known_stays_known_and_no_wait_is_out_of_bounds(
        rounds in proptest::collection::vec((found(), found(), 0.0..1.0_f64), 1..40),
    ) {
        let mut one = One::new(Wanted::new(None));
        let mut known = false;
        for (round, (a, b, chance)) in rounds.into_iter().enumerate() {
            let (waited, settled) = one.look_up([a, b], chance);
            let limits = settings();
            prop_assert!(round == 0 || waited >= limits.retry.mul_f64(0.5) && waited <= limits.max_ttl.mul_f64(1.1));
            known |= settled.result == Result::Answered;
            prop_assert_eq!(known, !one.addresses().is_empty());
        }
    }
}
