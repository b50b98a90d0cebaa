//! `eastgate explain`: asks a running gateway, or a directory's mesh, what becomes of a connection.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use crate::admin::REFUSED;
use crate::admin_client::{AdminPort, escaped};
use crate::connection::explain::{Explanation, Question};

/// `eastgate explain`
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The server name, as a client sends it
    #[arg(long, value_name = "NAME")]
    pub sni: String,
    /// A protocol that the client offers, such as istio (repeatable)
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    pub alpn: Vec<String>,
    /// The client's address, where rules look at it
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// The port that the connection goes to; without it, every listener that reads ClientHellos is asked
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub admin: AdminPort,
    /// No running gateway, but the Istio and Kubernetes resources in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    pub mesh_dir: Option<PathBuf>,
    /// Print text or JSON
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    pub output: String,
}

impl ExplainArgs {
    /// What is asked of a mesh that does not run.
    pub fn question(&self) -> Question {
        Question {
            server_name: self.sni.clone(),
            alpn: self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect(),
            source: self.source,
            port: self.port,
            offline: true,
        }
    }

    /// The same as a path of the admin port.
    fn path(&self) -> String {
        let mut path = format!("/explain?sni={}", escaped(&self.sni));
        for protocol in &self.alpn {
            path += &format!("&alpn={}", escaped(protocol));
        }
        if let Some(source) = self.source {
            path += &format!("&source={}", escaped(&source.to_string()));
        }
        if let Some(port) = self.port {
            path += &format!("&port={port}");
        }
        if self.output == "json" {
            path += "&format=json";
        }
        path
    }
}

/// Asks a running gateway, and prints what it says.
///
/// # Errors
/// Nobody answers at the admin port, or what answers does not know.
pub async fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let answer = args.admin.ask(Method::GET, &args.path()).await?;
    let refused = answer.headers.get(REFUSED).is_some_and(|refused| refused == "true");
    let mut out = std::io::stdout();
    out.write_all(&answer.good()?)?;
    if args.output == "json" {
        writeln!(out)?;
    }
    Ok(code(refused))
}

/// Prints an explanation.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(explanation: &Explanation, as_json: bool) -> anyhow::Result<ExitCode> {
    match as_json {
        true => println!("{}", serde_json::to_string_pretty(explanation)?),
        false => print!("{explanation}"),
    }
    Ok(code(explanation.is_refusal()))
}

fn code(refused: bool) -> ExitCode {
    if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
