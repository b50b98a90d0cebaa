//! A mesh client's connection, whose TLS ends here: what a sidecar does on its way in.

use eastgate_config::server_name::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::server::TlsStream;

use super::originate::intended;
use super::{Error, attempts, connect, ends, note_route, within_limits};
use crate::access_log;
use crate::inspect;
use crate::listener::Listener;
use crate::relay::{Meter, Moved, Side};
use crate::table::{self, Routed};
use crate::tls::relay::Sockets;
use crate::tls::{self, Socket, Trust};

/// Serves one connection until both halves have closed.
pub(super) async fn forward(
    client: &TcpStream,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<(), Error> {
    let _client = listener.per_client.enter(record.client_addr.ip())?;
    let (routed, mut session) = secured(client, listener, record).await?;
    let _counted = within_limits(&routed, listener).await?;
    let mut attempts = attempts(&routed, record.client_addr, listener, record);
    let upstream = connect(client, &routed, &mut attempts, record).await?;
    record.engine = "tls";
    let stats = &routed.cluster.stats;
    let moved = Moved::default();
    let meter = Meter::new(&moved, (&stats.to_upstream, &stats.to_client));
    let sockets = Sockets { client, upstream: &upstream.stream, tls: Side::Client, trust: Trust::Mesh };
    let patience = listener.patience(&routed);
    let result = tls::relay::run(&mut session, sockets, Vec::new(), &meter, patience).await;
    (record.to_upstream_bytes, record.to_client_bytes) = (meter.to_upstream.get(), meter.to_client.get());
    Ok(result?)
}

/// Shakes hands with the client, as one of a limited number that are not past that, and lets it in if it may be.
async fn secured<'a>(
    client: &'a TcpStream,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<(Routed, TlsStream<Socket<'a>>), Error> {
    let beginning = listener.admit(record.client_addr).ok_or(Error::TooFast)?;
    let _pending = listener.hellos.enter().ok_or_else(|| Error::Pending(listener.hellos.limit()))?;
    let told = inspect::beginning(client, beginning).await?.told;
    let ends = intended(client, listener, ends(client, told, record)?);
    let routed = listener.route(None, ends)?;
    note_route(record, &routed, listener);
    let peers = routed.peers.as_deref().ok_or(table::Error::NoListener)?;

    let shaken = timeout_at(beginning.deadline, listener.mesh.accept(client)).await;
    let shaken = shaken.unwrap_or(Err(tls::Error::TimedOut(Side::Client)));
    let admitted = shaken.and_then(|session| {
        let (_, connection) = session.get_ref();
        let name = connection.server_name().and_then(|name| ServerName::from_sni(name.as_bytes()).ok());
        let peer = tls::admit(connection.peer_certificates(), peers, Side::Client);
        Ok((session, name, peer?))
    });
    match admitted {
        Ok((session, name, peer)) => {
            listener.tls.client_accepted.inc();
            listener.downstream.hello_seconds().observe(record.age());
            (record.server_name, record.peer) = (name, Some(peer.to_string()));
            Ok((routed, session))
        }
        Err(error) => {
            listener.tls.client_refused.inc();
            Err(error.into())
        }
    }
}
