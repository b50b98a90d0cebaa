//! What a large mesh costs, from the bytes that a control plane sends to the table that connections are routed by:
//! seconds, memory, the share of a core that a stream of endpoint updates takes, and what connections through a running
//! gateway notice of it. `just scale`
//!
//! The mesh is made by one process and read by another, so that the peak of its memory is that of the reading alone.

mod latency;
#[path = "../../benches/xds_scale/mesh.rs"]
mod mesh;
mod plane;
mod sink;

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use anyhow::Context;
use arc_swap::ArcSwap;
use eastgate::table::{Asked, Table};
use eastgate_config::listener::Ends;
use eastgate_config::server_name::ServerName;
use eastgate_config::xds::Client;
use mesh::Mesh;

const MESH: Mesh = Mesh { clusters: 10_000, endpoints: 20, listen: 15443, pods: 8000 };
/// Updates a second ...
const RATE: u32 = 1_000;
/// ... for so long.
const LAST: Duration = Duration::from_secs(10);
/// Changes that come within this time are published together.
const COALESCE: Duration = Duration::from_millis(100);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    match arguments.get(1).map(String::as_str) {
        None => {
            let directory = tempfile::tempdir()?;
            for step in ["make", "measure", "latency"] {
                let done =
                    process::Command::new(env::current_exe()?).arg(step).arg(directory.path()).status()?;
                anyhow::ensure!(done.success(), "{step}: {done}");
            }
            Ok(())
        }
        Some("make") => make(Path::new(arguments.get(2).context("make DIR")?)),
        Some("measure") => measure(Path::new(arguments.get(2).context("measure DIR")?)),
        Some("latency") => latency::run(Path::new(arguments.get(2).context("latency DIR")?), MESH),
        Some("plane") => {
            let port = |at: usize| anyhow::Ok(arguments.get(at).context("plane LISTEN PODS")?.parse()?);
            plane::run(Mesh { listen: port(2)?, pods: port(3)?, ..MESH })
        }
        Some(other) => anyhow::bail!("{other}: give no argument"),
    }
}

const FILES: [&str; 3] = ["clusters", "endpoints", "listener"];

fn make(directory: &Path) -> anyhow::Result<()> {
    for (name, bytes) in FILES.iter().zip(MESH.pushes()) {
        fs::write(directory.join(name), bytes)?;
    }
    Ok(())
}

fn measure(directory: &Path) -> anyhow::Result<()> {
    println!(
        "{} clusters of {} endpoints, a filter chain each, as three delta responses",
        MESH.clusters, MESH.endpoints
    );
    let before = memory("self", "VmRSS")?;
    let mut client = mesh::connected();
    let table = ArcSwap::from_pointee(Table::default());
    let mut size = 0;
    let mut total = Duration::ZERO;
    for file in FILES {
        let bytes = fs::read(directory.join(file))?;
        size += bytes.len();
        let began = Instant::now();
        mesh::receive(&mut client, bytes, Duration::ZERO);
        total += step(file, began);
    }
    let began = Instant::now();
    publish(&client, &table);
    total += step("table", began);
    let began = Instant::now();
    route_all(&table.load())?;
    total += step("route each", began);
    println!("in all          {total:>10.1?}   (target: under 2 s) of {:.1} MiB", mebibytes(size as u64));
    let peak = memory("self", "VmHWM")?;
    println!(
        "peak memory     {:>6.1} MiB   (target: under 200 MiB), {:.1} MiB before, {:.1} MiB after",
        mebibytes(peak),
        mebibytes(before),
        mebibytes(memory("self", "VmRSS")?)
    );
    one_update(&mut client, &table);
    stream(&mut client, &table)
}

fn step(what: &str, began: Instant) -> Duration {
    let took = began.elapsed();
    println!("{what:<15} {took:>10.1?}");
    took
}

fn publish(client: &Client, table: &ArcSwap<Table>) {
    let next = mesh::publish(client, &table.load());
    table.store(next.into());
}

fn route_all(table: &Table) -> anyhow::Result<()> {
    let remote = ([192, 0, 2, 1], 1).into();
    let ends = Ends { destination: ([127, 0, 0, 1], 15443).into(), direct_remote: remote, remote };
    for index in 0..MESH.clusters {
        let name = ServerName::from_sni(mesh::name(index).as_bytes())?;
        let asked = Asked { server_name: Some(&name), ends };
        let routed = table.route(mesh::NAME, &asked, [&b"istio"[..]].into_iter(), |_| 0)?;
        anyhow::ensure!(routed.cluster.endpoints.len() == MESH.endpoints, "{name} has not its endpoints");
    }
    Ok(())
}

/// An update alone, and with a table of its own.
fn one_update(client: &mut Client, table: &ArcSwap<Table>) {
    const TIMES: u32 = 1_000;
    let updates: Vec<_> = (0..TIMES as usize).map(|index| MESH.update(index, 1)).collect();
    let began = Instant::now();
    for update in updates {
        mesh::receive(client, update, Duration::ZERO);
    }
    println!("one EDS update  {:>10.1?}   until it is in the snapshot", began.elapsed() / TIMES);
    publish(client, table);
    let updates: Vec<_> = (0..50).map(|index| MESH.update(index, 2)).collect();
    let (began, count) = (Instant::now(), updates.len() as u32);
    for update in updates {
        mesh::receive(client, update, Duration::ZERO);
        publish(client, table);
    }
    println!("one EDS update  {:>10.1?}   until it is in a table of its own", began.elapsed() / count);
}

/// Updates at a steady rate, published together.
fn stream(client: &mut Client, table: &ArcSwap<Table>) -> anyhow::Result<()> {
    let count = RATE * LAST.as_secs() as u32;
    // Made beforehand: their making is not the gateway's work.
    let updates: Vec<_> =
        (0..count as usize).map(|turn| MESH.update(turn * 7 % MESH.clusters, 3 + turn)).collect();
    let (cpu, began) = (cpu_time()?, Instant::now());
    let (mut published, mut publish_at, mut longest) = (0, None, Duration::ZERO);
    for (turn, update) in updates.into_iter().enumerate() {
        thread::sleep((LAST * turn as u32 / count).saturating_sub(began.elapsed()));
        mesh::receive(client, update, began.elapsed());
        let now = began.elapsed();
        if *publish_at.get_or_insert(now + COALESCE) <= now {
            publish(client, table);
            (published, publish_at, longest) = (published + 1, None, longest.max(began.elapsed() - now));
        }
    }
    let share = (cpu_time()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    println!(
        "{RATE} EDS updates/s {share:>5.1} %       of one core for {:.1?} (target: under 30 %), {published} tables, the \
         longest took {longest:.1?}",
        began.elapsed()
    );
    Ok(())
}

/// The time that this process's threads have run.
fn cpu_time() -> anyhow::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

/// A line of a process's status, in bytes.
fn memory(process: &str, key: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).context("no such line in status")?;
    let kibibytes = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB");
    Ok(kibibytes.trim().parse::<u64>()? * 1024)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
