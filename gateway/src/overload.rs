//! When memory or file descriptors run short: what is new waits or is refused, so that what is there goes on.
//!
//! The control thread looks once a second. Accepting pauses above a share of the memory limit, and above a larger one the
//! newest idle connections are closed, a few at a time. File descriptors decide how many connections there may be; some
//! are left for the admin port and for control planes. All of that ends by itself when the shortage does.

use std::time::Duration;

use eastgate_config::bootstrap::Limits;
use eastgate_config::listener::RateLimit;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::gate::{Bucket, Gate};
use crate::metrics;
use crate::open::{self, Ask, End, Registry};
use crate::readiness::{Readiness, Remark};

mod reading;

pub use reading::Reading;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A shortage is over this many percent of the limit below where it began, so that it does not come and go.
const CALMER: u64 = 5;
/// Of the idle connections, this share goes with each look while memory is very short.
const SHED_SHARE: usize = 20;

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Memory {
    /// It is not.
    Enough,
    /// Nobody is accepted.
    Short,
    /// And idle connections are closed.
    VeryShort,
}

/// What is known from one reading to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// What to do.
    pub memory: Memory,
    /// How short it is by the reading alone.
    read: Memory,
    /// The most connections since it became short.
    crowd: usize,
}

impl Pressure {
    /// At the beginning.
    pub const NONE: Self = Self { memory: Memory::Enough, read: Memory::Enough, crowd: 0 };

    /// What a reading means, with so many open connections.
    ///
    /// The allocator keeps for the next connections what others gave back, so that a process which was crowded once may
    /// look so for good. What counts then is how many there are: as many as there were had their place.
    pub fn after(self, reading: &Reading, open: usize, limits: &Limits) -> Self {
        let read = read(self.read, reading, limits);
        let crowd = if read == Memory::Enough { 0 } else { self.crowd.max(open) };
        let more_than = |tenths: usize| open.saturating_mul(10) > crowd.saturating_mul(tenths);
        let memory = match read {
            Memory::VeryShort if more_than(8) => Memory::VeryShort,
            Memory::VeryShort if more_than(5) => Memory::Short,
            Memory::Short if more_than(9) => Memory::Short,
            _ => Memory::Enough,
        };
        Self { memory, read, crowd }
    }
}

fn read(before: Memory, reading: &Reading, limits: &Limits) -> Memory {
    let Some(limit) = reading.memory_limit.filter(|limit| *limit > 0) else { return Memory::Enough };
    let percent = reading.memory.saturating_mul(100) / limit;
    let begun = |level, at: u8| {
        let at = u64::from(at);
        percent >= if before >= level { at.saturating_sub(CALMER) } else { at }
    };
    if begun(Memory::VeryShort, limits.memory_shed_percent) {
        Memory::VeryShort
    } else if begun(Memory::Short, limits.memory_pause_percent) {
        Memory::Short
    } else {
        Memory::Enough
    }
}

/// How many connections the file descriptors allow, of which `open` are open. Each needs two; what others use is the rest.
pub fn connections(reading: &Reading, open: usize, limits: &Limits) -> usize {
    let open = u64::try_from(open).unwrap_or(u64::MAX);
    let others = reading.files.saturating_sub(open.saturating_mul(2));
    let fit = reading.files_limit.saturating_sub(others.saturating_add(limits.reserved_files)) / 2;
    let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
    if limits.max_connections == 0 { fit } else { fit.min(limits.max_connections) }
}

/// What is watched, and by whom.
#[derive(Debug)]
pub struct Watch {
    /// How far things may go.
    pub limits: Limits,
    /// The open connections of all threads.
    pub open: Registry,
    /// The gate that they passed.
    pub gate: Gate,
    /// Whether nobody is accepted for now.
    pub pause: watch::Sender<bool>,
    /// Where operators are told.
    pub readiness: Readiness,
    /// What is counted of it.
    pub metrics: metrics::Overload,
}

/// The rate at which clients are accepted, where there is one: a second's worth may come at once.
pub fn accept_rate(limits: &Limits) -> Option<Bucket> {
    let (rate, fills) = match limits.accept_rate {
        0 => return None,
        rate @ 1..10 => (rate, 1),
        rate => (rate, 10),
    };
    Some(Bucket::new(RateLimit {
        max_tokens: rate,
        tokens_per_fill: rate / fills,
        fill_interval: Duration::from_secs(1) / fills,
        share_key: String::new(),
    }))
}

