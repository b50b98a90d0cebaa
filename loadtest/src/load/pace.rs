//! When operations begin: each after the one before it (closed loop), or on a schedule (open loop).
//!
//! A closed loop waits with a slow proxy, and so hides how many operations would have met the slowness (coordinated
//! omission). On a schedule an operation's latency counts from when it should have begun, whoever was late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Timers of tokio are this coarse; what is left is waited for by other means.
const TIMER: Duration = Duration::from_millis(2);

/// How the last part of a wait is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// By asking for the time over and over: the most exact, on a core of the load's own.
    #[default]
    Awake,
    /// Asleep, on a thread beside: some tens of microseconds late, on a core that others need as well.
    Asleep,
}

/// A start, an end, and a rate, if there is one. Workers share it.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    end: Instant,
    rate: Option<f64>,
    wait: Wait,
    due: Semaphore,
    begun: AtomicU64,
}

impl Pace {
    /// Begins now, with `rate` operations a second or as many as there can be.
    pub fn new(length: Duration, rate: Option<f64>, wait: Wait) -> Self {
        let start = Instant::now();
        let rate = rate.filter(|rate| *rate > 0.0);
        Self { start, end: start + length, rate, wait, due: Semaphore::new(0), begun: AtomicU64::new(0) }
    }

    /// When it ends.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// Waits until an operation may begin, and says from when its latency counts; `None` after the end.
    pub async fn next(&self) -> Option<Instant> {
        let Some(rate) = self.rate else {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        };
        self.due.acquire().await.ok()?.forget();
        Some(self.scheduled(self.begun.fetch_add(1, Ordering::Relaxed), rate))
    }

    fn scheduled(&self, number: u64, rate: f64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / rate)
    }

    /// Hands out the operations of the schedule until its end, and returns when each began to wait that no worker was
    /// free for: they count with the time they have waited, or the slowest would be those that are left out.
    pub async fn run(&self) -> Vec<Instant> {
        let Some(rate) = self.rate else {
            tokio::time::sleep_until(self.end.into()).await;
            return Vec::new();
        };
        let mut handed = 0;
        loop {
            let next = self.scheduled(handed, rate);
            if next >= self.end {
                break;
            }
            self.wait.until(next).await;
            let due = 1 + (self.start.elapsed().as_secs_f64() * rate) as u64;
            let last = (self.end - self.start).as_secs_f64() * rate;
            let due = due.min(last.ceil() as u64).max(handed + 1);
            self.due.add_permits(usize::try_from(due - handed).unwrap_or(usize::MAX));
            handed = due;
        }
        self.wait.until(self.end).await;
        self.due.close();
        (self.begun.load(Ordering::Relaxed)..handed).map(|number| self.scheduled(number, rate)).collect()
    }
}

impl Wait {
    async fn until(self, instant: Instant) {
        if let Some(early) = instant.checked_sub(TIMER).filter(|early| *early > Instant::now()) {
            tokio::time::sleep_until(early.into()).await;
        }
        while let Some(left) = instant.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            match self {
                Self::Awake => tokio::task::yield_now().await,
                // A thread's sleep ends when it should, to the kernel's timer slack. It cannot fail.
                Self::Asleep => _ = tokio::task::spawn_blocking(move || thread::sleep(left)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_schedule_hands_out_each_operation_or_returns_it() {
        for wait in [Wait::Awake, Wait::Asleep] {
            hands_out_or_returns(wait).await;
        }
    }

    async fn hands_out_or_returns(wait: Wait) {
        // A busy machine may stop the worker for half a second.
        let pace = Pace::new(Duration::from_secs(1), Some(50.0), wait);
        let worker = async {
            let mut begun = Vec::new();
            // Stops in the middle, as a worker does that is stuck in its operation.
            while begun.len() < 20 {
                begun.push(pace.next().await.unwrap() - pace.start);
            }
            begun
        };
        let (left, begun) = tokio::join!(pace.run(), worker);
        let due = |number: u64| Duration::from_secs_f64(number as f64 / 50.0);
        assert_eq!(begun, (0..20).map(due).collect::<Vec<_>>());
        assert_eq!(left.len(), 30);
        assert_eq!(left[0] - pace.start, due(20));
        assert!(pace.next().await.is_none());
    }

    #[tokio::test]
    async fn without_a_rate_the_next_begins_at_once_until_the_end() {
        let pace = Pace::new(Duration::from_millis(20), None, Wait::Awake);
        assert!(pace.next().await.is_some());
        assert!(pace.run().await.is_empty());
        assert!(pace.next().await.is_none());
    }
}
