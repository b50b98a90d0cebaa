//! The `copy` engine: through a buffer that the whole thread shares.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pump::{Failed, Rest, Turn};

/// Large enough that bulk traffic is bound by the kernel's copying, small enough to stay in a core's cache.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// One read into the shared buffer and the writes that follow from it. The buffer is given back before anything waits.
pub(super) fn turn(from: &TcpStream, to: &TcpStream, moved: &Cell<u64>) -> Result<Turn, Failed> {
    SHARED.with_borrow_mut(|buffer| {
        let read = match from.try_read(buffer) {
            Ok(0) => return Ok(Turn::End),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Empty),
            Err(error) => return Err(Failed::Read(error)),
        };
        if read < buffer.len() {
            drained(from);
        }
        match push(to, &buffer[..read], moved)? {
            [] => Ok(Turn::Moved(read)),
            rest => Ok(Turn::Left(Rest::Bytes(rest.to_vec()))),
        }
    })
}

/// Notes that a read got less than it had room for, so nothing more is there until the socket says so again: one system
/// call less for each piece than reading until the kernel says `EAGAIN` (epoll(7), "Questions and answers", 9). A FIN or
/// an error that is there already is not forgotten by this.
pub fn drained(socket: &TcpStream) {
    let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
}

/// Writes bytes that were read before.
pub(super) fn write(to: &TcpStream, mut bytes: Vec<u8>, moved: &Cell<u64>) -> Result<Turn, Failed> {
    let left = push(to, &bytes, moved)?.len();
    let written = bytes.len() - left;
    bytes.drain(..written);
    Ok(if left == 0 { Turn::Moved(written) } else { Turn::Left(Rest::Bytes(bytes)) })
}

/// Writes as much as the receiver has room for, and gives the rest.
fn push<'a>(to: &TcpStream, mut rest: &'a [u8], moved: &Cell<u64>) -> Result<&'a [u8], Failed> {
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(written) => {
                moved.set(moved.get() + written as u64);
                rest = &rest[written..];
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(Failed::Write(error)),
        }
    }
    Ok(rest)
}
