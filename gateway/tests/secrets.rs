//! What is secret is in no log, at whatever level, in no answer of the admin port, and in nothing that a crash says.

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
#[path = "support/untold.rs"]
mod untold;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use eastgate_loadtest::ca::{self, Ca};
use eastgate_loadtest::client::{self, Client, exchange};
use fed::{pod, served, world};
use http_body_util::Full;
use hyper::Request;
use plane::Plane;
use program::Eastgate;
use serde_json::Value;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use untold::{assert_untold, key_parts};

const TOKENS: [&str; 2] =
    ["eyJhbGciOiJSUzI1NiJ9.first-and-secret.c2lnbmVk", "eyJhbGciOiJSUzI1NiJ9.second-and-secret.YWdhaW4"];

/// The answers of every path that the admin port describes.
async fn everything(gateway: &Eastgate) -> Vec<(String, String)> {
    let description: Value = serde_json::from_str(&gateway.admin("/openapi.json").await).unwrap();
    let mut found = Vec::new();
    for path in description["paths"].as_object().unwrap().keys() {
        for query in ["", "?format=json", "?include_eds&include_snapshot", "?verbose", "?sni=a.b"] {
            let path = format!("{path}{query}");
            let text = gateway.admin(&path).await;
            found.push((path, text));
        }
    }
    found
}

/// A control plane that wants a certificate of whoever asks it.
async fn trusted_plane(ca: &Ca, pod: SocketAddr) -> Plane {
    let server = ca.issue(&["x", "127.0.0.1"]).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server.chain_pem(), server.key_pem()))
        .client_ca_root(Certificate::from_pem(ca.certificate_pem()));
    Plane::start_tls(tls, None, world(pod)).await
}

