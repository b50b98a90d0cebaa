//! Memory and file descriptors run short: the new is shed, the old goes on, and all is well again by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use eastgate_loadtest::origin::{Origin, RawOrigin};
use program::Eastgate;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "support/program.rs"]
mod program;

struct Running {
    gateway: Eastgate,
    address: SocketAddr,
    _directory: tempfile::TempDir,
    _pod: Origin,
}

async fn running(settings: &[(&str, String)]) -> Running {
    running_by(Command::new(env!("CARGO_BIN_EXE_eastgate")), settings).await
}

/// Started by a command that becomes the program.
async fn running_by(command: Command, settings: &[(&str, String)]) -> Running {
    let pod = RawOrigin::Echo.start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (name, document) in mesh(&[pod.address()]) {
        std::fs::write(directory.path().join(name), document.to_string()).unwrap();
    }
    let arguments = ["--mesh-dir", directory.path().to_str().unwrap(), "--listen", "15443=127.0.0.1:0"];
    let gateway = Eastgate::start_by(command, &arguments, settings).await;
    let address = gateway.listening("0.0.0.0_15443").await;
    Running { gateway, address, _directory: directory, _pod: pod }
}

#[tokio::test]
async fn with_few_descriptors_new_connections_are_refused_while_old_ones_and_the_admin_port_go_on() {
    let running = running(&[("EASTGATE_LIMITS_RESERVED_FILES", "60".into())]).await;
    let Running { gateway, address, .. } = &running;
    let status = Command::new("prlimit").args(["--pid", &gateway.pid(), "--nofile=200"]).status().unwrap();
    assert!(status.success());
    gateway.metric_until("open_files_limit", |limit| limit == 200.0).await;
    let mut tunnels = Vec::new();
    while let Ok(stream) = tunnel(*address).await {
        tunnels.push(stream);
    }
    // Each has two descriptors; a reserve is left for whatever else there is.
    assert!((20..70).contains(&tunnels.len()), "{}", tunnels.len());
    for _ in 0..50 {
        assert!(tunnel(*address).await.is_err());
        assert!(gateway.admin("/ready").await.starts_with("LIVE"));
    }
    assert!(gateway.metric("downstream_overflow_total{limit=\"connections\"}").await >= 50.0);
    assert_eq!(gateway.metric("accept_errors_total{error=\"too_many_files\"}").await, 0.0);
    for stream in &mut tunnels {
        say(stream).await;
    }
    drop(tunnels);
    let again = async { while tunnel(*address).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("it recovers");
}

/// A cgroup for memory, of either version; gone with this.
struct Cgroup {
    directory: PathBuf,
    limit: &'static str,
}

impl Cgroup {
    fn new() -> Option<Self> {
        let versions = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        versions.into_iter().find_map(|(root, limit)| {
            let directory = PathBuf::from(root).join(format!("eastgate-test-{}", fastrand::u64(..)));
            std::fs::create_dir(&directory).ok()?;
            let group = Self { directory, limit };
            group.directory.join(limit).exists().then_some(group)
        })
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn limit_to(&self, bytes: f64) {
        std::fs::write(self.path(self.limit), (bytes as u64).to_string()).unwrap();
    }

    /// How many of its processes the kernel has killed for want of memory.
    fn killed(&self) -> usize {
        let texts =
            ["memory.events", "memory.oom_control"].map(|name| std::fs::read_to_string(self.path(name)));
        let text: String = texts.into_iter().flatten().collect();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    }

    /// A command that becomes the gateway in it.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0\" && exec \"$@\"", &self.path("cgroup.procs")]);
        command.arg(env!("CARGO_BIN_EXE_eastgate"));
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.directory);
    }
}

#[tokio::test]
async fn when_memory_is_short_nobody_is_accepted_and_when_it_is_very_short_idle_connections_go() {
    // Dropped last, when the process in it is gone.
    let Some(group) = Cgroup::new() else {
        return eprintln!("not run: a cgroup for memory cannot be made here");
    };
    // Far below the limit, so that nothing comes near to being killed.
    let settings = [
        ("EASTGATE_LIMITS_MEMORY_PAUSE_PERCENT", "10".to_owned()),
        ("EASTGATE_LIMITS_MEMORY_SHED_PERCENT", "20".to_owned()),
    ];
    let running = running_by(group.command(), &settings).await;
    let Running { gateway, address, .. } = &running;
    let mut tunnels = Vec::new();
    for _ in 0..40 {
        tunnels.push(tunnel(*address).await.unwrap());
    }
    let used = used(gateway, &group).await;
    let limit = |percent_used: f64| group.limit_to(used * 100.0 / percent_used);
    limit(15.0);
    gateway.metric_until("overload_paused", |paused| paused == 1.0).await;
    let mut waiting = tokio::spawn(tunnel(*address));
    assert!(gateway.admin("/ready?verbose").await.contains("memory is short"));
    say(&mut tunnels[0]).await;
    assert!(!waiting.is_finished(), "it was accepted all the same");

    limit(25.0);
    gateway.metric_until("overload_shed_total", |shed| shed >= 2.0).await;
    limit(2.0);
    gateway.metric_until("overload_paused", |paused| paused == 0.0).await;
    let waited = tokio::time::timeout(PATIENCE, &mut waiting).await.expect("it is served at last");
    say(&mut waited.unwrap().unwrap()).await;
    let shed = gateway.metric("overload_shed_total").await as usize;
    let mut alive = 0;
    for stream in &mut tunnels {
        match tokio::time::timeout(Duration::from_millis(50), stream.read(&mut [0; 1])).await {
            Ok(read) => assert_eq!(read.unwrap(), 0, "a FIN, and no reset"),
            Err(_) => alive += 1,
        }
    }
    assert_eq!(alive, 40 - shed);
    assert!(alive > 0, "a few go at a time");
}

