//! `networking.istio.io` Gateway.

use serde::Deserialize;
use serde_json::Value;

use super::Labels;

/// The message `Gateway`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Gateway {
    pub(in crate::istio) servers: Vec<Server>,
    pub(in crate::istio) selector: Labels,
}

/// The message `Server`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Server {
    pub(in crate::istio) port: Option<Port>,
    pub(in crate::istio) bind: String,
    pub(in crate::istio) hosts: Vec<String>,
    pub(in crate::istio) tls: Option<ServerTls>,
    pub(in crate::istio) default_endpoint: Value,
    pub(in crate::istio) name: String,
}

/// The message `Port`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct Port {
    pub(in crate::istio) number: i64,
    pub(in crate::istio) protocol: String,
    pub(in crate::istio) name: String,
    pub(in crate::istio) target_port: Value,
}

/// The message `ServerTLSSettings`. Only the mode matters to a gateway that terminates nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::istio) struct ServerTls {
    pub(in crate::istio) https_redirect: bool,
    pub(in crate::istio) mode: TlsMode,
    pub(in crate::istio) server_certificate: Value,
    pub(in crate::istio) private_key: Value,
    pub(in crate::istio) ca_certificates: Value,
    pub(in crate::istio) ca_crl: Value,
    pub(in crate::istio) credential_name: Value,
    pub(in crate::istio) credential_names: Value,
    pub(in crate::istio) ca_cert_credential_name: Value,
    pub(in crate::istio) tls_certificates: Value,
    pub(in crate::istio) subject_alt_names: Value,
    pub(in crate::istio) verify_certificate_spki: Value,
    pub(in crate::istio) verify_certificate_hash: Value,
    pub(in crate::istio) min_protocol_version: Value,
    pub(in crate::istio) max_protocol_version: Value,
    pub(in crate::istio) cipher_suites: Value,
    pub(in crate::istio) ecdh_curves: Value,
}

/// The enumeration `ServerTLSSettings.TLSmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::istio) enum TlsMode {
    Passthrough,
    #[default]
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

impl std::fmt::Display for TlsMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "PASSTHROUGH",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::AutoPassthrough => "AUTO_PASSTHROUGH",
            Self::IstioMutual => "ISTIO_MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
        })
    }
}
