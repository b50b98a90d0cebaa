//! Shortage of memory and file descriptors.

use prometheus::{IntCounter, IntGauge};

use super::Made;

/// What the process uses of what it may, and what it does about it.
#[derive(Debug, Clone)]
pub struct Overload {
    /// 1 while nobody is accepted.
    pub paused: IntGauge,
    /// Idle connections that were closed.
    pub shed: IntCounter,
    /// Bytes of memory.
    pub memory: IntGauge,
    /// How many there may be; 0 is no limit.
    pub memory_limit: IntGauge,
    /// File descriptors.
    pub files: IntGauge,
    /// How many there may be.
    pub files_limit: IntGauge,
}

impl Overload {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            paused: made.gauge("overload_paused", "1 while nobody is accepted because memory is short")?,
            shed: made.counter("overload_shed_total", "Idle connections closed because memory was short")?,
            memory: made.gauge("memory_bytes", "Memory that counts against limits.memory_bytes")?,
            memory_limit: made.gauge("memory_limit_bytes", "The limit on it; 0 is none")?,
            files: made.gauge("open_files", "Open file descriptors")?,
            files_limit: made.gauge("open_files_limit", "The limit on them")?,
        })
    }

    /// Shows what is used, and of how much.
    pub fn note(&self, (memory, memory_limit): (u64, Option<u64>), (files, files_limit): (u64, u64)) {
        let shown = |gauge: &IntGauge, value: u64| gauge.set(value.try_into().unwrap_or(i64::MAX));
        shown(&self.memory, memory);
        shown(&self.memory_limit, memory_limit.unwrap_or_default());
        shown(&self.files, files);
        shown(&self.files_limit, files_limit);
    }
}
