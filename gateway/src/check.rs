//! `eastgate check`, `audit`, `dns` and `hello`: what the gateway would make of files, without running it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use eastgate_config::bootstrap::Settings;
use eastgate_config::istio::{Index, Options};
use eastgate_config::listener::Ends;
use eastgate_config::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::client_hello::ClientHello;
use crate::connection;
use crate::dns;
use crate::hello_command::{self, HelloArgs};
use crate::source::files;
use crate::table::{Asked, Table};

/// Prints what is refused in the directory, and what may surprise; exit 1 when anything is refused.
///
/// # Errors
/// The directory cannot be read, or has no resource in it.
pub fn run(dir: &Path, options: &Options, as_json: bool) -> anyhow::Result<ExitCode> {
    let (files, snapshot) = snapshot(dir, options)?;
    let Snapshot { listeners, clusters, names, rejections, notices } = &snapshot;
    let names = names.as_deref();
    if as_json {
        let report = json!({
            "files": files,
            "listeners": listeners.len(),
            "clusters": clusters.len(),
            "names": names,
            "rejections": rejections,
            "notices": notices,
        });
        println!("{report:#}");
    } else {
        for rejection in rejections {
            println!("refused: {rejection}");
        }
        for notice in notices {
            println!("note: {notice}");
        }
        let chains: usize = listeners.values().map(|listener| listener.filter_chains.len()).sum();
        println!(
            "{files} files: {} listeners with {chains} filter chains, {} clusters, {} names; {} refused, {} notes",
            listeners.len(),
            clusters.len(),
            names.map_or(0, |names| names.len()),
            rejections.len(),
            notices.len(),
        );
    }
    Ok(if rejections.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints every name that would be reachable from outside with this mesh directory.
///
/// # Errors
/// It cannot be read.
pub fn audit(dir: &Path, options: &Options, as_json: bool) -> anyhow::Result<ExitCode> {
    let found = eastgate_config::audit::audit(&snapshot(dir, options)?.1);
    if as_json {
        println!("{:#}", json!(found));
    } else {
        found.iter().for_each(|exposure| println!("{exposure}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn snapshot(dir: &Path, options: &Options) -> anyhow::Result<(usize, Snapshot)> {
    let found = files::read(dir)?;
    anyhow::ensure!(!found.is_empty(), files::Error::Empty(dir.to_owned()));
    let mut index = Index::default();
    files::load(&mut index, &found);
    Ok((found.len(), index.snapshot(options)))
}

/// Prints what DNS answers to a question, with the mesh directory of the settings, or every name there is.
///
/// # Errors
/// There is no mesh directory, it cannot be read, or the question is none.
pub fn dns(
    name: Option<&str>,
    kind: &str,
    settings: &Settings,
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let dir = settings.source.mesh_dir.as_deref();
    let dir = dir.context("give --mesh-dir DIR with the resources that say the names")?;
    let names = snapshot(dir, options)?.1.names.unwrap_or_default();
    let Some(name) = name else {
        for (host, name) in names.iter() {
            let addresses: Vec<_> = name.addresses.iter().map(ToString::to_string).collect();
            println!("{host} {}{}", addresses.join(" "), if name.automatic { " (automatic)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    };
    let text = dns::look_up(name, kind, &names, &settings.dns)?;
    print!("{text}");
    Ok(if text.contains("NOERROR") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Decodes ClientHellos; with `--mesh-dir`, says where each would go.
///
/// # Errors
/// The mesh directory cannot be read, or standard output not be written.
pub fn hello(args: &HelloArgs, options: &Options) -> anyhow::Result<ExitCode> {
    let Some(dir) = &args.mesh_dir else { return hello_command::run(args, |_| None) };
    let (_, snapshot) = snapshot(dir, options)?;
    let table = Table::build(Arc::new(snapshot), &Default::default(), &Table::default());
    hello_command::run(args, |hello| Some(where_to(&table, hello)))
}

/// Where a hello goes on each listener of the table.
fn where_to(table: &Table, hello: &ClientHello) -> Value {
    let mut listeners: Vec<_> = table.listeners().map(|listener| &listener.config.name).collect();
    listeners.sort();
    // From anywhere, to anywhere: rules about addresses are not simulated here.
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let ends = Ends { destination: anywhere, direct_remote: anywhere, remote: anywhere };
    let asked = Asked { server_name: Some(hello.server_name()), ends };
    let on_listener = |name: &String| match table.route(name, &asked, hello.alpn(), |_| 0) {
        Ok(routed) => {
            let endpoints: Vec<_> =
                routed.cluster.config.endpoints().map(|endpoint| &endpoint.address).collect();
            json!({
                "listener": name,
                "chain": routed.chain,
                "rewritten": routed.rewritten,
                "cluster": routed.cluster.config.name,
                "endpoints": endpoints,
            })
        }
        Err(error) => {
            let error = connection::Error::from(error);
            let alert = error.alert();
            json!({
                "listener": name,
                "flag": error.flag(),
                "error": error.to_string(),
                "alert": alert.map(|alert| alert.code()),
                "alert_name": alert.map(|alert| alert.name()),
            })
        }
    };
    listeners.into_iter().map(on_listener).collect()
}
