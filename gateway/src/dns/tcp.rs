//! Queries and answers with their length before them, one after the other
//! ([RFC 7766](https://www.rfc-editor.org/rfc/rfc7766)).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Dns;
use super::answer::Transport;

/// Answers until the client has gone, is silent for too long, or sends what is no query.
pub(super) async fn serve(mut stream: TcpStream, dns: Arc<Dns>, idle_timeout: Duration) {
    loop {
        let query = match tokio::time::timeout(idle_timeout, read(&mut stream)).await {
            Ok(Ok(query)) => query,
            Ok(Err(_)) | Err(_) => return,
        };
        if query.len() > dns.max_query_bytes {
            dns.dropped(Transport::Tcp, "too_long");
            return;
        }
        let Some(answer) = dns.answer(&query, Transport::Tcp).await else { return };
        let writing = write(&mut stream, &answer);
        if !matches!(tokio::time::timeout(idle_timeout, writing).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// One message.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// One message, and its length in the same packet.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
