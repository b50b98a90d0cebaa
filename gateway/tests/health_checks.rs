//! Active checks that a control plane asks for, of real servers: gRPC's C core and Python's HTTP server (health_checks/servers.py).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/program.rs"]
mod program;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::path::{Path, PathBuf};

use eastgate_config::xds::CLUSTER;
use eastgate_loadtest::ca::Ca;
use fed::*;
use plane::Plane;
use program::Driven;
use resources::from_json;
use serde_json::{Value, json};

/// The Python that has gRPC; where it is missing one line says so, and with `E2E=required` the test fails.
fn python() -> Option<PathBuf> {
    let made = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e/venv/bin/python");
    let python = std::env::var_os("E2E_PYTHON").map_or_else(made, PathBuf::from);
    if python.exists() {
        return Some(python);
    }
    let why = format!("not run: there is no {}; .ci/e2e setup makes it", python.display());
    assert_ne!(std::env::var("E2E").as_deref(), Ok("required"), "{why}");
    eprintln!("{why}");
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_follows_what_its_grpc_and_http_servers_say_of_it() {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/health_checks/servers.py");
    let servers = Driven::start(&python, &[script.to_str().unwrap()]).await;
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let check = |port: u16, how: (&str, Value)| {
        json!({
            "timeout": "5s", "interval": "0.05s", "no_traffic_interval": "0.05s", "unhealthy_threshold": 2,
            "healthy_threshold": 2, "alt_port": port, how.0: how.1,
        })
    };
    let grpc = ("grpc_health_check", json!({ "service_name": "shop", "authority": "shop.bar" }));
    let http = ("http_health_check", json!({ "path": "/healthz", "host": "shop.bar" }));
    let cluster = json!({
        "name": NAME,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
        "common_lb_config": { "healthy_panic_threshold": { "value": 0 } },
        "health_checks": [check(servers.address("grpc").port(), grpc), check(servers.address("admin").port(), http)],
    });
    let mut resources = world(pod.address());
    resources.clusters.insert(NAME.into(), from_json(CLUSTER, &cluster));
    let plane = Plane::start(resources).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    let healthy = format!("{NAME}::{}::health_flags::healthy\n", pod.address());
    gateway.until("/clusters", |text| text.contains(&healthy)).await;
    assert!(served(&ca, address).await.is_some());
    for (bad, good, why) in [
        ("/set/grpc/2", "/set/grpc/1", "it says that it does not serve (status 2 of grpc.health.v1)"),
        ("/set/http/503", "/set/http/200", "it answers with status 503"),
    ] {
        servers.send("POST", bad, None).await;
        let ill = |text: &str| text.contains("/failed_active_hc") && text.contains(why);
        gateway.until("/clusters", ill).await;
        assert_eq!(served(&ca, address).await, None, "{bad}");
        servers.send("POST", good, None).await;
        gateway.until("/clusters", |text| text.contains(&healthy)).await;
        assert!(served(&ca, address).await.is_some(), "{good}");
        println!("health check: {bad} took the endpoint out ({why}), {good} let it in");
    }
    let asked = servers.get("/asked").await;
    let of = |kind: &str| asked[kind].as_u64().unwrap();
    let counted = gateway.metric(&format!("health_check_attempt_total{{cluster=\"{NAME}\"}}")).await;
    println!("health check: asked {asked}, counted {counted}");
    assert!(of("grpc") > 4 && of("http") > 4 && counted >= (of("grpc") + of("http")) as f64 - 4.0);
}
