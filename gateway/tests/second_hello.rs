//! The ClientHello after a HelloRetryRequest, with real servers that ask for one; and connections that come round.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/openssl.rs"]
mod openssl;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::RawOrigin;
use openssl::OpenSsl;
use support::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An `openssl s_server` of one group, so that a client whose first guess is another is asked again.
struct Server {
    openssl: OpenSsl,
    directory: TempDir,
}

impl Server {
    fn start(ca: &Ca) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let identity = ca.issue(&[SPIFFE]).unwrap();
        std::fs::write(directory.path().join("server.pem"), identity.chain_pem()).unwrap();
        std::fs::write(directory.path().join("server-key.pem"), identity.key_pem()).unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.certificate_pem()).unwrap();
        let openssl = OpenSsl::start(directory.path(), &["-groups", "P-384", "-alpn", "istio"])?;
        Some(Self { openssl, directory })
    }
}

/// A client that guesses X25519 first and speaks P-384, too.
async fn client(directory: &Path, to: SocketAddr) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &to.to_string(), "-servername", GLOBAL, "-alpn", "istio"]);
    command.args(["-CAfile", "ca.pem", "-groups", "X25519:P-384", "-ign_eof", "-msg"]);
    command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_client_that_is_asked_again_gets_through() {
    let ca = Ca::new().unwrap();
    let Some(server) = Server::start(&ca) else { return };
    let gateway = Gateway::start(&mesh(&[server.openssl.address])).await;
    let output = client(server.directory.path(), gateway.address).await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches(", ClientHello").count(), 2, "the server asks again: {said}");
    assert!(said.contains("HTTP/1.0 200 ok"), "{said}");
    let record = &gateway.records(1).await[0];
    assert_eq!(record["flag"], "-", "{record}");
}

/// Reads the server's first record, and gives its handshake type.
async fn first_record(stream: &mut TcpStream) -> u8 {
    let mut header = [0; 5];
    stream.read_exact(&mut header).await.unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(header[0], 22, "a handshake record");
    body[0]
}

/// What the client is told in the end: everything up to the close of the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    rest
}

const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];
/// A fatal alert `illegal_parameter`.
const ILLEGAL: &[u8] = &[21, 3, 3, 0, 2, 2, 47];
const OTHER: &str = "outbound_.8000_._.secret.bar.global";

/// A hello with the first group that the server does not take: rustls with X25519 alone in its guess, and P-384 behind.
fn guess(name: &str) -> Vec<u8> {
    client_hello_of(
        name,
        &["istio"],
        vec![rustls::crypto::aws_lc_rs::kx_group::X25519, rustls::crypto::aws_lc_rs::kx_group::SECP384R1],
    )
}

#[tokio::test]
async fn a_second_hello_that_names_another_server_is_cut_with_an_alert() {
    let ca = Ca::new().unwrap();
    let Some(server) = Server::start(&ca) else { return };
    let gateway = Gateway::start(&mesh(&[server.openssl.address])).await;
    // After the server has asked, in one piece and in single bytes.
    for (count, single) in [(1, false), (2, true)] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&guess(GLOBAL)).await.unwrap();
        assert_eq!(first_record(&mut stream).await, 2, "HelloRetryRequest");
        let second = [CHANGE, &guess(OTHER)].concat();
        if single {
            for byte in &second {
                stream.write_all(&[*byte]).await.unwrap();
            }
        } else {
            stream.write_all(&second).await.unwrap();
        }
        let told = rest(&mut stream).await;
        assert!(told.ends_with(ILLEGAL), "{told:02x?}");
        let record = &gateway.records(count).await[count - 1];
        let error = record["error"].as_str().unwrap();
        assert!(record["flag"] == "DPE" && error.contains(OTHER) && error.contains(GLOBAL), "{record}");
    }
    let (_, text) = gateway.admin("/stats/prometheus").await;
    let line = text.lines().find(|line| line.contains("reason=\"renamed\"")).unwrap();
    assert!(line.ends_with(" 2"), "{line}");
}

#[tokio::test]
async fn a_second_hello_that_nobody_has_asked_for_yet_is_looked_at_too() {
    let ca = Ca::new().unwrap();
    let Some(server) = Server::start(&ca) else { return };
    let gateway = Gateway::start(&mesh(&[server.openssl.address])).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    // All at once: the gateway has it before the server has answered.
    stream.write_all(&[&guess(GLOBAL)[..], CHANGE, &guess(OTHER)].concat()).await.unwrap();
    let told = rest(&mut stream).await;
    assert!(told.ends_with(ILLEGAL), "{told:02x?}");
    let record = &gateway.records(1).await[0];
    assert!(record["error"].as_str().unwrap().contains(OTHER), "{record}");
}

#[tokio::test]
async fn a_gateway_that_is_its_own_endpoint_says_so_and_serves_others_on() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    gateway.edit("slices.json", &slices(&[gateway.address]).to_string());
    let own = gateway.address.to_string();
    gateway.admin_until("/clusters", |text| text.contains(&own)).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let told = rest(&mut stream).await;
    assert!(told.starts_with(&[21, 3]), "an alert: {told:02x?}");
    drop(stream);
    let records = gateway.records(5).await;
    let looping: Vec<_> = records.iter().filter(|record| record["flag"] == "LOOP").collect();
    let [record] = looping.as_slice() else {
        panic!("a few turns, and not one for each socket: {records:#?}")
    };
    let error = record["error"].as_str().unwrap();
    assert!(error.contains("is this gateway, or leads back to it") && error.contains(LOCAL), "{error}");
    let (_, text) = gateway.admin("/stats/prometheus").await;
    assert!(text.lines().any(|line| line.contains("flag=\"LOOP\"") && line.ends_with(" 1")), "{text}");

    // Another client with random bytes of its own is not held for it.
    gateway.edit("slices.json", &slices(&addresses(&pods)).to_string());
    gateway.admin_until("/clusters", |text| !text.contains(&own)).await;
    assert!(mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.is_ok());
}

#[tokio::test]
async fn the_same_hello_is_borne_a_few_times_until_it_is_answered() {
    let ca = Ca::new().unwrap();
    let silent = RawOrigin::Silence.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[silent.address()])).await;
    let hello = client_hello(GLOBAL, &["istio"]);
    let connected = |count: usize| format!("{}::cx_active::{count}", silent.address());
    let mut passing = Vec::new();
    // A gateway before this one may try again what was not answered.
    for count in 1..=4 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        passing.push(stream);
        gateway.admin_until("/clusters", |text| text.contains(&connected(count))).await;
    }
    let mut again = TcpStream::connect(gateway.address).await.unwrap();
    again.write_all(&hello).await.unwrap();
    assert!(rest(&mut again).await.starts_with(&[21, 3]));
    // A reset: the pod would not answer a FIN.
    let last = passing.pop().unwrap();
    socket2::SockRef::from(&last).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop((last, ca));
    gateway.admin_until("/clusters", |text| text.contains(&connected(3))).await;
    let mut later = TcpStream::connect(gateway.address).await.unwrap();
    later.write_all(&hello).await.unwrap();
    gateway.admin_until("/clusters", |text| text.contains(&connected(4))).await;
}
