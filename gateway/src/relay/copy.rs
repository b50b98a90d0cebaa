//! The `copy` engine: one direction, through the thread's shared buffer.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::net::Shutdown;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Side, reset};

/// Large enough that bulk traffic is bound by the kernel's copying, small enough to stay in a core's cache.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Which system call ended a direction.
#[derive(Debug)]
pub(super) enum Error {
    /// The sender is gone.
    Read(super::Error),
    /// The receiver is gone.
    Write(super::Error),
}

impl Error {
    pub(super) fn into_inner(self) -> super::Error {
        match self {
            Self::Read(error) | Self::Write(error) => error,
        }
    }
}

fn broken(side: Side, source: io::Error) -> super::Error {
    super::Error::Broken { side, source }
}

/// What became of one turn through the shared buffer.
enum Turn {
    /// All that was read is written.
    Moved,
    /// Nothing was there to read.
    Empty,
    /// The sender has finished.
    End,
    /// The receiver took only a part; this is the rest.
    Left(Vec<u8>),
}

/// Moves bytes until the sender's FIN, then passes the FIN on.
pub(super) async fn pump(
    (from, from_side): (&TcpStream, Side),
    (to, to_side): (&TcpStream, Side),
    moved: &Cell<u64>,
) -> Result<(), Error> {
    let read_error = |error| Error::Read(broken(from_side, error));
    let write_error = |error| Error::Write(broken(to_side, error));
    loop {
        match turn(from, to, moved).map_err(|error| match error {
            Failed::Read(error) => read_error(error),
            Failed::Write(error) => write_error(error),
        })? {
            // Others on this thread get their turn before a sender that never pauses.
            Turn::Moved => tokio::task::consume_budget().await,
            Turn::Empty => from.readable().await.map_err(read_error)?,
            Turn::End => break,
            Turn::Left(rest) => tokio::select! {
                result = write_all(to, &rest, moved) => result.map_err(write_error)?,
                // A sender that resets while the receiver is full would otherwise go unseen.
                error = reset(from) => return Err(read_error(error)),
            },
        }
    }
    match SockRef::from(to).shutdown(Shutdown::Write) {
        Err(error) if error.kind() != ErrorKind::NotConnected => Err(write_error(error)),
        _ => Ok(()),
    }
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}

/// One read into the shared buffer and the writes that follow from it. The buffer is given back before anything waits.
fn turn(from: &TcpStream, to: &TcpStream, moved: &Cell<u64>) -> Result<Turn, Failed> {
    SHARED.with_borrow_mut(|buffer| {
        let read = match from.try_read(buffer) {
            Ok(0) => return Ok(Turn::End),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Empty),
            Err(error) => return Err(Failed::Read(error)),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(written) => {
                    moved.set(moved.get() + written as u64);
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Left(rest.to_vec())),
                Err(error) => return Err(Failed::Write(error)),
            }
        }
        Ok(Turn::Moved)
    })
}

/// Writes all of it, waiting for room as often as need be.
pub(super) async fn write_all(to: &TcpStream, mut rest: &[u8], moved: &Cell<u64>) -> io::Result<()> {
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(written) => {
                moved.set(moved.get() + written as u64);
                rest = &rest[written..];
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                to.ready(Interest::WRITABLE).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
