//! One connection attempt to one address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use eastgate_config::cluster::Keepalive;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// Opens a TCP connection with the options of the data path.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when the timeout has passed, else what the kernel says.
pub async fn dial(address: SocketAddr, timeout: Duration, keepalive: Keepalive) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    keep_alive(SockRef::from(&socket), keepalive)?;
    match tokio::time::timeout(timeout, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timeout")),
    }
}

/// Switches keepalive on, with a user timeout to match: a peer that has vanished is given up after the same time
/// whether the connection was silent (probes) or had bytes under way (retransmissions), as ztunnel does it.
///
/// # Errors
/// The kernel refused an option.
pub fn keep_alive(socket: SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive { time, interval, probes } = keepalive;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes),
    )?;
    socket.set_tcp_user_timeout(Some(time + interval * probes))
}
