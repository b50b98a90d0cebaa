//! How many clients are taken on at once, and how many in a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use eastgate_config::listener::RateLimit;

mod per_client;

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

/// A token bucket, filled in steps as Envoy's local rate limit is.
#[derive(Debug)]
pub struct Bucket {
    limit: RateLimit,
    /// How many fills have been counted, and behind them, in the lower half, the tokens that are left.
    state: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(limit: RateLimit) -> Self {
        let state = AtomicU64::new(limit.max_tokens.into());
        Self { limit, state }
    }

    /// What it was made from.
    pub fn limit(&self) -> &RateLimit {
        &self.limit
    }

    /// Takes a token, if there is one. `now` is a time since any fixed moment.
    pub fn take(&self, now: Duration) -> bool {
        let interval = self.limit.fill_interval.as_nanos().max(1);
        let fill = u32::try_from(now.as_nanos() / interval).unwrap_or(u32::MAX);
        let next = |state: u64| {
            let (counted, left) = ((state >> 32) as u32, state as u32);
            let gained = fill.saturating_sub(counted).saturating_mul(self.limit.tokens_per_fill);
            let left = left.saturating_add(gained).min(self.limit.max_tokens).checked_sub(1)?;
            Some(u64::from(fill.max(counted)) << 32 | u64::from(left))
        };
        self.state.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_and_then_what_is_filled_in() {
        let fill_interval = Duration::from_secs(1);
        let bucket = Bucket::new(RateLimit {
            max_tokens: 3,
            tokens_per_fill: 2,
            fill_interval,
            share_key: String::new(),
        });
        let taken = |seconds| (0..10).filter(|_| bucket.take(Duration::from_secs(seconds))).count();
        assert_eq!([taken(0), taken(0), taken(1), taken(1), taken(2), taken(50)], [3, 0, 2, 0, 2, 3]);
    }

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
