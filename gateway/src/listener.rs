//! What every connection of one listener shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use eastgate_config::bootstrap::{self, HashBy, Settings};
use eastgate_config::cidr::Cidr;
use eastgate_config::cluster::{self as config, Resolutions};
use eastgate_config::endpoint::{Address, Endpoint};
use eastgate_config::listener::{Ends, HashPolicy, Role};
use eastgate_config::server_name::ServerName;
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::client_hello::ClientHello;
use crate::gate::{Gate, PerClient};
use crate::in_flight::InFlight;
use crate::inspect::Beginning;
use crate::metrics::{self, Metrics};
use crate::relay::Patience;
use crate::table::{self, Asked, Routed, Table};
use crate::tls::{Clients, Mesh};
use crate::upstream::Cluster;
use crate::upstream::balance::hashing;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the table.
    pub name: Arc<str>,
    /// How endpoints are reached.
    pub upstream: bootstrap::Upstream,
    /// Where connections are recorded.
    pub access_log: AccessLog,
    /// Its own handles.
    pub metrics: metrics::Listener,
    /// Those it shares with other listeners.
    pub downstream: metrics::Downstream,
    /// How many server names have metrics of their own.
    pub server_names: usize,
    /// The clients whose ClientHello is not complete yet, of all listeners.
    pub hellos: Gate,
    /// Those that are on their way to an endpoint.
    pub in_flight: Arc<InFlight>,
    /// Connections by client, of all listeners.
    pub per_client: PerClient,
    /// The process's own end of the mesh's TLS.
    pub mesh: Arc<Mesh>,
    /// The other kinds of TLS that it speaks to endpoints.
    pub clients: Clients,
    /// What is counted of both.
    pub tls: metrics::Tls,
    /// The load balancers whose headers are believed; none where the listener's own word is enough.
    trusted: Vec<Cidr>,
    max_hello_bytes: usize,
    hello_timeout: Duration,
    relay: bootstrap::Relay,
    began: Instant,
    table: Arc<ArcSwap<Table>>,
    /// Tells that there is a new table.
    pub tables: watch::Receiver<Arc<Table>>,
}

/// What listeners are made from.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The process's settings.
    pub settings: Arc<Settings>,
    /// The table that the publisher swaps.
    pub table: Arc<ArcSwap<Table>>,
    /// Tells that it has.
    pub tables: watch::Receiver<Arc<Table>>,
    /// The process's metrics.
    pub metrics: Metrics,
    /// The process's access log.
    pub access_log: AccessLog,
    /// The clients whose ClientHello is not complete yet.
    pub hellos: Gate,
    /// Those that are on their way to an endpoint.
    pub in_flight: Arc<InFlight>,
    /// Connections by client.
    pub per_client: PerClient,
    /// The process's own end of the mesh's TLS.
    pub mesh: Arc<Mesh>,
    /// The other kinds of TLS that it speaks to endpoints.
    pub clients: Clients,
}

impl Listener {
    /// The listener of this name.
    pub fn new(name: &str, shared: &Shared) -> Self {
        let settings = &shared.settings;
        Self {
            name: name.into(),
            upstream: settings.upstream.clone(),
            access_log: shared.access_log.clone(),
            metrics: shared.metrics.listener(name),
            downstream: shared.metrics.downstream.clone(),
            server_names: settings.metrics.server_names,
            hellos: shared.hellos.clone(),
            in_flight: Arc::clone(&shared.in_flight),
            per_client: shared.per_client.clone(),
            mesh: Arc::clone(&shared.mesh),
            clients: shared.clients.clone(),
            tls: shared.metrics.tls.clone(),
            trusted: settings.listen.proxy_protocol_from.clone(),
            max_hello_bytes: settings.inspect.max_hello_bytes,
            hello_timeout: settings.inspect.timeout,
            relay: settings.relay.clone(),
            began: Instant::now(),
            table: Arc::clone(&shared.table),
            tables: shared.tables.clone(),
        }
    }

    /// What a connection from there is to begin with, or `None` when the listener has taken as many as its rate limit allows.
    pub fn admit(&self, from: SocketAddr) -> Option<Beginning> {
        let table = self.table.load();
        let listener = table.listener(&self.name);
        if let Some(rate) = listener.and_then(|listener| listener.rate.as_ref())
            && !rate.take(self.clock())
        {
            return None;
        }
        let options = listener.map(|listener| &listener.config.options);
        let max_hello =
            options.and_then(|options| options.max_client_hello).and_then(|max| usize::try_from(max).ok());
        let timeout = options.and_then(|options| options.inspect_timeout).unwrap_or(self.hello_timeout);
        let now = tokio::time::Instant::now();
        Some(Beginning {
            // Whoever is not a load balancer has a header taken for what it is: bytes that are no ClientHello.
            proxy_protocol: options.and_then(|options| options.proxy_protocol).filter(|_| {
                self.trusted.is_empty() || self.trusted.iter().any(|range| range.contains(from.ip()))
            }),
            hello: !options.is_some_and(|options| options.plain),
            max_hello_bytes: max_hello.unwrap_or(self.max_hello_bytes),
            // Envoy takes 0 for no limit; here the process's own limit holds then.
            deadline: now + if timeout.is_zero() { self.hello_timeout } else { timeout },
        })
    }

