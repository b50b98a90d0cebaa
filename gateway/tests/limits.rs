//! How many connections there may be, how long they are sought for, and what a client sees at each limit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::Client;
use eastgate_loadtest::origin::{self, Origin, RawOrigin};
use serde_json::{Value, json};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// `internal_error`, fatal.
const REFUSED: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

async fn echo() -> Origin {
    RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap()
}

async fn cluster(gateway: &Gateway) -> Value {
    gateway.admin_json("/clusters?format=json").await["clusters"][0].clone()
}

/// A connection from this address that has sent its hello, and the first bytes of the answer.
async fn opened(gateway: &Gateway, from: &str) -> (TcpStream, [u8; 7]) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(gateway.address).await.unwrap();
    stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).await.unwrap();
    (stream, answer)
}

#[tokio::test]
async fn a_silent_endpoint_costs_a_moment_and_not_the_connect_timeout() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let (one, _one, _held) = black_hole().await;
    let (other, _other, _kept) = black_hole().await;
    // The connect timeout is the usual 10 s: a client that had to wait for it would be given up by the test's patience.
    let gateway = Gateway::start(&mesh(&[one, other, pods[0].address()])).await;
    let client = mesh_client(&ca);
    for _ in 0..6 {
        assert_eq!(client.get(gateway.address, GLOBAL, "/hostname").await.unwrap().status, 200);
    }
    let records = gateway.records(6).await;
    assert!(records.iter().all(|record| record["endpoint"] == pods[0].address().to_string()));
    assert!(records.iter().any(|record| record["attempts"] == 3), "two black holes in a row");
    let counted = cluster(&gateway).await;
    assert_eq!(counted["hedge_won"], 4, "four of six began at a black hole: {counted}");
    let endpoints = counted["endpoints"].as_array().unwrap();
    assert!(endpoints.iter().all(|endpoint| endpoint["connecting"] == 0), "the others are closed: {counted}");
    let overtaken = endpoints.iter().map(|endpoint| endpoint["timed_out"].as_u64().unwrap()).sum::<u64>();
    assert!(overtaken >= 4, "a black hole that is overtaken is seen to fail: {counted}");
}

