//! What is not served: each with its TLS alert, its flag, and no connection to any pod.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client};
use eastgate_loadtest::origin::{self, Clients, Origin, RawOrigin};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What the gateway answers to these bytes until it closes.
async fn answer(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("a FIN after the alert, not a reset");
    answer
}

fn alert(code: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, code]
}

#[tokio::test]
async fn every_refusal_is_told_to_the_client_and_recorded() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut documents = mesh(&[pod.address()]);
    documents.push(("empty.json", named_service("empty")));
    let gateway = Gateway::start(&documents).await;
    let unknown = client_hello("outbound_.8000_._.nobody.bar.global", &["istio"]);
    let own_name = client_hello(LOCAL, &["istio"]);
    let other_port = client_hello("outbound_.8001_._.httpbin.bar.global", &["istio"]);
    let mut with_more = unknown.clone();
    with_more.extend(vec![0; 100_000]);
    let cases: &[(&str, &[u8], u8, &str)] = &[
        ("unknown name", &unknown, 112, "NR"),
        ("unknown name with much behind it", &with_more, 112, "NR"),
        ("the service's own name, which *.global does not expose", &own_name, 112, "NR"),
        ("another port", &other_port, 112, "NR"),
        ("a plain name", &client_hello("httpbin.bar.global", &["istio"]), 112, "NR"),
        ("no ALPN", &client_hello(GLOBAL, &[]), 120, "NR"),
        ("a foreign ALPN", &client_hello(GLOBAL, &["h2", "ISTIO"]), 120, "NR"),
        ("no server name", &client_hello("127.0.0.1", &["istio"]), 109, "DPE"),
        ("plain HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 10, "DPE"),
        ("a record over 2^14", &[22, 3, 1, 0x40, 1], 22, "DPE"),
        ("no endpoint", &client_hello("outbound_.8000_._.empty.bar.global", &["istio"]), 80, "UH"),
    ];
    for (case, bytes, code, _) in cases {
        assert_eq!(answer(&gateway, bytes).await, alert(*code), "{case}");
    }
    let records = gateway.records(cases.len()).await;
    for ((case, _, _, flag), record) in cases.iter().zip(&records) {
        assert_eq!(record["flag"], *flag, "{case}: {record}");
        assert!(record["error"].is_string() && record["endpoint"].is_null(), "{case}: {record}");
    }
    let connections = pod.counters().connections.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(connections, 0, "no refused client may open a connection to a pod");
    let metrics = gateway.admin("/stats/prometheus").await.1;
    assert!(metrics.contains("eastgate_hello_refused_total{reason=\"no_server_name\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_dripping_client_is_cut_at_the_deadline_like_a_silent_one() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let quick = |layers: eastgate_config::bootstrap::Layers| layers.flag("inspect.timeout", Some("300ms"));
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), quick).await;
    let mut silent = TcpStream::connect(gateway.address).await.unwrap();
    let hello = client_hello(GLOBAL, &["istio"]);
    let (mut reading, mut writing) = TcpStream::connect(gateway.address).await.unwrap().into_split();
    let drip = async {
        for byte in &hello[..hello.len() - 1] {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut told = [0; 7];
    let reading = async {
        reading.read_exact(&mut told).await.unwrap();
        let mut told = [0; 7];
        silent.read_exact(&mut told).await.unwrap();
        told
    };
    let silent_told = tokio::select! { told = reading => told, () = drip => unreachable!() };
    assert_eq!((told.to_vec(), silent_told.to_vec()), (alert(90), alert(90)));
    for record in gateway.records(2).await {
        assert_eq!(record["flag"], "DT", "{record}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_early_leaves_a_record() {
    let gateway = Gateway::start(&mesh(&[([127, 0, 0, 1], 1).into()])).await;
    drop(TcpStream::connect(gateway.address).await.unwrap());
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])[..100]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut told = Vec::new();
    stream.read_to_end(&mut told).await.unwrap();
    assert_eq!(told, alert(50));
    let records = gateway.records(2).await;
    assert!(records.iter().all(|record| record["flag"] == "DC"), "{records:?}");
}

#[tokio::test]
async fn pending_hellos_are_limited() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let one = |layers: eastgate_config::bootstrap::Layers| layers.flag("limits.max_pending_hellos", Some(1));
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), one).await;
    let silent = TcpStream::connect(gateway.address).await.unwrap();
    gateway
        .admin_until("/stats/prometheus", |text| {
            text.contains("connections_active{listener=\"0.0.0.0_15443\"} 1")
        })
        .await;
    let hello = client_hello(GLOBAL, &["istio"]);
    assert_eq!(answer(&gateway, &hello).await, alert(80));
    assert_eq!(gateway.records(1).await[0]["flag"], "OM");
    drop(silent);
    // The place is free again as soon as the silent client is seen to have left.
    gateway.records(2).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, hello);
}

