//! The scenarios: what load can be, each against any gateway that knows the server names.
//!
//! Each ends by itself: every operation has a deadline, and whoever still waits at the end is counted as a failure.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::load::{Pace, Target, Wait};
use crate::process;
use crate::stats::{Meter, Outcome, Tally};

mod bulk;
mod churn;
mod connect;
mod idle;
mod integrity;
mod ping;
mod slow;

pub use bulk::{Amount, Direction, bulk};
pub use churn::{Churn, churn};
pub use connect::{Choice, connect_rate, mixed, tls_connect_rate};
pub use idle::{MEMORY_PER_TUNNEL, idle_soak};
pub use integrity::integrity;
pub use ping::{ping_among_idle, ping_pong};
pub use slow::slow_clients;

/// How long an operation may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many tunnels are opened at once: more would overflow the listening queue of a small gateway.
const OPENING: usize = 64;
/// Descriptors that this process needs beside its tunnels: listeners, files, the runtime's own.
const OWN_DESCRIPTORS: u64 = 64;

/// Why a scenario came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The proxy cannot be measured.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The first tunnel already fails, so that more would only repeat it.
    #[error("no tunnel through the gateway: does it run, and know the server name and the origin?")]
    NoTunnel(#[source] std::io::Error),
    /// More tunnels than descriptors.
    #[error("{tunnels} tunnels need {needed} descriptors, and {whose} may open {limit} (ulimit -n)")]
    Descriptors {
        /// How many were asked for.
        tunnels: usize,
        /// What they need.
        needed: u64,
        /// Whose limit it is.
        whose: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The file or command that makes the churn.
    #[error("cannot make churn with {what}")]
    Churn {
        /// The file or command.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
}

/// What all scenarios need to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The gateway and the names.
    pub target: Target,
    /// How long to measure.
    pub length: Duration,
    /// Operations a second (open loop), or as many as there can be.
    pub rate: Option<f64>,
    /// How the time between them is spent.
    pub wait: Wait,
    /// The process of the gateway, to be measured.
    pub proxy: Option<u32>,
    /// Whether the origin is in this process too, and takes a descriptor for each tunnel.
    pub own_origin: bool,
    /// What is counted, for whoever shows progress.
    pub tally: Arc<Tally>,
}

impl Options {
    /// A closed loop against a gateway, with an origin in this process.
    pub fn new(target: Target, length: Duration) -> Self {
        Self {
            target,
            length,
            rate: None,
            wait: Wait::default(),
            proxy: None,
            own_origin: true,
            tally: Arc::default(),
        }
    }

    /// Refuses what the descriptors of this process and of the proxy do not allow; the alternative is a proxy that
    /// spins on a failing accept.
    fn check_descriptors(&self, tunnels: usize) -> Result<(), Error> {
        let ours = if self.own_origin { 2 } else { 1 };
        let needed = tunnels as u64 * ours + OWN_DESCRIPTORS;
        let limit = process::descriptor_limit();
        if needed > limit {
            return Err(Error::Descriptors { tunnels, needed, whose: "this process", limit });
        }
        let Some(proxy) = self.proxy else { return Ok(()) };
        let (needed, limit) = (tunnels as u64 * 2 + OWN_DESCRIPTORS, process::descriptor_limit_of(proxy)?);
        if needed > limit {
            return Err(Error::Descriptors { tunnels, needed, whose: "the gateway", limit });
        }
        Ok(())
    }

    /// Runs workers until the pace ends, and says what they counted and cost.
    async fn measure<F>(
        &self,
        names: (&'static str, &'static str),
        worker: impl FnMut(Arc<Pace>) -> F,
        workers: usize,
    ) -> Result<Outcome, Error>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tally.reset();
        let meter = Meter::start(self.proxy)?;
        let pace = Arc::new(Pace::new(self.length, self.rate, self.wait));
        let mut running: JoinSet<()> =
            std::iter::repeat_with(|| Arc::clone(&pace)).take(workers).map(worker).collect();
        let late = pace.run().await;
        let cost = meter.stop()?;
        // Counted before the stragglers end, as the cost is.
        self.tally.late(&late);
        let mut counts = self.tally.counts();
        let all = async { while running.join_next().await.is_some() {} };
        if timeout(PATIENCE + Duration::from_secs(1), all).await.is_err() {
            self.tally.failed("no end");
        }
        counts.failures = self.tally.counts().failures;
        let (scenario, unit) = names;
        Ok(Outcome { scenario, unit, counts, cost, figures: BTreeMap::new() })
    }
}

/// Does one thing at a time, at the given pace, until its end.
async fn repeat<F>(pace: Arc<Pace>, tally: Arc<Tally>, mut operation: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    while let Some(from) = pace.next().await {
        match timeout(PATIENCE, operation()).await {
            Ok(Ok(())) => tally.done(from),
            Ok(Err(reason)) => {
                tally.failed(reason);
                // A gateway that refuses everything must not make this loop the measurement.
                sleep(Duration::from_millis(10)).await;
            }
            Err(_) => tally.failed("no answer in time"),
        }
    }
}

/// What went wrong, without what differs from one time to the next.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}
