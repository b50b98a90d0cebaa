//! One process takes over from another: no connection is refused, reset or lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use eastgate_loadtest::content;
use eastgate_loadtest::origin::{Origin, RawOrigin};
use program::Eastgate;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/program.rs"]
mod program;

const LISTENER: &str = "0.0.0.0_15443";

/// A mesh of one pod, and the path where processes meet.
struct Place {
    directory: tempfile::TempDir,
    _pod: Option<Origin>,
}

impl Place {
    /// With a pod that echoes.
    async fn new() -> Self {
        let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let place = Self::with(pod.address());
        Self { _pod: Some(pod), ..place }
    }

    fn with(pod: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mesh")).unwrap();
        for (name, document) in mesh(&[pod]) {
            std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
        }
        Self { directory, _pod: None }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// A process, which takes over if there is one before it.
    async fn process(&self, threads: usize) -> Eastgate {
        self.process_with(threads, &["--mesh-dir", &self.path("mesh")]).await
    }

    async fn process_with(&self, threads: usize, source: &[&str]) -> Eastgate {
        let (socket, threads) = (self.path("restart"), threads.to_string());
        let common = ["--restart-socket", &socket, "--listen", "15443=127.0.0.1:0", "--threads", &threads];
        Eastgate::start(&[source, &common].concat(), &[]).await
    }
}

/// A tunnel through the gateway to the echoing pod, with the hello echoed already.
async fn tunnel(address: SocketAddr) -> std::io::Result<TcpStream> {
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&hello).await?;
    stream.read_exact(&mut vec![0; hello.len()]).await?;
    Ok(stream)
}

async fn say(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"still here").await?;
    let mut echoed = [0; 10];
    stream.read_exact(&mut echoed).await?;
    assert_eq!(&echoed, b"still here");
    Ok(())
}

