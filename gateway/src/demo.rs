//! `eastgate demo`: everything in one process, for a first look. Nothing in it is pretended: the pods speak TLS with
//! certificates of their own, the gateway is the one that `eastgate run` starts, on the documented example's YAML.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use eastgate_config::bootstrap::{Layers, Settings};
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect, Response};
use eastgate_loadtest::origin::{self, Origin};
use serde_json::{Value, json};

use crate::app::App;

/// The documented example.
const EXAMPLE: &[(&str, &str)] = &[
    ("gateway.yaml", include_str!("../../config/examples/httpbin/gateway.yaml")),
    ("destination-rule.yaml", include_str!("../../config/examples/httpbin/destination-rule.yaml")),
    ("service-entry.yaml", include_str!("../../config/examples/httpbin/service-entry.yaml")),
];
/// Its service, and behind that the endpoints, which the demo writes itself: its pods take free ports.
const SERVICE: &str = include_str!("../../config/examples/httpbin/service.yaml");
const LISTENER: &str = "0.0.0.0_15443";
const SENT: &str = "outbound_.8000_._.httpbin.bar.global";
const ROUTED: &str = "outbound_.8000_._.httpbin.bar.svc.cluster.local";
const SPIFFE: &str = "spiffe://cluster.local/ns/bar/sa/httpbin";
/// Requests before and after a pod is killed.
const REQUESTS: usize = 6;
/// A step that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells the story, and fails where it does not happen as told.
///
/// # Errors
/// A step did not go as told; the error says which.
pub async fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    let story = Story { colours: std::io::stdout().is_terminal() };
    let directory = tempfile::tempdir()?;
    let ca = Ca::new()?;

    story.title("Two pods of httpbin.bar.svc.cluster.local, each with a certificate of the mesh");
    let mut pods = BTreeMap::new();
    for name in ["httpbin-1", "httpbin-2"] {
        let pod = Origin::start(origin::Options::new(name, ca.issue(&[SPIFFE])?)).await?;
        story.tell(&format!("{name} listens on {}", pod.address()));
        pods.insert(name, pod);
    }

    story.title("The gateway, fed from the Istio YAML of config/examples/httpbin");
    write_mesh(directory.path(), &pods)?;
    let log = directory.path().join("access.log");
    let mut app = App::start(settings(&directory.path().join("mesh"), &log)?).await?;
    let bound =
        tokio::time::timeout(PATIENCE, app.ready()).await.context("the gateway did not become ready")??;
    let gateway = *bound.get(LISTENER).context("the gateway does not listen for port 15443")?;
    story.tell(&format!("listener {LISTENER} is bound to {gateway}; Gateway hosts: *.global"));

    let client = mesh_client(&ca)?;
    let mut records = Records { path: &log, seen: 0 };
    story.title(&format!("A client asks for {SENT}"));
    let before = requests(&client, gateway).await?;
    let lines = records.next(REQUESTS).await?;
    tell_first(&story, &before[0], &lines[0])?;
    let spread = spread(&before);
    ensure!(spread.values().all(|count| *count == REQUESTS / 2), "round robin did not alternate: {spread:?}");
    story.tell(&format!("{REQUESTS} requests, taken in turn: {spread:?}"));

    story.title("httpbin-1 is killed; its EndpointSlice still lists it");
    let killed = pods.remove("httpbin-1").context("the pod is there")?;
    killed.reset().await;
    let after = requests(&client, gateway).await?;
    let lines = records.next(REQUESTS).await?;
    ensure!(after.iter().all(|response| response.pod() == Some("httpbin-2")), "a dead pod answered");
    let retried = lines.iter().filter(|line| line["attempts"] == 2).count();
    ensure!(retried > 0, "no connection was moved to the other pod");
    story.tell(&format!("{REQUESTS} requests, {REQUESTS} answers from httpbin-2"));
    story.tell(&format!(
        "{retried} of them met the dead pod first and were connected to the other one; no client saw it"
    ));

    story.title("A name that no Gateway exposes");
    let refused = client.get(gateway, "outbound_.8000_._.secret.bar.global", "/hostname").await;
    let error = refused.err().context("an unknown name was let in")?;
    let alert = error.tls().map(ToString::to_string).unwrap_or_default();
    ensure!(alert.contains("UnrecognisedName"), "the client was not told why: {error}");
    let line = records.next(1).await?.remove(0);
    ensure!(line["flag"] == "NR", "the record does not say NR: {line}");
    story.tell(&format!("flag NR: {}", line["error"].as_str().unwrap_or_default()));
    story.tell("the client was told with the TLS alert unrecognized_name; no upstream socket was opened");

    drop(pods);
    let left = app.stop().await;
    ensure!(left.cut == 0, "connections were cut at the end");
    story.title(&format!("All as told, in {} ms", began.elapsed().as_millis()));
    Ok(())
}

