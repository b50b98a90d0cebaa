//! The main job: TLS connections by `*.global` names reach the pods, whole and balanced.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::collections::BTreeMap;
use std::net::Shutdown;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::content;
use eastgate_loadtest::origin::RawOrigin;
use serde_json::json;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn the_client_sees_the_pods_certificate_and_the_record_says_what_happened() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let response = mesh_client(&ca).get(gateway.address, GLOBAL, "/hostname").await.unwrap();
    assert_eq!(response.pod(), Some("httpbin-0"));
    assert_eq!(response.peer.as_ref().unwrap().names(), [SPIFFE]);
    assert_eq!(response.json()["server_name"], GLOBAL, "the bytes are forwarded as they came");

    let record = &gateway.records(1).await[0];
    assert_eq!(record["server_name"], GLOBAL);
    assert_eq!(record["rewritten"], LOCAL);
    assert_eq!(record["cluster"], LOCAL);
    assert_eq!(record["endpoint"], pods[0].address().to_string());
    assert_eq!(record["attempts"], 1);
    assert!(
        record["to_upstream_bytes"].as_u64() > Some(500) && record["to_client_bytes"].as_u64() > Some(500)
    );
}

#[tokio::test]
async fn a_thousand_connections_spread_evenly_over_three_endpoints() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 3).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let client = mesh_client(&ca);
    let mut spread = BTreeMap::<String, u32>::new();
    for _ in 0..1_000 {
        let response = client.get(gateway.address, GLOBAL, "/hostname").await.unwrap();
        *spread.entry(response.pod().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(spread.len(), 3);
    assert!(spread.values().all(|count| (300..=367).contains(count)), "{spread:?}");
}

#[tokio::test]
async fn a_hundred_megabytes_each_way_arrive_as_they_were_sent() {
    const LENGTH: usize = 100_000_000;
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let client = mesh_client(&ca);
    let expected = content::sha256(LENGTH as u64);

    let up = client.post(gateway.address, GLOBAL, "/sha256", content::bytes(LENGTH)).await.unwrap();
    assert_eq!(up.json()["sha256"], expected);

    let down = client.get(gateway.address, GLOBAL, &format!("/bytes/{LENGTH}")).await.unwrap();
    let mut digest = content::Digest::default();
    digest.add(&down.body);
    assert_eq!(digest.finish(), (expected, LENGTH as u64));
}

#[tokio::test]
async fn who_uploads_and_finishes_still_gets_an_answer() {
    let pod = RawOrigin::Digest.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let mut sent = client_hello(GLOBAL, &["istio"]);
    sent.extend(content::bytes(3_000_000));
    let mut digest = content::Digest::default();
    digest.add(&sent);

    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(&sent).await.unwrap();
    writing.shutdown().await.unwrap();
    let mut answer = String::new();
    reading.read_to_string(&mut answer).await.unwrap();
    let (sha256, length) = digest.finish();
    assert_eq!(answer, format!("{sha256} {length}\n"));
    let record = &gateway.records(1).await[0];
    assert_eq!((&record["flag"], &record["error"]), (&json!("-"), &json!(null)), "both sides finished");
    assert_eq!(record["to_upstream_bytes"], length);
}

/// Envoy resets a client whose hello and FIN come in one flight.
#[tokio::test]
async fn a_hello_and_a_fin_in_one_flight_are_served() {
    let pod = RawOrigin::Digest.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let hello = client_hello(GLOBAL, &["istio"]);
    let address = gateway.address;
    let answer = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(&hello).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(answer.await.unwrap().trim().split_once(' ').unwrap().0.len(), 64);
}

#[tokio::test]
async fn a_server_that_speaks_first_and_bytes_behind_the_hello_are_relayed() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let mut sent = client_hello(GLOBAL, &["istio"]);
    sent.extend(content::bytes(1_000_000));
    let (mut reading, mut writing) = TcpStream::connect(gateway.address).await.unwrap().into_split();
    let expected = sent.clone();
    let write = tokio::spawn(async move {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    let mut echoed = Vec::new();
    reading.read_to_end(&mut echoed).await.unwrap();
    write.await.unwrap();
    assert!(echoed == expected, "{} of {} bytes came back", echoed.len(), expected.len());
}

#[tokio::test]
async fn a_killed_pod_is_never_shown_to_a_client_while_another_lives() {
    let ca = Ca::new().unwrap();
    let mut pods = pods_apart(&ca, 3).await;
    let gateway = Gateway::start(&mesh(&addresses(&pods))).await;
    let client = mesh_client(&ca);
    for killed in 0..2 {
        pods.remove(0).reset().await;
        for number in 0..30 {
            let response = client.get(gateway.address, GLOBAL, "/hostname").await;
            assert_eq!(response.unwrap_or_else(|error| panic!("{killed} {number}: {error}")).status, 200);
        }
    }
    let records = gateway.records(60).await;
    assert!(records.iter().any(|record| record["attempts"] == 3), "two dead pods were met in one connection");
    let counted = gateway.admin_json("/clusters?format=json").await;
    assert!(counted["clusters"][0]["refused"].as_u64() > Some(0), "{counted}");
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_left_for_another_after_the_connect_timeout() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let (hole, _listener, _held) = black_hole().await;
    let mut documents = mesh(&[hole, pods[0].address()]);
    documents.retain(|(name, _)| *name != "policy.json");
    let timeout = json!({
        "loadBalancer": { "simple": "ROUND_ROBIN" },
        "connectionPool": { "tcp": { "connectTimeout": "150ms" } },
    });
    documents.push(("policy.json", policy(timeout)));
    let gateway = Gateway::start(&documents).await;
    let client = mesh_client(&ca);
    for _ in 0..4 {
        assert_eq!(client.get(gateway.address, GLOBAL, "/hostname").await.unwrap().status, 200);
    }
    let records = gateway.records(4).await;
    assert_eq!(records.iter().filter(|record| record["attempts"] == 2).count(), 2);
    let counted = gateway.admin_json("/clusters?format=json").await;
    assert_eq!(counted["clusters"][0]["timed_out"], 2, "{counted}");
}

#[tokio::test]
async fn a_reset_on_either_side_is_a_reset_on_the_other() {
    use std::io::ErrorKind::ConnectionReset;
    let pod = RawOrigin::Reset.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ConnectionReset);
    assert_eq!(gateway.records(1).await[0]["flag"], "UC");

    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.local_addr().unwrap()])).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let (mut upstream, _) = pod.accept().await.unwrap();
    assert!(upstream.read(&mut [0; 4096]).await.unwrap() > 0);
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    let error = upstream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), ConnectionReset);
    assert_eq!(gateway.records(1).await[0]["flag"], "DC");
}

#[tokio::test]
async fn stopping_lets_open_connections_finish_and_accepts_no_new_ones() {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.address()])).await;
    let (address, admin) = (gateway.address, gateway.app.admin_address());
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    stream.read_exact(&mut echoed).await.unwrap();

    let stopping = tokio::spawn(gateway.app.stop());
    while http_get(admin, "/ready").await.0 != 503 {}
    while TcpStream::connect(address).await.is_ok() {}
    stream.write_all(b"still here").await.unwrap();
    let mut echoed = [0; 10];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"still here");
    drop(stream);
    assert_eq!(stopping.await.unwrap().cut, 0, "a connection that could finish was cut");
}
