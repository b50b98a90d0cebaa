//! The comparison: every peer does the same work in turn, several times over.
//!
//! Peers take turns within a round, and begin a round in turn, so that what else the machine does meets all of them.
//! Each measures twice in a round: a fresh process for memory, as what a proxy keeps after load would hide what a
//! tunnel takes, and another for work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::hello::RECORDED_NAME;
use crate::load::{LoadOrigin, Target};
use crate::peers::{self, Peer, Place, Running};
use crate::process;
use crate::scenario::{self, Amount, Direction, Options as Load, bulk, connect_rate, idle_soak, ping_pong};
use crate::stats::{Latencies, Outcome, micros};

mod metric;

pub use metric::Metric;

/// How long a fresh process may take to give back what its start took.
const SETTLE: Duration = Duration::from_millis(500);
/// Descriptors of each process that are not for idle tunnels.
const SPARE_DESCRIPTORS: u64 = 1500;

/// Why there is no comparison at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A core for the peers and one for the load is the least.
    #[error("two cores are needed, one for the peers and one for the load; there is {0}")]
    Cores(usize),
    /// The load's own core or origin.
    #[error("cannot set up the load")]
    Load(#[source] std::io::Error),
    /// The load's own core.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// What could not be measured.
    #[error(transparent)]
    Scenario(#[from] scenario::Error),
    /// The name cannot be sent.
    #[error(transparent)]
    Name(#[from] crate::hello::BadName),
}

/// What to compare, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The peers.
    pub peers: Vec<Peer>,
    /// How often each is measured.
    pub rounds: u32,
    /// How long each measurement takes.
    pub length: Duration,
    /// How many idle tunnels to hold, if descriptors allow it.
    pub tunnels: usize,
    /// This program, whose `exec` command becomes a peer.
    pub launcher: PathBuf,
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The peers, in the order of the options.
    pub peers: Vec<Measured>,
    /// The load without any peer: what part of a latency is its own, and what the load itself costs.
    pub bare: Measured,
    /// How many idle tunnels were held.
    pub tunnels: usize,
    /// What went wrong, by peer.
    pub troubles: Vec<String>,
}

/// What was measured of one peer.
#[derive(Debug, Default)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// A value for each round, in the metric's unit.
    pub samples: BTreeMap<Metric, Vec<f64>>,
    /// The latencies of all rounds.
    pub latencies: BTreeMap<Metric, Latencies>,
    /// Every outcome, as the scenarios tell it.
    pub outcomes: Vec<Value>,
}

impl Measured {
    fn add(&mut self, metric: Metric, value: Option<f64>, outcome: &Outcome) {
        if let Some(value) = value {
            self.samples.entry(metric).or_default().push(value);
        }
        if metric.has_latencies() {
            let all = self.latencies.entry(metric).or_insert_with(crate::stats::latencies);
            // Both have the same digits, and grow.
            let _ = all.add(&outcome.counts.latencies);
        }
        self.outcomes.push(json!({ "metric": metric.key(), "outcome": outcome.json() }));
    }
}

/// Compares. `step` is told of each part before it begins, of which there are [`steps`].
///
/// # Errors
/// When the load cannot run; what fails of a peer stands in the comparison.
pub async fn compare(options: &Options, mut step: impl FnMut(String)) -> Result<Comparison, Error> {
    let cores = process::cores();
    let [proxy_core, load_core, ..] = cores[..] else { return Err(Error::Cores(cores.len())) };
    let limit = process::descriptor_limit();
    process::pin(load_core)?;
    let origin = LoadOrigin::start(peers::free_port().map_err(Error::Load)?).await.map_err(Error::Load)?;
    let place = Place {
        launcher: options.launcher.clone(),
        core: proxy_core,
        origin: origin.address(),
        server_name: RECORDED_NAME.to_owned(),
    };
    let allowed = usize::try_from(limit.saturating_sub(SPARE_DESCRIPTORS) / 2).unwrap_or(usize::MAX);
    let mut comparison = Comparison { tunnels: options.tunnels.min(allowed), ..Comparison::default() };
    comparison.peers.extend(options.peers.iter().map(|peer| Measured {
        name: peer.kind.to_string(),
        version: peer.version.clone(),
        ..Measured::default()
    }));
    step("load alone".to_owned());
    let bare = Load::new(Target::new(origin.address(), [RECORDED_NAME])?, options.length);
    work(&bare, &mut comparison.bare).await?;
    for round in 0..options.rounds {
        for turn in 0..options.peers.len() {
            let index = (turn + round as usize) % options.peers.len();
            let peer = &options.peers[index];
            step(format!("round {}: {}", round + 1, peer.kind));
            let measured = &mut comparison.peers[index];
            if let Err(trouble) = turn_of(peer, &place, options.length, comparison.tunnels, measured).await {
                comparison.troubles.push(format!("round {}: {}: {trouble}", round + 1, peer.kind));
            }
        }
    }
    comparison.note_failures();
    Ok(comparison)
}

