//! `eastgate run --xds` on the real istiod (`istiod/`): YAML in, TLS through the gateway, edits of the YAML.
//! Ignored by default, since building istiod takes minutes: `just e2e-istiod`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "istiod_e2e/agent.rs"]
mod agent;
#[path = "support/load.rs"]
mod load;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/program.rs"]
mod program;
mod support;
#[path = "istiod_e2e/vm.rs"]
mod vm;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{self, Origin};
use load::Load;
use program::{Driven, Eastgate, built};
use support::*;

const LOCAL_NAME: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";
const V1: &str = "outbound_.8000_.v1_.httpbin.bar.svc.cluster.local";
const V2: &str = "outbound_.8000_.v2_.httpbin.bar.svc.cluster.local";
/// A ServiceEntry's own `*.global` host: istiod knows it, so that no rewrite is wanted.
const GLOBAL_NAME: &str = "outbound_.9080_._.reviews.bar.global";
const LISTENER: &str = "0.0.0.0_15443";

/// The mesh of `istiod/mesh`, with pods of ours where its endpoints are.
struct Mesh {
    ca: Ca,
    directory: tempfile::TempDir,
    istiod: Driven,
    _pods: Vec<Origin>,
}

/// One pod at each of these addresses, named by its last byte, all on one free port.
async fn pods_on_one_port(ca: &Ca, last: &[u8]) -> (u16, Vec<Origin>) {
    'ports: loop {
        let (mut port, mut pods) = (0, Vec::new());
        for last in last {
            let mut options = origin::Options::new(format!("pod-{last}"), ca.issue(&[SPIFFE]).unwrap());
            options.address = ([127, 0, 0, *last], port).into();
            // Another test may have the port at one of the addresses.
            let Ok(pod) = Origin::start(options).await else { continue 'ports };
            port = pod.address().port();
            pods.push(pod);
        }
        return (port, pods);
    }
}

impl Mesh {
    async fn start() -> Option<Self> {
        let program = built("istiod").await?;
        let ca = Ca::new().unwrap();
        let (port, mut pods) = pods_on_one_port(&ca, &[21, 22, 23]).await;
        let (reviews, more) = pods_on_one_port(&ca, &[41, 42]).await;
        pods.extend(more);
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/istiod");
        let mesh = directory.path().join("mesh");
        std::fs::create_dir(&mesh).unwrap();
        for entry in std::fs::read_dir(source.join("mesh")).unwrap() {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.replace("port: 8080,", &format!("port: {port},"));
            std::fs::write(mesh.join(name), text.replace("{http: 19080}", &format!("{{http: {reviews}}}")))
                .unwrap();
        }
        let path = |path: PathBuf| path.display().to_string();
        let arguments = [
            ["--config", &path(mesh)],
            ["--mesh", &path(source.join("mesh.yaml"))],
            ["--networks", &path(source.join("networks.yaml"))],
        ];
        let istiod = Driven::start(&program, arguments.as_flattened()).await;
        Some(Self { ca, directory, istiod, _pods: pods })
    }

