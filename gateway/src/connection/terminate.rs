//! A mesh client's connection, whose TLS ends here: what a sidecar does on its way in.

use eastgate_config::server_name::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::server::TlsStream;

use super::originate::intended;
use super::{Error, attempts, connect, ends, note_hello, note_route, secured, within_limits};
use crate::access_log;
use crate::inspect;
use crate::listener::Listener;
use crate::open;
use crate::relay::Side;
use crate::table::{self, Routed};
use crate::tls::relay::Sockets;
use crate::tls::{self, Socket, Trust};
use crate::upstream::Upstream;

/// Serves one connection until both halves have closed.
pub(super) async fn forward(
    client: &TcpStream,
    listener: &Listener,
    mut record: access_log::Open,
) -> (access_log::Open, Result<(), Error>) {
    let Found { routed, mut session, upstream } = match find(client, listener, &mut record).await {
        Ok(found) => found,
        Err(error) => return (record, Err(error)),
    };
    let patience = listener.patience(&routed);
    let open = open::enter(record, upstream, routed.cluster).await;
    open.stay();
    let sockets = Sockets { client, upstream: &open.upstream.stream, tls: Side::Client, trust: Trust::Mesh };
    let result = secured::carry(&mut session, sockets, Vec::new(), &open, patience).await;
    let mut record = open.leave();
    record.engine = "tls";
    (record, result)
}

/// A client that was let in, and the endpoint that it goes to.
struct Found<'a> {
    routed: Routed,
    session: TlsStream<Socket<'a>>,
    upstream: Upstream,
}

async fn find<'a>(
    client: &'a TcpStream,
    listener: &Listener,
    record: &mut access_log::Open,
) -> Result<Found<'a>, Error> {
    let client_pass = listener.per_client.enter(record.client_addr.ip())?;
    let (routed, session) = shake(client, listener, record).await?;
    let chain_pass = within_limits(&routed, listener).await?;
    let mut attempts = attempts(&routed, record.client_addr, listener, record);
    let mut upstream = connect(client, &routed, &mut attempts, record).await?;
    upstream.hold(attempts, chain_pass, client_pass);
    Ok(Found { routed, session, upstream })
}

/// Shakes hands with the client, as one of a limited number that are not past that, and lets it in if it may be.
async fn shake<'a>(
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
            note_hello(record, listener);
            (record.server_name, record.peer) = (name, Some(peer.to_string()));
            Ok((routed, session))
        }
        Err(error) => {
            listener.tls.client_refused.inc();
            Err(error.into())
        }
    }
}
