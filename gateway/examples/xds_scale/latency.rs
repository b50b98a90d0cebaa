//! What clients of a running gateway notice of endpoint updates: connections at a fixed rate, in turn while the
//! control plane is quiet and while it sends updates.
//!
//! The gateway, its control thread included, has one core to itself; the control plane, the load and the origin share
//! the other. So a table that takes long to publish is in the way of connections, and little else is.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::Context;
use eastgate_loadtest::load::{LoadOrigin, Target};
use eastgate_loadtest::peers::free_port;
use eastgate_loadtest::process;
use eastgate_loadtest::scenario::{Options, mixed};
use eastgate_loadtest::stats::{Latencies, latencies, micros};

use crate::mesh::{self, Mesh};
use crate::{RATE, mebibytes, memory, plane};

/// Connections a second: few enough that neither core is ever short of time.
const CONNECTIONS: f64 = 400.0;
/// How long each measurement takes.
const LENGTH: Duration = Duration::from_secs(4);
/// How long one takes that only says what the load's own part is.
const BARE: Duration = Duration::from_secs(2);
/// How long a change of the control plane's mind is given.
const SETTLE: Duration = Duration::from_millis(500);
/// How often each is made; short rounds, so that what else the machine does meets both sides.
const ROUNDS: usize = 6;
/// How many connections may wait for an answer at once.
const CONCURRENCY: usize = 64;
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
    let (_plane, mut tell, address) = control_plane(mesh)?;
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
    println!(
        "a gateway on one core is ready {:.1?} after its start, with {:.1} MiB at its peak",
        began.elapsed(),
        mebibytes(memory(&pid.to_string(), "VmHWM")?)
    );
    let load = |address, length| -> anyhow::Result<Options> {
        let target = Target::new(address, (0..mesh.clusters).map(mesh::name))?;
        Ok(Options { rate: Some(CONNECTIONS), ..Options::new(target, length) })
    };
    let through = Options { proxy: Some(pid), ..load(listen, LENGTH)? };
    let loads = Loads { through, bare: load(origin, BARE)? };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _origin = LoadOrigin::start(([0, 0, 0, 0], origin.port()).into()).await?;
        rounds(&loads, admin, &mut tell).await
    })
}

/// What was measured while the control plane did one thing.
struct Side {
    what: &'static str,
    through: Latencies,
    /// The same load straight at the origin: what load and control plane do to each other on their core.
    bare: Latencies,
    shares: Vec<f64>,
    p99s: Vec<f64>,
}

/// The load through the gateway, and past it.
struct Loads {
    through: Options,
    bare: Options,
}

async fn rounds(loads: &Loads, admin: SocketAddr, tell: &mut ChildStdin) -> anyhow::Result<()> {
    let side =
        |what| Side { what, through: latencies(), bare: latencies(), shares: Vec::new(), p99s: Vec::new() };
    let mut sides = [side(plane::QUIET), side(plane::UPDATES)];
    println!(
        "{CONNECTIONS} connections/s, {ROUNDS} rounds of {LENGTH:?}, in turn without and with {RATE} EDS updates/s"
    );
    for _ in 0..ROUNDS {
        for side in &mut sides {
            writeln!(tell, "{}", side.what)?;
            // What was under way is not what is asked about.
            mixed(&Options { length: SETTLE, ..loads.through.clone() }, CONCURRENCY, 1.0).await?;
            side.measure(loads, admin).await?;
        }
    }
    writeln!(tell, "{}", plane::QUIET)?;
    summary(&sides);
    Ok(())
}

impl Side {
    async fn measure(&mut self, loads: &Loads, admin: SocketAddr) -> anyhow::Result<()> {
        let before = pushes(admin)?;
        let outcome = mixed(&loads.through, CONCURRENCY, 1.0).await?;
        let seconds = outcome.cost.elapsed.as_secs_f64();
        let rate = (pushes(admin)? - before) / seconds;
        let share = outcome.cost.proxy_cpu.unwrap_or_default().as_secs_f64() / seconds * 100.0;
        let found = &outcome.counts.latencies;
        println!(
            "  {:<8} p50 {:>6.0} µs  p99 {:>6.0} µs, gateway {share:>4.1} % of a core, {rate:>4.0} updates/s",
            self.what,
            micros(found, 50.0),
            micros(found, 99.0),
        );
        for (reason, count) in &outcome.counts.failures {
            println!("           {count} failed: {reason}");
        }
        self.through.add(found)?;
        self.shares.push(share);
        self.p99s.push(micros(found, 99.0));
        self.bare.add(mixed(&loads.bare, CONCURRENCY, 1.0).await?.counts.latencies)?;
        Ok(())
    }
}

fn summary([quiet, updates]: &[Side; 2]) {
    for (what, quiet, updates) in
        [("connections", &quiet.through, &updates.through), ("without gateway", &quiet.bare, &updates.bare)]
    {
        let at = |percentile| {
            let (quiet, updates) = (micros(quiet, percentile), micros(updates, percentile));
            format!("p{percentile} {quiet:.0} -> {updates:.0} µs ({:+.1} %)", (updates / quiet - 1.0) * 100.0)
        };
        println!("{what:<15} {}, {}", at(50.0), at(99.0));
    }
    let mut ratios: Vec<f64> =
        updates.p99s.iter().zip(&quiet.p99s).map(|(with, without)| (with / without - 1.0) * 100.0).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
    let (least, most) =
        (ratios.first().copied().unwrap_or_default(), ratios.last().copied().unwrap_or_default());
    println!(
        "p99 by round    {median:+.1} % in the median, {least:+.1} to {most:+.1} % (target: under +10 %)"
    );
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len().max(1) as f64;
    println!(
        "updates cost    {:.1} % of a core in the running gateway (target: under 30 %)",
        mean(&updates.shares) - mean(&quiet.shares)
    );
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

/// How many responses of the control plane the gateway has taken.
fn pushes(admin: SocketAddr) -> anyhow::Result<f64> {
    let metrics = get(admin, "/stats/prometheus")?;
    let line = metrics.lines().find(|line| line.contains("xds_pushes_total{type=\"endpoints\"}"));
    let value = line.and_then(|line| line.rsplit(' ').next()).context("no count of pushes in the metrics")?;
    Ok(value.parse()?)
}

fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
