//! One packet in, one packet out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::Dns;
use super::answer::{Reply, Transport};

/// After an error of the socket, so that one which stays does not keep a core busy.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Answers in the order of arrival, but for what another resolver has to say.
pub(super) async fn serve(socket: UdpSocket, dns: Arc<Dns>) -> anyhow::Result<()> {
    let socket = Arc::new(socket);
    let mut forwards = JoinSet::new();
    // One byte more, to tell a query that is too long from one that just fits.
    let mut buffer = vec![0; dns.max_query_bytes + 1];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = forwards.join_next() => continue,
        };
        let (length, client) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "cannot receive a DNS query");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let began = Instant::now();
        if length > dns.max_query_bytes {
            dns.dropped(Transport::Udp, "too_long");
            continue;
        }
        let query = &buffer[..length];
        match dns.reply(query, Transport::Udp) {
            Reply::Answer { bytes, verdict } => {
                dns.count(Transport::Udp, verdict, began);
                if let Err(error) = socket.send_to(&bytes, client).await {
                    dns.dropped(Transport::Udp, "not_sent");
                    tracing::debug!(%error, %client, "cannot send a DNS answer");
                }
            }
            Reply::Forward { failure, kind } => {
                let (dns, socket, query) = (Arc::clone(&dns), Arc::clone(&socket), query.to_vec());
                forwards.spawn(async move {
                    let (bytes, verdict) = dns.forward(&query, Transport::Udp, failure, kind).await;
                    dns.count(Transport::Udp, verdict, began);
                    if socket.send_to(&bytes, client).await.is_err() {
                        dns.dropped(Transport::Udp, "not_sent");
                    }
                });
            }
            Reply::Silence => dns.dropped(Transport::Udp, "no_query"),
        }
    }
}
