//! A VM for black-box tests: the app that `eastgate vm run` starts, on loopback addresses of its own, with its directory.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use eastgate::app::App;
use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{PATIENCE, http_get};

/// Who the VM is in the mesh.
pub const VM: &str = "spiffe://cluster.local/ns/vm/sa/default";

/// A loopback address that no other test has, so that its ports are free.
pub fn own_address() -> IpAddr {
    IpAddr::from([127, fastrand::u8(64..250), fastrand::u8(..), fastrand::u8(1..255)])
}

/// A running VM and its directory.
pub struct Machine {
    pub app: App,
    pub directory: TempDir,
}

/// A VM's directory, as the document has it.
pub struct Directory(pub TempDir);

impl Directory {
    /// With this `cluster.env` and no certificates yet.
    pub fn new(cluster_env: &str) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        directory.write("cluster.env", cluster_env);
        directory
    }

    /// With certificates of this CA.
    pub fn in_mesh(ca: &Ca, cluster_env: &str) -> Self {
        let directory = Self::new(cluster_env);
        directory.certify(ca, VM);
        directory
    }

    pub fn certify(&self, ca: &Ca, spiffe: &str) {
        certify(self.0.path(), ca, spiffe);
    }

    pub fn write(&self, name: &str, text: &str) {
        replace(&self.0.path().join(name), text);
    }

    /// Starts the VM without waiting for it.
    pub async fn start(self, more: impl FnOnce(Layers, &Path) -> Layers) -> Machine {
        let path = self.0.path();
        let layers = Layers::new()
            .flag("vm.config_dir", Some(path.display().to_string()))
            .flag("vm.certs_dir", Some(path.display().to_string()))
            .flag("admin.address", Some("127.0.0.1:0"))
            .flag("admin.readiness_address", Some(""))
            .flag("access_log.path", Some(path.join("access.log").display().to_string()))
            .flag("drain.timeout", Some("1s"))
            .flag("threads", Some(1));
        let app = App::start(more(layers, path).settings().unwrap()).await.unwrap();
        Machine { app, directory: self.0 }
    }

    /// Starts the VM and waits until it is ready.
    pub async fn run(self, more: impl FnOnce(Layers, &Path) -> Layers) -> Machine {
        let mut machine = self.start(more).await;
        machine.ready().await;
        machine
    }

    /// Why the VM does not start.
    pub async fn refused(self) -> String {
        let mut machine = self.start(|layers, _| layers).await;
        let error = tokio::time::timeout(PATIENCE, machine.app.ready()).await.expect("an end in time");
        format!("{:#}", error.expect_err("the VM started"))
    }
}

impl Machine {
    pub async fn ready(&mut self) {
        tokio::time::timeout(PATIENCE, self.app.ready()).await.expect("ready in time").unwrap();
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        replace(&self.path().join(name), text);
    }

    pub fn certify(&self, ca: &Ca, spiffe: &str) {
        certify(&self.path(), ca, spiffe);
    }

    /// The access-log records, once there are so many.
    pub async fn records(&self, count: usize) -> Vec<Value> {
        let path = self.path().join("access.log");
        let waiting = async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.lines().count() >= count && text.ends_with('\n') {
                    return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the records in time")
    }

    /// Waits for a level of a metric.
    pub async fn metric_until(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        let waiting = async {
            while !wanted(self.metric(name).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let last = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(last.is_ok(), "{name} is {}", self.metric(name).await);
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = http_get(self.app.admin_address(), "/stats/prometheus").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("eastgate_{name} ")));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

fn certify(directory: &Path, ca: &Ca, spiffe: &str) {
    let identity = ca.issue(&[spiffe]).unwrap();
    replace(&directory.join("root-cert.pem"), ca.certificate_pem());
    replace(&directory.join("key.pem"), &identity.key_pem());
    replace(&directory.join("cert-chain.pem"), &identity.chain_pem());
}

fn replace(path: &Path, text: &str) {
    let other = path.with_extension("new");
    std::fs::write(&other, text).unwrap();
    std::fs::rename(other, path).unwrap();
}

/// The document's ServiceEntry for `httpbin.bar.global`: at this address, behind this port of the gateway.
pub fn httpbin(address: IpAddr, gateway_port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: ServiceEntry\nmetadata:\n  name: httpbin.bar.forvms\nspec:\n\
         \x20 hosts:\n  # must be of form name.namespace.global\n  - httpbin.bar.global\n  location: MESH_INTERNAL\n\
         \x20 ports:\n  - name: http1\n    number: 8000\n    protocol: http\n  resolution: DNS\n  addresses:\n\
         \x20 - {address}\n  endpoints:\n  - address: ${{CLUSTER_GW_ADDR}}\n    ports:\n\
         \x20     http1: {gateway_port} # Do not change this port value\n"
    )
}

/// The mesh's side of a service on the VM, as the document has it: STATIC, with the VM's address.
pub fn vmhttp(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "ServiceEntry",
        "metadata": { "name": "vmhttp", "namespace": "vm" },
        "spec": {
            "hosts": ["vmhttp.vm.svc.cluster.local"],
            "location": "MESH_INTERNAL",
            "ports": [{ "number": 8888, "name": "http", "protocol": "HTTP" }],
            "resolution": "STATIC",
            "endpoints": [{
                "address": address.ip(),
                "ports": { "http": address.port() },
                "serviceAccount": "default",
            }],
        },
    })
}
