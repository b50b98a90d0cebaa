//! Bytes that must arrive as they were sent, whatever their pieces and however a tunnel ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Error, Options};
use crate::load::{Order, Plan, Target, Tunnel, verdict};
use crate::stats::{Meter, Outcome};

/// How long one may take: on a shared machine its bytes alone take seconds.
const LONGEST: Duration = Duration::from_secs(300);

/// Opens tunnels, some at a time, until so many bytes have been judged by both ends.
///
/// # Errors
/// When the first tunnel does not open, descriptors do not suffice, or the proxy cannot be measured.
pub async fn integrity(
    options: &Options,
    bytes: u64,
    concurrency: usize,
    first: u64,
) -> Result<Outcome, Error> {
    options.check_descriptors(concurrency * 2)?;
    Tunnel::open(&options.target, 0, Order::Echo).await.map_err(Error::NoTunnel)?;
    options.tally.reset();
    let meter = Meter::start(options.proxy)?;
    let mut running = JoinSet::new();
    let mut next = first;
    // Enough of them that every kind of end and every order of length comes up.
    let magnitude = (bytes / 32).max(1).ilog2().clamp(10, 28) as u8;
    loop {
        while running.len() < concurrency && options.tally.counts().bytes < bytes {
            let (target, tally) = (options.target.clone(), Arc::clone(&options.tally));
            let seed = Plan::seed(next, magnitude);
            let number = next;
            next += 1;
            running.spawn(async move {
                let from = Instant::now();
                match timeout(LONGEST, exchange(&target, seed)).await {
                    Ok(Ok(moved)) => {
                        tally.moved(moved);
                        tally.done(from);
                    }
                    Ok(Err(reason)) => tally.failed(format!("tunnel {number}: {reason}")),
                    Err(_) => tally.failed(format!("tunnel {number}: no end in time")),
                }
            });
        }
        if running.join_next().await.is_none() || options.tally.counts().failures.len() > 20 {
            break;
        }
    }
    let (cost, mut counts) = (meter.stop()?, options.tally.counts());
    counts.latencies.reset();
    let figures = BTreeMap::from([("first tunnel", first as f64)]);
    Ok(Outcome { scenario: "integrity", unit: "tunnels", counts, cost, figures })
}

/// One tunnel: how many bytes came as they should, at both ends.
async fn exchange(target: &Target, seed: u64) -> Result<u64, String> {
    let unopened = |error: std::io::Error| format!("no tunnel: {error}");
    let tunnel = Tunnel::open(target, 0, Order::Exchange(seed)).await.map_err(unopened)?;
    let here = tunnel.exchange(Plan::new(seed)).await.map_err(|error| format!("to client: {error}"))?;
    let there = verdict(target, seed).await.map_err(|error| format!("to origin: {error}"))?;
    Ok(here + there)
}
