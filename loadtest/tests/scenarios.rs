//! Each scenario, shortly, against a plain relay in this process: what is counted, and that it ends.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::{self, Client, Expect};
use eastgate_loadtest::hello::RECORDED_NAME;
use eastgate_loadtest::load::{LoadOrigin, Target};
use eastgate_loadtest::mesh;
use eastgate_loadtest::origin::{self, Origin};
use eastgate_loadtest::scenario::{
    Amount, Churn, Direction, Error, MEMORY_PER_TUNNEL, Options, bulk, churn, connect_rate, idle_soak,
    integrity, mixed, ping_among_idle, ping_pong, slow_clients, tls_connect_rate,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

const SHORT: Duration = Duration::from_millis(200);

/// A relay that reads nothing of what it relays; it ends with the test's runtime.
async fn relay(origin: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut upstream) = TcpStream::connect(origin).await {
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                }
            });
        }
    });
    address
}

async fn load(names: usize) -> (LoadOrigin, Options) {
    let origin = LoadOrigin::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let target = Target::new(relay(origin.address()).await, (0..names).map(mesh::server_name)).unwrap();
    // The relay is in this process, so its cost is there to be measured.
    let options = Options { proxy: Some(std::process::id()), ..Options::new(target, SHORT) };
    (origin, options)
}

#[tokio::test]
async fn connect_rate_counts_connections_and_their_cost() {
    let (_origin, options) = load(1).await;
    let outcome = connect_rate(&options, 4).await.unwrap();
    assert_eq!(outcome.failed(), 0, "{outcome}");
    assert!(outcome.counts.operations > 10, "{outcome}");
    assert!(outcome.counts.latencies.max() > 0, "{outcome}");
    assert!(outcome.cpu_per_operation().unwrap() > 0.0);
}

#[tokio::test]
async fn an_open_loop_does_as_many_as_its_rate_says() {
    let (_origin, mut options) = load(1).await;
    options.rate = Some(100.0);
    let outcome = connect_rate(&options, 4).await.unwrap();
    assert_eq!(outcome.counts.operations + outcome.failed(), 20, "{outcome}");
}

#[tokio::test]
async fn tls_shakes_hands() {
    let ca = Ca::new().unwrap();
    let pod = origin::Options::new("pod", ca.issue(&[RECORDED_NAME]).unwrap());
    let pod = Origin::start(pod).await.unwrap();
    let target = Target::new(relay(pod.address()).await, [RECORDED_NAME]).unwrap();
    let expect = Expect::OneOf(vec![RECORDED_NAME.to_owned()]);
    let client = Client::new(client::Options { expect, ..client::Options::new(ca.roots()) }).unwrap();
    let outcome = tls_connect_rate(&Options::new(target, SHORT), 2, &client, RECORDED_NAME).await.unwrap();
    assert!(outcome.counts.operations > 0 && outcome.failed() == 0, "{outcome}");
}

#[tokio::test]
async fn bulk_moves_bytes_for_a_time_and_in_an_exact_number() {
    let (_origin, options) = load(1).await;
    for (direction, tunnels) in [(Direction::Down, 1), (Direction::Up, 1), (Direction::Down, 3)] {
        let outcome = bulk(&options, tunnels, direction, Amount::Time).await.unwrap();
        assert!(outcome.counts.bytes > 1_000_000 && outcome.failed() == 0, "{outcome}");
        assert!(outcome.cpu_per_kib().unwrap() > 0.0);
        let exact = Amount::Bytes(3_000_001);
        let outcome = bulk(&options, tunnels, direction, exact).await.unwrap();
        assert_eq!((outcome.counts.bytes, outcome.failed()), (3_000_001 * tunnels as u64, 0), "{outcome}");
    }
}

#[tokio::test]
async fn ping_pong_pings() {
    let (_origin, options) = load(1).await;
    let outcome = ping_pong(&options, 5).await.unwrap();
    assert!(outcome.counts.operations > 50 && outcome.failed() == 0, "{outcome}");
}

