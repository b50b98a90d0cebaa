//! What is counted of DNS. Labels are transports, record types and response codes, each one of few.

use prometheus::{Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use super::Made;

/// DNS.
#[derive(Debug, Clone)]
pub struct Dns {
    /// Answers, by transport, type and code.
    pub responses: IntCounterVec,
    /// From a query to its answer, those of other resolvers included.
    pub seconds: Histogram,
    /// Queries and connections without an answer, by reason.
    pub dropped: IntCounterVec,
    /// Queries that other resolvers were asked, by result.
    pub forwards: IntCounterVec,
    /// Open connections, by transport.
    pub connections: IntGaugeVec,
    /// Names that have an answer.
    pub names: IntGauge,
}

impl Dns {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        // An answer is a look-up in memory: the buckets begin where the network's own time is far off.
        let buckets = prometheus::exponential_buckets(0.000_005, 4.0, 11)?;
        Ok(Self {
            responses: made.counters("dns_responses_total", "DNS answers", &["transport", "type", "code"])?,
            seconds: made.histogram("dns_seconds", "From a DNS query to its answer", buckets)?,
            dropped: made.counters(
                "dns_dropped_total",
                "DNS queries and connections that got no answer",
                &["transport", "reason"],
            )?,
            forwards: made.counters("dns_forwards_total", "Queries for other resolvers", &["result"])?,
            connections: made.gauges("dns_connections", "Open connections for DNS", &["transport"])?,
            names: made.gauge("dns_names", "Names that DNS has an answer for")?,
        })
    }
}
