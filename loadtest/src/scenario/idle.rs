//! Tunnels that do nothing, and what they weigh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Error, OPENING, Options, PATIENCE, reason};
use crate::load::{Order, Tunnel};
use crate::process;
use crate::stats::{Meter, Outcome};

/// How long a proxy may take to give back what the opening took.
const SETTLE: Duration = Duration::from_millis(500);

/// The figure of [`idle_soak`] that says by how much the proxy grew.
pub const MEMORY_PER_TUNNEL: &str = "bytes of memory per tunnel";

/// Opens so many tunnels, holds them for the time of the options, and shows that each still answers.
///
/// # Errors
/// When the first tunnel does not open, descriptors do not suffice, or the proxy cannot be measured.
pub async fn idle_soak(options: &Options, tunnels: usize) -> Result<Outcome, Error> {
    options.check_descriptors(tunnels)?;
    let memory = || options.proxy.map(process::memory).transpose();
    // The first connection loads what every later one shares.
    Tunnel::open(&options.target, 0, Order::Echo).await.map_err(Error::NoTunnel)?;
    sleep(SETTLE).await;
    let rest = memory()?;
    let mut open = open_all(options, tunnels).await?;
    sleep(SETTLE).await;
    let held = open.len();
    let (full, meter) = (memory()?, Meter::start(options.proxy)?);
    sleep(options.length).await;
    let cost = meter.stop()?;
    options.tally.reset();
    for tunnel in &mut open {
        let from = Instant::now();
        match timeout(PATIENCE, tunnel.ping(b'!')).await {
            Ok(Ok(())) => options.tally.done(from),
            Ok(Err(error)) => options.tally.failed(reason(&error)),
            Err(_) => options.tally.failed("no answer in time"),
        }
    }
    let mut figures = BTreeMap::from([("tunnels held", held as f64)]);
    if let (Some(rest), Some(full)) = (rest, full) {
        let growth = full.saturating_sub(rest) as f64;
        figures.insert("MiB of memory before", rest as f64 / 1_048_576.0);
        figures.insert(MEMORY_PER_TUNNEL, growth / held.max(1) as f64);
    }
    let counts = options.tally.counts();
    Ok(Outcome { scenario: "idle-soak", unit: "tunnels still alive", counts, cost, figures })
}

/// Opens tunnels, some at a time; those that fail are counted.
pub(super) async fn open_all(options: &Options, tunnels: usize) -> Result<Vec<Tunnel>, Error> {
    let mut open = Vec::with_capacity(tunnels);
    open.push(Tunnel::open(&options.target, 0, Order::Echo).await.map_err(Error::NoTunnel)?);
    let mut opening = JoinSet::new();
    for name in 1..=tunnels {
        if name < tunnels {
            let target = options.target.clone();
            opening.spawn(async move { timeout(PATIENCE, Tunnel::open(&target, name, Order::Echo)).await });
        }
        while opening.len() >= OPENING || (name == tunnels && !opening.is_empty()) {
            match opening.join_next().await {
                Some(Ok(Ok(Ok(tunnel)))) => open.push(tunnel),
                Some(Ok(Ok(Err(error)))) => options.tally.failed(reason(&error)),
                Some(_) => options.tally.failed("no answer in time"),
                None => break,
            }
        }
    }
    Ok(open)
}
