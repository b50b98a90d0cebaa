//! What is counted of the conversation with the control plane. Times are seconds of the Unix epoch, 0 for never: an
//! age is the scraper's to compute.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::Made;

/// The conversation with the control plane.
#[derive(Debug, Clone)]
pub struct Xds {
    /// 1 for the control plane that has answered on the current stream, by address out of the settings.
    pub connected: IntGaugeVec,
    /// Ends of streams and failed attempts, by reason.
    pub reconnects: IntCounterVec,
    /// When a control plane last sent something.
    pub last_response: IntGauge,
    /// Since when no control plane has been heard; 0 while one is.
    pub stale_since: IntGauge,
    /// Responses, by type.
    pub pushes: IntCounterVec,
    /// Responses of which something was refused, by type.
    pub nacks: IntCounterVec,
    /// From a response to what became of it.
    pub apply_seconds: Histogram,
    /// Accepted resources, by type.
    pub resources: IntGaugeVec,
    /// Resources whose newest version is refused, by type.
    pub rejected: IntGaugeVec,
    /// Updates that the guard found suspicious.
    pub alarms: IntCounter,
    /// 1 while the guard keeps something back.
    pub keeping_back: IntGauge,
    /// Messages above `xds.max_message_bytes`.
    pub oversized: IntCounter,
    /// 1 while saved state is served that no control plane has confirmed.
    pub saved_state: IntGauge,
    /// When the state in use or on disk was written.
    pub state_written: IntGauge,
    /// Writes of the state, by result.
    pub state_writes: IntCounterVec,
    /// State files that were set aside, by reason.
    pub state_set_aside: IntCounterVec,
    /// When the client certificate from the mesh's CA ends.
    pub certificate_expiry: IntGauge,
    /// Requests to the mesh's CA, by result.
    pub certificate_requests: IntCounterVec,
}

impl Xds {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            connected: made.gauges("xds_connected", "1 for the control plane in use", &["address"])?,
            reconnects: made.counters(
                "xds_reconnects_total",
                "Streams that ended and attempts that failed",
                &["reason"],
            )?,
            last_response: made
                .gauge("xds_last_response_timestamp_seconds", "When a control plane last sent something")?,
            stale_since: made.gauge(
                "xds_stale_since_timestamp_seconds",
                "Since when no control plane is heard; 0 while one is",
            )?,
            pushes: made.counters("xds_pushes_total", "Responses of control planes", &["type"])?,
            nacks: made.counters("xds_nacks_total", "Responses refused at least in part", &["type"])?,
            apply_seconds: made.seconds("xds_apply_seconds", "To decode and apply a response")?,
            resources: made.gauges("xds_resources", "Accepted resources", &["type"])?,
            rejected: made.gauges("xds_rejected_resources", "Resources refused", &["type"])?,
            alarms: made.counter("xds_alarms_total", "Updates that the guard found suspicious")?,
            keeping_back: made.gauge("xds_keeping_back", "1 while the guard keeps something back")?,
            oversized: made.counter("xds_oversized_total", "Messages above xds.max_message_bytes")?,
            saved_state: made.gauge("xds_saved_state", "1 while unconfirmed saved state is served")?,
            state_written: made
                .gauge("xds_state_written_timestamp_seconds", "When the saved state was written")?,
            state_writes: made.counters("xds_state_writes_total", "Writes of the state", &["result"])?,
            state_set_aside: made.counters(
                "xds_state_set_aside_total",
                "State files that could not be used",
                &["reason"],
            )?,
            certificate_expiry: made
                .gauge("xds_certificate_expiry_timestamp_seconds", "When the client certificate ends")?,
            certificate_requests: made.counters(
                "xds_certificate_requests_total",
                "Requests to the mesh's CA",
                &["result"],
            )?,
        })
    }
}

/// A moment as a gauge's value.
pub fn timestamp(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
