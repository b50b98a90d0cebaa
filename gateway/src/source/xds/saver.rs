//! When the state is written: soon after a change, and never so often that writing it becomes work of its own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use eastgate_config::xds::Saved;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::state;
use crate::metrics::{self, timestamp};

/// From a change to the write that takes it in, with all that changed meanwhile.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// The pause after a write is so many times as long as the write took: a mesh that never rests is saved now and then.
const REST: u32 = 50;

/// Writes the state of a client.
#[derive(Debug)]
pub(super) struct Saver {
    directory: PathBuf,
    node: String,
    metrics: metrics::Xds,
    at: Option<Instant>,
    not_before: Instant,
    writing: JoinSet<(Duration, std::io::Result<()>)>,
    failing: bool,
}

impl Saver {
    pub(super) fn new(directory: PathBuf, node: String, metrics: metrics::Xds) -> Self {
        let not_before = Instant::now();
        Self { directory, node, metrics, at: None, not_before, writing: JoinSet::new(), failing: false }
    }

    /// There is something to save.
    pub(super) fn dirty(&mut self) {
        self.at.get_or_insert((Instant::now() + DEBOUNCE).max(self.not_before));
    }

    /// Is there something that no write has taken in?
    pub(super) fn is_dirty(&self) -> bool {
        self.at.is_some()
    }

    /// When [`Self::write`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at.filter(|_| self.writing.is_empty())
    }

    /// What there is to save is not whole yet.
    pub(super) fn put_off(&mut self) {
        self.at = Some(Instant::now() + DEBOUNCE);
    }

    /// Writes it on a thread of its own.
    pub(super) fn write(&mut self, saved: Vec<Saved>) {
        self.at = None;
        let (directory, node) = (self.directory.clone(), self.node.clone());
        self.writing.spawn_blocking(move || {
            let began = Instant::now();
            let written = state::write(&directory, &saved, &node, SystemTime::now());
            (began.elapsed(), written)
        });
    }

    /// Waits for a write to end; for ever, if there is none.
    pub(super) async fn written(&mut self) -> Result<(Duration, std::io::Result<()>), JoinError> {
        match self.writing.join_next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Waits for the write under way, if there is one.
    pub(super) async fn finish(&mut self) {
        while let Some(ended) = self.writing.join_next().await {
            self.note(ended);
        }
    }

    /// A write has ended.
    pub(super) fn note(&mut self, ended: Result<(Duration, std::io::Result<()>), JoinError>) {
        let (took, written) = ended.unwrap_or_else(|error| (DEBOUNCE, Err(std::io::Error::other(error))));
        self.not_before = Instant::now() + took * REST;
        let result = if written.is_ok() { "ok" } else { "failed" };
        self.metrics.state_writes.with_label_values(&[result]).inc();
        match written {
            Ok(()) => {
                self.failing = false;
                self.metrics.state_written.set(timestamp(SystemTime::now()));
            }
            Err(error) => {
                let directory = self.directory.display();
                if !self.failing {
                    tracing::warn!(%directory, %error, "cannot save the accepted configuration; trying again");
                }
                self.failing = true;
                self.dirty();
            }
        }
    }
}