    /// A gateway that is the fixture's: of its pod, account, labels and network.
    async fn gateway(&self, variant: &str, xds: &str, more: &[(&str, String)]) -> Eastgate {
        let mut settings: Vec<(&str, String)> = [
            ("EASTGATE_XDS_VARIANT", variant),
            ("EASTGATE_NODE_LABELS", r#"{"istio":"eastwestgateway"}"#),
            ("EASTGATE_LISTEN_PORTS", r#"{"15443":"127.0.0.1:0","15012":"127.0.0.1:0"}"#),
            ("POD_NAME", "istio-eastwestgateway-0"),
            ("POD_NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "istio-eastwestgateway"),
            ("ISTIO_META_NETWORK", "network1"),
            ("ISTIO_META_ISTIO_VERSION", "1.31.0"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into();
        settings.extend_from_slice(more);
        Eastgate::start(&["--xds", xds], &settings).await
    }

    /// Edits a file of the mesh, as an editor does, and has istiod look at it.
    async fn edit(&self, name: &str, edit: impl Fn(String) -> String) {
        let path = self.directory.path().join("mesh").join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let edited = edit(text.clone());
        assert_ne!(text, edited, "nothing to edit in {name}");
        let new = path.with_extension("new");
        std::fs::write(&new, edited).unwrap();
        std::fs::rename(new, path).unwrap();
        self.istiod.send("POST", "/reload", None).await;
    }

    /// The pods that answer to this name in so many connections.
    async fn spread(&self, gateway: SocketAddr, name: &str, count: usize) -> BTreeSet<String> {
        let client = mesh_client(&self.ca);
        let mut pods = BTreeSet::new();
        for _ in 0..count {
            let response = client.get(gateway, name, "/hostname").await;
            let response = response.unwrap_or_else(|error| panic!("{name}: {error}"));
            pods.insert(response.pod().unwrap().to_owned());
        }
        pods
    }

    async fn refused(&self, gateway: SocketAddr, name: &str) {
        assert!(mesh_client(&self.ca).get(gateway, name, "/hostname").await.is_err(), "{name}");
    }
}

fn pods(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Nothing of what istiod sends by itself is refused.
async fn nothing_is_refused(gateway: &Eastgate) {
    let text = gateway.admin("/stats/prometheus").await;
    let nacks: Vec<_> = text.lines().filter(|line| line.starts_with("eastgate_xds_nacks_total{")).collect();
    let rejections = gateway.admin("/rejections").await;
    assert!(nacks.iter().all(|line| line.ends_with(" 0")), "{nacks:?}\n{rejections}");
}

async fn yaml_is_served(variant: &str) {
    let Some(mesh) = Mesh::start().await else { return };
    let xds = format!("http://{}", mesh.istiod.text("xds"));
    let gateway = mesh.gateway(variant, &xds, &[]).await;
    let address = gateway.listening(LISTENER).await;
    nothing_is_refused(&gateway).await;

    // The rule has outlier detection, so that istiod prefers the gateway's own zone. One of the two pods there is ill, so
    // that it takes 70 % and the other zone the rest, as with Envoy, once istiod has told of that one; of v1 the zone's one pod is well.
    let used = mesh.spread(address, LOCAL_NAME, 40).await;
    assert!(used.contains("pod-21") && used.is_subset(&pods(&["pod-21", "pod-22", "pod-23"])), "{used:?}");
    assert_eq!(mesh.spread(address, V1, 10).await, pods(&["pod-21"]));
    assert_eq!(mesh.spread(address, V2, 10).await, pods(&["pod-23"]));
    assert_eq!(mesh.spread(address, GLOBAL_NAME, 40).await, pods(&["pod-41", "pod-42"]));
    for name in [
        "outbound_.80_._.plain.shop.svc.cluster.local",
        "outbound_.80_._.secret.shop.svc.cluster.local",
        "outbound_.443_._.api.example.com",
        "outbound_.8000_._.nobody.bar.svc.cluster.local",
        "httpbin.bar.svc.cluster.local",
    ] {
        mesh.refused(address, name).await;
    }
    let clusters = gateway.admin("/clusters").await;
    assert!(
        !clusters.contains("192.0.2.1"),
        "the gateway is its own endpoint: NETWORK is missing\n{clusters}"
    );

    // That pod goes: nothing fails, and the other zone serves.
    let load = Load::start(&mesh.ca, address, &[LOCAL_NAME]);
    load.until_more(5).await;
    mesh.edit("httpbin.yaml", |text| {
        text.replacen(
            "addresses: ['127.0.0.21']\n  conditions: {ready: true",
            "addresses: ['127.0.0.21']\n  conditions: {ready: false",
            1,
        )
    })
    .await;
    let unready = |text: &str| {
        let at = format!("{LOCAL_NAME}::127.0.0.21:");
        text.lines().filter(|line| line.starts_with(&at)).all(|line| !line.ends_with("health_flags::healthy"))
    };
    gateway.until("/clusters", unready).await;
    assert_eq!(mesh.spread(address, LOCAL_NAME, 60).await, pods(&["pod-22", "pod-23"]));
    load.until_more(5).await;

    // A subset goes, and a new one comes; outlier detection and the rest of the rule stay.
    mesh.edit("httpbin.yaml", |text| {
        text.replace("- name: v2\n    labels: {version: v2}", "- name: canary\n    labels: {version: v2}")
    })
    .await;
    let canary = "outbound_.8000_.canary_.httpbin.bar.svc.cluster.local";
    gateway.until("/config_dump", |text| text.contains(canary) && !text.contains(V2)).await;
    gateway.until("/clusters", |text| text.contains(&format!("{canary}::127.0.0.23:"))).await;
    assert_eq!(mesh.spread(address, canary, 5).await, pods(&["pod-23"]));
    mesh.refused(address, V2).await;

    // A host goes from the Gateway: its names are not exposed any more, the others are.
    mesh.edit("gateway.yaml", |text| text.replace(r#"hosts: ["*.global"]"#, r#"hosts: ["*.elsewhere"]"#))
        .await;
    let client = mesh_client(&mesh.ca);
    let gone = async { while client.get(address, GLOBAL_NAME, "/hostname").await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the name goes with the Gateway's host");
    load.until_more(5).await;

    let done = load.finish().await;
    println!("{variant}: {} connections under edits, {} failures", done.answered, done.failed.len());
    done.assert_no_failure();
    nothing_is_refused(&gateway).await;
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istiods_yaml_is_served_by_delta() {
    yaml_is_served("delta").await;
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istiods_yaml_is_served_by_state_of_the_world() {
    yaml_is_served("sotw").await;
}

/// 15012: the plugged CA's root, and a token that istiod trusts; with `csr`, a certificate of its CA besides.
async fn over_tls(variant: &str, csr: bool) {
    let Some(mesh) = Mesh::start().await else { return };
    let directory = mesh.directory.path();
    let token = directory.join("token");
    let settings = [
        ("EASTGATE_XDS_ROOT_PATHS", format!("[{:?}]", mesh.istiod.text("root"))),
        ("EASTGATE_XDS_TOKEN_PATH", token.display().to_string()),
        ("EASTGATE_XDS_SERVER_NAME", mesh.istiod.text("server_name").to_owned()),
        ("EASTGATE_XDS_CSR", csr.to_string()),
    ];
    // An expired token first: it is told as such, and the next stream reads the file again.
    let ask = "/token?namespace=istio-system&account=istio-eastwestgateway";
    std::fs::write(&token, mesh.istiod.send("GET", &format!("{ask}&ttl=-1m"), None).await).unwrap();
    let secure = mesh.istiod.text("secure").to_owned();
    let gateway = mesh.gateway(variant, &format!("https://{secure}"), &settings).await;
    if !csr {
        let refused = "xds_reconnects_total{reason=\"unauthenticated\"}";
        gateway.metric_until(refused, |count| count >= 1.0).await;
    }
    std::fs::write(&token, mesh.istiod.send("GET", ask, None).await).unwrap();
    let address = gateway.listening(LISTENER).await;
    nothing_is_refused(&gateway).await;
    assert_eq!(mesh.spread(address, V2, 5).await, pods(&["pod-23"]));
    if csr {
        assert!(gateway.metric("xds_certificate_requests_total{result=\"ok\"}").await >= 1.0);
        assert!(gateway.metric("xds_certificate_expiry_timestamp_seconds").await > 1e9);
    }
    let clients = mesh.istiod.get("/clients").await;
    assert!(clients.to_string().contains("istio-eastwestgateway-0.istio-system"), "{clients}");
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istiod_tells_a_gateway_no_names_and_dns_says_so() {
    for variant in ["delta", "sotw"] {
        let Some(mesh) = Mesh::start().await else { return };
        let xds = format!("http://{}", mesh.istiod.text("xds"));
        let gateway = mesh.gateway(variant, &xds, &[("EASTGATE_DNS_ADDRESSES", "127.0.0.1:0".into())]).await;
        gateway.listening(LISTENER).await;
        // It has asked, and it has been answered; there is nothing in the answer (docs/dns.md).
        gateway.metric_until("xds_resources{type=\"names\"}", |count| count == 1.0).await;
        gateway.until("/ready?verbose", |text| text.contains("the source has told of no names")).await;
        nothing_is_refused(&gateway).await;
    }
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istiod_is_spoken_to_over_tls_with_a_token() {
    for variant in ["delta", "sotw"] {
        over_tls(variant, false).await;
    }
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istiods_ca_issues_a_certificate_that_istiod_takes() {
    for variant in ["delta", "sotw"] {
        over_tls(variant, true).await;
    }
}
