//! The TLS that the gateway itself speaks to endpoints, for clients that speak plain TCP.

use serde::Serialize;

/// `trafficPolicy.tls` of a DestinationRule, with what is meant where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct UpstreamTls {
    /// What the gateway shows for itself.
    pub mode: TlsMode,
    /// The server name to ask for. Without `subject_alt_names`, the certificate must be for it, but for the mesh's own
    /// TLS, where it only says where to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The names of which the endpoint's certificate must have one, in the mesh's own TLS identities; none is any there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// A file with the gateway's certificate chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// A file with its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A file with the roots of the endpoint's certificate; the system's without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots: Option<String>,
    /// A file with a list of revoked certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocations: Option<String>,
    /// A Kubernetes Secret of the gateway's namespace, in place of the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The endpoint's certificate is not verified.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// What the client of a TLS session shows for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Nothing.
    Simple,
    /// A certificate of its own.
    Mutual,
    /// Its identity in the mesh.
    IstioMutual,
}

impl UpstreamTls {
    /// The mesh's own TLS, asking for this name.
    pub fn mesh(sni: &str) -> Self {
        Self {
            mode: TlsMode::IstioMutual,
            sni: Some(sni.to_owned()),
            subject_alt_names: Vec::new(),
            certificate: None,
            key: None,
            roots: None,
            revocations: None,
            credential: None,
            insecure: false,
        }
    }
}
