//! One address in a cluster.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

/// Where an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A DNS name, resolved by the gateway, and a port.
    Dns {
        /// The name to look up.
        host: Box<str>,
        /// The port of every address it resolves to.
        port: u16,
    },
}

impl Address {
    /// Its port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Socket(address) => address.port(),
            Self::Dns { port, .. } => *port,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the source says of an endpoint's health (EDS `health_status`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Takes new connections.
    #[default]
    Healthy,
    /// Takes new connections only when nothing better is left.
    Degraded,
    /// Takes no new connections and keeps those it has.
    Draining,
    /// Takes no new connections.
    Unhealthy,
}

/// The port at which the gateways of other networks take mesh TLS (Istio's `gatewayPort`).
pub const GATEWAY_PORT: u16 = 15443;

/// As many other addresses as any workload has. A named endpoint can be listed any number of times for a few bytes each,
/// so that what one endpoint takes must be bounded.
pub const MAX_ADDITIONAL: usize = 16;

/// One address in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Its share against the other endpoints of its locality; at least 1.
    pub weight: u32,
    /// What the source says of it.
    pub health: Health,
    /// The pod or other workload behind the address, where the source names it; for people, never for routing.
    /// Shared by the endpoints of one Deployment, and with the table that is compiled from them.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub workload: Arc<str>,
    /// What few endpoints have.
    #[serde(flatten)]
    pub extras: MaybeExtras,
}

/// What few endpoints have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Extras {
    /// Other addresses of the same workload, such as its IPv6 one, to be raced against the first (Happy Eyeballs).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_addresses: Vec<SocketAddr>,
    /// The host name that active health checks ask for; empty for the cluster's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The network that it is a gateway of, if it is one: whatever is behind it shares this address, so that what fails there
    /// must not count against it. Empty where the source does not name the network. See docs/health.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Where active health checks go, if not to the port of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_port: Option<u16>,
}

/// Extras, or none, which takes no more than a pointer: a mesh has hundreds of thousands of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MaybeExtras(Option<Arc<Extras>>);

impl From<Extras> for MaybeExtras {
    fn from(extras: Extras) -> Self {
        Self((extras != Extras::default()).then(|| Arc::new(extras)))
    }
}

impl Deref for MaybeExtras {
    type Target = Extras;

    fn deref(&self) -> &Extras {
        static NONE: Extras = Extras {
            additional_addresses: Vec::new(),
            hostname: String::new(),
            gateway: None,
            health_check_port: None,
        };
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl Endpoint {
    /// A healthy endpoint of weight 1.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            weight: 1,
            health: Health::default(),
            workload: Arc::default(),
            extras: MaybeExtras::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_without_extras_takes_little_and_shows_none() {
        let plain = Endpoint::new(Address::Socket(([10, 0, 0, 1], 80).into()));
        assert!(size_of::<Endpoint>() <= 64);
        assert_eq!(plain.extras, Extras::default().into());
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"address":"10.0.0.1:80","weight":1,"health":"healthy"}"#
        );
        let extras = Extras { gateway: Some("east".into()), ..Extras::default() };
        let gateway = Endpoint { extras: extras.into(), ..plain };
        assert_eq!(gateway.extras.gateway.as_deref(), Some("east"));
        assert!(serde_json::to_string(&gateway).unwrap().ends_with(r#","gateway":"east"}"#));
    }
}
