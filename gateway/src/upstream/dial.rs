//! One connection attempt to one endpoint: to its address, or to the first of its addresses that answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// How long an address has to itself before the next is tried beside it
/// (<https://www.rfc-editor.org/rfc/rfc8305#section-5>).
const BETWEEN_ADDRESSES: Duration = Duration::from_millis(250);

/// Opens a TCP connection, from the first of the `sources` that is of the address's family, or from where the kernel
/// thinks best. Keepalive is not set here: six system calls for each connection would be spent on the few that live long
/// enough to need it, and those get it from the relay.
///
/// # Errors
/// What the kernel says; only it sets a limit on the time.
pub async fn dial(address: SocketAddr, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = sources.iter().find(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(&SocketAddr::new(*source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    established(&stream, address).await.map(|()| stream)
}

/// Opens a TCP connection to one of the addresses of one endpoint (Happy Eyeballs): the next is tried when one has failed,
/// or has not answered for a while and then beside it, and the first to answer is taken.
///
/// # Errors
/// None of them can be reached; this is what the last of them said.
pub async fn dial_any(first: SocketAddr, others: &[SocketAddr], sources: &[IpAddr]) -> io::Result<TcpStream> {
    if others.is_empty() {
        return dial(first, sources).await;
    }
    let mut addresses = alternating(first, others).into_iter();
    let mut running: Vec<Pin<Box<_>>> = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut wait = pin!(sleep(Duration::ZERO));
    loop {
        if let Some(address) = addresses.next() {
            running.push(Box::pin(dial(address, sources)));
            wait.as_mut().reset(Instant::now() + BETWEEN_ADDRESSES);
        } else if running.is_empty() {
            return Err(last);
        }
        let more = addresses.len() > 0;
        tokio::select! {
            (index, done) = first_of(&mut running, |one| one.as_mut()) => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last = error;
                    drop(running.swap_remove(index));
                }
            },
            () = &mut wait, if more => {}
        }
    }
}

/// Waits for the first of these to be done, and gives its place. `future` says what is to be done in each.
pub(super) async fn first_of<T, F: Future>(
    running: &mut [T],
    mut future: impl FnMut(&mut T) -> Pin<&mut F>,
) -> (usize, F::Output) {
    std::future::poll_fn(|cx| {
        for (index, one) in running.iter_mut().enumerate() {
            if let Poll::Ready(output) = future(one).poll(cx) {
                return Poll::Ready((index, output));
            }
        }
        Poll::Pending
    })
    .await
}

/// The addresses in the order in which they are tried: their families in turn, beginning with the first address
/// (<https://www.rfc-editor.org/rfc/rfc8305#section-4>).
fn alternating(first: SocketAddr, others: &[SocketAddr]) -> Vec<SocketAddr> {
    let (same, other): (Vec<_>, Vec<_>) =
        others.iter().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut order = vec![first];
    while same.len() + other.len() > 0 {
        order.extend(other.next());
        order.extend(same.next());
    }
    order
}

/// Waits for the answer. One that refuses shows as hung up, so the kernel is asked for the error only then.
async fn established(stream: &TcpStream, address: SocketAddr) -> io::Result<()> {
    let ready = stream.ready(Interest::WRITABLE).await?;
    if ready.is_write_closed() {
        return stream.take_error()?.map_or(Ok(()), Err);
    }
    // Where nobody listens on this machine, the kernel may choose that very port for the socket, which is connected to
    // itself then (TCP's simultaneous open), echoes, and keeps the port from its owner. Nobody is there: that is refused.
    if address.ip().is_loopback() && stream.local_addr()? == address {
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn families_take_turns_beginning_with_the_first_address() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("10.0.0.1:1"), address("10.0.0.2:1"), address("10.0.0.3:1"));
        let (x, y) = (address("[fd00::1]:1"), address("[fd00::2]:1"));
        assert_eq!(alternating(a, &[b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(alternating(x, &[a, b]), [x, a, b]);
        assert_eq!(alternating(a, &[]), [a]);
    }

    #[tokio::test]
    async fn the_other_address_is_taken_where_the_first_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
        let stream = dial_any(refused, &[listener.local_addr().unwrap()], &[]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        let error = dial_any(refused, &[refused], &[]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_socket_that_is_connected_to_itself_is_refused() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&free.into()).unwrap();
        socket.connect(&free.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(socket.into()).unwrap();
        let refused = established(&stream, free).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_connection_comes_from_the_source_of_its_family() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sources = ["::1".parse().unwrap(), "127.0.0.9".parse().unwrap()];
        let _stream = dial(listener.local_addr().unwrap(), &sources).await.unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip(), sources[1]);
        let nowhere = ["192.0.2.1".parse().unwrap()];
        let error = dial(listener.local_addr().unwrap(), &nowhere).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
