//! What is secret is in no log, at whatever level, and in no answer of the admin port.

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

use eastgate_loadtest::ca::Ca;
use fed::{pod, served, world};
use plane::Plane;
use program::Eastgate;
use serde_json::Value;
use support::*;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

const TOKENS: [&str; 2] =
    ["eyJhbGciOiJSUzI1NiJ9.first-and-secret.c2lnbmVk", "eyJhbGciOiJSUzI1NiJ9.second-and-secret.YWdhaW4"];

/// Every way of writing it that would tell it.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(secret).into_owned();
    let numbers: Vec<_> = secret.iter().map(ToString::to_string).collect();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        text.into_bytes(),
        numbers.join(", ").into_bytes(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
    ]
}

/// The parts of a private key that tell it: the lines of its PEM, and its bytes.
fn key_parts(identity: &eastgate_loadtest::ca::Identity) -> Vec<Vec<u8>> {
    let pem = identity.key_pem();
    let lines = pem.lines().filter(|line| !line.starts_with("-----")).map(|line| line.as_bytes().to_vec());
    // The scalar of P-256 begins behind what is the same in every key.
    lines.chain([identity.key().secret_der()[36..68].to_vec()]).collect()
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_and_keys_are_in_no_log_and_no_dump() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let server = ca.issue(&["x", "127.0.0.1"]).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server.chain_pem(), server.key_pem()))
        .client_ca_root(Certificate::from_pem(ca.certificate_pem()));
    let plane = Plane::start_tls(tls, None, world(pod.address())).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let mine = ca.issue(&[SPIFFE]).unwrap();
    mine.write_pem(path("cert.pem").as_ref(), path("key.pem").as_ref()).unwrap();
    std::fs::write(path("root.pem"), ca.certificate_pem()).unwrap();
    std::fs::write(path("token"), TOKENS[0]).unwrap();
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
    for (place, text) in &told {
        for secret in secrets.iter().flat_map(|secret| spellings(secret)) {
            let found = text.as_bytes().windows(secret.len()).any(|window| window == secret);
            assert!(!found, "{place} tells {}", String::from_utf8_lossy(&secret));
        }
    }
}
