use super::*;
use crate::stats::latencies;

fn report() -> Report {
    let mut peers = Vec::new();
    for (name, cost) in [("Eastgate", 50.0), ("A<B", 100.0)] {
        let mut peer = Measured { name: name.to_owned(), version: "1.0".to_owned(), ..Measured::default() };
        peer.samples.insert(Metric::Connection, vec![cost + 2.0, cost, cost + 1.0]);
        let mut recorded = latencies();
        (1..=1000).for_each(|value| recorded.record(value * 1000).unwrap());
        peer.latencies.insert(Metric::Connection, recorded);
        peers.push(peer);
    }
    let troubles = vec!["A<B: round 1: gone".to_owned()];
    let comparison = Comparison { peers, tunnels: 8000, troubles, ..Comparison::default() };
    let provenance = Provenance {
        command: "eastgate-loadtest compare".to_owned(),
        date: "2026-11-22".to_owned(),
        machine: "a machine".to_owned(),
        rounds: 3,
        seconds: 2.0,
        skipped: vec!["nginx (apt-get install nginx)".to_owned()],
    };
    Report { comparison, provenance }
}

#[test]
fn the_median_is_the_middle_or_between_the_middle_two() {
    let summary = |samples: &[f64]| Summary::of(samples).map(|s| (s.median, s.min, s.max));
    assert_eq!(summary(&[]), None);
    assert_eq!(summary(&[3.0]), Some((3.0, 3.0, 3.0)));
    assert_eq!(summary(&[9.0, 1.0, 2.0]), Some((2.0, 1.0, 9.0)));
    assert_eq!(summary(&[4.0, 1.0, 2.0, 9.0]), Some((3.0, 1.0, 9.0)));
}

#[test]
fn the_table_has_a_column_for_each_peer_and_says_what_is_missing() {
    let text = report().markdown();
    for part in [
        "| work | Eastgate | A<B | to reach |\n|---|---|---|---|",
        "close), µs | 51.0 (50.0–52.0) | 101.0 (100.0–102.0) | ≤ 53 |",
        "| memory at rest, MiB | – | – | ≤ 12 |",
        "- not measured: nginx (apt-get install nginx)",
        "- trouble: A<B: round 1: gone",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn the_page_holds_its_pictures_and_needs_nothing_else() {
    let page = report().html();
    assert!(page.contains("<rect") && page.contains("<polyline") && page.contains("A&lt;B"));
    assert!(!page.contains("A<B") && !page.contains("NaN") && !page.contains("inf"));
    for foreign in ["<script", "<link", "<img", "src=", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<svg").count(), Metric::ALL.len() + 3);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn programs_get_every_sample() {
    let json = report().json();
    let metric = &json["peers"][0]["metrics"]["cpu_us_per_connection"];
    assert_eq!((&metric["samples"][0], &metric["median"]), (&52.0.into(), &51.0.into()));
    assert!(json["peers"][0]["latency_us"]["cpu_us_per_connection"]["p99"].as_f64().unwrap() > 980.0);
}
