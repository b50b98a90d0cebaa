//! Istio's own agent starts the gateway in the place of an Envoy (`ProxyConfig.binaryPath`), on the real istiod: it writes the
//! bootstrap, speaks xDS for it over a Unix socket, asks its admin port whether it is ready, and drains it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::*;

/// The agent and the template of the bootstrap, as its image has them; `.ci/e2e istiod` puts both there.
fn programs() -> Option<[PathBuf; 2]> {
    let target = Path::new(env!("CARGO_BIN_EXE_eastgate")).parent().and_then(Path::parent).unwrap();
    let agent =
        std::env::var_os("E2E_PILOT_AGENT").map_or_else(|| target.join("e2e/pilot-agent"), PathBuf::from);
    let template = agent.with_file_name("envoy_bootstrap.json");
    if agent.exists() && template.exists() {
        return Some([agent, template]);
    }
    assert!(std::env::var("E2E").as_deref() != Ok("required"), "there is no {}", agent.display());
    eprintln!("not run: there is no {} (.ci/e2e istiod builds it)", agent.display());
    None
}

/// The agent, with what it has started.
struct Agent {
    process: Child,
    directory: tempfile::TempDir,
    /// The agent's own port, and the gateway's admin and readiness ports.
    status: SocketAddr,
    admin: SocketAddr,
    ready: SocketAddr,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It began a process group of its own, and what it has started is in that.
        let _ = Command::new("kill").args(["-s", "KILL", "--", &format!("-{}", self.process.id())]).status();
        let _ = self.process.wait();
    }
}

