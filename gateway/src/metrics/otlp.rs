//! What is counted of the records for OpenTelemetry's collectors.

use prometheus::IntCounter;

use super::Made;

/// Records for OpenTelemetry's collectors.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// Taken by the collector.
    pub exported: IntCounter,
    /// Lost because the collector was behind, or away.
    pub dropped: IntCounter,
    /// Sent, and refused by the collector.
    pub rejected: IntCounter,
}

impl Otlp {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            exported: made
                .counter("otlp_exported_total", "Connections that the OTLP collector was told of")?,
            dropped: made.counter(
                "otlp_dropped_total",
                "Connections that it was not told of because it was behind or away",
            )?,
            rejected: made.counter("otlp_rejected_total", "Spans and log records that it refused")?,
        })
    }
}
