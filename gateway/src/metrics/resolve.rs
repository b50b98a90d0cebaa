//! What is counted of the look-ups of endpoints' names. The names themselves are no labels: `/clusters` has them.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::Made;

/// Look-ups of endpoints' names.
#[derive(Debug, Clone)]
pub struct Resolve {
    /// Look-ups, by result: `answered`, `negative` (no such name or address), `failed` (no answer).
    pub lookups: IntCounterVec,
    /// Names by state: `fresh`, `stale` (the last look-up failed, and earlier addresses are in use), `unknown` (none).
    pub names: IntGaugeVec,
}

impl Resolve {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            lookups: made.counters(
                "resolve_lookups_total",
                "Look-ups of endpoints' DNS names, by result",
                &["result"],
            )?,
            names: made.gauges("resolve_names", "DNS names of endpoints, by state", &["state"])?,
        })
    }
}
