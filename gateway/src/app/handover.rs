//! Taking over from another process, and being taken over from.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};

use crate::connection::Arrived;
use crate::drain::Phase;
use crate::open::{self, Ask, Passing, Registry};
use crate::readiness::Readiness;
use crate::restart::{self, Offer, Predecessor, Sockets, Successor, frame, tell};

/// For connections that are not relayed yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a gateway needs for it.
pub(super) struct Handover {
    /// Where processes meet, if they may.
    pub(super) path: Option<PathBuf>,
    pub(super) sockets: Sockets,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) readiness: Readiness,
    /// Who goes on with the connections of the process before.
    pub(super) arriving: mpsc::Sender<Vec<Arrived>>,
    /// Who is told of a process that has taken over.
    pub(super) successors: mpsc::Sender<Successor>,
}

/// Looks for a process to take over from, and takes what it gives.
///
/// # Errors
/// There is one, and it does not give its sockets.
pub(super) async fn predecessor(
    path: Option<&Path>,
    sockets: &Sockets,
) -> anyhow::Result<Option<Predecessor>> {
    let Some(path) = path else { return Ok(None) };
    sockets.offer();
    let found = Predecessor::find(path).await;
    let found = found.with_context(|| {
        format!("restart.socket: cannot take over from the process at {}; it goes on", path.display())
    })?;
    Ok(found.map(|(predecessor, inherited)| {
        tracing::info!(sockets = inherited.len(), "taking over from another process once this one is ready");
        sockets.inherit(inherited);
        predecessor
    }))
}

impl Handover {
    /// Takes over once this process is ready, and then waits for one that takes over from it.
    ///
    /// # Errors
    /// It cannot be offered to be taken over from.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        self.readiness.reached().await;
        if let Some(predecessor) = &mut self.predecessor
            && let Err(error) = predecessor.ready().await
        {
            tracing::warn!(%error, "the process before has ended by itself; accepting all the same");
        }
        // One that was told to accept nobody, or to leave, before it was ready is not called back.
        self.phase.send_if_modified(|phase| match phase {
            Phase::Waiting => {
                *phase = Phase::Accepting;
                true
            }
            _ => false,
        });
        for (name, address) in self.sockets.close_rest() {
            tracing::info!(socket = name, %address, "nothing listens there any more");
        }
        tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
        let Some(path) = &self.path else { return std::future::pending().await };
        let offer = Offer::new(path)
            .with_context(|| format!("restart.socket: cannot listen on {}", path.display()))?;
        let arriving = receive(self.predecessor, self.arriving);
        let (successor, ()) = tokio::join!(offer.successor(&self.sockets), arriving);
        let successor = successor?;
        offer.leave_path();
        // Who is gone has ended the whole gateway.
        let _ = self.successors.send(successor).await;
        std::future::pending().await
    }
}

/// Goes on with the connections of the process before, until it has given all.
async fn receive(predecessor: Option<Predecessor>, arriving: mpsc::Sender<Vec<Arrived>>) {
    let Some(mut predecessor) = predecessor else { return };
    let mut count = 0;
    loop {
        let arrived = match predecessor.tunnels().await {
            Ok(Some(passed)) => passed.into_iter().map(Arrived::new).collect::<Result<Vec<_>, _>>(),
            Ok(None) => break,
            Err(error) => break tracing::warn!(%error, "the process before keeps its connections"),
        };
        let arrived = match arrived {
            Ok(arrived) => arrived,
            // It goes on with those that it is not told are taken.
            Err(error) => break tracing::warn!(%error, "the process before keeps its connections"),
        };
        if let Err(error) = predecessor.taken().await {
            break tracing::warn!(%error, "the process before keeps its connections");
        }
        count += arrived.len();
        // Who is gone has ended the whole gateway.
        let _ = arriving.send(arrived).await;
    }
    tracing::info!(count, "went on with the connections of the process before");
}

/// Gives open connections to the process that has taken over, a few at a time so that each waits for a moment only, for
/// as long as it is polled: those that are relayed yet, and those that will be.
pub(super) async fn give(open: &Registry, mut successor: Successor, given: &AtomicUsize) {
    let some = (frame::MAX_TUNNELS / open.threads().max(1)).max(1);
    loop {
        let (hand, mut handed) = mpsc::unbounded_channel();
        open.ask(move || {
            let mut left = some;
            open::each(|connection| {
                if left > 0 && connection.ask(Ask::Pass(hand.clone())) {
                    left -= 1;
                }
            });
        })
        .await;
        // Each that was asked hands itself in, or lets go of the channel.
        let mut waiting = VecDeque::<Passing>::new();
        while let Some(one) = handed.recv().await {
            waiting.push_back(one);
        }
        if waiting.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        while !waiting.is_empty() {
            let some = restart::batch(&mut waiting, |passing| passing.passed.0.length());
            let (passed, taken): (Vec<_>, Vec<_>) =
                some.into_iter().map(|Passing { passed, taken }| (passed, taken)).unzip();
            if let Err(error) = successor.give(&passed).await {
                tracing::warn!(%error, "the next process takes no more connections; they end in this one");
                return std::future::pending().await;
            }
            given.fetch_add(taken.len(), Relaxed);
            for taken in taken {
                // Each waits for this, or its data thread has ended.
                let _ = taken.send(());
            }
        }
    }
}