/// How many parts a comparison has.
pub fn steps(options: &Options) -> u64 {
    1 + u64::from(options.rounds) * options.peers.len() as u64
}

/// One peer's turn.
async fn turn_of(
    peer: &Peer,
    place: &Place,
    length: Duration,
    tunnels: usize,
    measured: &mut Measured,
) -> Result<(), String> {
    let told = |error: &dyn std::error::Error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    let load = |running: &Running| {
        let target = Target::new(running.address, [RECORDED_NAME]).map_err(|error| told(&error))?;
        Ok::<_, String>(Load { proxy: Some(running.pid()), ..Load::new(target, length) })
    };
    let fresh = Running::start(peer, place).await.map_err(|error| told(&error))?;
    sleep(SETTLE).await;
    let rest = process::memory(fresh.pid()).map_err(|error| told(&error))?;
    measured.samples.entry(Metric::RestMemory).or_default().push(rest as f64 / 1_048_576.0);
    let soak = Load { length: SETTLE, ..load(&fresh)? };
    let outcome = idle_soak(&soak, tunnels).await.map_err(|error| told(&error))?;
    let memory = outcome.figures.get(scenario::MEMORY_PER_TUNNEL).copied();
    measured.add(Metric::IdleMemory, memory, &outcome);
    drop(fresh);
    let running = Running::start(peer, place).await.map_err(|error| told(&error))?;
    work(&load(&running)?, measured).await.map_err(|error| told(&error))
}

/// All measurements of work, with the same process.
async fn work(load: &Load, measured: &mut Measured) -> Result<(), scenario::Error> {
    let each = |outcome: &Outcome| outcome.cpu_per_operation().map(|cpu| cpu / 1000.0);
    let fresh = || Load { tally: std::sync::Arc::default(), ..load.clone() };
    let outcome = connect_rate(&fresh(), 32).await?;
    measured.add(Metric::Connection, each(&outcome), &outcome);
    for (metric, tunnels, direction) in [
        (Metric::Down1, 1, Direction::Down),
        (Metric::Down16, 16, Direction::Down),
        (Metric::Up1, 1, Direction::Up),
    ] {
        let outcome = bulk(&fresh(), tunnels, direction, Amount::Time).await?;
        measured.add(metric, outcome.cpu_per_kib(), &outcome);
    }
    let outcome = ping_pong(&fresh(), 32).await?;
    measured.add(Metric::Ping32, each(&outcome), &outcome);
    let outcome = ping_pong(&fresh(), 1).await?;
    measured.add(Metric::Ping1, Some(micros(&outcome.counts.latencies, 50.0)), &outcome);
    Ok(())
}

impl Comparison {
    /// Operations that failed are told; a proxy that refuses is cheap.
    fn note_failures(&mut self) {
        for peer in &self.peers {
            for outcome in &peer.outcomes {
                let (metric, told) = (&outcome["metric"], &outcome["outcome"]);
                if told["failed"] != 0 {
                    self.troubles.push(format!("{}: {metric}: {}", peer.name, told["failures"]));
                }
            }
        }
    }
}
