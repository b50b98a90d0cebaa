//! Looks around in the pod for what `config::node` makes the gateway's identity of.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

use eastgate_config::bootstrap::Settings;
use eastgate_config::node::{Identity, Surroundings, identify};

/// Where the downward API is mounted, by Istio's charts and injector.
const POD: &str = "/etc/istio/pod";

/// Who the gateway is, by the environment and the downward API's files.
pub fn identity(settings: &Settings) -> Identity {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let read = |name: &str| std::fs::read_to_string(format!("{POD}/{name}")).ok();
    let (labels, annotations) = (read("labels"), read("annotations"));
    let addresses: Vec<_> = ["192.0.2.1:9", "[2001:db8::1]:9"].into_iter().filter_map(own_address).collect();
    let given = Surroundings {
        environment: &environment,
        addresses: &addresses,
        labels: labels.as_deref(),
        annotations: annotations.as_deref(),
    };
    let identity = identify(given, &settings.node);
    for warning in &identity.warnings {
        tracing::warn!("{warning}");
    }
    identity
}

/// The address that the system would speak from; "connecting" a UDP socket sends nothing.
pub(in crate::source) fn own_address(towards: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(if towards.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).ok()?;
    socket.connect(towards).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}
