//! A gateway that is fed by control planes, for tests.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use eastgate::app::App;
use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::Origin;
use serde_json::json;

use crate::resources::Resources;
use crate::support::*;

pub const NAME: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";

/// A gateway that is fed by control planes, and its directory.
pub struct Fed {
    pub app: App,
    pub directory: tempfile::TempDir,
}

pub fn layers(directory: &Path, planes: &[&str]) -> Layers {
    Layers::new()
        .flag("xds.addresses", Some(json!(planes)))
        .flag("xds.token_path", Some(directory.join("token").display().to_string()))
        .flag("xds.root_paths", Some(json!([directory.join("none.pem"), directory.join("root.pem")])))
        .flag("xds.coalesce", Some("10ms"))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some(""))
        .flag("access_log.path", Some(""))
        .flag("drain.timeout", Some("1s"))
        .flag("threads", Some(1))
}

impl Fed {
    pub async fn start(planes: &[&str], more: impl FnOnce(Layers, &Path) -> Layers) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), planes, more).await
    }

    pub async fn start_in(
        directory: tempfile::TempDir,
        planes: &[&str],
        more: impl FnOnce(Layers, &Path) -> Layers,
    ) -> Self {
        let settings = more(layers(directory.path(), planes), directory.path()).settings().unwrap();
        let app = App::start(settings).await.unwrap();
        Self { app, directory }
    }

    /// Waits until it is ready, and gives where its listener is bound.
    pub async fn ready(&mut self) -> SocketAddr {
        let bound = tokio::time::timeout(PATIENCE, self.app.ready()).await.expect("ready in time").unwrap();
        *bound.values().next().expect("a listener")
    }

    pub async fn admin(&self, path: &str) -> (u16, String) {
        http_get(self.app.admin_address(), path).await
    }

    pub async fn until(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            loop {
                let (_, text) = self.admin(path).await;
                if wanted(&text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{path} never became as wanted"))
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/stats/prometheus").await.1;
        value(&text, name)
    }

    pub async fn metric_until(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        self.until("/stats/prometheus", |text| wanted(value(text, name))).await;
    }
}

/// The value of a metric with its labels; 0 where it is not there.
pub fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("eastgate_{name} ")));
    line.map_or(0.0, |value| value.parse().unwrap())
}

pub async fn pod(ca: &Ca) -> Origin {
    pods(ca, 1).await.remove(0)
}

pub async fn served(ca: &Ca, gateway: SocketAddr) -> Option<String> {
    let response = mesh_client(ca).get(gateway, NAME, "/hostname").await.ok()?;
    response.pod().map(str::to_owned)
}

pub fn world(address: SocketAddr) -> Resources {
    Resources::serving(&[(NAME, &[address])])
}
