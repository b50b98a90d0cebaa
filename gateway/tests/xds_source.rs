//! A control plane as the source: both variants, every way to reach it, and everything that can go wrong with it.
//! The control plane is real gRPC (`support/plane.rs`); the gateway is the app that `eastgate run` starts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/fed.rs"]
mod fed;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/resources.rs"]
mod resources;
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use eastgate_config::bootstrap::Layers;
use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::RawOrigin;
use fed::*;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use plane::Plane;
use resources::{Resources, name_table};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tonic::Code;

async fn both_ways(variant: &str) {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let mut gateway =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.variant", Some(variant))).await;
    let address = gateway.ready().await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-0"));

    plane.change(|world| world.resources.set(&[(NAME, &[all[1].address()])]));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert_eq!(served(&ca, address).await.as_deref(), Some("httpbin-1"));

    plane.change(|world| world.resources = Resources::serving(&[]));
    gateway.until("/clusters", |text| !text.contains("httpbin")).await;
    assert_eq!(served(&ca, address).await, None);

    let seen = plane.seen();
    assert_eq!((seen.streams, seen.nacks.len(), seen.nodes.len()), (1, 0, 1), "{seen:?}");
    assert!(seen.nodes[0].starts_with("router~") && seen.nodes[0].ends_with(".svc.cluster.local"));
    assert_eq!(seen.variants.iter().copied().collect::<Vec<_>>(), [variant]);
    assert_eq!(gateway.metric(&format!("xds_connected{{address=\"{}\"}}", plane.address)).await, 1.0);
    assert!(gateway.metric("xds_last_response_timestamp_seconds").await > 1e9);
    assert_eq!(gateway.metric("xds_stale_since_timestamp_seconds").await, 0.0);
}

#[tokio::test]
async fn a_delta_control_plane_is_served_and_its_changes_take_effect() {
    both_ways("delta").await;
}

#[tokio::test]
async fn a_state_of_the_world_control_plane_is_served_and_its_changes_take_effect() {
    both_ways("sotw").await;
}

#[tokio::test]
async fn the_names_of_a_control_plane_are_answered_and_none_until_it_has_told_them() {
    for variant in ["delta", "sotw"] {
        let plane = Plane::start(world(nobody())).await;
        let mut gateway = Fed::start(&[&plane.address], |layers, _| {
            layers.flag("xds.variant", Some(variant)).flag("dns.addresses", Some("127.0.0.1:0"))
        })
        .await;
        // Neither readiness nor the first table waits for names.
        gateway.ready().await;
        gateway.until("/ready?verbose", |text| text.contains("the source has told of no names")).await;
        assert_eq!(code(&gateway).await, "Server Failure");

        plane.change(|world| world.resources.names = name_table("httpbin.bar.global", "240.0.0.3"));
        gateway.until("/names", |text| text == "httpbin.bar.global 240.0.0.3\n").await;
        gateway.metric_until("dns_names", |names| names == 1.0).await;
        assert_eq!(code(&gateway).await, "No Error");
        gateway.until("/ready?verbose", |text| text == "LIVE\n").await;
        assert!(plane.seen().nacks.is_empty());
    }
}

/// What DNS says of `httpbin.bar.global`.
async fn code(gateway: &Fed) -> String {
    let mut query = Message::query();
    let name = Name::from_ascii("httpbin.bar.global.").unwrap();
    query.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.to_vec().unwrap(), gateway.app.dns().addresses[0]).await.unwrap();
    let mut answer = [0; 512];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer");
    let answer = Message::from_vec(&answer[..received.unwrap()]).unwrap();
    answer.metadata.response_code.to_string()
}

#[tokio::test]
async fn nothing_is_served_before_the_control_plane_has_spoken() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    plane.change(|world| world.mute = true);
    let mut gateway =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.response_timeout", Some("100ms"))).await;
    gateway.metric_until("xds_reconnects_total{reason=\"silent\"}", |count| count >= 2.0).await;
    let (code, text) = gateway.admin("/ready").await;
    assert!(code == 503 && text.contains("the control plane's first clusters and listeners"), "{text}");
    plane.change(|world| world.mute = false);
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
}

