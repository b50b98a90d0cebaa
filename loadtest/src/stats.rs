//! What a run counted: operations, latencies, failures, and what they cost the proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::process;

/// The percentiles that are shown.
pub const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// Latencies in nanoseconds, to three digits.
pub type Latencies = Histogram<u64>;

/// An empty histogram.
pub fn latencies() -> Latencies {
    // hdrhistogram takes up to five digits, and refuses nothing else here.
    Histogram::new(3).unwrap_or_else(|_| unreachable!())
}

/// What the workers of a scenario count together.
#[derive(Debug)]
pub struct Tally {
    counts: Mutex<Counts>,
}

/// The counts of a [`Tally`].
#[derive(Debug, Clone)]
pub struct Counts {
    /// Operations that were done: connections, pings, whatever the scenario is about.
    pub operations: u64,
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Operations that were not, by reason.
    pub failures: BTreeMap<String, u64>,
    /// How long the operations took.
    pub latencies: Latencies,
}

impl Default for Tally {
    fn default() -> Self {
        let counts = Counts { operations: 0, bytes: 0, failures: BTreeMap::new(), latencies: latencies() };
        Self { counts: Mutex::new(counts) }
    }
}

impl Tally {
    /// Counts an operation that was begun, or should have been, at `from`.
    pub fn done(&self, from: Instant) {
        let latency = nanoseconds(from.elapsed());
        let mut counts = self.lock();
        counts.operations += 1;
        // The histogram grows to whatever comes.
        let _ = counts.latencies.record(latency);
    }

    /// Counts an operation that failed.
    pub fn failed(&self, reason: impl fmt::Display) {
        *self.lock().failures.entry(reason.to_string()).or_default() += 1;
    }

    /// Counts operations for which the end came too early, with the time that they had waited by then.
    pub fn late(&self, since: &[Instant]) {
        let mut counts = self.lock();
        for since in since {
            let _ = counts.latencies.record(nanoseconds(since.elapsed()));
        }
        if !since.is_empty() {
            *counts.failures.entry("not begun before the end".to_owned()).or_default() += since.len() as u64;
        }
    }

    /// Counts bytes.
    pub fn moved(&self, bytes: u64) {
        self.lock().bytes += bytes;
    }

    /// How many operations were done.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How many bytes arrived.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Forgets what was counted while warming up, failures excepted.
    pub fn reset(&self) {
        let mut counts = self.lock();
        (counts.operations, counts.bytes) = (0, 0);
        counts.latencies.reset();
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads what a proxy and this process have used since it was made.
#[derive(Debug)]
pub struct Meter {
    proxy: Option<u32>,
    started: Instant,
    own_cpu: Duration,
    proxy_cpu: Duration,
}

/// What a while cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// How long it took.
    pub elapsed: Duration,
    /// CPU time of this process: load and, unless it runs elsewhere, origin.
    pub own_cpu: Duration,
    /// CPU time of the proxy.
    pub proxy_cpu: Option<Duration>,
}

impl Meter {
    /// Begins to measure.
    ///
    /// # Errors
    /// When the proxy is gone.
    pub fn start(proxy: Option<u32>) -> Result<Self, process::Error> {
        let proxy_cpu = proxy.map_or(Ok(Duration::ZERO), process::cpu_time)?;
        let own_cpu = process::cpu_time(std::process::id())?;
        Ok(Self { proxy, started: Instant::now(), own_cpu, proxy_cpu })
    }

    /// Says what was used since the start.
    ///
    /// # Errors
    /// When the proxy is gone.
    pub fn stop(&self) -> Result<Cost, process::Error> {
        let elapsed = self.started.elapsed();
        let used = |pid| process::cpu_time(pid).map(|now| now.saturating_sub(self.proxy_cpu));
        let own_cpu = process::cpu_time(std::process::id())?.saturating_sub(self.own_cpu);
        Ok(Cost { elapsed, own_cpu, proxy_cpu: self.proxy.map(used).transpose()? })
    }
}

/// What a scenario came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The scenario.
    pub scenario: &'static str,
    /// What an operation is.
    pub unit: &'static str,
    /// What was counted.
    pub counts: Counts,
    /// What it cost.
    pub cost: Cost,
    /// What else the scenario is about, with the unit in the name.
    pub figures: BTreeMap<&'static str, f64>,
}

