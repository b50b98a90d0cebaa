//! Bytes in bulk, down or up, through one tunnel or many.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Error, Options, reason};
use crate::load::{Order, Target, Tunnel};
use crate::stats::{Meter, Outcome, Tally};

/// How long bytes flow before they count: windows and buffers grow to their size meanwhile.
const WARM_UP: Duration = Duration::from_millis(300);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the client.
    Down,
    /// To the origin.
    Up,
}

/// When it is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// After the time of the options.
    Time,
    /// After so many bytes through each tunnel, however long it takes, up to ten times the time of the options; the
    /// receiver must get every one of them.
    Bytes(u64),
}

/// Moves bytes.
///
/// # Errors
/// When not even the first tunnel opens, descriptors do not suffice, or the proxy cannot be measured.
pub async fn bulk(
    options: &Options,
    tunnels: usize,
    direction: Direction,
    amount: Amount,
) -> Result<Outcome, Error> {
    options.check_descriptors(tunnels)?;
    let (target, tally) = (&options.target, &options.tally);
    Tunnel::open(target, 0, Order::Echo).await.map_err(Error::NoTunnel)?;
    tally.reset();
    let mut meter = Meter::start(options.proxy)?;
    let mut running = JoinSet::new();
    for name in 0..tunnels {
        let (target, tally) = (target.clone(), Arc::clone(tally));
        running.spawn(async move {
            match flow(&target, name, direction, amount, &tally).await {
                Ok(()) => tally.done(std::time::Instant::now()),
                Err(error) => tally.failed(reason(&error)),
            }
        });
    }
    match amount {
        Amount::Time => {
            sleep(WARM_UP).await;
            (meter, _) = (Meter::start(options.proxy)?, tally.reset());
            sleep(options.length).await;
        }
        Amount::Bytes(_) => {
            let all = async { while running.join_next().await.is_some() {} };
            if timeout(options.length * 10, all).await.is_err() {
                tally.failed("not all bytes in time");
            }
        }
    }
    let (cost, mut counts) = (meter.stop()?, tally.counts());
    // How long a tunnel lives is no latency.
    counts.latencies.reset();
    counts.operations = tunnels as u64;
    let scenario = match direction {
        Direction::Down => "bulk down",
        Direction::Up => "bulk up",
    };
    Ok(Outcome { scenario, unit: "tunnels", counts, cost, figures: std::collections::BTreeMap::new() })
}

async fn flow(
    target: &Target,
    name: usize,
    direction: Direction,
    amount: Amount,
    tally: &Tally,
) -> std::io::Result<()> {
    let short = || std::io::Error::other("fewer bytes arrived than were sent");
    match (direction, amount) {
        (Direction::Down, amount) => {
            let length = if let Amount::Bytes(length) = amount { length } else { 0 };
            let tunnel = Tunnel::open(target, name, Order::Stream(length)).await?;
            let mut total = 0;
            loop {
                match tunnel.discard().await? {
                    0 => break,
                    part => {
                        total += part;
                        tally.moved(part);
                    }
                }
            }
            if total == length { Ok(()) } else { Err(short()) }
        }
        (Direction::Up, Amount::Time) => {
            let mut tunnel = Tunnel::open(target, name, Order::Sink).await?;
            loop {
                tally.moved(tunnel.send_some().await?);
            }
        }
        (Direction::Up, Amount::Bytes(length)) => {
            let arrived = Tunnel::open(target, name, Order::Sink).await?.upload(length).await?;
            tally.moved(arrived);
            if arrived == length { Ok(()) } else { Err(short()) }
        }
    }
}
