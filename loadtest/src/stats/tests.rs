use super::*;

fn outcome() -> Outcome {
    let tally = Tally::default();
    for _ in 0..4 {
        tally.done(Instant::now());
    }
    tally.moved(2048);
    tally.failed("refused");
    let cost = Cost {
        elapsed: Duration::from_secs(2),
        own_cpu: Duration::from_secs(1),
        proxy_cpu: Some(Duration::from_micros(200)),
    };
    let figures = BTreeMap::from([("bytes of memory per tunnel", 12.5)]);
    Outcome { scenario: "connect-rate", unit: "connections", counts: tally.counts(), cost, figures }
}

#[test]
fn costs_are_divided_by_what_was_done() {
    let outcome = outcome();
    assert_eq!(outcome.cpu_per_operation(), Some(50_000.0));
    assert_eq!(outcome.cpu_per_kib(), Some(100_000.0));
    let mut nothing = outcome;
    (nothing.counts.operations, nothing.counts.bytes) = (0, 0);
    assert_eq!((nothing.cpu_per_operation(), nothing.cpu_per_kib()), (None, None));
}

#[test]
fn people_and_programs_are_told_the_same() {
    let (outcome, text) = (outcome(), outcome().to_string());
    for part in
        ["4 connections in 2.00 s", "2.0 /s", "100000 ns/KiB", "50.0 % of a core", "1 failed: refused"]
    {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let json = outcome.json();
    assert_eq!(json["operations_per_second"], 2.0);
    assert_eq!((&json["failed"], &json["proxy_cpu_us_per_operation"]), (&1.into(), &50.0.into()));
}

#[test]
fn operations_that_never_began_count_with_the_time_they_waited() {
    let tally = Tally::default();
    tally.late(&[Instant::now().checked_sub(Duration::from_secs(3)).unwrap()]);
    let counts = tally.counts();
    assert_eq!(counts.operations, 0);
    assert!(micros(&counts.latencies, 50.0) >= 2_990_000.0);
}

#[test]
fn what_was_counted_while_warming_up_is_forgotten_but_its_failures() {
    let tally = Tally::default();
    tally.done(Instant::now());
    tally.failed("refused");
    tally.reset();
    let counts = tally.counts();
    assert_eq!((counts.operations, counts.latencies.len(), counts.failures.len()), (0, 0, 1));
}
