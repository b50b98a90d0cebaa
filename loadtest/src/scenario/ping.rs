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
