//! A connection, from accept to close: inspect, route, connect, replay, relay.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::access_log;
use crate::client_hello::{Alert, ClientHello, Refusal};
use crate::inspect;
use crate::listener::Listener;
use crate::relay::{self, Meter, Side};
use crate::table;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::{self, Cluster, Upstream};

/// How long a refused client may go on sending before it is cut.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it is read meanwhile.
const MAX_DISCARDED: usize = 256 * 1024;

/// Why a connection did not end in the ordinary way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its first bytes were refused.
    #[error("refused ({reason}): {0}", reason = .0.reason())]
    Hello(Refusal),
    /// Too many clients are still sending their ClientHello.
    #[error("{0} ClientHellos are pending (limits.max_pending_hellos)")]
    Pending(usize),
    /// No filter chain takes it.
    #[error(transparent)]
    Route(#[from] table::Error),
    /// No endpoint took it.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The client left before an endpoint had taken the connection.
    #[error("the client left while an endpoint was sought")]
    ClientLeft,
    /// It broke while bytes were relayed.
    #[error(transparent)]
    Relay(#[from] relay::Error),
}

/// Who an abnormal end is down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client sent what cannot be served, or broke off.
    Client,
    /// The endpoint.
    Upstream,
    /// The gateway or its configuration.
    Gateway,
}

impl Error {
    /// Envoy's response flag
    /// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>).
    pub fn flag(&self) -> &'static str {
        match self {
            Self::Hello(Refusal::TooSlow { .. }) => "DT",
            Self::Hello(Refusal::ClosedEarly { .. } | Refusal::ClosedUnused) | Self::ClientLeft => "DC",
            Self::Hello(_) => "DPE",
            Self::Pending(_) => "OM",
            Self::Route(table::Error::NoCluster { .. }) => "NC",
            Self::Route(_) => "NR",
            Self::Upstream(upstream::Error::NoEndpoint(_)) => "UH",
            Self::Upstream(upstream::Error::Overflow { .. }) => "UO",
            Self::Upstream(upstream::Error::Connect { .. }) => "UF",
            Self::Relay(relay::Error::Broken { side: Side::Client, .. }) => "DC",
            Self::Relay(relay::Error::Broken { side: Side::Upstream, .. }) => "UC",
            Self::Relay(relay::Error::Idle(_)) => "SI",
        }
    }

    /// Who it is down to.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Hello(_)
            | Self::ClientLeft
            | Self::Route(table::Error::NoChain { .. } | table::Error::NoProtocol { .. }) => Fault::Client,
            Self::Relay(relay::Error::Broken { side: Side::Client, .. } | relay::Error::Idle(_)) => {
                Fault::Client
            }
            Self::Relay(relay::Error::Broken { side: Side::Upstream, .. }) | Self::Upstream(_) => {
                Fault::Upstream
            }
            Self::Pending(_) | Self::Route(_) => Fault::Gateway,
        }
    }

    /// The alert that tells the client, as long as no byte of an endpoint has been sent to it.
    pub fn alert(&self) -> Option<Alert> {
        match self {
            Self::Hello(Refusal::ClosedUnused) | Self::ClientLeft | Self::Relay(_) => None,
            Self::Hello(refusal) => Some(refusal.alert()),
            Self::Route(table::Error::NoChain { .. } | table::Error::NoListener) => {
                Some(Alert::UnrecognizedName)
            }
            Self::Route(table::Error::NoProtocol { .. }) => Some(Alert::NoApplicationProtocol),
            Self::Pending(_) | Self::Route(table::Error::NoCluster { .. }) | Self::Upstream(_) => {
                Some(Alert::InternalError)
            }
        }
    }
}

/// Serves one connection until both halves have closed.
pub async fn serve(client: TcpStream, client_addr: SocketAddr, listener: Arc<Listener>) {
    let _open = listener.metrics.open();
    let mut record = listener.access_log.begin(&listener.name, client_addr);
    let result = forward(&client, &listener, &mut record).await;
    record.close(result.as_ref().err().map(|error| (error.flag(), explain(error))));
    listener.metrics.close(record.flag);
    drop(record);
    if let Err(error) = result {
        refuse(&client, &error, &listener).await;
    }
}