/// A port that is free now.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Agent {
    async fn start(mesh: &Mesh, [agent, template]: &[PathBuf; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tokens = directory.path().join("var/run/secrets/tokens");
        std::fs::create_dir_all(&tokens).unwrap();
        let ask = "/token?namespace=istio-system&account=istio-eastwestgateway";
        std::fs::write(tokens.join("istio-token"), mesh.istiod.send("GET", ask, None).await).unwrap();
        let [status, admin, ready, metrics] = [free(), free(), free(), free()];
        let config = json!({
            "binaryPath": env!("CARGO_BIN_EXE_eastgate"),
            "discoveryAddress": mesh.istiod.text("secure"),
            "statusPort": status.port(),
            "proxyAdminPort": admin.port(),
            "drainDuration": "20s",
            "terminationDrainDuration": "3s",
            "concurrency": 1,
        });
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let root = mesh.istiod.text("root");
        let mut command = Command::new(agent);
        command.args(["proxy", "router", "--domain", "istio-system.svc.cluster.local", "--templateFile"]);
        command.arg(template).current_dir(directory.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.envs([
            ("PROXY_CONFIG", config.to_string()),
            ("XDS_ROOT_CA", root.to_owned()),
            ("CA_ROOT_CA", root.to_owned()),
            ("ISTIOD_SAN", mesh.istiod.text("server_name").to_owned()),
            ("ENVOY_STATUS_PORT", ready.port().to_string()),
            ("ENVOY_PROMETHEUS_PORT", metrics.port().to_string()),
        ]);
        command.envs([
            ("POD_NAME", "istio-eastwestgateway-0"),
            ("POD_NAMESPACE", "istio-system"),
            ("SERVICE_ACCOUNT", "istio-eastwestgateway"),
            ("INSTANCE_IP", "127.0.0.9"),
            ("TRUST_DOMAIN", "cluster.local"),
            ("CLOUD_PLATFORM", "none"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_NETWORK", "network1"),
            ("ISTIO_METAJSON_LABELS", r#"{"istio":"eastwestgateway"}"#),
            ("EASTGATE_LISTEN_PORTS", r#"{"15443":"127.0.0.1:0","15012":"127.0.0.1:0"}"#),
            ("NO_COLOR", "1"),
        ]);
        Self { process: command.spawn().unwrap(), directory, status, admin, ready }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The status of what this path of one of the ports is answered with; 0 where nobody answers.
    async fn asked(&self, address: SocketAddr, path: &str) -> u16 {
        match tokio::net::TcpStream::connect(address).await {
            Ok(_) => program::http(address, "GET", path, "").await.0,
            Err(_) => 0,
        }
    }

    async fn until(&self, address: SocketAddr, path: &str, wanted: u16) {
        let waiting = async {
            while self.asked(address, path).await != wanted {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        done.unwrap_or_else(|_| panic!("{path} was never {wanted}:\n{}", self.log()));
    }

    /// Where the mesh's listener is, once agent and gateway both say that it is ready.
    async fn listening(&self) -> SocketAddr {
        self.until(self.status, "/healthz/ready", 200).await;
        self.until(self.ready, "/healthz/ready", 200).await;
        let (_, text) = program::http(self.admin, "GET", "/listeners?format=json", "").await;
        let listeners: serde_json::Value = serde_json::from_str(&text).unwrap();
        let all = listeners["listener_statuses"].as_array().unwrap();
        let found = all.iter().find(|listener| listener["name"] == LISTENER);
        let found = found.unwrap_or_else(|| panic!("no {LISTENER} in {text}"));
        let at = &found["local_address"]["socket_address"];
        format!("{}:{}", at["address"].as_str().unwrap(), at["port_value"]).parse().unwrap()
    }

    async fn exit(&mut self) -> ExitStatus {
        let waiting = async {
            loop {
                match self.process.try_wait().unwrap() {
                    Some(status) => return status,
                    None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        let done = tokio::time::timeout(PATIENCE, waiting).await;
        done.unwrap_or_else(|_| panic!("the agent does not end:\n{}", self.log()))
    }
}

/// Asks the pod at the other end of a connection that stays open.
async fn ask(tunnel: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    tunnel.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.contains(&b'}') {
        let read = tokio::time::timeout(PATIENCE, tunnel.read_buf(&mut answer)).await;
        assert_ne!(read.expect("an answer in time").unwrap(), 0, "it was cut");
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istios_agent_starts_the_gateway_finds_it_ready_and_drains_it() {
    let Some(programs) = programs() else { return };
    let Some(mesh) = Mesh::start().await else { return };
    let mut agent = Agent::start(&mesh, &programs).await;
    let gateway = agent.listening().await;
    assert_eq!(mesh.spread(gateway, V2, 5).await, pods(&["pod-23"]));
    let bootstrap =
        std::fs::read_to_string(agent.directory.path().join("etc/istio/proxy/envoy-rev.json")).unwrap();
    assert!(bootstrap.contains("xds-grpc") && bootstrap.contains("etc/istio/proxy/XDS"), "{bootstrap}");
    assert!(agent.log().contains("--drain-strategy immediate"), "{}", agent.log());
    let clients = mesh.istiod.get("/clients").await;
    assert!(clients.to_string().contains("istio-eastwestgateway-0.istio-system"), "{clients}");

    // SIGTERM: the agent posts /drain_listeners, waits for its drain duration, and ends the gateway.
    let mut tunnel = mesh_client(&mesh.ca).connect(gateway, V2).await.unwrap();
    assert!(ask(&mut tunnel).await.contains("pod-23"));
    let pid = agent.process.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    agent.until(agent.ready, "/healthz/ready", 503).await;
    assert!(ask(&mut tunnel).await.contains("pod-23"));
    let status = agent.exit().await;
    assert!(
        status.success() && agent.log().contains("Agent has successfully terminated"),
        "{status} {}",
        agent.log()
    );
}

#[tokio::test]
#[ignore = "builds istiod: minutes; just e2e-istiod"]
async fn istios_agent_ends_when_the_gateway_is_asked_to_leave() {
    let Some(programs) = programs() else { return };
    let Some(mesh) = Mesh::start().await else { return };
    let mut agent = Agent::start(&mesh, &programs).await;
    agent.listening().await;
    assert_eq!(program::http(agent.admin, "POST", "/quitquitquit", "").await.0, 200);
    agent.exit().await;
    assert!(agent.log().contains("Envoy exited normally"), "{}", agent.log());
}
