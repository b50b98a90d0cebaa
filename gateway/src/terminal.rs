//! A running gateway in the terminal: tables for people, JSON for programs.
//!
//! Exit codes: 0 as asked, 1 it could not be asked or says no, 2 the command line is wrong.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::admin_client::{AdminPort, escaped};

mod live;
mod table;

use table::{Cell, Table};

/// Where to ask, and how to print.
#[derive(Debug, Clone, Args)]
pub struct Asking {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub port: AdminPort,
    /// Print a table or JSON
    #[arg(short, long, global = true, default_value = "table", value_parser = ["table", "json"])]
    pub output: String,
}

/// `eastgate clusters` and `eastgate endpoints`
#[derive(Debug, Clone, Args)]
pub struct ClustersArgs {
    /// Only clusters whose name has this in it
    pub filter: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
}

/// `eastgate connections`
#[derive(Debug, Clone, Args)]
pub struct ConnectionsArgs {
    /// Without it, they are shown
    #[command(subcommand)]
    pub action: Option<ConnectionsAction>,
    /// Of this server name
    #[arg(long, global = true, value_name = "NAME")]
    pub sni: Option<String>,
    /// To this endpoint
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub endpoint: Option<String>,
    /// Of at least this age, such as 1h
    #[arg(long, global = true, value_name = "AGE")]
    pub older_than: Option<String>,
    /// This one, by its ID
    #[arg(long, global = true)]
    pub id: Option<String>,
    /// Whose ClientHello's random bytes begin so, as at other hops, in access logs and in captures
    #[arg(long, global = true, value_name = "HEX")]
    pub client_random: Option<String>,
    /// So many at the most
    #[arg(long, global = true, default_value_t = 100)]
    pub limit: usize,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
}

/// What is done about open connections.
#[derive(Debug, Clone, Subcommand)]
pub enum ConnectionsAction {
    /// End those that are meant
    Kill,
}

/// `eastgate drain`
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// At once; otherwise it is not ready for drain.grace first, so that load balancers hear of it
    #[arg(long)]
    pub now: bool,
    /// And leave when open connections have ended, as after SIGTERM
    #[arg(long, conflicts_with = "now")]
    pub quit: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
}

/// `eastgate log-level`
#[derive(Debug, Clone, Args)]
pub struct LogLevelArgs {
    /// error, warn, info, debug or a filter; without it, the level is shown
    pub level: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
}

/// `eastgate top`
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(long, default_value_t = 1.0)]
    pub interval: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub asking: Asking,
}

impl Asking {
    fn is_json(&self) -> bool {
        self.output == "json"
    }

