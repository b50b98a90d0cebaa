//! What every connection of one listener shares.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use eastgate_config::bootstrap::Settings;
use eastgate_config::cluster::Keepalive;

use crate::access_log::AccessLog;
use crate::client_hello::ClientHello;
use crate::gate::Gate;
use crate::metrics::{self, Metrics};
use crate::table::{self, Routed, Table};

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the table.
    pub name: Arc<str>,
    /// The largest ClientHello.
    pub max_hello_bytes: usize,
    /// For the whole ClientHello.
    pub hello_timeout: Duration,
    /// Endpoints to try for one connection.
    pub connect_attempts: u32,
    /// For sockets to endpoints, where their cluster does not say.
    pub keepalive: Keepalive,
    /// Where connections are recorded.
    pub access_log: AccessLog,
    /// Its own handles.
    pub metrics: metrics::Listener,
    /// Those it shares with other listeners.
    pub downstream: metrics::Downstream,
    /// The clients whose ClientHello is not complete yet, of all listeners.
    pub hellos: Gate,
    idle_timeout: Duration,
    table: Arc<ArcSwap<Table>>,
}

/// What listeners are made from.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The process's settings.
    pub settings: Arc<Settings>,
    /// The table that the publisher swaps.
    pub table: Arc<ArcSwap<Table>>,
    /// The process's metrics.
    pub metrics: Metrics,
    /// The process's access log.
    pub access_log: AccessLog,
    /// The clients whose ClientHello is not complete yet.
    pub hellos: Gate,
}

impl Listener {
    /// The listener of this name.
    pub fn new(name: &str, shared: &Shared) -> Self {
        let settings = &shared.settings;
        Self {
            name: name.into(),
            max_hello_bytes: settings.inspect.max_hello_bytes,
            hello_timeout: settings.inspect.timeout,
            connect_attempts: settings.upstream.connect_attempts,
            keepalive: settings.relay.keepalive,
            access_log: shared.access_log.clone(),
            metrics: shared.metrics.listener(name),
            downstream: shared.metrics.downstream.clone(),
            hellos: shared.hellos.clone(),
            idle_timeout: settings.relay.idle_timeout,
            table: Arc::clone(&shared.table),
        }
    }

    /// Where a connection with this hello goes. The table is let go before this returns: a connection keeps its
    /// cluster, however often the table is replaced meanwhile.
    ///
    /// # Errors
    /// No filter chain takes it.
    pub fn route(&self, hello: &ClientHello) -> Result<Routed, table::Error> {
        let draw = |below| fastrand::u64(..below);
        self.table.load().route(&self.name, hello.server_name(), hello.alpn(), draw)
    }

    /// How long a connection of this chain may be silent. A chain that says 0 sets no limit, as in Envoy.
    pub fn idle_timeout(&self, routed: &Routed) -> Duration {
        match routed.idle_timeout {
            None => self.idle_timeout,
            Some(Duration::ZERO) => Duration::MAX,
            Some(timeout) => timeout,
        }
    }
}
