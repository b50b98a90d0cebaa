//! What is counted of the client connections that were led to a cluster.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::flag::Flag;
use super::milliseconds::Milliseconds;

/// What is counted of the client connections that were led to a cluster, once one was.
#[derive(Debug, Default)]
pub struct Usage {
    opened: AtomicU64,
    closed: [AtomicU64; Flag::ALL.len()],
    /// Of attempts that were connected, how long that took.
    pub connect: Milliseconds,
    /// Of all attempts, from there to their end.
    pub length: Milliseconds,
}

impl Usage {
    /// Counts one that is led here.
    pub fn open(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// Counts the end of one.
    pub fn close(&self, flag: Flag) {
        self.closed[flag as usize].fetch_add(1, Relaxed);
    }

    /// Those that were led here.
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Those that have ended in this way.
    pub fn closed(&self, flag: Flag) -> u64 {
        self.closed[flag as usize].load(Relaxed)
    }
}
