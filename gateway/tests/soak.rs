//! The gateway at work for as long as one likes, `just soak MINUTES`: connections of all kinds, good and bad, and changes of
//! configuration, round by round. What it holds when a round is over must not grow: memory, file descriptors, threads, tasks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eastgate_loadtest::ca::Ca;
use eastgate_loadtest::client::Client;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use program::Eastgate;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a process holds that could leak.
#[derive(Debug, Clone, Copy)]
struct Held {
    kib: f64,
    files: f64,
    threads: f64,
    /// Of the data threads, of which each connection is one, and of the control thread.
    tasks: f64,
}

impl Held {
    async fn by(gateway: &Eastgate) -> Self {
        let pid = gateway.pid();
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count() as f64;
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let private = |line: &&str| line.starts_with("Anonymous:");
        let line = rollup.lines().find(private).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        // Whoever asks is a task of the control thread, too.
        let text = gateway.admin("/stats/prometheus").await;
        let of_each = text.lines().filter(|line| line.starts_with("eastgate_tasks{"));
        let of_each: Vec<f64> =
            of_each.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(of_each.len(), 3, "two data threads and the control thread");
        Self { kib, files: count("fd"), threads: count("task"), tasks: of_each.iter().sum() }
    }
}

/// What may grow: its name, how much of it there is, and to what part of what it was.
type Kind = (&'static str, fn(&Held) -> f64, f64);

/// The middle one of what these say.
fn median(held: &[Held], what: fn(&Held) -> f64) -> f64 {
    let mut values: Vec<_> = held.iter().map(what).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Soak {
    gateway: Eastgate,
    address: SocketAddr,
    client: Client,
    directory: tempfile::TempDir,
    pods: Vec<Origin>,
    echo: Origin,
}

const ECHO: &str = "outbound_.8000_._.echo.bar.global";

impl Soak {
    async fn start() -> Self {
        let ca = Ca::new().unwrap();
        let pods = pods(&ca, 3).await;
        let echo = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        for (name, document) in mesh(&addresses(&pods)) {
            std::fs::write(directory.path().join(name), document.to_string()).unwrap();
        }
        let mut list = named_slices("echo", &[echo.address()], "istio");
        list["items"].as_array_mut().unwrap().push(named_service("echo"));
        std::fs::write(directory.path().join("echo.json"), list.to_string()).unwrap();
        let mesh = directory.path().to_str().unwrap();
        let settings = [("EASTGATE_LOG_LEVEL", "info".to_owned())];
        let arguments = ["--mesh-dir", mesh, "--listen", "15443=127.0.0.1:0", "--threads", "2"];
        let gateway = Eastgate::start(&arguments, &settings).await;
        let address = gateway.listening("0.0.0.0_15443").await;
        Self { gateway, address, client: mesh_client(&ca), directory, pods, echo }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// A round: each kind of client a few times, all at once, while the configuration changes. When it is over nobody is
    /// connected.
    async fn round(&self, number: usize) -> usize {
        let mut clients = JoinSet::new();
        for turn in 0..10 {
            let (address, client, length) = (self.address, self.client.clone(), 1 + number * 7_919 % 200_000);
            clients.spawn(async move {
                let response = client.get(address, GLOBAL, &format!("/bytes/{length}")).await.unwrap();
                assert_eq!((response.status, response.body.len()), (200, length));
            });
            clients.spawn(echoed(address));
            clients.spawn(reset_at(address, number * 10 + turn));
            let unknown = format!("outbound_.8000_._.nobody-{number}-{turn}.bar.global");
            clients.spawn(refused(address, client_hello(&unknown, &["istio"])));
            clients.spawn(refused(address, format!("GET /{number} HTTP/1.1\r\n\r\n").into_bytes()));
        }
        let count = clients.len();
        self.change(number).await;
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        let none = "eastgate_downstream_connections_active{listener=\"0.0.0.0_15443\"} 0\n";
        self.gateway.until("/stats/prometheus", |text| text.contains(none)).await;
        count
    }

    /// Endpoints come and go, and whole services.
    async fn change(&self, number: usize) {
        let all = addresses(&self.pods);
        self.write("slices.json", &slices(&all[..1 + number % 3]).to_string());
        let name = format!("service-{}", number % 20);
        let file = format!("{name}.json");
        if number % 40 < 20 {
            let mut list = named_slices(&name, &[self.echo.address()], "istio");
            list["items"].as_array_mut().unwrap().push(named_service(&name));
            self.write(&file, &list.to_string());
            self.gateway.until("/clusters", |text| text.contains(&format!(".{name}."))).await;
        } else {
            std::fs::remove_file(self.directory.path().join(file)).unwrap();
            self.gateway.until("/clusters", |text| !text.contains(&format!(".{name}."))).await;
        }
    }
}

/// A tunnel over which much is sent each way.
async fn echoed(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let bytes = [client_hello(ECHO, &["istio"]), vec![7; 100_000]].concat();
    let (mut reading, mut writing) = stream.split();
    let mut echo = vec![0; bytes.len()];
    let (written, read) = tokio::join!(writing.write_all(&bytes), reading.read_exact(&mut echo));
    written.and(read).unwrap();
    assert!(echo == bytes);
}

/// A client that resets the connection after so many bytes of its hello, or of what follows.
async fn reset_at(address: SocketAddr, turn: usize) {
    let bytes = [client_hello(ECHO, &["istio"]), vec![7; 2_000]].concat();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_zero_linger().unwrap();
    let _ = stream.write_all(&bytes[..turn * 97 % bytes.len()]).await;
}

/// A client that is told an alert.
async fn refused(address: SocketAddr, bytes: Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut alert = Vec::new();
    stream.read_to_end(&mut alert).await.unwrap();
    assert_eq!((alert.len(), alert[0]), (7, 21));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as SOAK_MINUTES says; .ci/run and `just soak` run it"]
async fn what_the_gateway_holds_does_not_grow() {
    let minutes: f64 = std::env::var("SOAK_MINUTES").map_or(1.0, |minutes| minutes.parse().unwrap());
    let soak = Soak::start().await;
    let (began, length) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let (mut held, mut connections) = (Vec::new(), 0);
    // Each third of the time is judged by at least a few rounds, however slow the machine is.
    while began.elapsed() < length || held.len() < 45 {
        connections += soak.round(held.len()).await;
        held.push(Held::by(&soak.gateway).await);
    }
    let third = held.len() / 3;
    let (middle, last) = (&held[third..2 * third], &held[2 * third..]);
    println!("{} rounds, {connections} connections in {:.0?}", held.len(), began.elapsed());
    let mut grown = Vec::new();
    let kinds: [Kind; 4] = [
        ("KiB of memory", |held| held.kib, 1.10),
        ("file descriptors", |held| held.files, 1.2),
        ("threads", |held| held.threads, 1.3),
        ("tasks", |held| held.tasks, 1.2),
    ];
    for (what, of, bound) in kinds {
        let (before, after) = (median(middle, of), median(last, of));
        let ratio = after / before;
        println!("{what}: {before} in the second third, {after} in the last ({ratio:.3}, may be {bound})");
        if ratio > bound {
            grown.push(what);
        }
    }
    assert!(grown.is_empty(), "{grown:?} grew");
}