impl Outcome {
    /// Proxy CPU per operation, in nanoseconds, where there is a proxy and an operation.
    pub fn cpu_per_operation(&self) -> Option<f64> {
        per(self.cost.proxy_cpu?, self.counts.operations as f64)
    }

    /// Proxy CPU per KiB, in nanoseconds.
    pub fn cpu_per_kib(&self) -> Option<f64> {
        per(self.cost.proxy_cpu?, self.counts.bytes as f64 / 1024.0)
    }

    /// How many operations failed.
    pub fn failed(&self) -> u64 {
        self.counts.failures.values().sum()
    }

    /// The same for programs; latencies in microseconds.
    pub fn json(&self) -> Value {
        let seconds = self.cost.elapsed.as_secs_f64();
        let percentile = |at: &f64| (format!("p{at}"), micros(&self.counts.latencies, *at).into());
        let latencies: serde_json::Map<String, Value> = PERCENTILES.iter().map(percentile).collect();
        json!({
            "scenario": self.scenario,
            "unit": self.unit,
            "seconds": seconds,
            "operations": self.counts.operations,
            "operations_per_second": self.counts.operations as f64 / seconds,
            "bytes": self.counts.bytes,
            "bytes_per_second": self.counts.bytes as f64 / seconds,
            "failed": self.failed(),
            "failures": self.counts.failures,
            "latency_us": latencies,
            "proxy_cpu_seconds": self.cost.proxy_cpu.map(|cpu| cpu.as_secs_f64()),
            "proxy_cpu_us_per_operation": self.cpu_per_operation().map(|cpu| cpu / 1000.0),
            "proxy_cpu_ns_per_kib": self.cpu_per_kib(),
            "load_cpu_seconds": self.cost.own_cpu.as_secs_f64(),
            "figures": self.figures,
        })
    }
}

fn per(cpu: Duration, count: f64) -> Option<f64> {
    (count > 0.0).then(|| cpu.as_nanos() as f64 / count)
}

/// A percentile in microseconds.
pub fn micros(latencies: &Latencies, percentile: f64) -> f64 {
    latencies.value_at_percentile(percentile) as f64 / 1000.0
}

/// For people: what was done, how fast, at what cost.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.cost.elapsed.as_secs_f64();
        let Counts { operations, bytes, failures, latencies } = &self.counts;
        writeln!(f, "{}: {operations} {} in {seconds:.2} s", self.scenario, self.unit)?;
        writeln!(f, "  rate           {:>12.1} /s", *operations as f64 / seconds)?;
        if *bytes > 0 {
            writeln!(f, "  throughput     {:>12.1} MiB/s", *bytes as f64 / seconds / 1_048_576.0)?;
        }
        if !latencies.is_empty() {
            write!(f, "  latency")?;
            for at in PERCENTILES {
                write!(f, "  p{at} {:.0}", micros(latencies, at))?;
            }
            writeln!(f, " µs")?;
        }
        if let Some(cpu) = self.cost.proxy_cpu {
            writeln!(f, "  proxy CPU      {:>12.1} % of a core", 100.0 * cpu.as_secs_f64() / seconds)?;
        }
        if let Some(cpu) = self.cpu_per_kib() {
            writeln!(f, "                 {cpu:>12.0} ns/KiB")?;
        } else if let Some(cpu) = self.cpu_per_operation() {
            writeln!(f, "                 {:>12.1} µs each", cpu / 1000.0)?;
        }
        let own = 100.0 * self.cost.own_cpu.as_secs_f64() / seconds;
        writeln!(f, "  load's own CPU {own:>12.1} % of a core")?;
        for (name, value) in &self.figures {
            writeln!(f, "  {name}: {value:.1}")?;
        }
        for (reason, count) in failures {
            writeln!(f, "  {count} failed: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
