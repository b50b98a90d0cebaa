//! Reads the ClientHello off a socket, within the limits on its size and time.

use std::io::ErrorKind;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::client_hello::{ClientHello, Inspector, Refusal};

/// Reads until the ClientHello is whole, and gives it with everything that was read: the endpoint gets those very
/// bytes, because the ClientHello is hashed into the TLS transcript. The deadline is absolute, so that a client that drips is cut like one that
/// is silent.
///
/// # Errors
/// The bytes are refused, or did not come in time, or the client left.
pub async fn client_hello(
    client: &TcpStream,
    max_hello_bytes: usize,
    deadline: Instant,
) -> Result<(ClientHello, Vec<u8>), Refusal> {
    let mut inspector = Inspector::new(max_hello_bytes);
    loop {
        // The bytes are often there already, so reading is tried before waiting. `readable` returns at once while
        // more may be there, which also checks the deadline between reads.
        match client.try_read(inspector.room()) {
            Ok(0) => return Err(inspector.closed()),
            Ok(read) => {
                inspector.received(read);
                if let Some(hello) = inspector.advance()? {
                    return Ok((hello, inspector.into_raw()));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(inspector.closed()),
        }
        match timeout_at(deadline, client.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(inspector.closed()),
            Err(_) => return Err(inspector.too_slow()),
        }
    }
}