/// What a gateway shows to it, as files in this directory.
fn credentials(ca: &Ca, directory: &Path) -> ca::Identity {
    let mine = ca.issue(&[SPIFFE]).unwrap();
    mine.write_pem(&directory.join("cert.pem"), &directory.join("key.pem")).unwrap();
    std::fs::write(directory.join("root.pem"), ca.certificate_pem()).unwrap();
    std::fs::write(directory.join("token"), TOKENS[0]).unwrap();
    mine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_keys_are_in_no_log_and_no_dump() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = trusted_plane(&ca, pod.address()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let mine = credentials(&ca, directory.path());
    let settings = [
        ("EASTGATE_LOG_LEVEL", "trace".to_owned()),
        ("EASTGATE_XDS_TOKEN_PATH", path("token")),
        ("EASTGATE_XDS_ROOT_PATHS", path("root.pem")),
        ("EASTGATE_XDS_CERTIFICATE_PATH", path("cert.pem")),
        ("EASTGATE_XDS_KEY_PATH", path("key.pem")),
        ("EASTGATE_XDS_STATE_DIR", path("state")),
    ];
    let gateway =
        Eastgate::start(&["--xds", &plane.address, "--access-log", &path("access.log")], &settings).await;
    let address = gateway.listening("xds").await;
    assert!(served(&ca, address).await.is_some());
    std::fs::write(path("token"), TOKENS[1]).unwrap();
    plane.cut();
    let seen = plane.until(|seen| seen.streams == 2).await;
    // Both were sent, over TLS with the key.
    assert_eq!(seen.tokens, TOKENS.map(|token| Some(format!("Bearer {token}"))));
    assert_eq!(seen.certificates, [true, true]);
    // A key that is none, a token that is none: what is told of them is where they are.
    std::fs::write(path("key.pem"), mine.key_pem().replacen("PRIVATE", "PRIVAT", 1)).unwrap();
    plane.cut();
    gateway.metric_until("xds_reconnects_total{reason=\"endpoint\"}", |count| count >= 1.0).await;
    std::fs::write(path("key.pem"), mine.key_pem()).unwrap();
    std::fs::write(path("token"), format!("{} and more", TOKENS[1])).unwrap();
    plane.cut();
    gateway.logged("it holds no token").await;

    let mut told = everything(&gateway).await;
    assert!(told.len() > 100, "{} answers", told.len());
    gateway.signal("INT");
    let (_, log) = gateway.exit().await;
    // The libraries speak, too, at this level.
    assert!(log.contains("TRACE") && log.contains("send frame"), "{log}");
    told.push(("the log".to_owned(), log));
    let state = std::fs::read_dir(path("state")).unwrap().map(|entry| entry.unwrap().path());
    for file in state.chain([path("access.log").into()]) {
        told.push((
            file.display().to_string(),
            String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned(),
        ));
    }
    let mut secrets: Vec<Vec<u8>> = TOKENS.iter().map(|token| token.as_bytes().to_vec()).collect();
    secrets.extend(key_parts(&mine));
    assert_untold(&told, &secrets);
}

const ADMIN_TOKEN: &str = "only-operators-know-this-0123456789";
const QUERIES: [&str; 4] = ["", "?format=json", "?include_eds&include_snapshot", "?sni=a.b"];

/// What the admin port answers over TLS to whoever says this for an authorization.
async fn asked(
    client: &Client,
    address: SocketAddr,
    path: &str,
    authorization: &str,
) -> Option<(u16, String)> {
    let stream = client.connect(address, "localhost").await.ok()?;
    let request = Request::get(path).header("host", "localhost").header("authorization", authorization);
    let answer = exchange(stream, request.body(Full::default()).unwrap()).await.ok()?;
    Some((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_ports_token_and_key_are_told_nowhere() {
    let ca = Ca::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let mine = ca.issue(&["localhost"]).unwrap();
    mine.write_pem(path("cert.pem").as_ref(), path("key.pem").as_ref()).unwrap();
    std::fs::write(path("token"), ADMIN_TOKEN).unwrap();
    std::fs::create_dir(path("mesh")).unwrap();
    for (name, document) in mesh(&[]) {
        std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
    }
    let settings = [
        ("EASTGATE_LOG_LEVEL", "trace".to_owned()),
        ("EASTGATE_ADMIN_TOKEN_PATH", path("token")),
        ("EASTGATE_ADMIN_TLS_CERT_PATH", path("cert.pem")),
        ("EASTGATE_ADMIN_TLS_KEY_PATH", path("key.pem")),
        ("EASTGATE_SOURCE_MESH_DIR", path("mesh")),
    ];
    let gateway = Eastgate::start(&[], &settings).await;
    let address = gateway.admin_address();
    let mut options = client::Options::new(ca.roots());
    options.timeout = PATIENCE;
    let client = Client::new(options).unwrap();

    let right = format!("Bearer {ADMIN_TOKEN}");
    let (status, description) = asked(&client, address, "/openapi.json", &right).await.unwrap();
    assert_eq!(status, 200);
    let description: Value = serde_json::from_str(&description).unwrap();
    let mut told = Vec::new();
    for path in description["paths"].as_object().unwrap().keys() {
        for query in QUERIES {
            let place = format!("{path}{query}");
            let (status, text) = asked(&client, address, &place, &right).await.unwrap();
            assert_ne!(status, 401);
            told.push((place, text));
        }
    }
    // Whoever writes it wrongly has it repeated by nobody.
    for wrong in [ADMIN_TOKEN.to_owned(), format!("Basic {ADMIN_TOKEN}"), format!("{right} and more")] {
        let (status, text) = asked(&client, address, "/clusters", &wrong).await.unwrap();
        assert_eq!(status, 401);
        told.push((format!("the answer to {wrong:?}"), text));
    }
    // A key that is none and a token that is none: what is told of them is where they are.
    std::fs::write(path("key.pem"), mine.key_pem().replacen("PRIVATE", "PRIVAT", 1)).unwrap();
    assert_eq!(asked(&client, address, "/clusters", &right).await, None);
    gateway.logged("admin.tls_cert_path").await;
    std::fs::write(path("key.pem"), mine.key_pem()).unwrap();
    std::fs::write(path("token"), "").unwrap();
    assert_eq!(asked(&client, address, "/clusters", &right).await.unwrap().0, 401);
    std::fs::write(path("token"), ADMIN_TOKEN).unwrap();

    assert_eq!(asked(&client, address, "/logging", &right).await, Some((200, "trace\n".to_owned())));

    // What it is set to, by the same settings.
    let config = Command::new(env!("CARGO_BIN_EXE_eastgate")).arg("config").envs(settings.clone()).output();
    let config = String::from_utf8_lossy(&config.unwrap().stdout).into_owned();
    assert!(config.contains(&path("token")), "{config}");
    told.push(("eastgate config".to_owned(), config));

    gateway.signal("INT");
    told.push(("the log".to_owned(), gateway.exit().await.1));
    let mut secrets = vec![ADMIN_TOKEN.as_bytes().to_vec()];
    secrets.extend(key_parts(&mine));
    assert_untold(&told, &secrets);
}

/// Waits until only threads are there that stay.
async fn until_no_thread_helps_out(gateway: &Eastgate) {
    let name =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let waiting = async {
        let helping = || {
            let mut tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().flatten();
            tasks.any(|task| name(task).starts_with("tokio"))
        };
        while helping() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("idle threads end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_request_and_tells_no_secret() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = trusted_plane(&ca, pod.address()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let mine = credentials(&ca, directory.path());
    std::fs::write(path("admin-token"), ADMIN_TOKEN).unwrap();
    let settings = [
        ("EASTGATE_LOG_LEVEL", "trace".to_owned()),
        ("EASTGATE_ADMIN_TOKEN_PATH", path("admin-token")),
        ("EASTGATE_XDS_TOKEN_PATH", path("token")),
        ("EASTGATE_XDS_ROOT_PATHS", path("root.pem")),
        ("EASTGATE_XDS_CERTIFICATE_PATH", path("cert.pem")),
        ("EASTGATE_XDS_KEY_PATH", path("key.pem")),
        ("RUST_BACKTRACE", "full".to_owned()),
    ];
    let gateway = Eastgate::start(&["--xds", &plane.address], &settings).await;
    gateway.logged("listening listener").await;
    until_no_thread_helps_out(&gateway).await;

    // From here on it gets too little memory for another thread's stack, and enough for all else: the thread that is to
    // explain cannot be started.
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB")).unwrap();
    let most = format!("--as={}:", (kib.trim().parse::<u64>().unwrap() + 1_024) * 1_024);
    let limited = Command::new("prlimit").args(["--pid", &gateway.pid(), &most]).status().unwrap();
    assert!(limited.success());
    let question = format!(
        "GET /explain?sni=a.b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_TOKEN}\r\nconnection: close\r\n\r\n"
    );
    let asked = async |question: &str| {
        let mut stream = TcpStream::connect(gateway.admin_address()).await.unwrap();
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    assert_eq!(asked(&question).await, "");
    gateway.logged("panicked at").await;
    let limited =
        Command::new("prlimit").args(["--pid", &gateway.pid(), "--as=unlimited:"]).status().unwrap();
    assert!(limited.success());
    assert!(asked(&question).await.starts_with("HTTP/1.1 200"), "who asks next is answered");
    gateway.signal("ABRT");
    let (status, log) = gateway.exit().await;
    assert!(!status.success(), "{status}");
    for part in ["TRACE", "panicked at", "stack backtrace"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let mut secrets = vec![ADMIN_TOKEN.as_bytes().to_vec(), TOKENS[0].as_bytes().to_vec()];
    secrets.extend(key_parts(&mine));
    assert_untold(&[("the log of a crash".to_owned(), log)], &secrets);
}
