//! Honest clients beside clients that drip their hello, a byte at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Error, OPENING, Options, connect_rate};
use crate::load::Target;
use crate::stats::{Outcome, Tally};

/// How long one that could not connect waits.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Runs `connect-rate` while `slow` clients send a byte of their hello each `drip`; those that are cut off come back.
///
/// # Errors
/// As of [`connect_rate`].
pub async fn slow_clients(
    options: &Options,
    slow: usize,
    drip: Duration,
    concurrency: usize,
) -> Result<Outcome, Error> {
    options.check_descriptors(slow + concurrency)?;
    let dripping = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    for name in 0..slow {
        let (target, dripping) = (options.target.clone(), Arc::clone(&dripping));
        clients.spawn(async move {
            loop {
                let from = Instant::now();
                match drop_by_drop(&target, name, drip).await {
                    Ok(()) => dripping.done(from.into_std()),
                    Err(_) => sleep(BACK_OFF).await,
                }
            }
        });
        if name % OPENING == OPENING - 1 {
            sleep(Duration::from_millis(10)).await;
        }
    }
    let mut outcome = connect_rate(options, concurrency).await?;
    let cut = dripping.counts();
    outcome.scenario = "slow-clients";
    outcome.figures.insert("slow clients", slow as f64);
    outcome.figures.insert("slow clients cut off", cut.operations as f64);
    if cut.operations > 0 {
        let seconds = cut.latencies.value_at_percentile(50.0) as f64 / 1e9;
        outcome.figures.insert("seconds until cut off (median)", seconds);
    }
    Ok(outcome)
}

/// Drips a hello until it is sent and ends with it, or until the gateway has had enough.
async fn drop_by_drop(target: &Target, name: usize, drip: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    for byte in target.hello(name) {
        if stream.write_all(&[*byte]).await.is_err() {
            return Ok(());
        }
        let mut answer = [0; 16];
        select! {
            // An alert, an end or a reset: in any case the gateway has spoken first.
            _ = stream.read(&mut answer) => return Ok(()),
            () = sleep(drip) => {}
        }
    }
    Ok(())
}
