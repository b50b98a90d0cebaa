//! Istio's own messages that `envoy-types` lacks.
//!
//! They are derived by hand where a message is a few plain fields: that needs no protobuf compiler in the build.

use std::collections::BTreeMap;

use prost::Message;

/// Configuration of the network filter `envoy.filters.network.tcp_cluster_rewrite`
/// (`istio.envoy.config.filter.network.tcp_cluster_rewrite.v2alpha1.TcpClusterRewrite` in istio/api).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TcpClusterRewrite {
    /// An ECMAScript regular expression; empty switches the filter off.
    #[prost(string, tag = "1")]
    pub cluster_pattern: String,
    /// What every match of it becomes.
    #[prost(string, tag = "2")]
    pub cluster_replacement: String,
}

impl TcpClusterRewrite {
    /// What an `Any` with this message is labelled.
    pub const TYPE_URL: &str = "type.googleapis.com/istio.envoy.config.filter.network.tcp_cluster_rewrite.v2alpha1.TcpClusterRewrite";
}

/// `xds.type.v3.TypedStruct` and its older twin `udpa.type.v1.TypedStruct`: the form in which an EnvoyFilter writes a
/// message that the control plane does not know.
#[derive(Clone, PartialEq, Message)]
pub struct TypedStruct {
    /// The type that the fields belong to.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The fields, as in JSON.
    #[prost(message, optional, tag = "2")]
    pub value: Option<envoy_types::pb::google::protobuf::Struct>,
}

/// What is asked of the mesh's CA (`istio.v1.auth.IstioCertificateRequest` in istio/api).
#[derive(Clone, PartialEq, Message)]
pub struct IstioCertificateRequest {
    /// The signing request as PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// For how many seconds; the CA may give less.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Such as which signer is wanted.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<envoy_types::pb::google::protobuf::Struct>,
}

/// What it answers (`istio.v1.auth.IstioCertificateResponse`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct IstioCertificateResponse {
    /// PEM, the leaf first and the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

impl IstioCertificateRequest {
    /// The method that takes it.
    pub const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
}

/// What istiod's DNS says (`istio.networking.nds.v1.NameTable` in istio/istio, `pkg/dns/proto/nds.proto`).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NameTable {
    /// By host; `*.suffix` for a wildcard.
    #[prost(btree_map = "string, message", tag = "1")]
    pub table: BTreeMap<String, NameInfo>,
}

/// One host of a [`NameTable`].
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NameInfo {
    /// Of both families.
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// `Kubernetes`, `External`, ...
    #[prost(string, tag = "2")]
    pub registry: String,
    /// The service's name; Kubernetes' services only.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// Its namespace; Kubernetes' services only.
    #[prost(string, tag = "4")]
    pub namespace: String,
}
