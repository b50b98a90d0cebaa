//! Socket options that both sides of a connection have.

use std::io;

use eastgate_config::cluster::Keepalive;
use socket2::{SockRef, TcpKeepalive};

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