#[tokio::test]
async fn a_control_plane_that_goes_and_comes_back_cuts_nothing() {
    let ca = Ca::new().unwrap();
    let new = pod(&ca).await;
    let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let plane = Plane::start(world(echo.address())).await;
    let at: SocketAddr = plane.address.trim_start_matches("http://").parse().unwrap();
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    let mut live = TcpStream::connect(address).await.unwrap();
    let hello = client_hello(NAME, &["istio"]);
    echoed(&mut live, &hello).await;

    plane.stop().await;
    gateway.metric_until("xds_reconnects_total{reason=\"connect\"}", |count| count >= 1.0).await;
    assert!(gateway.metric("xds_stale_since_timestamp_seconds").await > 1e9);
    assert_eq!(gateway.admin("/ready").await.0, 200);
    echoed(&mut live, b"still here").await;
    echoed(&mut TcpStream::connect(address).await.unwrap(), &hello).await;

    let plane = Plane::start_at(at, world(new.address())).await;
    let wanted = new.address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    assert!(served(&ca, address).await.is_some());
    echoed(&mut live, b"and here").await;
    // The half-hourly end of a stream is nothing that anybody would notice.
    plane.cut();
    plane.until(|seen| seen.streams == 2 && seen.open == 1).await;
    echoed(&mut live, b"and now").await;
    assert!(gateway.metric("xds_reconnects_total{reason=\"closed\"}").await >= 1.0);
}

async fn echoed(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, bytes);
}

#[tokio::test]
async fn a_control_plane_with_too_much_to_do_is_left_alone_for_longer_and_longer() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    plane.change(|world| world.refuse = Some(Code::ResourceExhausted));
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let began = Instant::now();
    plane.until(|seen| seen.streams >= 4).await;
    println!("4 attempts in {:?}", began.elapsed());
    assert!(gateway.metric("xds_reconnects_total{reason=\"resource_exhausted\"}").await >= 3.0);
    plane.change(|world| world.refuse = None);
    gateway.ready().await;
    // With a loop that does not wait there would have been thousands.
    assert!(plane.seen().streams < 20, "{:?}", plane.seen());
}

#[tokio::test]
async fn control_planes_are_tried_in_order_and_the_first_gets_its_turn_again() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let first = nobody();
    let second = Plane::start(world(pod.address())).await;
    let planes = [&*format!("http://{first}"), &*second.address];
    let mut gateway = Fed::start(&planes, |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    let first = Plane::start_at(first, world(pod.address())).await;
    second.cut();
    first.until(|seen| seen.open == 1).await;
    second.until(|seen| seen.open == 0).await;
    assert_eq!(second.seen().streams, 1);
}

#[tokio::test]
async fn a_push_of_many_megabytes_is_taken() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let mut resources = world(pod.address());
    resources.clusters.insert(NAME.into(), resources::padded_cluster(NAME, 9 << 20));
    let plane = Plane::start(resources).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());

    let strict =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.max_message_bytes", Some(1 << 20))).await;
    strict.metric_until("xds_oversized_total", |count| count >= 1.0).await;
    assert_eq!(strict.admin("/ready").await.0, 503);
}

#[tokio::test]
async fn many_changes_become_few_tables() {
    let ca = Ca::new().unwrap();
    let all = pods(&ca, 2).await;
    let plane = Plane::start(world(all[0].address())).await;
    let mut gateway =
        Fed::start(&[&plane.address], |layers, _| layers.flag("xds.coalesce", Some("1s"))).await;
    gateway.ready().await;
    let before = gateway.metric("tables_published_total").await;
    let pushes = "xds_pushes_total{type=\"endpoints\"}";
    let pushed = gateway.metric(pushes).await;
    for round in 1..=20 {
        let pod = &all[round % 2];
        plane.change(|world| world.resources.set(&[(NAME, &[pod.address()])]));
        gateway.metric_until(pushes, |count| count >= pushed + round as f64).await;
    }
    plane.change(|world| world.resources.set(&[(NAME, &[all[1].address()])]));
    let wanted = all[1].address().to_string();
    gateway.until("/clusters", |text| text.contains(&wanted)).await;
    let tables = gateway.metric("tables_published_total").await - before;
    assert!((1.0..=5.0).contains(&tables), "{tables} tables of 21 changes");
}

