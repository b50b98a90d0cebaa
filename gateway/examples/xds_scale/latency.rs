//! What clients of a running gateway notice of endpoint updates: connections at a fixed rate, in turn while the
//! control plane sends its updates to the gateway and while it sends them to somebody else.
//!
//! The gateway, its control thread included, has one core to itself. Load, origin, control plane and that somebody share
//! the other, where therefore the same is done all the time. So what differs between the two is the gateway's own: a
//! table that takes long to publish is in the way of connections. With more cores than one it would be less in the way.

mod rounds;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::Context;
use eastgate_loadtest::load::{LoadOrigin, Target, Wait};
use eastgate_loadtest::peers::free_port;
use eastgate_loadtest::process;
use eastgate_loadtest::scenario::Options;

use crate::mesh::{self, Mesh};
use crate::{mebibytes, memory, sink};
use rounds::Rounds;

/// Connections a second: few enough that neither core is ever short of time.
const CONNECTIONS: f64 = 400.0;
/// How long the gateway may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(directory: &Path, mesh: Mesh) -> anyhow::Result<()> {
    process::descriptor_limit();
    let [gateway_core, load_core, ..] = process::cores()[..] else {
        println!("connections during updates were not measured: that takes two cores");
        return Ok(());
    };
    let (listen, origin) = (free_port()?, free_port()?);
    let mesh = Mesh { listen: listen.port(), pods: origin.port(), ..mesh };
    process::pin(load_core)?;
    let (_plane, tell, address) = control_plane(mesh)?;
    process::pin(gateway_core)?;
    let began = Instant::now();
    let (gateway, admin) = gateway(directory, &address)?;
    process::pin(load_core)?;
    while !get(admin, "/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
        let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
        anyhow::ensure!(began.elapsed() < PATIENCE, "the gateway is not ready; it says: {}", log());
        thread::sleep(Duration::from_millis(5));
    }
    let pid = gateway.0.id();
    println!("a gateway on one core is ready {:.1?} after its start", began.elapsed());
    report_memory(pid)?;
    // The load's sleeps are to end when they should.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let target = |address| Target::new(address, (0..mesh.clusters).map(mesh::name));
    let load = |target, length| Options {
        rate: Some(CONNECTIONS),
        wait: Wait::Asleep,
        ..Options::new(target, length)
    };
    let rounds = Rounds {
        through: Options { proxy: Some(pid), ..load(target(listen)?, rounds::LENGTH) },
        bare: load(target(origin)?, rounds::BARE),
        admin,
        thrown_away: sink::start(&address)?,
        tell,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _origin = LoadOrigin::start(([0, 0, 0, 0], origin.port()).into()).await?;
        rounds.run().await
    })?;
    report_memory(pid)
}

fn report_memory(pid: u32) -> anyhow::Result<()> {
    let of = |key| anyhow::Ok(mebibytes(memory(&pid.to_string(), key)?));
    println!(
        "its memory      {:>6.1} MiB at its peak (target: under 200 MiB), {:.1} MiB now",
        of("VmHWM")?,
        of("VmRSS")?
    );
    Ok(())
}

fn control_plane(mesh: Mesh) -> anyhow::Result<(Running, ChildStdin, String)> {
    let mut child = Command::new(env::current_exe()?)
        .args(["plane", &mesh.listen.to_string(), &mesh.pods.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let tell = child.stdin.take().context("the control plane has no input")?;
    let said = child.stdout.take().context("the control plane has no output")?;
    let running = Running(child);
    let mut address = String::new();
    BufReader::new(said).read_line(&mut address)?;
    Ok((running, tell, address.trim().to_owned()))
}

/// The program beside this one, or the one that `EASTGATE` names.
fn gateway(directory: &Path, control_plane: &str) -> anyhow::Result<(Running, SocketAddr)> {
    let beside = || Some(env::current_exe().ok()?.parent()?.parent()?.join("eastgate"));
    let program = env::var_os("EASTGATE").map(PathBuf::from).or_else(beside).context("where is eastgate?")?;
    let admin = free_port()?;
    let log = File::create(directory.join("log"))?;
    let child = Command::new(&program)
        .args(["run", "--access-log", "", "--readiness", "", "--admin", &admin.to_string()])
        .args(["--xds", &format!("http://{control_plane}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}; build it, or set EASTGATE", program.display()))?;
    Ok((Running(child), admin))
}

fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
