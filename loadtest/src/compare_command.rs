//! The command `compare`, and `exec`, by which it starts its peers.

use std::fs;
use std::io::{self, Write};

use anyhow::{Context, ensure};
use eastgate_loadtest::compare::{Options, compare as measure, steps};
use eastgate_loadtest::peers::{Kind, Peer, become_program};
use eastgate_loadtest::process;
use eastgate_loadtest::report::{Provenance, Report};
use tokio::{select, signal};

use crate::args::{CompareArguments, ExecArguments};
use crate::load_command::length;
use crate::progress;

pub(crate) async fn compare(arguments: CompareArguments) -> anyhow::Result<()> {
    let machine = process::machine();
    let (peers, skipped) = find(&arguments);
    for skipped in &skipped {
        let _ = writeln!(io::stderr(), "not measured: {skipped}");
    }
    ensure!(!peers.is_empty(), "there is nothing to measure");
    let options = Options {
        peers,
        rounds: arguments.rounds,
        length: length(arguments.seconds)?,
        tunnels: arguments.tunnels,
        launcher: std::env::current_exe().context("cannot find this program")?,
    };
    let provenance = Provenance {
        command: std::env::args().collect::<Vec<_>>().join(" "),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        machine,
        rounds: options.rounds,
        seconds: arguments.seconds,
        skipped,
    };
    let bar = progress::steps(steps(&options));
    let step = |what: String| {
        bar.set_message(what);
        bar.inc(1);
    };
    // Interrupted or not, the peers die with the future that holds them.
    let comparison = select! {
        comparison = measure(&options, step) => comparison?,
        _ = signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    bar.finish_and_clear();
    let report = Report { comparison, provenance };
    let out = &arguments.out;
    let written = fs::create_dir_all(out)
        .and_then(|()| fs::write(out.join("report.md"), report.markdown()))
        .and_then(|()| fs::write(out.join("report.html"), report.html()))
        .and_then(|()| fs::write(out.join("report.json"), format!("{:#}\n", report.json())));
    write!(io::stdout(), "{}", report.markdown())?;
    written.with_context(|| format!("cannot write the report to {}", out.display()))?;
    writeln!(io::stderr(), "{}", out.join("report.html").display())?;
    let measured = report.comparison.peers.iter().any(|peer| !peer.samples.is_empty());
    ensure!(measured, "no peer could be measured");
    Ok(())
}

/// The peers that are asked for and installed, and what to say of the others.
fn find(arguments: &CompareArguments) -> (Vec<Peer>, Vec<String>) {
    let (mut peers, mut skipped) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        if !arguments.only.is_empty() && !arguments.only.contains(&kind) {
            continue;
        }
        let program = match kind {
            Kind::Envoy => &arguments.envoy,
            Kind::Haproxy | Kind::HaproxySplice => &arguments.haproxy,
            Kind::Nginx => &arguments.nginx,
            _ => &arguments.eastgate,
        };
        match Peer::find(kind, program) {
            Some(peer) => peers.push(peer),
            None => skipped.push(format!("{kind}: `{program}` is not there ({})", kind.remedy())),
        }
    }
    (peers, skipped)
}

/// Becomes the command; returns only if that fails.
pub(crate) fn exec(arguments: ExecArguments) -> anyhow::Error {
    let program = arguments.command.first().map(|program| program.display().to_string()).unwrap_or_default();
    let error = become_program(arguments.core, arguments.parent, &arguments.command);
    anyhow::Error::new(error).context(format!("cannot become {program}"))
}
