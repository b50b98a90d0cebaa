//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod run;

pub(crate) use run::{
    CompareArguments, ExecArguments, LoadOriginArguments, MeshArguments, RunArguments, ScenarioArguments,
};

/// Puts an SNI-routing gateway to the test: real TLS for what is right, load without cryptography for what it costs
#[derive(Debug, Parser)]
#[command(name = "eastgate-loadtest", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run pods: TLS origins that answer like httpbin and tell who they are
    #[command(after_help = ORIGIN_EXAMPLE)]
    Origin(OriginArguments),
    /// Send GETs, each over its own connection, and show how they spread over the pods
    #[command(after_help = GET_EXAMPLE)]
    Get(GetArguments),
    /// Issue a certificate of the pods' CA, for a client, or for a VM beside the mesh
    Certify(CertifyArguments),
    /// Run a scenario against a gateway, crypto-free unless it says otherwise
    #[command(after_help = run::RUN_EXAMPLE)]
    Run(RunArguments),
    /// Run the origin of the scenarios, which is no TLS server: it skips the ClientHello
    LoadOrigin(LoadOriginArguments),
    /// Write the Istio and Kubernetes resources by which a gateway finds the origin of the scenarios
    Mesh(MeshArguments),
    /// Measure Eastgate beside Envoy, HAProxy and nginx, and write a report
    #[command(after_help = run::COMPARE_EXAMPLE)]
    Compare(CompareArguments),
    /// Become another program, on one core, that ends with its parent
    #[command(hide = true)]
    Exec(ExecArguments),
}

const ORIGIN_EXAMPLE: &str = "\
Example, two pods for a gateway to choose from:
  eastgate-loadtest origin --listen 127.0.0.11:8443 --listen 127.0.0.12:8443 --verbose

Paths: GET /get, /headers, /hostname, /status/CODE, /bytes/N; POST /post, /sha256";

const GET_EXAMPLE: &str = "\
Example, a thousand connections through a gateway:
  eastgate-loadtest get --connect 127.0.0.1:15443 --sni outbound_.8000_._.httpbin.bar.global \\
      --alpn istio --ca eastgate-ca/ca.pem --count 1000

Ends with status 0 only if every request was answered, with whatever HTTP status.";

#[derive(Debug, Args)]
pub(crate) struct OriginArguments {
    /// Where a pod listens; several make several pods, port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    pub(crate) listen: Vec<SocketAddr>,
    /// The pod's name: one for each --listen, or one for all, which are then numbered [default: httpbin]
    #[arg(long)]
    pub(crate) name: Vec<String>,
    /// Holds ca.pem, to give to clients, and ca-key.pem; both are made if missing
    #[arg(long, value_name = "DIR", default_value = "eastgate-ca")]
    pub(crate) ca_dir: PathBuf,
    /// A name in the pods' certificate: DNS name, IP address or SPIFFE URI; may be repeated
    #[arg(long, value_name = "NAME", default_values = DEFAULT_SANS)]
    pub(crate) san: Vec<String>,
    /// A protocol to agree to; may be repeated [default: what an Istio sidecar speaks over HTTP/1.1]
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) alpn: Vec<String>,
    /// Serve only clients with a certificate of the same CA, as a pod does whose mesh is STRICT
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print a line for each connection to stderr
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CertifyArguments {
    /// Holds ca.pem and ca-key.pem; both are made if missing
    #[arg(long, value_name = "DIR", default_value = "eastgate-ca")]
    pub(crate) ca_dir: PathBuf,
    /// A name in the certificate: SPIFFE URI, DNS name or IP address; may be repeated
    #[arg(long, value_name = "NAME", required = true)]
    pub(crate) san: Vec<String>,
    /// Where to write root-cert.pem, cert-chain.pem and key.pem; none of them may be there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// One that ended an hour ago, to see what is said of it
    #[arg(long)]
    pub(crate) expired: bool,
}

/// The mesh's own name for the pods, and those that `curl` can ask for.
const DEFAULT_SANS: [&str; 4] = [
    "spiffe://cluster.local/ns/bar/sa/httpbin",
    "httpbin.bar.svc.cluster.local",
    "httpbin.bar.global",
    "httpbin.example.com",
];

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// The gateway, or a pod itself
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) connect: SocketAddr,
    /// The server name to send; an IP address sends none
    #[arg(long, value_name = "NAME")]
    pub(crate) sni: String,
    /// A protocol to offer; may be repeated, none sends no ALPN
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) alpn: Vec<String>,
    /// The PEM file with the roots to trust: ca.pem of the origin's --ca-dir
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: PathBuf,
    /// Who may answer: DNS name, IP address, SPIFFE URI, or a URI ending in /*; may be repeated
    #[arg(long, value_name = "NAME", default_value = "spiffe://cluster.local/*")]
    pub(crate) expect: Vec<String>,
    /// How many requests to send, one after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// What to ask for
    #[arg(long, default_value = "/hostname")]
    pub(crate) path: String,
    /// How long a request may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
    /// Print the spread as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_argument_refers_to_one_that_is_not_there() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_scenario_takes_the_common_arguments_behind_its_name() {
        let line = "eastgate-loadtest run churn --slice f --origin 127.0.0.1:1 --rate 5 --seconds 1";
        assert!(Arguments::try_parse_from(line.split(' ')).is_ok());
        let line = "eastgate-loadtest run connect-rate --tls";
        assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "without --ca");
    }
}
