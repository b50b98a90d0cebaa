//! Relaying where one side speaks TLS with the gateway itself.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{Error, LINGER, part};
use crate::open::{Ask, End, Entered};
use crate::relay::{Meter, Patience};
use crate::tls::relay::{self, Sockets};

/// Relays until both sides have finished, or somebody wants the connection to end. Then the TLS side gets a
/// `close_notify`, without which its end would be none.
pub(super) async fn carry<S>(
    session: &mut S,
    sockets: Sockets<'_>,
    first: Vec<u8>,
    open: &Entered,
    patience: Patience,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stats = &open.cluster.stats;
    let meter = Meter::new(&open.moved, (&stats.to_upstream, &stats.to_client));
    let end = tokio::select! {
        biased;
        result = relay::run(session, sockets, first, &meter, patience) => return Ok(result?),
        end = asked_to_end(open) => end,
    };
    // One that is gone, or reads nothing, is not waited for.
    let _ = timeout(LINGER, session.shutdown()).await;
    part(sockets.client, sockets.upstream).await;
    Err(Error::Ended(end))
}

async fn asked_to_end(open: &Entered) -> End {
    loop {
        // It is never asked to pass, because it stays.
        if let Ask::End(end) = open.asked().await {
            return end;
        }
    }
}
