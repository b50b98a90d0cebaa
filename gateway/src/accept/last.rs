//! The last clients of a socket that accepts no more.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{SockFilter, SockRef};

/// What a client is given to finish its handshake; one that takes longer is reset.
pub(super) const HALF_OPEN: Duration = Duration::from_millis(200);

/// Has the kernel begin no further handshake on this socket, while those that have begun may be finished. Once the
/// socket is closed, clients whose handshake was not begun are refused in good order, and come to another gateway.
///
/// The filter sees each packet from its TCP header on, whose byte 13 has the flags
/// ([RFC 9293 §3.1](https://www.rfc-editor.org/rfc/rfc9293#section-3.1)): one with SYN and without ACK is dropped.
pub(super) fn begin_no_more(socket: &TcpListener) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Those whom the kernel has connected already. Closing the socket would reset them.
pub(super) fn connected(socket: &TcpListener) -> impl Iterator<Item = (std::net::TcpStream, SocketAddr)> {
    std::iter::from_fn(move || {
        loop {
            match socket.accept() {
                Err(error) if super::passes_by_itself(&error) => {}
                accepted => return accepted.ok(),
            }
        }
    })
}