#[tokio::test]
async fn a_refused_resource_is_answered_counted_and_told() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let mut resources = world(pod.address());
    let mut bad = resources::eds_cluster("bad");
    bad.value = vec![0xff; 5];
    resources.clusters.insert("bad".into(), bad);
    let plane = Plane::start(resources).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    let seen = plane.until(|seen| !seen.nacks.is_empty()).await;
    assert!(seen.nacks[0].contains("bad"), "{seen:?}");
    assert_eq!(gateway.metric("xds_nacks_total{type=\"cluster\"}").await, 1.0);
    gateway.until("/rejections", |text| text.contains("bad")).await;
    let view = gateway.app.xds().unwrap().view().await.unwrap();
    assert!(
        view.settled && view.link.answered && view.journal.iter().any(|push| !push.rejections.is_empty())
    );
    assert_eq!(view.link.address.as_deref(), Some(&*plane.address));
}

#[tokio::test]
async fn what_the_guard_keeps_is_let_go_when_told() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let names: Vec<_> = (0..10).map(|index| format!("s{index}.bar.svc.cluster.local")).collect();
    let addresses = [pod.address()];
    let services: Vec<_> = names.iter().map(|name| (name.as_str(), &addresses[..])).collect();
    let plane = Plane::start(Resources::serving(&services)).await;
    let holding = |layers: Layers, _: &Path| {
        layers.flag("xds.guard.action", Some("hold")).flag("xds.guard.hold_for", Some("1h"))
    };
    let mut gateway = Fed::start(&[&plane.address], holding).await;
    gateway.ready().await;
    let clusters = gateway.metric("clusters").await;
    plane.change(|world| world.resources.clusters.clear());
    gateway.metric_until("xds_keeping_back", |value| value == 1.0).await;
    assert_eq!(gateway.metric("clusters").await, clusters);
    assert!(gateway.metric("xds_alarms_total").await >= 1.0);
    let handle = gateway.app.xds().unwrap();
    assert_eq!(handle.release().await, Some(true));
    gateway.metric_until("xds_keeping_back", |value| value == 0.0).await;
    assert_eq!(handle.release().await, Some(false));
    assert!(handle.holdings().await.unwrap().accepted.iter().any(|saved| !saved.resources.is_empty()));
}

#[tokio::test]
async fn the_stream_ends_with_the_gateway() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    gateway.ready().await;
    plane.until(|seen| seen.open == 1).await;
    let handle = gateway.app.xds().unwrap().clone();
    gateway.app.stop().await;
    plane.until(|seen| seen.open == 0).await;
    assert_eq!(handle.view().await, None);
    assert_eq!(plane.seen().streams, 1);
}

#[tokio::test]
async fn one_that_takes_connections_and_never_answers_holds_nobody_up() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plane = Plane::start(world(pod.address())).await;
    let planes = [&*format!("http://{}", silent.local_addr().unwrap()), &*plane.address];
    let mut gateway =
        Fed::start(&planes, |layers, _| layers.flag("xds.response_timeout", Some("200ms"))).await;
    let address = gateway.ready().await;
    assert!(served(&ca, address).await.is_some());
    assert!(gateway.metric("xds_reconnects_total{reason=\"silent\"}").await >= 1.0);
}

#[tokio::test]
async fn one_that_ends_every_stream_costs_no_connection_and_no_table() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    let mut gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let address = gateway.ready().await;
    let began = Instant::now();
    for round in 1..=3 {
        plane.cut();
        plane.until(|seen| seen.streams > round && seen.open == 1).await;
        assert!(served(&ca, address).await.is_some());
    }
    println!("3 streams in {:?}", began.elapsed());
    assert_eq!(gateway.metric("tables_published_total").await, 1.0, "nothing has changed");
}

#[tokio::test]
async fn one_that_answers_and_hangs_up_is_left_alone_as_one_that_refuses_is() {
    let ca = Ca::new().unwrap();
    let pod = pod(&ca).await;
    let plane = Plane::start(world(pod.address())).await;
    plane.change(|world| world.hang_up = true);
    let gateway = Fed::start(&[&plane.address], |layers, _| layers).await;
    let refusing = Plane::start(Resources::default()).await;
    refusing.change(|world| world.refuse = Some(Code::Unavailable));
    let _other = Fed::start(&[&refusing.address], |layers, _| layers).await;
    let refused = refusing.until(|seen| seen.streams >= 6).await.streams;
    let answered = plane.until(|seen| seen.streams >= 3).await.streams;
    println!("{answered} streams that were answered and ended, beside {refused} that were refused");
    // Waits that begin anew after each answer would make four times as many, and a loop without any thousands.
    assert!(answered <= 2 * refused + 4, "{answered} streams");
    assert!(gateway.metric("xds_reconnects_total{reason=\"closed\"}").await >= 2.0);
}