/// Twelve clients at a time, each with so many requests, all of which are answered.
async fn all_served(gateway: &Gateway, client: &Arc<Client>, requests: usize) {
    let address = gateway.address;
    let mut clients = JoinSet::new();
    for _ in 0..12 {
        let client = Arc::clone(client);
        clients.spawn(async move {
            for number in 0..requests {
                let response = client.get(address, GLOBAL, "/hostname").await;
                assert_eq!(response.unwrap_or_else(|error| panic!("{number}: {error}")).status, 200);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn no_client_sees_a_failure_while_pods_die_vanish_and_come_back() {
    let ca = Ca::new().unwrap();
    let mut all = pods_apart(&ca, 2).await;
    let (hole, listener, held) = black_hole().await;
    let closing = RawOrigin::Say(Vec::new()).start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let refused = nobody();
    let addresses = [all[0].address(), all[1].address(), hole, refused, closing.address()];
    let five_attempts = |layers: Layers| layers.flag("upstream.connect_attempts", Some(5));
    let gateway = Gateway::start_with(&mesh(&addresses), five_attempts).await;
    let client = Arc::new(mesh_client(&ca));
    all_served(&gateway, &client, 5).await;
    // One of the two that work is killed: what is left is one of five.
    all.remove(0).reset().await;
    all_served(&gateway, &client, 5).await;
    // The port that refused is a pod now, the black hole refuses.
    let mut options = origin::Options::new("restored", ca.issue(&[SPIFFE]).unwrap());
    options.address = refused;
    let _restored = Origin::start(options).await.unwrap();
    drop((listener, held));
    all_served(&gateway, &client, 5).await;
    let records = gateway.records(180).await;
    // That the killed pod resets what a client has had its answer from is no refusal.
    let refused_one = |record: &&Value| ["UF", "UH", "UO"].iter().any(|flag| record["flag"] == *flag);
    assert_eq!(records.iter().find(refused_one), None, "no client was refused");
    assert!(records.iter().any(|record| record["endpoint"] == refused.to_string()), "what came back is used");
    let counted = cluster(&gateway).await;
    let some = |count: &Value| count.as_u64() > Some(0);
    assert!(some(&counted["hedge_won"]) && some(&counted["refused"]), "{counted}");
    assert!(some(&counted["hellos"]["closed"]), "{counted}");
}

#[tokio::test]
async fn retries_stay_within_their_budget_and_the_first_attempt_needs_none() {
    let pod = echo().await;
    let refused = nobody();
    let no_retries = |layers: Layers| {
        let budget = json!({ "percent": 0, "min_concurrency": 0 });
        layers
            .flag("upstream.retry_budget", Some(budget))
            .flag("upstream.connect_deadline", Some("300ms"))
            .flag("access_log.path", Some(""))
    };
    let gateway = Gateway::start_with(&mesh(&[refused, pod.address()]), no_retries).await;
    let mut refused = 0;
    for _ in 0..4 {
        let (_stream, answer) = opened(&gateway, "127.0.0.1").await;
        refused += u32::from(answer == REFUSED);
    }
    assert_eq!(refused, 2, "every other connection begins at the endpoint that refuses");
    let counted = cluster(&gateway).await;
    assert_eq!((&counted["retry_overflow"], &counted["refused"]), (&json!(2), &json!(2)), "{counted}");
}

#[tokio::test]
async fn a_client_is_told_when_the_time_for_all_attempts_is_over() {
    let (one, _one, _held) = black_hole().await;
    let (other, _other, _kept) = black_hole().await;
    // The connect timeout is the usual 10 s, and there would be a third attempt.
    let short = |layers: Layers| layers.flag("upstream.connect_deadline", Some("400ms"));
    let gateway = Gateway::start_with(&mesh(&[one, other]), short).await;
    assert_eq!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
    let record = gateway.records(1).await.remove(0);
    assert_eq!((&record["flag"], &record["attempts"]), (&"UF".into(), &2.into()), "{record}");
    assert!(record["error"].as_str().unwrap().contains("upstream.connect_deadline"), "{record}");
}

#[tokio::test]
async fn an_endpoint_has_as_many_connections_as_it_may_and_what_is_beyond_all_of_them_overflows() {
    let pods = [echo().await, echo().await];
    let one_each = |layers: Layers| layers.flag("upstream.max_connections_per_endpoint", Some(1));
    let gateway = Gateway::start_with(&mesh(&addresses(&pods)), one_each).await;
    let open = [opened(&gateway, "127.0.0.1").await, opened(&gateway, "127.0.0.1").await];
    assert!(open.iter().all(|(_, answer)| *answer != REFUSED));
    let counted = cluster(&gateway).await;
    assert!(counted["endpoints"].as_array().unwrap().iter().all(|endpoint| endpoint["active"] == 1));
    assert_eq!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
    assert_eq!(gateway.records(1).await[0]["flag"], "UO");
    drop(open);
    gateway.admin_until("/clusters", |text| !text.contains("cx_active::1")).await;
    assert_ne!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_has_as_many_attempts_at_once_as_it_may() {
    let (hole, _listener, _held) = black_hole().await;
    let two = |layers: Layers| layers.flag("upstream.max_connects_per_endpoint", Some(2));
    let gateway = Gateway::start_with(&mesh(&[hole]), two).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
        waiting.push(stream);
    }
    gateway.admin_until("/clusters?format=json", |text| text.contains("\"connecting\":2")).await;
    assert_eq!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
    let record = gateway.records(1).await.remove(0);
    assert_eq!(record["flag"], "UO");
    assert!(record["error"].as_str().unwrap().contains("upstream.max_connects_per_endpoint"), "{record}");
    assert_eq!(cluster(&gateway).await["endpoint_full"], 1);
}

#[tokio::test]
async fn a_cluster_at_its_limit_overflows_and_says_which_limit_it_was() {
    let pod = echo().await;
    let mut documents = mesh(&[pod.address()]);
    documents.retain(|(name, _)| *name != "policy.json");
    documents.push(("policy.json", policy(json!({ "connectionPool": { "tcp": { "maxConnections": 1 } } }))));
    let gateway = Gateway::start(&documents).await;
    let (_first, answer) = opened(&gateway, "127.0.0.1").await;
    assert_ne!(answer, REFUSED);
    assert_eq!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
    let record = gateway.records(1).await.remove(0);
    assert_eq!(record["flag"], "UO");
    assert!(record["error"].as_str().unwrap().contains("connectionPool.tcp.maxConnections"), "{record}");
    assert_eq!(cluster(&gateway).await["overflow"], 1);
}

#[tokio::test]
async fn a_client_has_as_many_connections_as_it_may_and_others_have_theirs() {
    let pod = echo().await;
    let two = |layers: Layers| layers.flag("limits.max_connections_per_client", Some(2));
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), two).await;
    let mut open = vec![opened(&gateway, "127.0.0.1").await, opened(&gateway, "127.0.0.1").await];
    assert_eq!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
    let record = gateway.records(1).await.remove(0);
    assert!(record["error"].as_str().unwrap().contains("limits.max_connections_per_client"), "{record}");
    assert_ne!(opened(&gateway, "127.0.0.2").await.1, REFUSED);
    let overflow = "eastgate_downstream_overflow_total{limit=\"client\"} 1";
    gateway.admin_until("/stats/prometheus", |text| text.contains(overflow)).await;
    drop(open.pop());
    // The one from the other address has ended, too, and only a third line says that the place is free.
    gateway.records(3).await;
    assert_ne!(opened(&gateway, "127.0.0.1").await.1, REFUSED);
}

#[tokio::test]
async fn a_client_that_comes_before_the_first_endpoint_waits_for_it() {
    let pod = echo().await;
    let mut documents = mesh(&[]);
    documents.retain(|(name, _)| *name != "slices.json");
    let hold = |text: &'static str| move |layers: Layers| layers.flag("upstream.hold_empty", Some(text));
    let gateway = Gateway::start_with(&documents, hold("30s")).await;
    let mut early = TcpStream::connect(gateway.address).await.unwrap();
    early.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    let inspected = "eastgate_hello_seconds_count 1";
    gateway.admin_until("/stats/prometheus", |text| text.contains(inspected)).await;
    gateway.edit("slices.json", &slices(&[pod.address()]).to_string());
    let mut answer = [0; 7];
    early.read_exact(&mut answer).await.unwrap();
    assert_ne!(answer, REFUSED);

    let gateway = Gateway::start_with(&documents, hold("0s")).await;
    assert_eq!(opened(&gateway, "127.0.0.1").await.1, REFUSED, "told at once");
    assert_eq!(gateway.records(1).await[0]["flag"], "UH");
}

#[tokio::test]
async fn connections_come_from_the_address_that_is_set() {
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let from =
        |layers: Layers| layers.flag("upstream.source_addresses", Some(json!(["fd00::1", "127.0.0.77"])));
    let gateway = Gateway::start_with(&mesh(&[pod.local_addr().unwrap()]), from).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
    assert_eq!(pod.accept().await.unwrap().1.ip().to_string(), "127.0.0.77");
}

#[tokio::test]
async fn a_connection_ends_when_it_is_as_old_as_it_may_become() {
    let pod = echo().await;
    let short = |layers: Layers| layers.flag("relay.max_duration", Some("200ms"));
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), short).await;
    let (mut stream, _) = opened(&gateway, "127.0.0.1").await;
    // Which ends by a FIN, because nothing is left unread.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    let record = gateway.records(1).await.remove(0);
    assert_eq!(record["flag"], "DT");
    assert!(record["duration_ms"].as_u64() >= Some(200), "{record}");
}

#[tokio::test]
async fn connections_that_began_together_do_not_end_together() {
    let pod = echo().await;
    let jitter = |layers: Layers| {
        layers.flag("relay.max_duration", Some("1s")).flag("relay.max_duration_jitter", Some(100))
    };
    let gateway = Gateway::start_with(&mesh(&[pod.address()]), jitter).await;
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(opened(&gateway, "127.0.0.1").await.0);
    }
    for mut stream in open {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let records = gateway.records(40).await;
    assert!(records.iter().all(|record| record["flag"] == "DT"));
    let mut ages: Vec<_> = records.iter().map(|record| record["duration_ms"].as_u64().unwrap()).collect();
    ages.sort_unstable();
    println!(
        "max duration 1 s, jitter 100 %: the 10th of 40 ended after {} ms, the 30th after {} ms",
        ages[10], ages[30]
    );
    assert!(ages[0] >= 1000, "{ages:?}");
    // By chance from one to two times the duration. Without, the quarters would be as old.
    assert!(ages[30] >= ages[10] * 9 / 8, "{ages:?}");
}

#[tokio::test]
async fn idle_connections_leave_an_endpoint_that_has_more_than_its_share_and_no_others_do() {
    let pods = [echo().await, echo().await];
    let shed = |layers: Layers| layers.flag("relay.shed.idle", Some("200ms"));
    let documents = mesh(&[pods[0].address()]);
    let gateway = Arc::new(Gateway::start_with(&documents, shed).await);
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let gateway = Arc::clone(&gateway);
        clients.spawn(async move {
            loop {
                // As a client with a pool: it comes back when it is closed.
                let (mut stream, answer) = opened(&gateway, "127.0.0.1").await;
                assert_ne!(answer, REFUSED);
                stream.read_to_end(&mut Vec::new()).await.expect("it ends in order");
            }
        });
    }
    let all_at = |address: SocketAddr, count: u32| format!("{address}::cx_active::{count}\n");
    gateway.admin_until("/clusters", |text| text.contains(&all_at(pods[0].address(), 20))).await;
    gateway.edit("slices.json", &slices(&addresses(&pods)).to_string());
    // The share is 10, and 13 are tolerated.
    let fair = |text: &str| {
        pods.iter().all(|pod| (7..=13).any(|count| text.contains(&all_at(pod.address(), count))))
    };
    gateway.admin_until("/clusters", fair).await;
    clients.shutdown().await;
    let records = gateway.records(27).await;
    let shed: Vec<_> = records.iter().filter(|record| record["flag"] == "LR").collect();
    assert!((7..=20).contains(&shed.len()), "{} were shed", shed.len());
    assert!(shed.iter().all(|record| record["endpoint"] == pods[0].address().to_string()));
}
