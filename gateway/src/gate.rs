//! How many clients are taken on at once, and how many in a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

mod bucket;
mod per_client;

pub use bucket::Bucket;
pub use per_client::{ClientPass, Full, PerClient};

/// A count with a limit. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    inside: Arc<AtomicUsize>,
    limit: Arc<AtomicUsize>,
}

/// One that was let in; leaves when it is dropped.
#[derive(Debug)]
pub struct Pass(Arc<AtomicUsize>);

impl Gate {
    /// Lets at most `limit` in at a time.
    pub fn new(limit: usize) -> Self {
        Self { inside: Arc::default(), limit: Arc::new(limit.into()) }
    }

    /// The same count, with another limit from now on.
    pub fn with_limit(&self, limit: usize) -> Self {
        Self { inside: Arc::clone(&self.inside), limit: Arc::new(limit.into()) }
    }

    /// From now on lets in so many, for all clones. Whoever is in stays.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Lets one in, or nobody when it is full.
    pub fn enter(&self) -> Option<Pass> {
        let pass = Pass(Arc::clone(&self.inside));
        // Counted first, so that a pass that goes too far takes itself back by its drop.
        (self.inside.fetch_add(1, Relaxed) < self.limit()).then_some(pass)
    }

    /// Lets one in, however many are.
    pub fn admit(&self) -> Pass {
        self.inside.fetch_add(1, Relaxed);
        Pass(Arc::clone(&self.inside))
    }

    /// How many are in.
    pub fn inside(&self) -> usize {
        self.inside.load(Relaxed)
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_lets_nobody_in_until_one_leaves() {
        let gate = Gate::new(2);
        let passes = [gate.enter(), gate.enter()];
        assert!(passes.iter().all(Option::is_some) && gate.enter().is_none());
        drop(passes);
        assert_eq!(gate.inside(), 0);
        assert!(gate.enter().is_some());
    }
}
