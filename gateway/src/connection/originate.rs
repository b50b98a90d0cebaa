//! A plain client's connection, carried over TLS to the endpoint: what a sidecar does on its way out.

use std::net::SocketAddr;
use std::pin::pin;

use eastgate_config::cluster::UpstreamTls;
use eastgate_config::listener::Ends;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{
    Error, announced, attempts, connect, count_client, ends, inspect, note_route, route, within_limits,
};
use crate::access_log;
use crate::listener::Listener;
use crate::relay::{self, Handed, Meter, Moved, Side};
use crate::table::Routed;
use crate::tls::relay::Sockets;
use crate::tls::{self, Socket};
use crate::upstream;

/// Serves one connection until both halves have closed.
pub(super) async fn forward(
    client: &TcpStream,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<(), Error> {
    let (begun, direct) = inspect(client, listener, record).await?;
    let ends = intended(client, listener, ends(client, begun.told, record)?);
    let _client = count_client(direct, ends, listener)?;
    let routed = route(client, None, ends, listener).await?;
    note_route(record, &routed, listener);
    let _counted = within_limits(&routed, listener).await?;
    let stats = &routed.cluster.stats;
    let moved = Moved::default();
    let meter = Meter::new(&moved, (&stats.to_upstream, &stats.to_client));
    let result = match &routed.cluster.config.tls {
        // Endpoints that take plain TCP: of several services behind one port, each may be another way.
        None => {
            let mut attempts = attempts(&routed, ends.remote, listener, record);
            let upstream = connect(client, &routed, &mut attempts, record).await?;
            let sockets = (client, &upstream.stream);
            let first = announced(begun.raw, &routed, ends, None);
            let handed = Handed { to_upstream: first, ..Handed::default() };
            let patience = listener.patience(&routed);
            let timer = pin!(patience.timer());
            let result = relay::run(sockets, handed, &meter, &patience, timer).await;
            record.engine = meter.engine();
            result
        }
        Some(spoken) => {
            secured(client, (&routed, ends), spoken, (begun.raw, &meter), listener, record).await?
        }
    };
    (record.to_upstream_bytes, record.to_client_bytes) = (meter.to_upstream.get(), meter.to_client.get());
    Ok(result?)
}

/// Connects, shakes hands and relays. An endpoint that takes the connection and then does not shake hands is left for
/// another, as one is that does not take it.
async fn secured(
    client: &TcpStream,
    (routed, ends): (&Routed, Ends),
    spoken: &UpstreamTls,
    (first, meter): (Vec<u8>, &Meter<'_>),
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<Result<(), relay::Error>, Error> {
    record.server_name = spoken.sni.as_ref().and_then(|name| name.parse().ok());
    let connect_timeout = routed.cluster.config.connect_timeout;
    let known = timeout(connect_timeout, listener.clients.of(spoken)).await;
    let how = known.unwrap_or(Err(tls::Error::TimedOut(Side::Upstream)))?;
    let header = announced(Vec::new(), routed, ends, None);
    let mut attempts = attempts(routed, record.client_addr, listener, record);
    let mut refused = None;
    loop {
        let upstream = match connect(client, routed, &mut attempts, record).await {
            Ok(upstream) => upstream,
            Err(Error::Upstream(upstream::Error::NoOther(_))) if let Some(error) = refused => {
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let shaking = timeout(connect_timeout, async {
            let sent = Socket(&upstream.stream).write_all(&header).await;
            sent.map_err(|source| tls::Error::Handshake { side: Side::Upstream, source })?;
            how.connect(&upstream.stream, &listener.mesh).await
        });
        let shaken = tokio::select! {
            shaken = shaking => shaken.unwrap_or(Err(tls::Error::TimedOut(Side::Upstream))),
            _ = relay::reset(client) => return Err(Error::ClientLeft),
        };
        let (mut session, peer) = match shaken {
            Ok(done) => done,
            Err(error) => {
                listener.tls.upstream_refused.inc();
                if !error.may_pass() {
                    return Err(error.into());
                }
                refused = Some(error.into());
                continue;
            }
        };
        listener.tls.upstream_accepted.inc();
        (record.peer, record.engine) = (Some(peer), "tls");
        let sockets = Sockets { client, upstream: &upstream.stream, tls: Side::Upstream, trust: how.trust() };
        return Ok(tls::relay::run(&mut session, sockets, first, meter, listener.patience(routed)).await);
    }
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