    /// The largest ClientHello, and the time for one.
    pub fn hello_limits(&self) -> (usize, Duration) {
        (self.max_hello_bytes, self.hello_timeout)
    }

    /// What it does about TLS.
    pub fn role(&self) -> Role {
        let table = self.table.load();
        table.listener(&self.name).map(|listener| listener.config.options.role).unwrap_or_default()
    }

    /// Are its clients redirected to it, so that the kernel has to be asked where they were going?
    pub fn is_redirected_to(&self) -> bool {
        let table = self.table.load();
        table.listener(&self.name).is_some_and(|listener| listener.config.options.original_destination)
    }

    /// Are its clients expected to speak TLS, so that an alert means something to them?
    pub fn speaks_tls(&self) -> bool {
        !self.table.load().listener(&self.name).is_some_and(|listener| listener.config.options.plain)
    }

    /// The time for rate limits: since the listener was bound.
    pub fn clock(&self) -> Duration {
        self.began.elapsed()
    }

    /// Where a connection goes that began with this hello, or with none. The table is let go before this returns: a connection keeps its
    /// cluster, however often the table is replaced meanwhile.
    ///
    /// # Errors
    /// No filter chain takes it.
    pub fn route(&self, hello: Option<&ClientHello>, ends: Ends) -> Result<Routed, table::Error> {
        let asked = Asked { server_name: hello.map(ClientHello::server_name), ends };
        let protocols = hello.into_iter().flat_map(ClientHello::alpn);
        self.table.load().route(&self.name, &asked, protocols, |below| fastrand::u64(..below))
    }

    /// What a connection of this client to this name is hashed by, where its cluster's policy hashes.
    pub fn key(&self, routed: &Routed, client: SocketAddr, name: Option<&ServerName>) -> Option<u64> {
        match name.filter(|_| self.upstream.hash_by == HashBy::ServerName) {
            Some(name) => Some(hashing::key_of_name(name.as_str())),
            None => routed.hash_policy.map(|HashPolicy::SourceIp| hashing::key(client)),
        }
    }

    /// The cluster of a connection that another process has made to this endpoint. One that is not in the table any more,
    /// or has another endpoint now, is made up for it, so that the connection can be told of as all others.
    pub fn cluster(&self, name: &str, endpoint: SocketAddr) -> Arc<Cluster> {
        let table = self.table.load();
        let known = table.cluster_of_name(name);
        match known.filter(|known| known.endpoints.iter().any(|known| known.address == endpoint)) {
            Some(known) => Arc::clone(known),
            None => {
                let endpoints = vec![Endpoint::new(Address::Socket(endpoint))];
                Cluster::build(
                    &Arc::new(config::Cluster::new(name, endpoints)),
                    &Resolutions::new(),
                    known,
                    Instant::now(),
                    &table.process,
                )
            }
        }
    }

    /// How long a connection may go on. A chain that says 0 sets no limit on silence, as in Envoy.
    pub fn patience(&self, routed: &Routed) -> Patience {
        let idle = match routed.idle_timeout {
            None => self.relay.idle_timeout,
            Some(Duration::ZERO) => Duration::MAX,
            Some(timeout) => timeout,
        };
        let own = Some(self.relay.max_duration).filter(|duration| !duration.is_zero());
        let jitter = routed.max_duration_jitter.unwrap_or(self.relay.max_duration_jitter);
        let age = routed.max_duration.or(own).map(|age| later(age, jitter, fastrand::f64()));
        let keepalive = routed.cluster.config.keepalive.unwrap_or(self.relay.keepalive);
        Patience { idle, age, keepalive }
    }
}

/// A time that is up to so many percent longer; `draw` is from 0 to 1.
fn later(time: Duration, percent: u32, draw: f64) -> Duration {
    let more = time.as_secs_f64() * f64::from(percent) / 100.0 * draw;
    time.saturating_add(Duration::try_from_secs_f64(more).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_up_to_its_jitter_longer() {
        let hour = Duration::from_secs(3600);
        let drawn = [0.0, 0.5, 1.0].map(|draw| later(hour, 10, draw).as_secs());
        assert_eq!(drawn, [3600, 3780, 3960]);
        assert_eq!(later(hour, 0, 1.0), hour);
        assert_eq!(later(Duration::MAX, 100, 1.0), Duration::MAX);
    }
}
