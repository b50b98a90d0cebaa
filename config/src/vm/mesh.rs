//! `mesh.yaml`, as `istioctl x workload entry configure` writes it: a part of Istio's `MeshConfig`.

use serde::Deserialize;

use super::Error;

/// What matters of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mesh {
    pub(super) discovery_address: Option<String>,
    pub(super) trust_domain: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MeshConfig {
    default_config: Option<ProxyConfig>,
    trust_domain: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ProxyConfig {
    discovery_address: Option<String>,
}

/// Reads it. What else it says is for other programs.
pub(super) fn parse(text: &str) -> Result<Mesh, Error> {
    let config: Option<MeshConfig> = serde_saphyr::from_str(text)
        .map_err(|error| Error::Mesh(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
    let MeshConfig { default_config, trust_domain } = config.unwrap_or_default();
    Ok(Mesh { discovery_address: default_config.unwrap_or_default().discovery_address, trust_domain })
}