#[tokio::test]
async fn idle_tunnels_are_held_weighed_and_alive() {
    let (_origin, options) = load(1).await;
    let outcome = idle_soak(&options, 100).await.unwrap();
    assert_eq!((outcome.counts.operations, outcome.failed()), (100, 0), "{outcome}");
    assert!(outcome.figures.contains_key(MEMORY_PER_TUNNEL), "{outcome}");
    let error = idle_soak(&options, 10_000_000).await.unwrap_err();
    assert!(matches!(error, Error::Descriptors { .. }), "{error}");
}

#[tokio::test]
async fn mixed_asks_for_many_names() {
    let (_origin, options) = load(1000).await;
    let outcome = mixed(&options, 4, 1.0).await.unwrap();
    assert!(outcome.counts.operations > 10 && outcome.failed() == 0, "{outcome}");
}

#[tokio::test]
async fn slow_clients_do_not_count_as_honest_ones() {
    let (_origin, options) = load(1).await;
    let outcome = slow_clients(&options, 20, Duration::from_millis(100), 2).await.unwrap();
    assert!(outcome.counts.operations > 10 && outcome.failed() == 0, "{outcome}");
    assert_eq!(outcome.figures["slow clients"], 20.0);
}

#[tokio::test]
async fn churn_rewrites_a_file_or_runs_a_command_meanwhile() {
    let (origin, options) = load(1).await;
    let directory = tempfile::tempdir().unwrap();
    let (file, touched) = (directory.path().join("slice.yaml"), directory.path().join("touched"));
    let slice = Churn::Slice { file: file.clone(), origin: origin.address() };
    let outcome = churn(&options, 2, slice, Duration::from_millis(20)).await.unwrap();
    assert!(outcome.figures["changes"] >= 2.0 && outcome.failed() == 0, "{outcome}");
    assert!(std::fs::read_to_string(file).unwrap().contains("kind: EndpointSlice"));
    let command = Churn::Command(format!("echo $CHANGE >> {}", touched.display()));
    churn(&options, 2, command, Duration::from_millis(50)).await.unwrap();
    assert!(std::fs::read_to_string(touched).unwrap().starts_with("0\n1\n"));
    let command = Churn::Command("exit 3".to_owned());
    assert!(matches!(churn(&options, 2, command, SHORT).await, Err(Error::Churn { .. })));
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_told_at_once() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = Options::new(Target::new(nobody, [RECORDED_NAME]).unwrap(), Duration::from_secs(60));
    let from = Instant::now();
    assert!(matches!(connect_rate(&options, 1).await, Err(Error::NoTunnel(_))));
    assert!(matches!(ping_pong(&options, 1).await, Err(Error::NoTunnel(_))));
    assert!(from.elapsed() < Duration::from_secs(10));
}

/// Like [`relay`], but it takes a reset for a FIN, as a relay that is not careful does.
#[tokio::test]
async fn integrity_finds_no_fault_without_a_gateway_and_one_in_a_careless_relay() {
    let (origin, options) = load(1).await;
    let target = Target::new(origin.address(), [mesh::server_name(0)]).unwrap();
    let direct = integrity(&Options::new(target, SHORT), 8 << 20, 4, 1).await.unwrap();
    assert_eq!(direct.failed(), 0, "{direct}");
    assert!(direct.counts.bytes >= 8 << 20, "{direct}");
    let careless = integrity(&options, 8 << 20, 4, 1).await.unwrap();
    assert!(careless.failed() > 0, "{careless}");
}

#[tokio::test]
async fn pings_beside_idle_tunnels_say_what_they_were_without() {
    let (_origin, options) = load(1).await;
    let outcome = ping_among_idle(&options, 2, 20).await.unwrap();
    assert_eq!(outcome.failed(), 0, "{outcome}");
    assert_eq!(outcome.figures["idle tunnels"], 20.0);
    assert!(outcome.figures["p99 without them, µs"] > 0.0 && outcome.counts.operations > 0, "{outcome}");
}
