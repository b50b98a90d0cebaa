//! What systemd and the gateway say to each other: sockets that are there before the process (`sd_listen_fds(3)`), and what
//! it tells of itself (`sd_notify(3)`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use eastgate_loadtest::origin::{Origin, RawOrigin};
use program::Eastgate;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixDatagram};

const PROGRAM: &str = env!("CARGO_BIN_EXE_eastgate");

/// A mesh of one pod that echoes.
struct Place {
    directory: tempfile::TempDir,
    _pod: Origin,
}

impl Place {
    async fn new() -> Self {
        let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("mesh")).unwrap();
        for (name, document) in mesh(&[pod.address()]) {
            std::fs::write(directory.path().join("mesh").join(name), document.to_string()).unwrap();
        }
        Self { directory, _pod: pod }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The process that this command becomes, with its listener at this address.
    async fn started(&self, by: Command, address: SocketAddr, settings: &[(&str, String)]) -> Eastgate {
        let (mesh, listen) = (self.path("mesh").display().to_string(), format!("15443={address}"));
        let restart = self.path("restart").display().to_string();
        let arguments = ["--mesh-dir", &mesh, "--listen", &listen, "--restart-socket", &restart];
        Eastgate::start_by(by, &arguments, settings).await
    }
}

/// Goes on with a connection that has only been made: says hello, and has it echoed.
async fn served(stream: &mut TcpStream) {
    let hello = client_hello(GLOBAL, &["istio"]);
    stream.write_all(&hello).await.unwrap();
    let mut echoed = vec![0; hello.len()];
    let answer = tokio::time::timeout(PATIENCE, stream.read_exact(&mut echoed)).await;
    answer.expect("an answer in time").unwrap();
    assert_eq!(echoed, hello);
}

#[tokio::test]
async fn the_client_whose_connection_starts_the_gateway_is_served_on_the_socket_that_was_there() {
    if let Err(error) = Command::new("systemd-socket-activate").arg("--version").output() {
        assert!(std::env::var("E2E").as_deref() != Ok("required"), "systemd-socket-activate: {error}");
        eprintln!("not run: systemd-socket-activate (Debian's systemd): {error}");
        return;
    }
    let place = Place::new().await;
    let address = nobody();
    let mut activate = Command::new("systemd-socket-activate");
    activate.args(["--setenv", "NO_COLOR=1", "--listen", &address.to_string(), PROGRAM]);
    let first = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let (gateway, mut first) = tokio::join!(place.started(activate, address, &[]), first);
    served(&mut first).await;
    served(&mut TcpStream::connect(address).await.unwrap()).await;
    gateway.signal("TERM");
    drop(first);
    assert!(gateway.exit().await.0.success());
}

/// A command that becomes the gateway, with this socket as systemd passes one.
fn with_socket(socket: &TcpListener) -> Command {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
    let mut command = Command::new("bash");
    let pass = format!("exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec {PROGRAM} \"$@\"", socket.as_raw_fd());
    command.args(["-c", &pass, "eastgate"]);
    command
}

#[tokio::test]
async fn while_systemd_holds_the_socket_not_even_a_crash_refuses_a_client() {
    let place = Place::new().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let gateway = place.started(with_socket(&socket), address, &[]).await;
    served(&mut TcpStream::connect(address).await.unwrap()).await;
    gateway.signal("KILL");
    gateway.exit().await;
    let mut waiting = TcpStream::connect(address).await.expect("it waits in the socket");
    let next = place.started(with_socket(&socket), address, &[]).await;
    served(&mut waiting).await;
    assert!(!next.log().contains("nothing listens there any more"), "{}", next.log());
}

#[tokio::test]
async fn a_socket_that_no_listener_wants_is_told_of_and_closed() {
    let place = Place::new().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = place.started(with_socket(&socket), elsewhere, &[]).await;
    let line = gateway.logged("nothing listens there any more").await;
    assert!(line.contains(&socket.local_addr().unwrap().to_string()), "{line}");
}

/// Where systemd listens to what its services say.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn new(place: &Place) -> Self {
        let path = place.path("notify");
        Self { socket: UnixDatagram::bind(&path).unwrap(), path }
    }

    fn setting(&self) -> [(&'static str, String); 1] {
        [("NOTIFY_SOCKET", self.path.display().to_string())]
    }

    /// The next message, as lines.
    async fn told(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let receiving = tokio::time::timeout(PATIENCE, self.socket.recv(&mut message));
        let length = receiving.await.expect("systemd is told in time").unwrap();
        String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned).collect()
    }
}

/// Ends the process of this number, which is no child of this one.
struct Stray(String);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "KILL", &self.0]).status();
    }
}

#[tokio::test]
async fn systemd_is_told_when_it_is_ready_who_takes_over_and_when_it_leaves() {
    let place = Place::new().await;
    let systemd = Systemd::new(&place);
    let address = nobody();
    let gateway = place.started(Command::new(PROGRAM), address, &systemd.setting()).await;
    assert_eq!(systemd.told().await, [format!("MAINPID={}", gateway.pid()), "READY=1".to_owned()]);
    served(&mut TcpStream::connect(address).await.unwrap()).await;

    // `systemctl reload`: the process that takes over is the main one from then on.
    gateway.signal("USR2");
    let reloading = systemd.told().await;
    assert!(reloading[0] == "RELOADING=1" && reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
    let ready = systemd.told().await;
    let next = ready[0].strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{ready:?}")).to_owned();
    let _stray = Stray(next.clone());
    assert!(next != gateway.pid() && ready[1] == "READY=1", "{ready:?}");
    gateway.logged("another process has taken over").await;
    served(&mut TcpStream::connect(address).await.unwrap()).await;
    assert!(Command::new("kill").args(["-s", "TERM", &next]).status().unwrap().success());
    assert_eq!(systemd.told().await, ["STOPPING=1"]);
}

#[tokio::test]
async fn who_never_got_ready_never_says_so() {
    let place = Place::new().await;
    let systemd = Systemd::new(&place);
    let nobody = ["--xds", "http://127.0.0.1:1"];
    let gateway = Eastgate::start(&nobody, &systemd.setting()).await;
    gateway.signal("TERM");
    assert_eq!(systemd.told().await, ["STOPPING=1"], "and nothing before it");
    assert!(gateway.exit().await.0.success());
}
