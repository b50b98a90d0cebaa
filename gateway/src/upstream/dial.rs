//! One connection attempt to one address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

/// Opens a TCP connection. Keepalive is not set here: six system calls for each connection would be spent on the few
/// that live long enough to need it, and those get it from the relay.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when the timeout has passed, else what the kernel says.
pub async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    match tokio::time::timeout(timeout, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timeout")),
    }
}
