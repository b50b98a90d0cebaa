//! Settings of the VM side of mesh expansion.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::empty_is_none;
use super::xds::one_or_many;
use crate::spiffe::IdPattern;

/// A VM beside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Vm {
    #[serde(deserialize_with = "empty_is_none")]
    pub config_dir: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub certs_dir: Option<PathBuf>,
    #[serde(deserialize_with = "empty_is_none")]
    pub gateway: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub ca_address: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub ca_server_name: Option<String>,
    #[serde(deserialize_with = "empty_is_none")]
    pub redirect: Option<SocketAddr>,
    pub inbound: BTreeMap<u16, SocketAddr>,
    #[serde(deserialize_with = "empty_is_none")]
    pub inbound_address: Option<IpAddr>,
    #[serde(deserialize_with = "empty_is_none")]
    pub inbound_redirect: Option<SocketAddr>,
    #[serde(deserialize_with = "one_or_many")]
    pub allow: Vec<IdPattern>,
}
