//! The `copy` engine: through a buffer that the whole thread shares.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};

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
    let mut pushed = Ok(Turn::End);
    let read = read(from, BUFFER, |bytes| {
        pushed = push(to, bytes, moved).map_err(Failed::Write).map(|rest| match rest {
            [] => Turn::Moved(bytes.len()),
            rest => Turn::Left(Rest::Bytes(rest.to_vec())),
        });
    });
    match read {
        Ok(_) => pushed,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Turn::Empty),
        Err(error) => Err(Failed::Read(error)),
    }
}

/// Reads at most so many bytes into the buffer of the thread, and lends them to `take`; 0 is the sender's FIN.
///
/// A read that got less than it had room for has emptied the socket, and that is noted, which saves the read that would
/// only say `EAGAIN` (epoll(7), "Questions and answers", 9). A FIN or an error that is there already is not forgotten.
///
/// # Errors
/// What the kernel says, `WouldBlock` included.
pub fn read(from: &TcpStream, most: usize, take: impl FnOnce(&[u8])) -> io::Result<usize> {
    SHARED.with_borrow_mut(|buffer| {
        let most = most.min(buffer.len());
        let room = buffer.get_mut(..most).unwrap_or_default();
        let read = from.try_read(room)?;
        if read > 0 && read < most {
            let _ = from.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        }
        if read > 0 {
            take(room.get(..read).unwrap_or_default());
        }
        Ok(read)
    })
}

/// Writes bytes that were read before.
pub(super) fn write(to: &TcpStream, mut bytes: Vec<u8>, moved: &Cell<u64>) -> Result<Turn, Failed> {
    let left = push(to, &bytes, moved).map_err(Failed::Write)?.len();
    let written = bytes.len() - left;
    bytes.drain(..written);
    Ok(if left == 0 { Turn::Moved(written) } else { Turn::Left(Rest::Bytes(bytes)) })
}

/// Writes as much as the receiver has room for, and gives the rest.
pub(super) fn push<'a>(to: &TcpStream, mut rest: &'a [u8], moved: &Cell<u64>) -> io::Result<&'a [u8]> {
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(written) => {
                moved.set(moved.get() + written as u64);
                rest = &rest[written..];
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(rest)
}
