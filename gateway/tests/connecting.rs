//! Between a cluster and a connected endpoint: no client sees an endpoint fail while another one is well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/client_hello.rs"]
#[allow(dead_code, reason = "shared with the corpus")]
mod hello_builder;
mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use hello_builder::{HelloBuilder, alpn};
use serde_json::Value;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

/// An endpoint whose turn is before those on 127.0.0.2: endpoints are in the order of their addresses.
async fn faulty(behaviour: RawOrigin) -> Origin {
    behaviour.start(([127, 0, 0, 1], 0).into()).await.unwrap()
}

/// A gateway that does not wait long for an answer.
async fn impatient(addresses: &[SocketAddr]) -> Gateway {
    let answer_timeout =
        |layers: eastgate_config::bootstrap::Layers| layers.flag("upstream.answer_timeout", Some("300ms"));
    Gateway::start_with(&mesh(addresses), answer_timeout).await
}

async fn cluster(gateway: &Gateway) -> Value {
    gateway.admin_json("/clusters?format=json").await["clusters"][0].clone()
}

/// Sends these bytes and reads until the end.
async fn told(gateway: &Gateway, sent: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map(|_| answer)
}

#[tokio::test]
async fn an_endpoint_that_takes_the_connection_and_then_does_not_answer_is_left_for_another() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    for (fault, outcome) in
        [(RawOrigin::Say(Vec::new()), "closed"), (RawOrigin::Reset, "reset"), (RawOrigin::Silence, "silent")]
    {
        let origin = faulty(fault).await;
        let bad = origin.address();
        let gateway = impatient(&[bad, pods[0].address()]).await;
        let client = mesh_client(&ca);
        for number in 0..6 {
            let response = client.get(gateway.address, GLOBAL, "/hostname").await;
            assert_eq!(response.unwrap_or_else(|error| panic!("{outcome} {number}: {error}")).status, 200);
        }
        let records = gateway.records(6).await;
        assert!(records.iter().all(|record| record["endpoint"] == pods[0].address().to_string()));
        assert_eq!(records.iter().filter(|record| record["attempts"] == 2).count(), 3, "{records:?}");
        let counted = cluster(&gateway).await;
        assert_eq!((&counted["hellos"][outcome], &counted["hellos"]["answered"]), (&3.into(), &6.into()));
        let endpoints = counted["endpoints"].as_array().unwrap();
        let left = endpoints.iter().find(|endpoint| endpoint["address"] == bad.to_string()).unwrap();
        assert_eq!(left["hellos"][outcome], 3, "{counted}");
        assert_eq!(counted["active"], 0, "what was left is counted no more: {counted}");
    }
}

#[tokio::test]
async fn where_there_is_no_other_endpoint_the_client_gets_what_the_last_one_did() {
    let hello = client_hello(GLOBAL, &["istio"]);
    let closing = faulty(RawOrigin::Say(Vec::new())).await;
    let resetting = faulty(RawOrigin::Reset).await;
    let gateway = impatient(&[closing.address()]).await;
    assert_eq!(told(&gateway, &hello).await.unwrap(), b"");
    assert_eq!(gateway.records(1).await[0]["flag"], "-");
    // A refused port is tried, too, but is not what the client is told of.
    let gateway = impatient(&[resetting.address(), nobody()]).await;
    assert_eq!(told(&gateway, &hello).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let record = gateway.records(1).await.remove(0);
    assert_eq!((&record["flag"], &record["attempts"]), (&"UC".into(), &2.into()));
    assert_eq!(record["endpoint"], resetting.address().to_string());
}

#[tokio::test]
async fn an_endpoint_that_is_slow_to_answer_is_waited_for_where_it_is_the_only_one() {
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = impatient(&[pod.local_addr().unwrap()]).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let hello = client_hello(GLOBAL, &["istio"]);
    client.write_all(&hello).await.unwrap();
    let (mut upstream, _) = pod.accept().await.unwrap();
    let mut heard = vec![0; hello.len()];
    upstream.read_exact(&mut heard).await.unwrap();
    gateway
        .admin_until("/stats/prometheus", |text| {
            text.lines().any(|line| line.contains("outcome=\"silent\"") && line.ends_with(" 1"))
        })
        .await;
    upstream.write_all(b"at last").await.unwrap();
    let mut answer = [0; 7];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"at last");
    drop((client, upstream));
    let record = gateway.records(1).await.remove(0);
    assert_eq!(record["to_upstream_bytes"], hello.len(), "what was sent before the relay counts");
    assert_eq!((heard, record["attempts"].clone()), (hello, 1.into()));
}

#[tokio::test]
async fn an_endpoints_own_alert_is_passed_on_as_it_came() {
    let bad = faulty(RawOrigin::Say(HANDSHAKE_FAILURE.into())).await;
    let good = RawOrigin::Echo.start(([127, 0, 0, 2], 0).into()).await.unwrap();
    let gateway = Gateway::start(&mesh(&[bad.address(), good.address()])).await;
    let answer = told(&gateway, &client_hello(GLOBAL, &["istio"])).await.unwrap();
    assert_eq!(answer, HANDSHAKE_FAILURE);
    let record = gateway.records(1).await.remove(0);
    assert_eq!((&record["attempts"], &record["to_client_bytes"]), (&1.into(), &7.into()));
    let counted = cluster(&gateway).await;
    assert_eq!(
        (&counted["hellos"]["alert"], &counted["endpoints"][0]["hellos"]["alert"]),
        (&1.into(), &1.into())
    );
}

#[tokio::test]
async fn a_hello_that_more_was_sent_with_is_not_sent_twice() {
    let bad = faulty(RawOrigin::Say(Vec::new())).await;
    let good = RawOrigin::Echo.start(([127, 0, 0, 2], 0).into()).await.unwrap();
    let gateway = impatient(&[bad.address(), good.address()]).await;
    let early_data = HelloBuilder::new(GLOBAL).last(16, alpn(&[b"istio"])).last(42, Vec::new());
    let more = [client_hello(GLOBAL, &["istio"]), b"and more".to_vec()].concat();
    for (sent, number) in [(early_data.bytes(), 1), (more, 2)] {
        // Which ends with a FIN or, where something was left unread, a reset: but by this endpoint.
        let _ = told(&gateway, &sent).await;
        let record = gateway.records(2 * number - 1).await.pop().unwrap();
        assert_eq!(record["attempts"], 1, "{record}");
        assert_eq!(record["endpoint"], bad.address().to_string(), "{record}");
        // The other one's turn.
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        gateway.records(2 * number).await;
    }
    assert_eq!(cluster(&gateway).await["hellos"]["closed"], 0);
}

#[tokio::test]
async fn nobody_waits_for_a_client_that_has_left_before_the_answer() {
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&mesh(&[pod.local_addr().unwrap()])).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let (mut upstream, _) = pod.accept().await.unwrap();
    assert!(upstream.read(&mut [0; 4096]).await.unwrap() > 0);
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(upstream.read(&mut [0; 4096]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(gateway.records(1).await[0]["flag"], "DC");
}
