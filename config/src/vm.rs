//! The VM side of mesh expansion: what a VM's directory says, and what follows from it for the process there.
//!
//! Two kinds of directory are read: the one of Istio's early documents (`cluster.env`, `*.pem`, lines for `/etc/hosts`,
//! and beside them ServiceEntries), and the one that `istioctl x workload entry configure` writes (`cluster.env`,
//! `mesh.yaml`, `root-cert.pem`, `istio-token`, `hosts`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::bootstrap::Vm;
use crate::cidr::Cidr;

mod environment;
mod hosts;
mod inbound;
mod mesh;
mod variables;

pub use environment::Environment;
pub use hosts::Hosts;
pub use inbound::{Inbound, inbound};
pub use variables::substitute;

/// What the early charts and `.deb` take where nothing is said.
const CITADEL: &str = "istio-citadel:8060";
/// The names by which the gateway itself stands in `hosts`.
const CONTROL_PLANE: [&str; 5] =
    ["istiod.istio-system.svc", "istio-pilot.istio-system", "istio-pilot", "istio-citadel", "istiod"];
/// The variable of the document's ServiceEntries.
pub const GATEWAY: &str = "CLUSTER_GW_ADDR";

/// The texts of a VM's directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Texts<'a> {
    /// `cluster.env`.
    pub cluster_env: &'a str,
    /// `mesh.yaml`, where there is one.
    pub mesh_yaml: Option<&'a str>,
    /// `hosts`, where there is one.
    pub hosts: Option<&'a str>,
}

/// Why a VM's directory cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line of `cluster.env` is none.
    #[error("cluster.env:{line}: {text:?} is no NAME=VALUE")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A variable's value cannot be.
    #[error("cluster.env: {name}: {value:?} is no {wanted}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it should be, with an example.
        wanted: &'static str,
    },
    /// `mesh.yaml` is none.
    #[error("mesh.yaml: {0}")]
    Mesh(String),
    /// A line of `hosts` is none.
    #[error("hosts:{line}: {text:?} is no address with names; write 35.232.112.158 istio-pilot")]
    Hosts {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// There is no gateway to go to.
    #[error(
        "{place}: ${{{name}}} has no value; give the gateway's address by --gateway, by CLUSTER_GW_ADDR in cluster.env, \
         or by a line of hosts such as 35.232.112.158 istio-pilot"
    )]
    NoGateway {
        /// The file and line.
        place: String,
        /// The variable.
        name: String,
    },
    /// A variable of a ServiceEntry has no value.
    #[error("{place}: ${{{name}}} has no value; add {name}=... to cluster.env")]
    Variable {
        /// The file and line.
        place: String,
        /// The variable.
        name: String,
    },
}

/// A VM, by its directory and the settings of the process there.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// The identity's trust domain.
    pub trust_domain: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The VM's address in the mesh, where it is given.
    pub address: Option<IpAddr>,
    /// The VM's cluster, for the CA.
    pub cluster_id: String,
    /// Where the mesh's gateway is: an address or a name.
    pub gateway: Option<String>,
    /// The mesh's CA, `HOST:PORT`, where it is named.
    pub ca_address: Option<String>,
    /// The addresses that the firewall takes connections off; none for `*`.
    pub service_ranges: Vec<Cidr>,
    /// The ports at which the mesh may connect; none for `*`.
    pub inbound_ports: Option<Vec<u16>>,
    /// What may stand in a ServiceEntry as `${NAME}`.
    pub variables: BTreeMap<String, String>,
    /// The names of `hosts`.
    pub hosts: Hosts,
}

impl Machine {
    /// Reads it. What the settings say goes before what the files say.
    ///
    /// # Errors
    /// Names the file, the line and the remedy.
    pub fn read(texts: Texts<'_>, settings: &Vm) -> Result<Self, Error> {
        let environment = Environment::parse(texts.cluster_env)?;
        let mesh = texts.mesh_yaml.map(mesh::parse).transpose()?.unwrap_or_default();
        let hosts = Hosts::parse(texts.hosts.unwrap_or_default())?;
        let text = |names: &[&str]| names.iter().find_map(|name| environment.get(name)).map(str::to_owned);
        let by_hosts = || CONTROL_PLANE.iter().find_map(|name| hosts.address(name)).map(|ip| ip.to_string());
        let gateway = settings.gateway.clone().or_else(|| text(&[GATEWAY])).or_else(by_hosts);
        let ca_address = text(&["CA_ADDR", "CITADEL_ADDRESS"]).or(mesh.discovery_address);
        let mut variables = environment.all().clone();
        variables.extend(gateway.clone().map(|gateway| (GATEWAY.to_owned(), gateway)));
        Ok(Self {
            trust_domain: text(&["TRUST_DOMAIN", "ISTIO_META_TRUST_DOMAIN"])
                .or(mesh.trust_domain)
                .unwrap_or_else(|| "cluster.local".to_owned()),
            namespace: text(&["ISTIO_NAMESPACE", "POD_NAMESPACE"]).unwrap_or_else(|| "default".to_owned()),
            service_account: text(&["SERVICE_ACCOUNT"]).unwrap_or_else(|| "default".to_owned()),
            address: environment
                .parse_one(&["ISTIO_SVC_IP", "INSTANCE_IP"], "IP address, such as 10.0.0.5")?,
            cluster_id: text(&["ISTIO_META_CLUSTER_ID"]).unwrap_or_else(|| "Kubernetes".to_owned()),
            gateway,
            ca_address,
            service_ranges: environment
                .list("ISTIO_SERVICE_CIDR", "list of ranges, such as 172.21.0.0/16")?
                .unwrap_or_default(),
            inbound_ports: environment
                .list("ISTIO_INBOUND_PORTS", "list of ports, such as 8888,9000, or *")?,
            variables,
            hosts,
        })
    }

    /// The CA, where one is named or the early charts' name for it is in `hosts`.
    pub fn ca(&self) -> Option<String> {
        let citadel = || self.hosts.address("istio-citadel").map(|_| CITADEL.to_owned());
        self.ca_address.clone().or_else(citadel)
    }

    /// What the mesh may connect to: for each port, the local address that gets plain TCP.
    pub fn inbound_ports(&self, settings: &Vm) -> BTreeMap<u16, SocketAddr> {
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut ports: BTreeMap<_, _> =
            self.inbound_ports.iter().flatten().map(|port| (*port, local(*port))).collect();
        ports.extend(settings.inbound.clone());
        ports
    }
}

#[cfg(test)]
mod tests;