/// Looks once a second and does what is needed, for as long as the gateway lives.
pub async fn run(watch: Watch) {
    if watch.limits.max_connections > 0 {
        let fit = connections(
            &Reading::take(&watch.limits),
            0,
            &Limits { max_connections: 0, ..watch.limits.clone() },
        );
        if watch.limits.max_connections > fit {
            tracing::warn!(
                wanted = watch.limits.max_connections,
                fit,
                "limits.max_connections does not fit the file descriptors; raise ulimit -n"
            );
        }
    }
    let mut pressure = Pressure::NONE;
    let mut told: Option<Remark> = None;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let reading = Reading::take(&watch.limits);
        watch.metrics.note((reading.memory, reading.memory_limit), (reading.files, reading.files_limit));
        watch.gate.set_limit(connections(&reading, watch.gate.inside(), &watch.limits));
        let before = pressure.memory;
        pressure = pressure.after(&reading, watch.gate.inside(), &watch.limits);
        let level = pressure.memory;
        if level != before {
            note(level, &reading);
            watch.pause.send_replace(level > Memory::Enough);
            watch.metrics.paused.set((level > Memory::Enough).into());
            let remark = || {
                watch.readiness.remark("memory is short: nobody is accepted", std::time::SystemTime::now())
            };
            told = (level > Memory::Enough).then(|| told.take().unwrap_or_else(remark));
        }
        if level == Memory::VeryShort {
            let shed: usize = watch.open.ask(shed).await.into_iter().flatten().sum();
            watch.metrics.shed.inc_by(shed as u64);
        }
    }
}

fn note(level: Memory, reading: &Reading) {
    let (memory, limit) = (reading.memory, reading.memory_limit.unwrap_or_default());
    match level {
        Memory::Enough => tracing::info!(memory, limit, "there is enough memory again"),
        Memory::Short => {
            tracing::warn!(memory, limit, "memory is short; nobody is accepted (limits.memory_pause_percent)")
        }
        Memory::VeryShort => {
            tracing::error!(
                memory,
                limit,
                "memory is very short; idle connections are closed (limits.memory_shed_percent)"
            );
        }
    }
}

/// Closes some of this thread's idle connections, the newest first: who has been here for long has more to lose.
fn shed() -> usize {
    let now = Instant::now();
    let mut idle = Vec::new();
    open::each(|connection| {
        if connection.quiet(now) >= LOOK_EVERY {
            idle.push(connection.number);
        }
    });
    idle.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
    let Some(last) = idle.get(idle.len() / SHED_SHARE).copied() else { return 0 };
    let mut shed = 0;
    open::each(|connection| {
        if connection.number >= last && connection.quiet(now) >= LOOK_EVERY {
            shed += usize::from(connection.ask(Ask::End(End::Memory)));
        }
    });
    shed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(memory: u64, files: u64, files_limit: u64) -> Reading {
        Reading { memory, memory_limit: Some(1_000), files, files_limit }
    }

    #[test]
    fn memory_becomes_short_and_very_short_and_is_enough_again_only_some_way_below() {
        let limits = Limits { memory_pause_percent: 85, memory_shed_percent: 95, ..Limits::default() };
        let mut pressure = Pressure::NONE;
        let levels = [840, 850, 810, 799, 960, 901, 899, 780].map(|used| {
            pressure = pressure.after(&reading(used, 0, 0), 1, &limits);
            pressure.memory
        });
        use Memory::{Enough, Short, VeryShort};
        assert_eq!(levels, [Enough, Short, Short, Enough, VeryShort, VeryShort, Short, Enough]);
    }

    #[test]
    fn without_a_limit_memory_is_never_short() {
        let reading = Reading { memory: u64::MAX, memory_limit: None, files: 0, files_limit: 0 };
        assert_eq!(Pressure::NONE.after(&reading, 1, &Limits::default()), Pressure::NONE);
    }

    #[test]
    fn memory_that_a_crowd_has_left_behind_is_there_for_as_many() {
        let limits = Limits { memory_pause_percent: 85, memory_shed_percent: 95, ..Limits::default() };
        let levels = |used, counts: [usize; 5]| {
            let mut pressure = Pressure::NONE;
            counts.map(|open| {
                pressure = pressure.after(&reading(used, 0, 0), open, &limits);
                pressure.memory
            })
        };
        use Memory::{Enough, Short, VeryShort};
        assert_eq!(levels(860, [100, 95, 80, 90, 91]), [Short, Short, Enough, Enough, Short]);
        assert_eq!(levels(960, [100, 81, 80, 51, 50]), [VeryShort, VeryShort, Short, Short, Enough]);
    }

    #[test]
    fn connections_have_two_descriptors_each_of_what_others_and_the_reserve_leave() {
        let limits = Limits { reserved_files: 100, ..Limits::default() };
        assert_eq!(connections(&reading(0, 50, 1_000), 0, &limits), 425);
        assert_eq!(
            connections(&reading(0, 650, 1_000), 300, &limits),
            425,
            "their own do not count against them"
        );
        assert_eq!(connections(&reading(0, 650, 100), 300, &limits), 1, "the limit was lowered meanwhile");
        let limits = Limits { max_connections: 10, ..limits };
        assert_eq!(connections(&reading(0, 50, 1_000), 0, &limits), 10);
    }
}
