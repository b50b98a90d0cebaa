//! A VM's directory, read whole.

use std::io;
use std::path::{Path, PathBuf};

use eastgate_config::bootstrap::Vm;
use eastgate_config::bootstrap::xds::Address;
use eastgate_config::istio::{Index, Options};
use eastgate_config::snapshot::Snapshot;
use eastgate_config::spiffe::IdPattern;
use eastgate_config::vm::{self, Inbound, Machine, Texts};

use crate::source::{files, xds};

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no `cluster.env`, or that cannot be read.
    #[error("cannot read {}; is this a VM's directory? make one with eastgate vm bundle or istioctl", path.display())]
    Environment {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its ServiceEntries cannot be read.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// What it says cannot be used.
    #[error("{} cannot be used", directory.display())]
    Content {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: vm::Error,
    },
}

/// All that is in a VM's directory, or is going to be.
#[derive(Debug, PartialEq)]
pub struct Contents {
    /// What an error names.
    root: PathBuf,
    cluster_env: String,
    mesh_yaml: Option<String>,
    hosts: Option<String>,
    services: Vec<(String, String)>,
}

impl Contents {
    /// Those of a directory that is still to be made: its `cluster.env` and `hosts`, and each ServiceEntry's file with
    /// its path. Errors name `root` and these paths.
    pub fn given(root: &Path, cluster_env: &str, hosts: &str, services: Vec<(String, String)>) -> Self {
        Self {
            root: root.to_owned(),
            cluster_env: cluster_env.to_owned(),
            mesh_yaml: None,
            hosts: Some(hosts.to_owned()),
            services,
        }
    }

    /// Reads a directory.
    ///
    /// # Errors
    /// It has no `cluster.env`, or a file cannot be read.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let path = root.join("cluster.env");
        let cluster_env =
            std::fs::read_to_string(&path).map_err(|source| Error::Environment { path, source })?;
        let mesh_path = root.join("mesh.yaml");
        let mut services = files::read(root)?;
        services.retain(|(path, _)| Path::new(path) != mesh_path);
        Ok(Self {
            cluster_env,
            mesh_yaml: optional(mesh_path)?,
            hosts: optional(root.join("hosts"))?,
            services,
            root: root.to_owned(),
        })
    }

    /// What it says of the VM.
    pub(super) fn machine(&self, settings: &Vm) -> Result<Machine, Error> {
        let texts = Texts {
            cluster_env: &self.cluster_env,
            mesh_yaml: self.mesh_yaml.as_deref(),
            hosts: self.hosts.as_deref(),
        };
        Machine::read(texts, settings).map_err(|source| self.wrong(source))
    }

    /// Have all variables a value?
    pub(super) fn check(&self, machine: &Machine) -> Result<(), Error> {
        self.substituted(machine).map(drop)
    }

    /// Has the index hold just the directory's resources.
    pub(super) fn load(&self, index: &mut Index, machine: &Machine) -> Result<(), Error> {
        files::load(index, &self.substituted(machine)?);
        Ok(())
    }

    fn substituted(&self, machine: &Machine) -> Result<Vec<(String, String)>, Error> {
        let substituted = self.services.iter().map(|(path, text)| {
            let text = vm::substitute(path, text, &machine.variables).map_err(|source| self.wrong(source))?;
            Ok((path.clone(), text))
        });
        substituted.collect()
    }

    fn wrong(&self, source: vm::Error) -> Error {
        Error::Content { directory: self.root.clone(), source }
    }
}

fn optional(path: PathBuf) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// The listeners and clusters of both directions.
pub(super) fn snapshot(index: &mut Index, machine: &Machine, settings: &Vm, options: &Options) -> Snapshot {
    let mut snapshot = index.snapshot(options);
    let ports = machine.inbound_ports(settings);
    if ports.is_empty() && machine.inbound_ports.is_none() {
        tracing::warn!(
            "cluster.env: ISTIO_INBOUND_PORTS='*' names no port, so the mesh can connect to none; give --inbound PORT"
        );
    }
    if ports.is_empty() {
        return snapshot;
    }
    let own = || ["192.0.2.1:9", "[2001:db8::1]:9"].into_iter().find_map(xds::own_address);
    let Some(address) = settings.inbound_address.or(machine.address).or_else(own) else {
        tracing::warn!(
            "the VM has no address that the mesh could connect to; give ISTIO_SVC_IP in cluster.env"
        );
        return snapshot;
    };
    let everybody_here = || format!("{}/*", machine.trust_domain).parse::<IdPattern>().ok();
    let allowed = match settings.allow.as_slice() {
        [] => everybody_here().into_iter().collect(),
        given => given.to_vec(),
    };
    vm::inbound(&Inbound { address, redirect: settings.inbound_redirect, ports, allowed }, &mut snapshot);
    snapshot
}

/// Takes the CA's address from the directory's own `hosts`, so that it is found before that is in `/etc/hosts`.
pub(super) fn by_hosts(address: &mut Address, server_name: &mut Option<String>, machine: &Machine) {
    let Address::Tcp { host, .. } = address else { return };
    if let Some(ip) = machine.hosts.address(host) {
        server_name.get_or_insert_with(|| host.clone());
        *host = ip.to_string();
    }
}