    async fn text(&self, method: Method, path: &str) -> anyhow::Result<String> {
        let body = self.port.ask(method, path).await?.good()?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn json(&self, method: Method, path: &str) -> anyhow::Result<Value> {
        let body = self.port.ask(method, path).await?.good()?;
        serde_json::from_slice(&body).context("the gateway's answer is no JSON")
    }

    /// Prints an answer of one word, or as JSON under this key.
    fn say(&self, key: &str, answer: &str) {
        match self.is_json() {
            true => println!("{}", json!({ key: answer })),
            false => println!("{answer}"),
        }
    }

    /// Prints what was asked for as it came, or as a table.
    fn print(&self, value: &Value, table: impl FnOnce(&Value) -> Table) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        let written = match self.is_json() {
            true => writeln!(out, "{value:#}"),
            false => out.write_all(table(value).text(colours()).as_bytes()),
        };
        match written {
            // Whoever reads has read enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

/// Colours are for people: on a terminal, and not where they asked for none (<https://no-color.org>).
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Is the gateway well? Exit code 1 where it is not ready.
///
/// # Errors
/// Nobody answers.
pub async fn status(asking: &Asking) -> anyhow::Result<ExitCode> {
    let mut status = asking.json(Method::GET, "/server_info").await?;
    let top = asking.json(Method::GET, "/top?limit=0&format=json").await?;
    for key in ["table", "clusters_in_all", "active", "connected", "failed", "bytes"] {
        status[key] = top[key].clone();
    }
    let listeners = asking.json(Method::GET, "/listeners?format=json").await?;
    status["listeners"] = listeners["listener_statuses"].clone();
    asking.print(&status, |status| {
        let mut table = Table::new(&[]);
        let waits: Vec<_> = strings(&status["waiting_for"]);
        let state = text(&status["state"]);
        let state = if waits.is_empty() {
            Cell::good(state)
        } else {
            Cell::bad(format!("{state}: waits for {}", waits.join(", ")))
        };
        table.row(vec!["state".into(), state]);
        table.row(vec!["version".into(), text(&status["version"]).into()]);
        table.row(vec!["up".into(), text(&status["uptime_current_epoch"]).into()]);
        table.row(vec!["table".into(), text(&status["table"]).into()]);
        for listener in rows(&status["listeners"]) {
            let at = &listener["local_address"]["socket_address"];
            let (ip, port) = (text(&at["address"]), text(&at["port_value"]));
            let at = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            table.row(vec!["listener".into(), format!("{} at {at}", text(&listener["name"])).into()]);
        }
        for (title, key) in [
            ("clusters", "clusters_in_all"),
            ("open", "active"),
            ("made", "connected"),
            ("failed", "failed"),
            ("bytes", "bytes"),
        ] {
            table.row(vec![title.into(), text(&status[key]).into()]);
        }
        table
    })?;
    Ok(if status["state"] == "LIVE" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every cluster, or those of a filter.
///
/// # Errors
/// Nobody answers.
pub async fn clusters(args: &ClustersArgs) -> anyhow::Result<ExitCode> {
    let value = args.asking.json(Method::GET, &clusters_path(args)).await?;
    args.asking.print(&value["clusters"], |clusters| {
        let mut table = Table::new(&["CLUSTER", "POLICY", "TAKING", "OF", "OPEN", "MADE", "FAILED"]);
        for cluster in rows(clusters) {
            let taking = cluster["taking"].as_u64().unwrap_or_default();
            table.row(vec![
                text(&cluster["name"]).into(),
                text(&cluster["policy"]).into(),
                if taking == 0 { Cell::bad(taking.to_string()) } else { Cell::good(taking.to_string()) },
                rows(&cluster["endpoints"]).count().to_string().into(),
                text(&cluster["active"]).into(),
                text(&cluster["connected"]).into(),
                failed(cluster).to_string().into(),
            ]);
        }
        table
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Every endpoint of these clusters, with why one is out.
///
/// # Errors
/// Nobody answers.
pub async fn endpoints(args: &ClustersArgs) -> anyhow::Result<ExitCode> {
    let value = args.asking.json(Method::GET, &clusters_path(args)).await?;
    args.asking.print(&value["clusters"], |clusters| {
        let mut table = Table::new(&[
            "ENDPOINT", "CLUSTER", "LOCALITY", "HEALTH", "WEIGHT", "OPEN", "MADE", "FAILED", "WHY",
        ]);
        for cluster in rows(clusters) {
            for endpoint in rows(&cluster["endpoints"]) {
                let health = text(&endpoint["health_flags"]);
                let takes = endpoint["takes_connections"] == true;
                let why: Vec<_> = rows(&endpoint["out"]).map(|reason| text(&reason["text"])).collect();
                table.row(vec![
                    text(&endpoint["address"]).into(),
                    text(&cluster["name"]).into(),
                    place(&endpoint["locality"]).into(),
                    if takes { Cell::good(health) } else { Cell::bad(health) },
                    text(&endpoint["weight"]).into(),
                    text(&endpoint["active"]).into(),
                    text(&endpoint["connected"]).into(),
                    failed(endpoint).to_string().into(),
                    why.join("; ").into(),
                ]);
            }
        }
        table
    })?;
    Ok(ExitCode::SUCCESS)
}

fn clusters_path(args: &ClustersArgs) -> String {
    let filter = args.filter.as_ref().map(|filter| format!("&filter={}", escaped(filter)));
    format!("/clusters?format=json{}", filter.unwrap_or_default())
}

/// Connections that did not come about, of a cluster or an endpoint.
fn failed(of: &Value) -> u64 {
    let counts = ["refused", "timed_out", "no_endpoint", "overflow"].iter();
    counts.filter_map(|key| of[key].as_u64()).sum()
}

/// A locality as Istio writes it: `region/zone/subzone`, as far as it is known.
fn place(locality: &Value) -> String {
    let parts = ["region", "zone", "subzone"].map(|key| text(&locality[key]));
    parts.join("/").trim_end_matches('/').to_owned()
}

/// Open connections: shown, or ended.
///
/// # Errors
/// Nobody answers, or what is meant is not understood.
pub async fn connections(args: &ConnectionsArgs) -> anyhow::Result<ExitCode> {
    let given = [
        ("sni", &args.sni),
        ("endpoint", &args.endpoint),
        ("older_than", &args.older_than),
        ("id", &args.id),
        ("client_random", &args.client_random),
    ];
    let query: String = given
        .into_iter()
        .filter_map(|(key, value)| Some(format!("&{key}={}", escaped(value.as_deref()?))))
        .collect();
    if args.action.is_some() {
        let path = format!("/connections/kill?{}", query.trim_start_matches('&'));
        let ended = args.asking.json(Method::POST, &path).await?;
        match args.asking.is_json() {
            true => println!("{ended}"),
            false => println!("{} connections are ended", text(&ended["ended"])),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = format!("/connections?format=json&limit={}{query}", args.limit);
    let value = args.asking.json(Method::GET, &path).await?;
    args.asking.print(&value, |value| {
        let mut table = Table::new(&[
            "ID",
            "RANDOM",
            "CLIENT",
            "SERVER NAME",
            "ENDPOINT",
            "AGE",
            "UP",
            "DOWN",
            "CLIENT RTT",
            "UPSTREAM RTT",
            "RESENT",
        ]);
        for row in rows(&value["connections"]) {
            let rtt = |side: &str| match row[side]["rtt_us"].as_f64() {
                Some(micros) => format!("{:.1} ms", micros / 1000.0),
                None => "-".into(),
            };
            let resent = |side: &str| text(&row[side]["retransmits"]);
            table.row(vec![
                text(&row["id"]).into(),
                text(&row["client_random"]).into(),
                text(&row["client"]).into(),
                text(&row["server_name"]).into(),
                text(&row["endpoint"]).into(),
                format!("{:.0} s", row["age_seconds"].as_f64().unwrap_or_default()).into(),
                text(&row["to_upstream_bytes"]).into(),
                text(&row["to_client_bytes"]).into(),
                rtt("client_tcp").into(),
                rtt("upstream_tcp").into(),
                format!("{}/{}", resent("client_tcp"), resent("upstream_tcp")).into(),
            ]);
        }
        table
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Has the gateway accept nobody any more, or leave.
///
/// # Errors
/// Nobody answers.
pub async fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let path = match (args.quit, args.now) {
        (true, _) => "/quitquitquit",
        (false, true) => "/drain_listeners",
        (false, false) => "/drain_listeners?graceful",
    };
    let answer = args.asking.text(Method::POST, path).await?;
    args.asking.say("answer", answer.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Shows or sets the level of the gateway's log.
///
/// # Errors
/// Nobody answers, or the level is none.
pub async fn log_level(args: &LogLevelArgs) -> anyhow::Result<ExitCode> {
    let answer = match &args.level {
        None => args.asking.text(Method::GET, "/logging").await?,
        Some(level) => args.asking.text(Method::POST, &format!("/logging?level={}", escaped(level))).await?,
    };
    args.asking.say("level", answer.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Shows the busiest clusters, endpoints and names until it is left.
///
/// # Errors
/// Nobody answers, or there is no terminal.
pub async fn top(args: &TopArgs) -> anyhow::Result<ExitCode> {
    if args.asking.is_json() {
        println!("{:#}", args.asking.json(Method::GET, "/top?format=json").await?);
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(std::io::stdout().is_terminal(), "top wants a terminal; -o json looks once without one");
    live::run(args).await.map(|()| ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> Vec<String> {
    rows(value).map(text).collect()
}