/// What the gateway uses of the group's memory, under a limit that is far away.
async fn used(gateway: &Eastgate, group: &Cgroup) -> f64 {
    let far = f64::from(1 << 30);
    group.limit_to(far);
    gateway.metric_until("memory_limit_bytes", |limit| limit == far).await;
    let used = gateway.metric("memory_bytes").await;
    assert!(used > f64::from(1 << 20), "{used} bytes");
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_held_off_before_the_kernel_would_kill_the_gateway() {
    let Some(group) = Cgroup::new() else {
        return eprintln!("not run: a cgroup for memory cannot be made here");
    };
    // The shares of memory are the usual ones. So many a second are less than what is left above them.
    let running = running_by(group.command(), &[("EASTGATE_LIMITS_ACCEPT_RATE", "100".into())]).await;
    let Running { gateway, address, .. } = &running;
    let mut tunnels = vec![tunnel(*address).await.unwrap()];
    group.limit_to(used(gateway, &group).await * 1.6);
    let coming = async {
        loop {
            tunnels.push(tunnel(*address).await.unwrap());
        }
    };
    tokio::select! {
        () = coming => {}
        () = gateway.metric_until("overload_paused", |paused| paused == 1.0) => {}
    }
    let crowd = tunnels.len();
    assert!(crowd > 50, "{crowd} were enough");
    // It is idle connections that go when it is nearer still.
    let used = gateway.metric("memory_bytes").await;
    group.limit_to(used / 0.97);
    gateway.metric_until("overload_shed_total", |shed| shed >= 1.0).await;
    assert!(gateway.admin("/ready").await.starts_with("LIVE"));
    group.limit_to(used * 10.0);
    gateway.metric_until("overload_paused", |paused| paused == 0.0).await;
    say(&mut tunnel(*address).await.unwrap()).await;
    println!(
        "{crowd} came before they were held off; {} were shed",
        gateway.metric("overload_shed_total").await
    );
    assert_eq!(group.killed(), 0);
}

#[tokio::test]
async fn who_comes_faster_than_the_rate_waits_and_is_served() {
    let running = running(&[("EASTGATE_LIMITS_ACCEPT_RATE", "20".into())]).await;
    let began = std::time::Instant::now();
    for _ in 0..60 {
        tunnel(running.address).await.unwrap();
    }
    // The first 20 are the bucket's own.
    assert!(began.elapsed() > Duration::from_millis(1_500), "{:?}", began.elapsed());
    assert!(running.gateway.metric("downstream_overflow_total{limit=\"accept_rate\"}").await > 0.0);
}

/// Many clients that drip bytes of their ClientHello do not delay an honest one: compared with the same gateway without
/// them, because no absolute time means anything on a busy machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_dripping_clients_do_not_delay_an_honest_one() {
    let running = running(&[("EASTGATE_INSPECT_TIMEOUT", "60s".into())]).await;
    let address = running.address;
    let measure = async || {
        let mut times = Vec::new();
        for _ in 0..200 {
            let began = std::time::Instant::now();
            tunnel(address).await.unwrap();
            times.push(began.elapsed());
        }
        times.sort();
        times[150]
    };
    let alone = measure().await;
    let hello = client_hello(GLOBAL, &["istio"]);
    let drip = |mut stream: TcpStream, hello: Vec<u8>| async move {
        for byte in &hello[..hello.len() - 1] {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let mut dripping = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        dripping.spawn(drip(TcpStream::connect(address).await.unwrap(), hello.clone()));
    }
    let beside = measure().await;
    eprintln!("an honest client: {alone:?} alone, {beside:?} beside 1,000 dripping ones (third quartiles)");
    assert!(beside < alone * 5 + Duration::from_millis(20), "{alone:?} alone, {beside:?} beside them");
    dripping.shutdown().await;
}
