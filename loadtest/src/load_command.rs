//! The commands that make load: `run`, `load-origin`, `mesh`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use eastgate_loadtest::ca::roots_from_file;
use eastgate_loadtest::client::{self, Client, Expect};
use eastgate_loadtest::load::{LoadOrigin, Target};
use eastgate_loadtest::mesh;
use eastgate_loadtest::process;
use eastgate_loadtest::scenario::{
    Amount, Churn, Direction, Options, bulk, churn, connect_rate, idle_soak, integrity, mixed,
    ping_among_idle, ping_pong, slow_clients, tls_connect_rate,
};
use eastgate_loadtest::stats::Outcome;
use tokio::{select, signal};

use crate::args::{LoadOriginArguments, MeshArguments, RunArguments, ScenarioArguments};
use crate::progress;

/// A day: whoever wants longer wants something else.
const LONGEST: f64 = 86_400.0;

pub(crate) fn length(seconds: f64) -> anyhow::Result<Duration> {
    ensure!(seconds > 0.0 && seconds <= LONGEST, "--seconds is a number above 0 and up to {LONGEST}");
    Ok(Duration::from_secs_f64(seconds))
}

pub(crate) async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    process::descriptor_limit();
    if let Some(core) = arguments.core {
        process::pin(core)?;
    }
    let origins = origins(&arguments).await?;
    let options = options(&arguments, !origins.is_empty())?;
    let shown = progress::show(&options.tally, options.length);
    let outcome = select! {
        outcome = scenario(&arguments, &options) => outcome,
        _ = signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    drop(shown);
    let outcome = outcome?;
    if arguments.json {
        writeln!(io::stdout(), "{:#}", outcome.json())?;
    } else {
        write!(io::stdout(), "{outcome}")?;
    }
    ensure!(outcome.counts.operations > 0, "nothing came through");
    ensure!(outcome.failed() == 0, "{} of {} failed", outcome.failed(), outcome.unit);
    Ok(())
}

/// The origins to run here; churn has a second endpoint, so that the gateway may choose it.
async fn origins(arguments: &RunArguments) -> anyhow::Result<Vec<LoadOrigin>> {
    let Some(address) = arguments.origin else { return Ok(Vec::new()) };
    let mut addresses = vec![address];
    if matches!(arguments.scenario, ScenarioArguments::Churn { .. }) {
        addresses.push(SocketAddr::new(mesh::SECOND_ADDRESS.into(), address.port()));
    }
    let mut origins = Vec::new();
    for address in addresses {
        let origin = LoadOrigin::start(address).await;
        origins.push(origin.with_context(|| format!("cannot listen on {address}: choose another --origin"))?);
    }
    Ok(origins)
}

fn options(arguments: &RunArguments, own_origin: bool) -> anyhow::Result<Options> {
    let target = match &arguments.scenario {
        ScenarioArguments::Mixed { names, .. } => {
            Target::new(arguments.connect, (0..*names).map(mesh::server_name))?
        }
        _ => Target::new(arguments.connect, [&arguments.sni])?,
    };
    let mut options = Options::new(target, length(arguments.seconds)?);
    (options.rate, options.proxy, options.own_origin) = (arguments.rate, arguments.proxy_pid, own_origin);
    Ok(options)
}

async fn scenario(arguments: &RunArguments, options: &Options) -> anyhow::Result<Outcome> {
    Ok(match &arguments.scenario {
        ScenarioArguments::ConnectRate { concurrency, tls: true, ca: Some(ca) } => {
            let expect = Expect::OneOf(vec!["spiffe://cluster.local/*".to_owned()]);
            let alpn = vec!["istio".to_owned()];
            let roots = roots_from_file(ca).context("cannot read --ca")?;
            let client = Client::new(client::Options { expect, alpn, ..client::Options::new(roots) })?;
            tls_connect_rate(options, *concurrency, &client, &arguments.sni).await?
        }
        ScenarioArguments::ConnectRate { concurrency, .. } => connect_rate(options, *concurrency).await?,
        ScenarioArguments::Bulk { tunnels, up, bytes } => {
            let direction = if *up { Direction::Up } else { Direction::Down };
            bulk(options, *tunnels, direction, bytes.map_or(Amount::Time, Amount::Bytes)).await?
        }
        ScenarioArguments::PingPong { tunnels, idle: 0 } => ping_pong(options, *tunnels).await?,
        ScenarioArguments::PingPong { tunnels, idle } => ping_among_idle(options, *tunnels, *idle).await?,
        ScenarioArguments::IdleSoak { tunnels } => idle_soak(options, *tunnels).await?,
        ScenarioArguments::Integrity { bytes, concurrency, first } => {
            integrity(options, *bytes, *concurrency, *first).await?
        }
        ScenarioArguments::Mixed { exponent, concurrency, .. } => {
            mixed(options, *concurrency, *exponent).await?
        }
        ScenarioArguments::SlowClients { slow, drip_milliseconds, concurrency } => {
            let drip = Duration::from_millis(*drip_milliseconds);
            slow_clients(options, *slow, drip, *concurrency).await?
        }
        ScenarioArguments::Churn { slice, command, milliseconds, concurrency } => {
            let how = match (slice, command, arguments.origin) {
                (_, Some(command), _) => Churn::Command(command.clone()),
                (Some(file), None, Some(origin)) => Churn::Slice { file: file.clone(), origin },
                _ => anyhow::bail!("churn wants --slice and --origin, or --command"),
            };
            churn(options, *concurrency, how, Duration::from_millis(*milliseconds)).await?
        }
    })
}

pub(crate) async fn load_origin(arguments: LoadOriginArguments) -> anyhow::Result<()> {
    process::descriptor_limit();
    let origin = LoadOrigin::start(arguments.listen).await;
    let origin = origin.with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let _ = writeln!(io::stdout(), "load-origin listens on {}", origin.address());
    signal::ctrl_c().await.context("cannot wait for ctrl-c")
}

pub(crate) fn write_mesh(arguments: &MeshArguments) -> anyhow::Result<()> {
    let (dir, services) = (&arguments.dir, arguments.services);
    mesh::write(dir, services, arguments.origin)
        .with_context(|| format!("cannot write {}", dir.display()))?;
    let last = mesh::server_name(services.saturating_sub(1));
    let _ = writeln!(io::stdout(), "{}: {} to {last}", dir.display(), mesh::server_name(0));
    Ok(())
}
