//! A plain client's connection, carried over TLS to the endpoint: what a sidecar does on its way out.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use eastgate_config::cluster::UpstreamTls;
use eastgate_config::listener::Ends;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{
    Error, Tunnel, announced, attempts, carry, connect, count_client, ends, inspect, note_route, route,
    secured, within_limits,
};
use crate::access_log;
use crate::gate::{ClientPass, Pass};
use crate::listener::Listener;
use crate::open;
use crate::relay::{self, Handed, Side};
use crate::table::Routed;
use crate::tls::relay::Sockets;
use crate::tls::{self, Socket};
use crate::upstream;

/// Serves one connection until both halves have closed.
pub(super) async fn forward(
    client: &TcpStream,
    listener: &Listener,
    mut record: access_log::Open,
) -> (access_log::Open, Result<(), Error>) {
    match find(client, listener, &mut record).await {
        Err(error) => (record, Err(error)),
        Ok(way) => {
            let config = Arc::clone(&way.routed.cluster.config);
            match &config.tls {
                // Endpoints that take plain TCP: of several services behind one port, each may be another way.
                None => plain(client, way, listener, record).await,
                Some(spoken) => secured(client, way, spoken, listener, record).await,
            }
        }
    }
}

/// Where a connection goes, and what it has to say first. It is counted while this is held.
struct Way {
    routed: Routed,
    ends: Ends,
    raw: Vec<u8>,
    _counted: (Option<ClientPass>, Option<Pass>),
}

async fn find(client: &TcpStream, listener: &Listener, record: &mut access_log::Open) -> Result<Way, Error> {
    let (begun, direct) = inspect(client, listener, record).await?;
    let ends = intended(client, listener, ends(client, begun.told, record)?);
    let client_pass = count_client(direct, ends, listener)?;
    let routed = route(client, None, ends, listener).await?;
    note_route(record, &routed, listener);
    let chain_pass = within_limits(&routed, listener).await?;
    Ok(Way { routed, ends, raw: begun.raw, _counted: (client_pass, chain_pass) })
}

async fn plain(
    client: &TcpStream,
    Way { routed, ends, raw, _counted }: Way,
    listener: &Listener,
    mut record: access_log::Open,
) -> (access_log::Open, Result<(), Error>) {
    let mut attempts = attempts(&routed, ends.remote, listener, &record);
    let upstream = match connect(client, &routed, &mut attempts, &mut record).await {
        Ok(upstream) => upstream,
        Err(error) => return (record, Err(error)),
    };
    let handed = Handed { to_upstream: announced(raw, &routed, ends, None), ..Handed::default() };
    let open = open::enter(record, upstream, Arc::clone(&routed.cluster)).await;
    open.stay();
    let handed = Cell::new(Some(Box::new(handed)));
    let tunnel = Tunnel { open, handed, patience: Box::new(listener.patience(&routed)) };
    let result = carry(client, &tunnel).await;
    (tunnel.open.leave(), result)
}

/// Connects, shakes hands and relays. An endpoint that takes the connection and then does not shake hands is left for
/// another, as one is that does not take it.
async fn secured(
    client: &TcpStream,
    way: Way,
    spoken: &UpstreamTls,
    listener: &Listener,
    mut record: access_log::Open,
) -> (access_log::Open, Result<(), Error>) {
    let routed = &way.routed;
    record.server_name = spoken.sni.as_ref().and_then(|name| name.parse().ok());
    let known = timeout(routed.cluster.config.connect_timeout, listener.clients.of(spoken)).await;
    let how = match known.unwrap_or(Err(tls::Error::TimedOut(Side::Upstream))) {
        Ok(how) => how,
        Err(error) => return (record, Err(error.into())),
    };
    let mut attempts = attempts(routed, record.client_addr, listener, &record);
    let mut refused = None;
    loop {
        let upstream = match connect(client, routed, &mut attempts, &mut record).await {
            Ok(upstream) => upstream,
            Err(Error::Upstream(upstream::Error::NoOther(_))) if let Some(error) = refused => {
                return (record, Err(error));
            }
            Err(error) => return (record, Err(error)),
        };
        // Who is asked to end while hands are shaken, ends then.
        let open = open::enter(record, upstream, Arc::clone(&routed.cluster)).await;
        open.stay();
        let done = speak(client, &way, &how, &open, listener).await;
        record = open.leave();
        match done {
            Ok((peer, result)) => {
                (record.peer, record.engine) = (Some(peer), "tls");
                return (record, result);
            }
            Err(Error::Tls(error)) if error.may_pass() => {
                if let Some(endpoint) = record.endpoint {
                    attempts.tell(endpoint, || error.to_string());
                }
                refused = Some(error.into());
            }
            Err(error) => return (record, Err(error)),
        }
    }
}

/// Shakes hands with an endpoint and relays: who it is, and how that ended. An error is one of the handshake.
async fn speak(
    client: &TcpStream,
    Way { routed, ends, raw, .. }: &Way,
    how: &tls::Client,
    open: &open::Entered,
    listener: &Listener,
) -> Result<(String, Result<(), Error>), Error> {
    let upstream = &open.upstream.stream;
    let header = announced(Vec::new(), routed, *ends, None);
    let shaking = timeout(routed.cluster.config.connect_timeout, async {
        let sent = Socket(upstream).write_all(&header).await;
        sent.map_err(|source| tls::Error::Handshake { side: Side::Upstream, source })?;
        how.connect(upstream, &listener.mesh).await
    });
    let shaken = tokio::select! {
        shaken = shaking => shaken.unwrap_or(Err(tls::Error::TimedOut(Side::Upstream))),
        _ = relay::reset(client) => return Err(Error::ClientLeft),
    };
    let (mut session, peer) = shaken.inspect_err(|_| listener.tls.upstream_refused.inc())?;
    listener.tls.upstream_accepted.inc();
    let sockets = Sockets { client, upstream, tls: Side::Upstream, trust: how.trust() };
    let patience = listener.patience(routed);
    Ok((peer, secured::carry(&mut session, sockets, raw.clone(), open, patience).await))
}

/// Where the client was going: a firewall that redirected it has kept that.
pub(super) fn intended(client: &TcpStream, listener: &Listener, ends: Ends) -> Ends {
    if !listener.is_redirected_to() {
        return ends;
    }
    let socket = SockRef::from(client);
    let kept = match ends.direct_remote {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // Without a redirect the kernel knows of none, and the address is the listener's own, which no chain takes.
    let destination = kept.ok().and_then(|address| address.as_socket()).unwrap_or(ends.destination);
    Ends { destination, ..ends }
}
