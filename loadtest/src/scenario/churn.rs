//! Connections while the configuration changes all the time.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{Error, Options, connect_rate};
use crate::mesh;
use crate::stats::{Outcome, Tally};

/// How the configuration is changed.
#[derive(Debug, Clone)]
pub enum Churn {
    /// By a command of the shell, which sees the number of the change as `$CHANGE`.
    Command(String),
    /// By writing a file, as Kubernetes' own would be: the EndpointSlice of the service, with one and with two
    /// endpoints in turn, so that the table changes each time and the origin stays in it.
    Slice {
        /// The file.
        file: PathBuf,
        /// The origin.
        origin: SocketAddr,
    },
}

/// Runs `connect-rate` while the configuration changes each `period`.
///
/// # Errors
/// As of [`connect_rate`], and when the first change cannot be made.
pub async fn churn(
    options: &Options,
    concurrency: usize,
    churn: Churn,
    period: Duration,
) -> Result<Outcome, Error> {
    let what = match &churn {
        Churn::Command(command) => format!("`{command}`"),
        Churn::Slice { file, .. } => file.display().to_string(),
    };
    change(&churn, 0).await.map_err(|source| Error::Churn { what, source })?;
    let changes = Arc::new(Tally::default());
    // Dropped at the end of this function, and its task with it.
    let mut changing = JoinSet::new();
    changing.spawn(change_for_ever(churn, period, Arc::clone(&changes)));
    let mut outcome = connect_rate(options, concurrency).await?;
    let changes = changes.counts();
    outcome.scenario = "churn";
    outcome.figures.insert("changes", changes.operations as f64);
    for (reason, count) in changes.failures {
        outcome.counts.failures.insert(format!("change: {reason}"), count);
    }
    Ok(outcome)
}

async fn change_for_ever(churn: Churn, period: Duration, changes: Arc<Tally>) {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1_u64.. {
        let due = interval.tick().await;
        match change(&churn, number).await {
            Ok(()) => changes.done(due.into_std()),
            Err(error) => changes.failed(error),
        }
    }
}

async fn change(churn: &Churn, number: u64) -> io::Result<()> {
    match churn {
        Churn::Slice { file, origin } => {
            let endpoints = if number.is_multiple_of(2) { 1 } else { 2 };
            replace(file, &mesh::endpoint_slice("httpbin", *origin, endpoints, number))
        }
        Churn::Command(command) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(command).env("CHANGE", number.to_string());
            let status = shell.stdin(Stdio::null()).kill_on_drop(true).status().await?;
            if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
        }
    }
}

/// Writes beside the file and renames, so that nobody reads half of it.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, file)
}
