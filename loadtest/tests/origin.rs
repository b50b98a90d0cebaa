//! Real clients against real origins over loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test reports")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{Client, Error, Expect, Options, Peer};
use eastgate_loadtest::content;
use eastgate_loadtest::origin::{Clients, Error as OriginError, Options as OriginOptions, Origin};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SERVER_NAME: &str = "outbound_.8000_._.httpbin.bar.global";
const SPIFFE: &str = "spiffe://cluster.local/ns/bar/sa/httpbin";

async fn pod(ca: &Ca, name: &str) -> Origin {
    Origin::start(OriginOptions::new(name, ca.issue(&[SPIFFE]).unwrap())).await.unwrap()
}

/// A client that does what an Istio sidecar does.
fn mesh_options(ca: &Ca) -> Options {
    Options {
        expect: Expect::OneOf(vec![SPIFFE.to_owned()]),
        alpn: vec!["istio".to_owned()],
        ..Options::new(ca.roots())
    }
}

fn mesh_client(ca: &Ca) -> Client {
    Client::new(mesh_options(ca)).unwrap()
}

/// Waits until a counter stands at a level.
async fn until(counter: &AtomicU64, level: u64) {
    let reached = async {
        while counter.load(Ordering::Relaxed) != level {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached).await.unwrap();
}

#[tokio::test]
async fn the_pod_tells_what_it_saw_and_the_client_sees_the_pods_certificate() {
    let ca = Ca::new().unwrap();
    let identity = ca.issue(&[SPIFFE]).unwrap();
    let pod = Origin::start(OriginOptions::new("httpbin-1", identity.clone())).await.unwrap();
    let response = mesh_client(&ca).get(pod.address(), SERVER_NAME, "/hostname").await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.pod(), Some("httpbin-1"));
    let told = response.json();
    assert_eq!(told["hostname"], "httpbin-1");
    assert_eq!(told["server_name"], SERVER_NAME);
    assert_eq!(told["alpn"], "istio");
    assert_eq!(told["tls"], "TLSv1_3");
    assert!(told["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    let peer = response.peer.unwrap();
    assert_eq!(peer.certificate, identity.chain()[0]);
    assert_eq!(peer.names(), [SPIFFE]);
    let counters = pod.counters();
    assert_eq!(counters.connections.load(Ordering::Relaxed), 1);
    assert_eq!(counters.handshakes.load(Ordering::Relaxed), 1);
    assert_eq!(counters.requests.load(Ordering::Relaxed), 1);
    until(&counters.open, 0).await;
}

#[tokio::test]
async fn a_pod_of_another_ca_is_refused() {
    let (ours, theirs) = (Ca::new().unwrap(), Ca::new().unwrap());
    let pod = pod(&theirs, "httpbin-1").await;
    for expect in [Expect::ServerName, Expect::OneOf(vec![SPIFFE.to_owned()])] {
        let client = Client::new(Options { expect, ..Options::new(ours.roots()) }).unwrap();
        let error = client.get(pod.address(), SERVER_NAME, "/get").await.unwrap_err();
        assert!(matches!(error.tls(), Some(rustls::Error::InvalidCertificate(_))), "{error:?}");
    }
    let counters = pod.counters();
    pod.stop().await;
    assert_eq!(counters.handshakes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_stranger_of_the_same_ca_is_refused_by_name() {
    let ca = Ca::new().unwrap();
    let identity = ca.issue(&["spiffe://cluster.local/ns/foo/sa/sleep"]).unwrap();
    let pod = Origin::start(OriginOptions::new("sleep-1", identity)).await.unwrap();
    let error = mesh_client(&ca).connect(pod.address(), SERVER_NAME).await.unwrap_err();
    let Error::Stranger(stranger) = error else { panic!("{error:?}") };
    assert_eq!(
        stranger.to_string(),
        format!("the certificate is for spiffe://cluster.local/ns/foo/sa/sleep, expected {SPIFFE}")
    );
}

#[tokio::test]
async fn the_server_name_itself_can_be_verified_underscores_included() {
    let ca = Ca::new().unwrap();
    let identity = ca.issue(&[SERVER_NAME]).unwrap();
    let pod = Origin::start(OriginOptions::new("httpbin-1", identity)).await.unwrap();
    let client = Client::new(Options::new(ca.roots())).unwrap();
    let stream = client.connect(pod.address(), SERVER_NAME).await.unwrap();
    let peer = Peer::of(&stream).unwrap();
    assert_eq!((peer.names(), peer.alpn), (vec![SERVER_NAME.to_owned()], None));
    let error = client.connect(pod.address(), "httpbin.foo.global").await.unwrap_err();
    assert!(matches!(error.tls(), Some(rustls::Error::InvalidCertificate(_))), "{error:?}");
    let error = client.connect(pod.address(), "outbound|8000||httpbin.bar").await.unwrap_err();
    assert!(matches!(error, Error::ServerName(_)), "{error:?}");
}

#[tokio::test]
async fn an_address_as_server_name_sends_none() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let response = mesh_client(&ca).get(pod.address(), "127.0.0.1", "/hostname").await.unwrap();
    assert!(response.json()["server_name"].is_null());
}

#[tokio::test]
async fn every_protocol_of_the_mesh_is_agreed_to_and_others_are_refused() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    for protocol in eastgate_loadtest::origin::ISTIO_ALPN {
        let client = Client::new(Options { alpn: vec![protocol.to_owned()], ..mesh_options(&ca) }).unwrap();
        let response = client.get(pod.address(), SERVER_NAME, "/hostname").await.unwrap();
        assert_eq!(response.json()["alpn"], protocol);
        assert_eq!(response.peer.unwrap().alpn.as_deref(), Some(protocol));
    }
    let client = Client::new(Options { alpn: vec!["istio-h2".to_owned()], ..mesh_options(&ca) }).unwrap();
    let error = client.connect(pod.address(), SERVER_NAME).await.unwrap_err();
    let alert = rustls::AlertDescription::NoApplicationProtocol;
    assert_eq!(error.tls(), Some(&rustls::Error::AlertReceived(alert)));
}

#[tokio::test]
async fn tls_1_2_works_with_mesh_verification() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let options = Options { versions: vec![&rustls::version::TLS12], ..mesh_options(&ca) };
    let response = Client::new(options).unwrap().get(pod.address(), SERVER_NAME, "/hostname").await.unwrap();
    assert_eq!(response.json()["tls"], "TLSv1_2");
}

#[tokio::test]
async fn strict_mutual_tls_wants_a_certificate_of_its_ca() {
    let ca = Ca::new().unwrap();
    let clients = Clients::Verified(ca.roots());
    let options = OriginOptions { clients, ..OriginOptions::new("httpbin-1", ca.issue(&[SPIFFE]).unwrap()) };
    let pod = Origin::start(options).await.unwrap();
    let sleep = "spiffe://cluster.local/ns/foo/sa/sleep";
    let with = |identity| Client::new(Options { identity, ..mesh_options(&ca) }).unwrap();
    let known = with(Some(ca.issue(&[sleep]).unwrap()));
    let response = known.get(pod.address(), SERVER_NAME, "/hostname").await.unwrap();
    assert_eq!(response.json()["client"][0], sleep);
    let foreign = with(Some(Ca::new().unwrap().issue(&[sleep]).unwrap()));
    for client in [with(None), foreign] {
        // In TLS 1.3 the client is done before it is refused, so the refusal comes with the first read.
        assert!(client.get(pod.address(), SERVER_NAME, "/hostname").await.is_err());
    }
}

#[tokio::test]
async fn it_answers_like_httpbin() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let client = mesh_client(&ca);
    let get = async |path: &str| client.get(pod.address(), SERVER_NAME, path).await.unwrap();
    assert_eq!(get("/headers").await.json()["headers"]["host"], SERVER_NAME);
    let response = get("/get?a=b").await;
    assert_eq!(
        (&response.json()["url"], &response.json()["origin"]),
        (&"/get?a=b".into(), &"127.0.0.1".into())
    );
    assert_eq!(get("/status/418").await.status, 418);
    for (path, status) in
        [("/status/101", 400), ("/status/x", 400), ("/bytes/x", 400), ("/post", 404), ("/", 404)]
    {
        let response = get(path).await;
        assert_eq!((response.status, response.pod()), (status, Some("httpbin-1")), "{path}");
        assert!(response.json()["error"].is_string());
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_both_directions() {
    const LENGTH: usize = 5_000_011;
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let client = Client::new(Options { timeout: Duration::from_secs(60), ..mesh_options(&ca) }).unwrap();
    let path = format!("/bytes/{LENGTH}");
    let response = client.get(pod.address(), SERVER_NAME, &path).await.unwrap();
    assert!(response.body == content::bytes(LENGTH));
    assert_eq!(response.headers["content-length"], LENGTH.to_string());
    let response = client.post(pod.address(), SERVER_NAME, "/sha256", response.body).await.unwrap();
    assert_eq!(response.json()["sha256"], content::sha256(LENGTH as u64));
    assert_eq!(response.json()["length"], LENGTH);
}

#[tokio::test]
async fn several_origins_are_told_apart() {
    let ca = Ca::new().unwrap();
    let pods = [pod(&ca, "httpbin-1").await, pod(&ca, "httpbin-2").await, pod(&ca, "httpbin-3").await];
    let client = mesh_client(&ca);
    for round in 0..9 {
        let index = round % pods.len();
        let response = client.get(pods[index].address(), SERVER_NAME, "/get").await.unwrap();
        assert_eq!(response.pod(), Some(format!("httpbin-{}", index + 1).as_str()));
    }
    for pod in pods {
        assert_eq!(pod.counters().requests.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn a_stopped_pod_ends_its_connections_and_frees_its_address() {
    let ca = Ca::new().unwrap();
    let first = pod(&ca, "httpbin-1").await;
    let (address, counters) = (first.address(), first.counters());
    let client = mesh_client(&ca);
    let mut stream = client.connect(address, SERVER_NAME).await.unwrap();
    let mut half_open = TcpStream::connect(address).await.unwrap();
    until(&counters.open, 2).await;
    until(&counters.handshakes, 1).await;
    first.stop().await;
    assert_eq!(counters.open.load(Ordering::Relaxed), 0);
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "no close_notify, as if killed");
    assert_eq!(half_open.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(matches!(client.connect(address, SERVER_NAME).await, Err(Error::Connect { .. })));

    let options = OriginOptions { address, ..OriginOptions::new("httpbin-2", ca.issue(&[SPIFFE]).unwrap()) };
    let second = Origin::start(options).await.unwrap();
    assert_eq!(client.get(address, SERVER_NAME, "/get").await.unwrap().pod(), Some("httpbin-2"));
    drop(second);
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
}

#[tokio::test]
async fn a_reset_pod_sends_resets_before_and_after_the_handshake() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let mut stream = mesh_client(&ca).connect(pod.address(), SERVER_NAME).await.unwrap();
    let mut half_open = TcpStream::connect(pod.address()).await.unwrap();
    until(&pod.counters().open, 2).await;
    until(&pod.counters().handshakes, 1).await;
    pod.reset().await;
    for error in [stream.read(&mut [0; 1]).await.unwrap_err(), half_open.read(&mut [0; 1]).await.unwrap_err()]
    {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn what_cannot_start_says_so() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let identity = ca.issue(&[SPIFFE]).unwrap();
    let taken = OriginOptions { address: pod.address(), ..OriginOptions::new("x", identity.clone()) };
    assert!(matches!(Origin::start(taken).await, Err(OriginError::Listen { .. })));
    let named = Origin::start(OriginOptions::new("line\nbreak", identity)).await;
    assert!(matches!(named, Err(OriginError::Name(_))));
}

#[tokio::test]
async fn bytes_that_are_no_tls_end_the_connection_only() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca, "httpbin-1").await;
    let mut plain = TcpStream::connect(pod.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // The answer is a TLS alert or a reset; what counts is that the connection ends.
    let _ = plain.read_to_end(&mut Vec::new()).await;
    assert_eq!(mesh_client(&ca).get(pod.address(), SERVER_NAME, "/get").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_does_not_wait_for_ever() {
    let silent = eastgate_loadtest::origin::RawOrigin::Silence;
    let silent = silent.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let options = Options { timeout: Duration::from_millis(50), ..mesh_options(&Ca::new().unwrap()) };
    let error = Client::new(options).unwrap().connect(silent.address(), SERVER_NAME).await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
}
