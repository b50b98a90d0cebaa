//! What is counted of the process's own end of the mesh's TLS.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::Made;

/// The process's own end of the mesh's TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Handshakes with clients that were completed by somebody who may be there.
    pub client_accepted: IntCounter,
    /// The other ones.
    pub client_refused: IntCounter,
    /// Handshakes with endpoints that were completed by somebody who may be there.
    pub upstream_accepted: IntCounter,
    /// The other ones.
    pub upstream_refused: IntCounter,
    /// Certificates put in place, and those that were no good, by result.
    pub loads: IntCounterVec,
    /// When the certificate in use ends.
    pub expiry: IntGauge,
}

impl Tls {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        let handshakes = made.counters(
            "tls_handshakes_total",
            "TLS handshakes of the process itself",
            &["side", "result"],
        )?;
        let of = |side, result| handshakes.with_label_values(&[side, result]);
        Ok(Self {
            client_accepted: of("client", "accepted"),
            client_refused: of("client", "refused"),
            upstream_accepted: of("upstream", "accepted"),
            upstream_refused: of("upstream", "refused"),
            loads: made.counters(
                "tls_certificate_loads_total",
                "Certificates read, by result",
                &["result"],
            )?,
            expiry: made.gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "When the mesh certificate in use ends; 0 without one",
            )?,
        })
    }
}
