//! The admin port: what it has, who may use it, and what may be done there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::process::{Command, Output};

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request over a connection of its own, as it is; the whole answer.
async fn raw(gateway: &Gateway, request: &str) -> String {
    let mut stream = TcpStream::connect(gateway.app.admin_address()).await.unwrap();
    stream.write_all(format!("{request}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn post(gateway: &Gateway, path: &str) -> String {
    raw(gateway, &format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0")).await
}

async fn command(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
    command.args(arguments);
    // The gateway runs on this test's own thread.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A client whose connection stays open.
async fn tunnel(gateway: &Gateway) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    // The pod's answer says that bytes are relayed.
    stream.read_exact(&mut [0; 5]).await.unwrap();
    stream
}

#[tokio::test]
async fn every_path_that_is_described_is_there_and_what_changes_wants_post() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let described = gateway.admin_json("/openapi.json").await;
    let mut seen = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        seen += 1;
        if methods.get("get").is_some() {
            let needed: String = methods["get"]["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|parameter| parameter["required"] == true)
                .map(|parameter| format!("{}=a&", parameter["name"].as_str().unwrap()))
                .collect();
            let (code, text) = gateway.admin(&format!("{path}?{needed}")).await;
            let codes = methods["get"]["responses"].as_object().unwrap();
            assert!(codes.contains_key(&code.to_string()) && code != 405, "{path}: {code} {text}");
            assert!(code != 404 || path.starts_with("/xds"), "{path}: {text}");
        } else {
            let answer = raw(&gateway, &format!("GET {path} HTTP/1.1\r\nhost: x")).await;
            assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: POST"), "{path}: {answer}");
            assert!(answer.contains("wants POST"), "{path}: {answer}");
        }
    }
    assert!(seen > 25);
    let answer = post(&gateway, "/clusters").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("wants GET"), "{answer}");
    let (code, text) = gateway.admin("/nothing").await;
    assert!(code == 404 && text.contains("/openapi.json"), "{text}");
    let (_, help) = gateway.admin("/help").await;
    for path in described["paths"].as_object().unwrap().keys() {
        assert!(help.contains(path.as_str()), "{path}");
    }
}

#[tokio::test]
async fn envoys_paths_answer_as_envoys_do() {
    let mut gateway = Gateway::start(&mesh(&[])).await;
    let info = gateway.admin_json("/server_info").await;
    assert_eq!(info["state"], "LIVE");
    assert!(post(&gateway, "/healthcheck/fail").await.ends_with("OK\n"));
    assert_eq!(gateway.admin("/ready").await.0, 503);
    assert!(post(&gateway, "/healthcheck/ok").await.ends_with("OK\n"));
    assert_eq!(gateway.admin("/ready").await, (200, "LIVE\n".into()));

    let memory = gateway.admin_json("/memory").await;
    assert!(memory["allocated"].as_str().unwrap().parse::<u64>().unwrap() > 1 << 20, "{memory}");
    let stats = gateway.admin_json("/stats?format=json&filter=%5Eeastgate_ready%24").await;
    assert_eq!(stats, json!({ "stats": [{ "name": "eastgate_ready", "value": 1.0 }] }));
    let (code, text) = gateway.admin("/stats?filter=(").await;
    assert!(code == 400 && text.contains("no regular expression"), "{text}");
    let (_, text) = gateway.admin("/stats?filter=tables_published").await;
    assert!(text.starts_with("eastgate_tables_published_total: "), "{text}");

    let (_, listeners) = gateway.admin("/listeners?format=json").await;
    let bound = gateway.address.port().to_string();
    assert!(listeners.contains("local_address") && listeners.contains(&bound), "{listeners}");
    assert_eq!(gateway.admin("/hot_restart_version").await.1, "disabled\n");

    assert!(post(&gateway, "/drain_listeners").await.ends_with("OK\n"));
    gateway.admin_until("/listeners", str::is_empty).await;
    // Each data thread closes its socket when it comes to it.
    let closed = async { while TcpStream::connect(gateway.address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("nobody accepts any more");
    assert_eq!(gateway.admin("/ready").await.0, 503);
    assert!(post(&gateway, "/quitquitquit").await.ends_with("OK\n"));
    let end = tokio::time::timeout(PATIENCE, gateway.app.ended()).await.expect("an operator's word counts");
    assert!(matches!(end, eastgate::app::End::Asked), "{end:?}");
}

#[tokio::test]
async fn open_tunnels_are_shown_with_both_sockets_and_ended_when_they_are_meant() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let admin = gateway.app.admin_address().to_string();
    let (mut one, mut other) = (tunnel(&gateway).await, tunnel(&gateway).await);
    let shown = gateway.admin_json("/connections?format=json").await;
    assert_eq!(shown["matching"], 2, "{shown}");
    let row = &shown["connections"][0];
    assert_eq!(row["client"], one.local_addr().unwrap().to_string(), "the oldest first");
    assert_eq!((&row["server_name"], &row["cluster"]), (&GLOBAL.into(), &LOCAL.into()));
    assert_eq!(row["endpoint"], pods[0].address().to_string());
    assert!(
        row["to_client_bytes"].as_u64() >= Some(5) && row["to_upstream_bytes"].as_u64() > Some(100),
        "{row}"
    );
    assert!(
        row["table"].as_u64() > Some(0) && row["engine"].as_str().is_some_and(|engine| engine != "-"),
        "{row}"
    );
    let random = row["client_random"].as_str().unwrap();
    let by_random = gateway.admin_json(&format!("/connections?format=json&client_random={random}")).await;
    assert!(random.len() == 16 && by_random["matching"].as_u64() >= Some(1), "{by_random}");
    for side in ["client_tcp", "upstream_tcp"] {
        assert!(row[side]["cwnd"].as_u64() > Some(0), "{side}: {row}");
    }
    let top = gateway.admin_json("/top?format=json").await;
    assert_eq!(
        (&top["active"], &top["names"][0]["name"], &top["names"][0]["active"]),
        (&2.into(), &GLOBAL.into(), &2.into())
    );

    assert!(post(&gateway, "/connections/kill").await.contains("say which"));
    let nobody = post(&gateway, "/connections/kill?sni=nobody.example").await;
    assert!(nobody.ends_with("{\"ended\":0}"), "{nobody}");
    let id = row["id"].as_str().unwrap();
    let killed = command(&["connections", "kill", "--id", id, "--admin", &admin]).await;
    assert_eq!(said(&killed), "1 connections are ended\n");
    let ended = tokio::time::timeout(PATIENCE, one.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    gateway.admin_until("/connections", |text| text.starts_with("1 open")).await;
    let table = command(&["connections", "--sni", GLOBAL, "--admin", &admin]).await;
    assert!(said(&table).contains(&other.local_addr().unwrap().to_string()), "{}", said(&table));
    let answer = post(&gateway, "/connections/kill?older_than=0s").await;
    assert!(answer.ends_with("{\"ended\":1}"), "{answer}");
    let _ = tokio::time::timeout(PATIENCE, other.read_to_end(&mut Vec::new())).await.unwrap();
}

#[tokio::test]
async fn a_port_that_others_reach_wants_tls_and_a_token_and_does_not_start_without() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mesh_dir = file("mesh", b"");
    std::fs::remove_file(&mesh_dir).unwrap();
    std::fs::create_dir(&mesh_dir).unwrap();
    let exposed = |layers: Layers| layers.flag("admin.address", Some("0.0.0.0:0"));
    let refused = eastgate::app::App::start(
        exposed(
            Layers::new().flag("source.mesh_dir", Some(mesh_dir)).flag("admin.readiness_address", Some("")),
        )
        .settings()
        .unwrap(),
    )
    .await;
    let error = format!("{:#}", refused.err().unwrap());
    for part in ["admin.tls_cert_path", "admin.token_path", "admin.insecure"] {
        assert!(error.contains(part), "{error}");
    }

    let ca = Ca::new().unwrap();
    let certificate = ca.issue(&["localhost"]).unwrap();
    let (cert, key) = (
        file("cert.pem", certificate.chain_pem().as_bytes()),
        file("key.pem", certificate.key_pem().as_bytes()),
    );
    let (token, root) = (file("token", b"secret\n"), file("root.pem", ca.certificate_pem().as_bytes()));
    let gateway = Gateway::start_with(&mesh(&[]), |layers| {
        exposed(layers)
            .flag("admin.tls_cert_path", Some(cert))
            .flag("admin.tls_key_path", Some(key))
            .flag("admin.token_path", Some(token.clone()))
    })
    .await;
    // One that never shakes hands keeps nobody waiting.
    let port = gateway.app.admin_address().port();
    let _silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let admin = format!("https://localhost:{port}");
    let with = |more: &'static [&'static str]| {
        let all = ["status", "--admin", &admin, "--admin-ca", &root].map(str::to_owned);
        all.into_iter().chain(more.iter().map(|text| (*text).to_owned())).collect::<Vec<_>>()
    };
    let bare = with(&[]);
    let refused = command(&bare.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(
        refused.status.code() == Some(1) && said(&refused).contains("admin.token_path"),
        "{}",
        said(&refused)
    );
    let wrong = file("wrong", b"guess");
    for (token, code) in [(wrong, 1), (token, 0)] {
        let arguments: Vec<_> = bare.iter().map(String::as_str).chain(["--admin-token", &token]).collect();
        let output = command(&arguments).await;
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    }
}

#[tokio::test]
async fn a_unix_socket_is_for_its_owner_and_a_stale_one_is_taken_over() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let gateway =
        Gateway::start_with(&mesh(&[]), |layers| layers.flag("admin.address", Some(address.clone()))).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let status = command(&["status", "--admin", &address, "-o", "json"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["state"], "LIVE");
    drop(gateway);
}

/// A gateway in a process of its own, which ends with this.
struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_unix_socket_passes_to_the_process_that_takes_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::create_dir(path("mesh")).unwrap();
    for (name, document) in mesh(&[]) {
        std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
    }
    let admin = format!("unix:{}", path("admin"));
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eastgate"));
        command.args(["run", "--mesh-dir", &path("mesh"), "--listen", "15443=127.0.0.1:0", "--threads", "1"]);
        command.args(["--admin", &admin, "--readiness", "", "--access-log", "", "--log-level", "error"]);
        Process(command.args(["--restart-socket", &path("restart")]).spawn().unwrap())
    };
    let live = async || {
        let status = command(&["status", "--admin", &admin, "-o", "json"]).await;
        serde_json::from_slice::<Value>(&status.stdout).ok().filter(|status| status["state"] == "LIVE")
    };
    let mut old = start();
    let replaced = async {
        let status = loop {
            match live().await {
                Some(status) if directory.path().join("restart").exists() => break status,
                _ => {}
            }
        };
        assert_eq!(status["hot_restart_version"], "1");
        let new = start();
        while old.0.try_wait().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        new
    };
    let _new = tokio::time::timeout(PATIENCE, replaced).await.expect("the new process takes over");
    assert!(old.0.try_wait().unwrap().unwrap().success());
    assert!(live().await.is_some(), "the new one answers at the same path");
    let second = command(&["run", "--mesh-dir", &path("mesh"), "--admin", &admin, "--readiness", ""]).await;
    assert!(said(&second).contains("another process answers there"), "{}", said(&second));
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let gateway = Gateway::start(&mesh(&[])).await;
    let request = "POST /healthcheck/fail HTTP/1.1\r\nhost: localhost:15000\r\norigin: https://evil.example\r\ncontent-length: 0";
    assert!(raw(&gateway, request).await.starts_with("HTTP/1.1 403"));
    assert_eq!(gateway.admin("/ready").await.0, 200);
    let own = request.replace("https://evil.example", "http://localhost:15000");
    assert!(raw(&gateway, &own).await.starts_with("HTTP/1.1 200"));
}