#[tokio::test]
async fn connections_are_limited() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let two = |layers: eastgate_config::bootstrap::Layers| layers.flag("limits.max_connections", Some(2));
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), two).await;
    let _open = [
        TcpStream::connect(gateway.address).await.unwrap(),
        TcpStream::connect(gateway.address).await.unwrap(),
    ];
    gateway
        .admin_until("/stats/prometheus", |text| {
            text.contains("connections_active{listener=\"0.0.0.0_15443\"} 2")
        })
        .await;
    let mut third = TcpStream::connect(gateway.address).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0);
    let metrics = gateway.admin("/stats/prometheus").await.1;
    assert!(metrics.contains("eastgate_downstream_overflow_total{limit=\"connections\"} 1"), "{metrics}");
}

/// The rows of Istio's `autoPassthroughCases` that need no mesh certificate
/// (`tests/integration/pilot/common/routing.go`): a client without one must never get through, whatever it asks for.
#[tokio::test]
async fn a_client_without_a_mesh_certificate_always_fails() {
    let ca = Ca::new().unwrap();
    let sidecar = |name: &str| {
        let mut options = origin::Options::new(name, ca.issue(&[SPIFFE]).unwrap());
        options.clients = Clients::Verified(ca.roots());
        options
    };
    let mut with_sidecar = Vec::new();
    let mut documents = vec![("gateway.json", gateway(&["*.local"]))];
    // PeerAuthentication STRICT and PERMISSIVE leave the label and verify who offers an istio ALPN; DISABLE and pods
    // without a sidecar have no label, and so no endpoint at the gateway.
    let names = ["strict", "permissive", "disable", "naked"];
    for (name, file) in names.iter().zip(["a.json", "b.json", "c.json", "d.json"]) {
        let pod = Origin::start(sidecar(name)).await.unwrap();
        let label = if ["strict", "permissive"].contains(name) { "istio" } else { "disabled" };
        let mut list = named_slices(name, &[pod.address()], label);
        list["items"].as_array_mut().unwrap().push(named_service(name));
        documents.push((file, list));
        with_sidecar.push(pod);
    }
    let gateway = Gateway::start(&documents).await;
    let mut attempts = 0;
    for name in names {
        let host = format!("{name}.bar.svc.cluster.local");
        for server_name in [format!("outbound_.8000_._.{host}"), host] {
            for alpn in ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2", ""] {
                let alpn: &[&str] = if alpn.is_empty() { &[] } else { &[alpn] };
                let result = client_with(&ca, alpn).get(gateway.address, &server_name, "/hostname").await;
                assert!(result.is_err(), "{server_name} {alpn:?} got through");
                attempts += 1;
            }
        }
    }
    // rustls sends no name with a `|` in it.
    let piped = client_hello_with_pipes("outbound|8000||strict.bar.svc.cluster.local");
    assert_eq!(answer(&gateway, &piped).await, alert(112));
    assert_eq!(attempts, 48);

    // The matrix would pass with a gateway that lets nobody in: a mesh certificate does get through.
    let mut options = client::Options::new(ca.roots());
    options.expect = client::Expect::OneOf(vec![SPIFFE.into()]);
    options.alpn = vec!["istio-http/1.1".into()];
    options.identity = Some(ca.issue(&["spiffe://cluster.local/ns/bar/sa/sleep"]).unwrap());
    let meshed = Client::new(options).unwrap();
    let name = "outbound_.8000_._.strict.bar.svc.cluster.local";
    assert_eq!(meshed.get(gateway.address, name, "/hostname").await.unwrap().pod(), Some("strict"));
    let naked =
        meshed.get(gateway.address, "outbound_.8000_._.naked.bar.svc.cluster.local", "/hostname").await;
    assert!(naked.is_err(), "a pod that speaks no mesh TLS was reached");
}

/// A hello for a name of the same length, with the name's bytes put in.
fn client_hello_with_pipes(name: &str) -> Vec<u8> {
    let stand_in = name.replace('|', "x");
    let mut hello = client_hello(&stand_in, &["istio"]);
    let at = hello.windows(stand_in.len()).position(|window| window == stand_in.as_bytes()).unwrap();
    hello[at..at + name.len()].copy_from_slice(name.as_bytes());
    hello
}
