//! What a comparison came to, for people and programs.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::compare::{Comparison, Measured, Metric};
use crate::stats::{PERCENTILES, micros};

mod html;
mod svg;

/// How a comparison was made.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// The command line.
    pub command: String,
    /// When, in UTC.
    pub date: String,
    /// The machine.
    pub machine: String,
    /// How often each peer was measured, and how long each time.
    pub rounds: u32,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Peers that were not measured, and what would change that.
    pub skipped: Vec<String>,
}

/// A comparison and how it was made.
#[derive(Debug)]
pub struct Report {
    /// What was measured.
    pub comparison: Comparison,
    /// How.
    pub provenance: Provenance,
}

/// Rounds in three numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Summary {
    /// Of no samples there is none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self { median, min, max })
    }

    fn of_peer(peer: &Measured, metric: Metric) -> Option<Self> {
        Self::of(peer.samples.get(&metric)?)
    }
}

impl Report {
    /// The table, and under it how it was made and what went wrong.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| work |");
        let peers = &self.comparison.peers;
        for peer in peers {
            let _ = write!(text, " {} |", peer.name);
        }
        let _ = writeln!(text, " to reach |\n|---|{}---|", "---|".repeat(peers.len()));
        for metric in Metric::ALL {
            let _ = write!(text, "| {} |", metric.title());
            for peer in peers {
                match Summary::of_peer(peer, metric) {
                    Some(summary) => {
                        let show = |value| metric.show(value);
                        let (min, max) = (show(summary.min), show(summary.max));
                        let _ = write!(text, " {} ({min}–{max}) |", show(summary.median));
                    }
                    None => text.push_str(" – |"),
                }
            }
            let _ = writeln!(text, " ≤ {} |", metric.goal());
        }
        text.push('\n');
        for line in self.lines() {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    /// How it was made, and what went wrong.
    fn lines(&self) -> Vec<String> {
        let Provenance { command, date, machine, rounds, seconds, skipped } = &self.provenance;
        let mut lines = vec![
            format!("{date}, {machine}"),
            format!("`{command}`"),
            format!(
                "median (min–max) of {rounds} interleaved rounds of {seconds} s; one proxy thread on the first core, \
                 load and origin on the second; {} idle tunnels held",
                self.comparison.tunnels
            ),
        ];
        if let Some(bare) = self.bare_line() {
            lines.push(bare);
        }
        lines.extend(self.comparison.peers.iter().map(|peer| format!("{}: {}", peer.name, peer.version)));
        lines.extend(skipped.iter().map(|skipped| format!("not measured: {skipped}")));
        lines.extend(self.comparison.troubles.iter().map(|trouble| format!("trouble: {trouble}")));
        lines
    }

    /// What the load costs by itself, which says how far it can be the bottleneck.
    fn bare_line(&self) -> Option<String> {
        let bare = &self.comparison.bare;
        let ping = Summary::of_peer(bare, Metric::Ping1)?.median;
        let own = |metric: Metric, count: &str, factor: f64| {
            let outcome = bare.outcomes.iter().find(|outcome| outcome["metric"] == metric.key())?;
            let outcome = &outcome["outcome"];
            Some(outcome["load_cpu_seconds"].as_f64()? * factor / outcome[count].as_f64()?)
        };
        let connection = own(Metric::Connection, "operations", 1e6)?;
        let kib = own(Metric::Down1, "bytes", 1024.0 * 1e9)?;
        Some(format!(
            "without a proxy: p50 of a ping {ping:.0} µs; load and origin themselves use {connection:.0} µs of CPU for \
             a connection and {kib:.0} ns for a KiB"
        ))
    }

    /// One page that needs nothing else.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Every sample and outcome.
    pub fn json(&self) -> Value {
        let samples = |peer: &Measured| {
            let rows = peer.samples.iter().map(|(metric, samples)| {
                let summary = Summary::of(samples);
                let row = json!({
                    "samples": samples,
                    "median": summary.map(|summary| summary.median),
                    "goal": metric.goal(),
                });
                (metric.key().to_owned(), row)
            });
            Value::Object(rows.collect())
        };
        let latencies = |peer: &Measured| {
            let rows = peer.latencies.iter().map(|(metric, latencies)| {
                let points = PERCENTILES.map(|at| (format!("p{at}"), micros(latencies, at).into()));
                (metric.key().to_owned(), Value::Object(points.into_iter().collect()))
            });
            Value::Object(rows.collect())
        };
        let peer = |peer: &Measured| {
            json!({
                "name": peer.name,
                "version": peer.version,
                "metrics": samples(peer),
                "latency_us": latencies(peer),
                "outcomes": peer.outcomes,
            })
        };
        let Provenance { command, date, machine, rounds, seconds, skipped } = &self.provenance;
        json!({
            "command": command,
            "date": date,
            "machine": machine,
            "rounds": rounds,
            "seconds": seconds,
            "skipped": skipped,
            "idle_tunnels": self.comparison.tunnels,
            "troubles": self.comparison.troubles,
            "peers": self.comparison.peers.iter().map(peer).collect::<Vec<_>>(),
            "without_proxy": peer(&self.comparison.bare),
        })
    }
}

#[cfg(test)]
mod tests;