async fn forward(
    client: &TcpStream,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<(), Error> {
    let (hello, raw) = inspect(client, listener).await?;
    record.server_name = Some(hello.server_name().clone());
    listener.downstream.hello_seconds.observe(record.age().as_secs_f64());

    let routed = listener.route(&hello)?;
    if routed.rewritten.is_some() {
        listener.downstream.rewritten.inc();
    }
    let idle_timeout = listener.idle_timeout(&routed);
    note_route(record, routed.chain, routed.rewritten, &routed.cluster);

    let upstream = connect(client, &routed.cluster, listener, record).await?;
    listener.downstream.connect_seconds.observe(record.age().as_secs_f64());

    let meter = Meter::new((&routed.cluster.stats.to_upstream, &routed.cluster.stats.to_client));
    let result = match relay::replay(&upstream.stream, &raw, &meter).await {
        Ok(()) => {
            drop((raw, hello));
            relay::run(client, &upstream.stream, &meter, idle_timeout).await
        }
        broken => broken,
    };
    (record.to_upstream_bytes, record.to_client_bytes) = (meter.to_upstream.get(), meter.to_client.get());
    Ok(result?)
}

/// Reads the ClientHello, as one of a limited number of clients that are still sending theirs.
async fn inspect(client: &TcpStream, listener: &Listener) -> Result<(ClientHello, Vec<u8>), Error> {
    let deadline = Instant::now() + listener.hello_timeout;
    let _pending = listener.hellos.enter().ok_or_else(|| Error::Pending(listener.hellos.limit()))?;
    inspect::client_hello(client, listener.max_hello_bytes, deadline).await.map_err(Error::Hello)
}

/// Connects to an endpoint while watching the client: nobody waits for a client that has reset the connection. One
/// that has only finished sending still gets its answer.
async fn connect(
    client: &TcpStream,
    cluster: &Arc<Cluster>,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<Upstream, Error> {
    let result = tokio::select! {
        result = upstream::connect(cluster, listener.connect_attempts, listener.keepalive, &mut record.attempts) => result,
        _ = relay::reset(client) => return Err(Error::ClientLeft),
    };
    match &result {
        Ok(upstream) => note_endpoint(record, upstream.endpoint.endpoint()),
        Err(upstream::Error::Connect { endpoint, .. }) => record.endpoint = Some(*endpoint),
        Err(_) => {}
    }
    Ok(result?)
}

fn note_route(record: &mut access_log::Open, chain: String, rewritten: Option<String>, cluster: &Cluster) {
    (record.route, record.rewritten) = (Some(chain), rewritten);
    record.cluster = Some(cluster.config.name.clone());
}

fn note_endpoint(record: &mut access_log::Open, endpoint: &Endpoint) {
    (record.endpoint, record.engine) = (Some(endpoint.address), "copy");
    record.locality = Some(endpoint.locality.to_string()).filter(|locality| !locality.is_empty());
}

/// Says why with a TLS alert, then closes so that the alert arrives: a socket that is closed with unread bytes is
/// reset by the kernel, and a reset overtakes the alert. What the client still sends is read for a moment, no longer.
async fn refuse(client: &TcpStream, error: &Error, listener: &Listener) {
    if let Error::Hello(refusal) = error {
        listener.downstream.hello_refused.with_label_values(&[refusal.reason()]).inc();
    }
    let Some(alert) = error.alert() else { return };
    // Seven bytes always fit into an empty send buffer; a client that is gone needs no alert.
    if client.try_write(&alert.record()).is_err() || SockRef::from(client).shutdown(Shutdown::Write).is_err()
    {
        return;
    }
    let _ = timeout(LINGER, discard(client)).await;
}

async fn discard(client: &TcpStream) {
    let mut left = MAX_DISCARDED;
    while left > 0 && client.readable().await.is_ok() {
        match client.try_read(&mut [0; 1024]) {
            Ok(0) => return,
            Ok(read) => left = left.saturating_sub(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// The error and its causes on one line.
fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_little_while_it_waits() {
        // What an idle tunnel holds besides its sockets is this future: keep it well under a page (4 KiB).
        let size = future_size(serve);
        assert!(size <= 2_560, "{size} bytes");
    }

    fn future_size<F>(_: fn(TcpStream, SocketAddr, Arc<Listener>) -> F) -> usize {
        size_of::<F>()
    }
}
