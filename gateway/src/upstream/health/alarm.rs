//! How a cluster wakes up whoever watches it.
//!
//! ```text
//!  data thread                     watcher
//!  counts a failure                rests: is not watched any more
//!  ── fence ──                     ── fence ──
//!  watched? then that is all       is what is counted what was seen? then until the next call
//! ```
//!
//! Each writes before it reads what the other has written, and the fences see to it that one of them at least finds that.
//! `models/` goes through every order of these steps.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed, Ordering::SeqCst, fence};

use tokio::sync::mpsc::UnboundedSender;

/// There is at most one call that was not answered yet, so that what waits is bounded by the number of clusters.
#[derive(Debug, Default)]
pub struct Alarm {
    watcher: OnceLock<UnboundedSender<String>>,
    raised: AtomicBool,
    watched: AtomicBool,
}

impl Alarm {
    /// Has calls go to this watcher from now on; the first that is set stays.
    pub fn set(&self, watcher: &UnboundedSender<String>) {
        if self.watcher.get().is_none() {
            // Whoever else sets it at the same time is as good.
            let _ = self.watcher.set(watcher.clone());
        }
    }

    /// Answers a call, before anything is read: what is urgent and counted from here on raises another. The watcher looks by
    /// itself from time to time now, and nothing else need wake it.
    pub fn answer(&self) {
        self.watched.store(true, Relaxed);
        self.raised.swap(false, AcqRel);
    }

    /// Has the watcher woken by whatever is counted, because it looks no more by itself; unless there is something already
    /// that it has not seen, when it still does, and this is false.
    pub fn rest(&self, has_seen_all: impl FnOnce() -> bool) -> bool {
        self.watched.store(false, Relaxed);
        fence(SeqCst);
        let resting = has_seen_all();
        if !resting {
            self.watched.store(true, Relaxed);
        }
        resting
    }

    /// Something was counted.
    pub(super) fn raise(&self, cluster: &str, urgent: bool) {
        fence(SeqCst);
        if !urgent && self.watched.load(Relaxed) {
            return;
        }
        if let Some(watcher) = self.watcher.get()
            && !self.raised.swap(true, AcqRel)
        {
            // A watcher that is gone belongs to a process that is ending.
            let _ = watcher.send(cluster.to_owned());
        }
    }
}