/// Clients that come one after the other until they are told to stop; each has to be served.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = || {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            async move {
                while !stop.load(Relaxed) {
                    let serving = async {
                        let mut stream = tunnel(address).await?;
                        say(&mut stream).await
                    };
                    let serving = tokio::time::timeout(PATIENCE, serving).await;
                    serving
                        .map_err(|_| "it hangs".to_owned())
                        .and_then(|served| served.map_err(|error| error.to_string()))
                        .map_err(|error| format!("{error} after {}", served.load(Relaxed)))?;
                    served.fetch_add(1, Relaxed);
                }
                Ok(())
            }
        };
        let clients = (0..clients).map(|_| tokio::spawn(client())).collect();
        Self { stop, served, clients }
    }

    fn served(&self) -> usize {
        self.served.load(Relaxed)
    }

    /// Waits for so many more.
    async fn goes_on(&self, more: usize) {
        let wanted = self.served() + more;
        let waiting = async {
            while self.served() < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the load goes on");
    }

    async fn end(self) -> usize {
        self.stop.store(true, Relaxed);
        for client in self.clients {
            client.await.unwrap().expect("no connection is lost");
        }
        self.served.load(Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_restarts_under_load_lose_no_connection() {
    let place = Place::new().await;
    let mut gateway = place.process(2).await;
    let address = gateway.listening(LISTENER).await;
    let mut idle = tunnel(address).await.unwrap();
    let load = Load::start(address, 16);
    let began = std::time::Instant::now();
    for restart in 0..20 {
        // With another number of threads each time.
        let next = place.process(1 + restart % 3).await;
        assert_eq!(next.listening(LISTENER).await, address);
        let (status, log) = gateway.exit().await;
        assert!(status.success() && log.contains("another process has taken over"), "{log}");
        assert!(log.contains("closed_idle=0 cut=0"), "{log}");
        load.goes_on(20).await;
        gateway = next;
    }
    let served = load.end().await;
    let rate = served as f64 / began.elapsed().as_secs_f64();
    eprintln!("{served} connections over 20 restarts, {rate:.0} a second, none lost");
    say(&mut idle).await.expect("the idle tunnel has come along through all of them");
}

/// A connection through the gateway, whose pod is the test itself: the client's end and the pod's.
async fn through(address: SocketAddr, pod: &TcpListener) -> (TcpStream, TcpStream) {
    let hello = client_hello(GLOBAL, &["istio"]);
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&hello).await.unwrap();
    let (mut upstream, _) = pod.accept().await.unwrap();
    upstream.read_exact(&mut vec![0; hello.len()]).await.unwrap();
    // What is not answered yet is no tunnel, and ends in the process that it began in.
    upstream.write_all(b"welcome").await.unwrap();
    client.read_exact(&mut [0; 7]).await.unwrap();
    (client, upstream)
}

/// Waits until what came from the process before is on this one's data threads.
async fn serves(gateway: &Eastgate, count: usize) {
    let line = format!("eastgate_downstream_connections_active{{listener=\"{LISTENER}\"}} {count}\n");
    gateway.until("/stats/prometheus", |text| text.contains(&line)).await;
}

async fn read_some(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn is_at_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn half_closed_connections_come_along_and_the_old_process_ends_at_once() {
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::with(pod.local_addr().unwrap());
    let mut gateway = place.process(2).await;
    let address = gateway.listening(LISTENER).await;
    let (mut client_done, mut upstream_waits) = through(address, &pod).await;
    client_done.shutdown().await.unwrap();
    is_at_end(&mut upstream_waits).await;
    let (mut client_waits, mut upstream_done) = through(address, &pod).await;
    upstream_done.shutdown().await.unwrap();
    is_at_end(&mut client_waits).await;
    let mut many = Vec::new();
    for _ in 0..150 {
        many.push(through(address, &pod).await);
    }
    for _ in 0..3 {
        let next = place.process(2).await;
        next.listening(LISTENER).await;
        let (status, log) = gateway.exit().await;
        assert!(status.success() && log.contains("left finished=0 passed=152 closed_idle=0 cut=0"), "{log}");
        gateway = next;
        serves(&gateway, 152).await;
    }
    upstream_waits.write_all(b"answer").await.unwrap();
    assert_eq!(read_some(&mut client_done, 6).await, b"answer");
    drop(upstream_waits);
    is_at_end(&mut client_done).await;
    client_waits.write_all(b"question").await.unwrap();
    assert_eq!(read_some(&mut upstream_done, 8).await, b"question");
    for (client, upstream) in &mut many {
        client.write_all(b"ping").await.unwrap();
        assert_eq!(read_some(upstream, 4).await, b"ping");
    }
    // A reset is a reset, whoever relays.
    let (client, mut upstream) = many.pop().unwrap();
    socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    let error = upstream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Both senders meet full buffers all the time, so that each restart finds bytes between the sockets, in memory and in
/// pipes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_in_both_directions_arrives_as_it_was_sent_across_restarts() {
    const RESTARTS: usize = 5;
    const PIECE: usize = 1_000_007;
    // More than all buffers of the kernel on the way hold together, so that the tunnel is busy at each restart.
    const LENGTH: usize = PIECE * RESTARTS + 96_000_000;
    let pod = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place::with(pod.local_addr().unwrap());
    let mut gateway = place.process(1).await;
    let address = gateway.listening(LISTENER).await;
    let (client, upstream) = through(address, &pod).await;
    let ends = [client, upstream].map(TcpStream::into_split);
    let mut receiving = Vec::new();
    for (mut reading, mut writing) in ends {
        tokio::spawn(async move {
            writing.write_all(&content::bytes(LENGTH)).await.unwrap();
            writing.shutdown().await.unwrap();
        });
        // Reads a piece for each restart, and the rest.
        let (allow, mut allowed) = tokio::sync::mpsc::channel::<()>(RESTARTS);
        let reading = tokio::spawn(async move {
            let (mut digest, mut piece) = (content::Digest::default(), vec![0; PIECE]);
            for _ in 0..RESTARTS {
                reading.read_exact(&mut piece).await.unwrap();
                digest.add(&piece);
                allowed.recv().await.unwrap();
            }
            let mut rest = Vec::new();
            reading.read_to_end(&mut rest).await.unwrap();
            digest.add(&rest);
            digest.finish()
        });
        receiving.push((allow, reading));
    }
    for _ in 0..RESTARTS {
        let next = place.process(1).await;
        next.listening(LISTENER).await;
        let (status, log) = gateway.exit().await;
        assert!(status.success() && log.contains("passed=1 closed_idle=0 cut=0"), "{log}");
        gateway = next;
        serves(&gateway, 1).await;
        for (allow, _) in &receiving {
            allow.send(()).await.unwrap();
        }
    }
    let expected = (content::sha256(LENGTH as u64), LENGTH as u64);
    for (_allow, reading) in receiving {
        assert_eq!(reading.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_process_that_fails_or_is_killed_before_it_is_ready_leaves_the_old_one_serving() {
    let place = Place::new().await;
    let gateway = place.process(1).await;
    let address = gateway.listening(LISTENER).await;
    // Its control plane is not there, so that it never gets ready.
    let waiting = place.process_with(1, &["--xds", "http://127.0.0.1:1"]).await;
    gateway.logged("another process wants to take over").await;
    for _ in 0..50 {
        tunnel(address).await.unwrap();
    }
    waiting.signal("KILL");
    gateway.logged("this one goes on").await;
    drop(waiting);
    for _ in 0..50 {
        tunnel(address).await.unwrap();
    }
    let next = place.process(1).await;
    assert_eq!(next.listening(LISTENER).await, address);
    assert!(gateway.exit().await.0.success());
    tunnel(address).await.unwrap();
}

/// Ends the process of this number, which is no child of this one.
struct Stray(String);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "KILL", &self.0]).status();
    }
}

#[tokio::test]
async fn sigusr2_puts_a_new_process_in_the_place_of_the_old_one() {
    let place = Place::new().await;
    let gateway = place.process(1).await;
    let address = gateway.listening(LISTENER).await;
    gateway.signal("USR2");
    let line = gateway.logged("a new process starts, to take over").await;
    let pid = line.rsplit_once("pid=").unwrap().1.trim().to_owned();
    let _stray = Stray(pid);
    gateway.logged("another process has taken over").await;
    let mut stream = tunnel(address).await.unwrap();
    say(&mut stream).await.unwrap();
}
