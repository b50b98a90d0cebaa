//! `eastgate check`, `audit`, `dns`, `hello` and `explain`: what the gateway would make of files, without running it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use eastgate_config::bootstrap::Settings;
use eastgate_config::istio::{Index, Options};
use eastgate_config::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::client_hello::ClientHello;
use crate::connection::explain::{self, OnListener, Question};
use crate::dns;
use crate::explain_command::{self, ExplainArgs};
use crate::hello_command::{self, HelloArgs};
use crate::source::files;
use crate::table::Table;

/// Prints what is refused in the directory, and what may surprise; exit 1 when anything is refused.
///
/// # Errors
/// The directory cannot be read, or has no resource in it.
pub fn run(dir: &Path, options: &Options, as_json: bool) -> anyhow::Result<ExitCode> {
    let (files, snapshot) = snapshot(dir, options)?;
    let Snapshot { listeners, clusters, names, rejections, notices, .. } = &snapshot;
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
        println!("{:#}", json!({ "exposures": found }));
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
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let dir = settings.source.mesh_dir.as_deref();
    let dir = dir.context("give --mesh-dir DIR with the resources that say the names")?;
    let names = snapshot(dir, options)?.1.names.unwrap_or_default();
    let Some(name) = name else {
        if as_json {
            println!("{:#}", json!(names));
            return Ok(ExitCode::SUCCESS);
        }
        for (host, name) in names.iter() {
            let addresses: Vec<_> = name.addresses.iter().map(ToString::to_string).collect();
            println!("{host} {}{}", addresses.join(" "), if name.automatic { " (automatic)" } else { "" });
        }
        return Ok(ExitCode::SUCCESS);
    };
    let text = dns::look_up(name, kind, &names, &settings.dns)?;
    match text.split_once('\n') {
        Some((code, records)) if as_json => {
            println!("{:#}", json!({ "code": code, "records": records.lines().collect::<Vec<_>>() }));
        }
        _ => print!("{text}"),
    }
    Ok(if text.contains("NOERROR") { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Decodes ClientHellos; with `--mesh-dir`, says where each would go.
///
/// # Errors
/// The mesh directory cannot be read, or standard output not be written.
pub fn hello(args: &HelloArgs, options: &Options) -> anyhow::Result<ExitCode> {
    let Some(dir) = &args.mesh_dir else { return hello_command::run(args, |_| None) };
    let table = table(dir, options)?;
    hello_command::run(args, |hello| Some(where_to(&table, hello)))
}

/// Explains what becomes of a connection with the mesh of a directory.
///
/// # Errors
/// The mesh directory cannot be read, or standard output not be written.
pub fn explain(args: &ExplainArgs, options: &Options) -> anyhow::Result<ExitCode> {
    let dir = args.mesh_dir.as_deref().context("give --mesh-dir DIR with the resources of the mesh")?;
    let explanation = explain::explain(&table(dir, options)?, &args.question(), &BTreeMap::new());
    explain_command::print(&explanation, args.output == "json")
}

fn table(dir: &Path, options: &Options) -> anyhow::Result<Table> {
    let (_, snapshot) = snapshot(dir, options)?;
    Ok(Table::build(Arc::new(snapshot), &Default::default(), &Table::default()))
}

/// Where a hello goes on each listener of the table that reads hellos, and to which endpoints.
fn where_to(table: &Table, hello: &ClientHello) -> Value {
    let question = Question {
        server_name: hello.server_name().to_string(),
        alpn: hello.alpn().map(<[u8]>::to_vec).collect(),
        offline: true,
        ..Question::default()
    };
    let explanation = explain::explain(table, &question, &BTreeMap::new());
    let on_listener = |on: &OnListener| {
        let mut line = json!(on.verdict);
        line["listener"] = json!(on.listener);
        let cluster = on.verdict.cluster.as_ref().and_then(|name| table.cluster_of_name(name));
        if let Some(cluster) = cluster {
            let endpoints = cluster.config.endpoints().map(|endpoint| &endpoint.address);
            line["endpoints"] = json!(endpoints.collect::<Vec<_>>());
        }
        line
    };
    explanation.listeners.iter().map(on_listener).collect()
}
