//! One connection attempt to one address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Opens a TCP connection. Keepalive is not set here: six system calls for each connection would be spent on the few
/// that live long enough to need it, and those get it from the relay.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when the timeout has passed, else what the kernel says.
pub async fn dial(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    match tokio::time::timeout(timeout, established(&stream)).await {
        Ok(connected) => connected.map(|()| stream),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "connect timeout")),
    }
}

/// Waits for the answer. One that refuses shows as hung up, so the kernel is asked for the error only then.
async fn established(stream: &TcpStream) -> io::Result<()> {
    let ready = stream.ready(Interest::WRITABLE).await?;
    match ready.is_write_closed() {
        true => stream.take_error()?.map_or(Ok(()), Err),
        false => Ok(()),
    }
}
