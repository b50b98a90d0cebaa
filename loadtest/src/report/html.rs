//! The report as one page, with its pictures inside.

use std::fmt::Write;

use super::svg::{Bar, Curve, bars, curves};
use super::{Report, Summary};
use crate::compare::Metric;
use crate::stats::micros;

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { border-bottom: 1px solid #d5d9de; padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
td small { color: #6a737d; display: block; }
td.reached { background: #e3f5e6; } td.short { background: #fdecea; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; height: auto; }
";

/// Points of a curve: from the median out to one in a hundred thousand.
const CURVE: [f64; 13] = [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999];

pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Eastgate and its peers</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>\n\
         <h1>Eastgate and its peers</h1>\n<p>Less is better everywhere. Ratios within this page count; absolute \
         values are this machine's.</p>\n"
    );
    page.push_str(&table(report));
    page.push_str("<h2>Medians, with the least and the most of the rounds</h2>\n<div class=\"pictures\">\n");
    for metric in Metric::ALL {
        figure(&mut page, metric.title(), &metric_bars(report, metric));
    }
    page.push_str("</div>\n<h2>Latencies, all rounds</h2>\n<div class=\"pictures\">\n");
    for metric in Metric::ALL.into_iter().filter(|metric| metric.has_latencies()) {
        figure(&mut page, metric.curve(), &metric_curves(report, metric));
    }
    page.push_str("</div>\n<h2>How it was made</h2>\n<ul>\n");
    for line in report.lines() {
        let _ = writeln!(page, "<li>{}</li>", escape(&line));
    }
    page.push_str("</ul>\n</html>\n");
    page
}

fn figure(page: &mut String, title: &str, picture: &str) {
    let _ = writeln!(page, "<figure><figcaption>{}</figcaption>{picture}</figure>", escape(title));
}

fn table(report: &Report) -> String {
    let mut table = String::from("<table>\n<tr><th>work</th>");
    for peer in &report.comparison.peers {
        let _ = write!(table, "<th>{}</th>", escape(&peer.name));
    }
    table.push_str("<th>to reach</th></tr>\n");
    for metric in Metric::ALL {
        let _ = write!(table, "<tr><td>{}</td>", escape(metric.title()));
        for peer in &report.comparison.peers {
            let Some(summary) = Summary::of_peer(peer, metric) else {
                table.push_str("<td>–</td>");
                continue;
            };
            let show = |value| metric.show(value);
            let class = if summary.median <= metric.goal() { "reached" } else { "short" };
            let (median, min, max) = (show(summary.median), show(summary.min), show(summary.max));
            let _ = write!(table, "<td class=\"{class}\">{median}<small>{min}–{max}</small></td>");
        }
        let _ = writeln!(table, "<td>≤ {}</td></tr>", metric.goal());
    }
    table.push_str("</table>\n");
    table
}

fn metric_bars(report: &Report, metric: Metric) -> String {
    let bar = |peer: &crate::compare::Measured| {
        let Summary { median, min, max } = Summary::of_peer(peer, metric)?;
        Some(Bar { name: escape(&peer.name), label: metric.show(median), median, min, max })
    };
    bars(&report.comparison.peers.iter().filter_map(bar).collect::<Vec<_>>(), metric.goal())
}

fn metric_curves(report: &Report, metric: Metric) -> String {
    let curve = |peer: &crate::compare::Measured| {
        let latencies = peer.latencies.get(&metric).filter(|latencies| !latencies.is_empty())?;
        // Beyond this the histogram would repeat its slowest.
        let finest = 100.0 - 100.0 / latencies.len() as f64;
        let points = CURVE.into_iter().filter(|at| *at <= finest);
        let points = points.map(|at| (at, micros(latencies, at))).collect();
        Some(Curve { name: escape(&peer.name), points })
    };
    curves(&report.comparison.peers.iter().filter_map(curve).collect::<Vec<_>>())
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
