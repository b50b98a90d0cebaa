//! Small questions and answers over tunnels that stay.

use std::sync::Arc;

use tokio::time::timeout;

use super::idle::open_all;
use super::{Error, Options, PATIENCE, reason};
use crate::load::Pace;
use crate::stats::Outcome;

/// 64 bytes there and back, over so many tunnels at once.
///
/// # Errors
/// When a tunnel does not open, descriptors do not suffice, or the proxy cannot be measured.
pub async fn ping_pong(options: &Options, tunnels: usize) -> Result<Outcome, Error> {
    options.check_descriptors(tunnels)?;
    let mut open = open_all(options, tunnels).await?;
    let workers = open.len();
    let worker = |pace: Arc<Pace>| {
        let (tunnel, tally) = (open.pop(), Arc::clone(&options.tally));
        let pings = {
            let tally = Arc::clone(&tally);
            async move {
                let Some(mut tunnel) = tunnel else { return };
                let mut content = b'a';
                while let Some(from) = pace.next().await {
                    content = content.wrapping_add(1);
                    match tunnel.ping(content).await {
                        Ok(()) => tally.done(from),
                        // A broken tunnel stays broken.
                        Err(error) => return tally.failed(reason(&error)),
                    }
                }
            }
        };
        // One timer for the tunnel, where one for each ping would be a good part of its cost.
        let limit = options.length + PATIENCE;
        async move {
            if timeout(limit, pings).await.is_err() {
                tally.failed("no answer in time");
            }
        }
    };
    options.measure(("ping-pong", "pings"), worker, workers).await
}

/// The same twice, the second time beside so many tunnels that do nothing, each of which must answer at the end: the
/// figures say how long a ping took without them.
///
/// # Errors
/// As for [`ping_pong`].
pub async fn ping_among_idle(options: &Options, tunnels: usize, idle: usize) -> Result<Outcome, Error> {
    options.check_descriptors(tunnels + idle)?;
    let without = ping_pong(options, tunnels).await?;
    let mut held = open_all(options, idle).await?;
    let mut outcome = ping_pong(options, tunnels).await?;
    let dead = without.failed() + (idle - held.len()) as u64;
    for tunnel in &mut held {
        match timeout(PATIENCE, tunnel.ping(b'!')).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => options.tally.failed(format!("an idle tunnel: {}", reason(&error))),
            Err(_) => options.tally.failed("an idle tunnel: no answer in time"),
        }
    }
    outcome.counts.failures = options.tally.counts().failures;
    if dead > 0 {
        *outcome.counts.failures.entry("before or while opening idle tunnels".into()).or_default() += dead;
    }
    let micros = |quantile| without.counts.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
    outcome.figures.insert("idle tunnels", held.len() as f64);
    outcome.figures.insert("p50 without them, µs", micros(0.5));
    outcome.figures.insert("p99 without them, µs", micros(0.99));
    Ok(outcome)
}
