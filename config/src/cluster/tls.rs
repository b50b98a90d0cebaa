//! The TLS that a DestinationRule wants spoken to endpoints.

use serde::Serialize;

/// `trafficPolicy.tls` of a DestinationRule, where it asks for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// What the gateway shows for itself.
    pub mode: TlsMode,
    /// The server name to ask for, where it is not the mesh's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The names of which the endpoint's certificate must have one; none is any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// A file with the gateway's certificate chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// A file with its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A file with the roots of the endpoint's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots: Option<String>,
    /// A file with a list of revoked certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocations: Option<String>,
    /// A Kubernetes secret in place of the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The endpoint's certificate is not verified.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// What the client of a TLS session shows for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Nothing.
    Simple,
    /// A certificate of its own.
    Mutual,
    /// Its identity in the mesh.
    IstioMutual,
}
