//! How many clients the gateway takes on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A count with a limit. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    inside: Arc<AtomicUsize>,
    limit: usize,
}

/// One that was let in; leaves when it is dropped.
#[derive(Debug)]
pub struct Pass(Arc<AtomicUsize>);

impl Gate {
    /// Lets at most `limit` in at a time.
    pub fn new(limit: usize) -> Self {
        Self { inside: Arc::default(), limit }
    }

    /// Lets one in, or nobody when it is full.
    pub fn enter(&self) -> Option<Pass> {
        let pass = Pass(Arc::clone(&self.inside));
        // Counted first, so that a pass that goes too far takes itself back by its drop.
        (self.inside.fetch_add(1, Relaxed) < self.limit).then_some(pass)
    }

    /// How many are in.
    pub fn inside(&self) -> usize {
        self.inside.load(Relaxed)
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.limit
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