/// The first connection in full: what the gateway saw, what it made of it, and what the client got.
fn tell_first(story: &Story, response: &Response, line: &Value) -> anyhow::Result<()> {
    let peer = response.peer.as_ref().context("the client saw no certificate")?;
    ensure!(peer.names().iter().any(|name| name == SPIFFE), "the client did not see the pod's certificate");
    ensure!(line["server_name"] == SENT, "the record has another server name: {line}");
    ensure!(line["rewritten"] == ROUTED, "the name was not rewritten: {line}");
    let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
    story.tell(&format!("ClientHello seen, server name {}", text("server_name")));
    story.tell(&format!("rewritten to               {}", text("rewritten")));
    let pod = response.pod().unwrap_or("nobody");
    story.tell(&format!("endpoint chosen            {} ({pod})", text("endpoint")));
    let bytes = |key: &str| line[key].as_u64().unwrap_or_default();
    let (up, down) = (bytes("to_upstream_bytes"), bytes("to_client_bytes"));
    ensure!(up > 0 && down > 0, "no bytes were relayed: {line}");
    story.tell(&format!("relayed {up} bytes up and {down} down, none of them decrypted here:"));
    story.tell(&format!("the certificate that the client verified is the pod's, {SPIFFE}"));
    Ok(())
}

fn settings(mesh: &Path, log: &Path) -> anyhow::Result<Settings> {
    Ok(Layers::new()
        .flag("source.mesh_dir", Some(mesh.display().to_string()))
        .flag("listen.ports", Some(json!({ "15443": "127.0.0.1:0" })))
        .flag("admin.address", Some("127.0.0.1:0"))
        .flag("admin.readiness_address", Some(""))
        .flag("access_log.path", Some(log.display().to_string()))
        .flag("threads", Some(1))
        .settings()?)
}

fn write_mesh(directory: &Path, pods: &BTreeMap<&str, Origin>) -> anyhow::Result<()> {
    let mesh = directory.join("mesh");
    std::fs::create_dir(&mesh)?;
    for (name, text) in EXAMPLE {
        std::fs::write(mesh.join(name), text)?;
    }
    std::fs::write(mesh.join("service.yaml"), SERVICE.split("\n---\n").next().unwrap_or_default())?;
    // One slice for each pod: endpoints of one slice share their port, and the demo's pods have one each.
    for (name, pod) in pods {
        let address = pod.address();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "bar",
                "labels": { "kubernetes.io/service-name": "httpbin", "security.istio.io/tlsMode": "istio" },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": address.port(), "protocol": "TCP" }],
            "endpoints": [{ "addresses": [address.ip()], "conditions": { "ready": true } }],
        });
        std::fs::write(mesh.join(format!("{name}.json")), slice.to_string())?;
    }
    Ok(())
}

fn mesh_client(ca: &Ca) -> anyhow::Result<Client> {
    let mut options = client::Options::new(ca.roots());
    options.expect = Expect::OneOf(vec![SPIFFE.into()]);
    options.alpn = vec!["istio-http/1.1".into(), "istio".into(), "http/1.1".into()];
    Ok(Client::new(options)?)
}

async fn requests(client: &Client, gateway: SocketAddr) -> anyhow::Result<Vec<Response>> {
    let mut responses = Vec::new();
    for number in 1..=REQUESTS {
        let response = client.get(gateway, SENT, "/hostname").await;
        responses.push(response.with_context(|| format!("request {number} got no answer"))?);
    }
    Ok(responses)
}

fn spread(responses: &[Response]) -> BTreeMap<&str, usize> {
    let mut spread = BTreeMap::new();
    for response in responses {
        *spread.entry(response.pod().unwrap_or("nobody")).or_default() += 1;
    }
    spread
}

/// The access log, read as it grows.
struct Records<'a> {
    path: &'a Path,
    seen: usize,
}

impl Records<'_> {
    /// The next lines, as soon as they are there.
    async fn next(&mut self, count: usize) -> anyhow::Result<Vec<Value>> {
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.path)?;
            let complete = text.rfind('\n').map_or("", |end| &text[..end]);
            let lines: Vec<_> = complete.lines().skip(self.seen).take(count).collect();
            if lines.len() == count {
                self.seen += count;
                return Ok(lines.into_iter().map(serde_json::from_str).collect::<Result<_, _>>()?);
            }
            ensure!(began.elapsed() < PATIENCE, "the access log has {} of {count} lines", lines.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

struct Story {
    colours: bool,
}

impl Story {
    fn title(&self, text: &str) {
        match self.colours {
            true => println!("\n\x1b[1m{text}\x1b[0m"),
            false => println!("\n{text}"),
        }
    }

    fn tell(&self, text: &str) {
        match self.colours {
            true => println!("  \x1b[32m✓\x1b[0m {text}"),
            false => println!("  ✓ {text}"),
        }
    }
}
