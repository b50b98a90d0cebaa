//! One direction: turns of whichever engine fits what is moving.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::Shutdown;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::splice::Pipe;
use super::{Relay, Side, copy, reset, splice};

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

/// What an engine made of one turn: a read, and the writes that followed from it.
pub(super) enum Turn {
    /// So many bytes were read, and all are written.
    Moved(usize),
    /// Nothing was there to read.
    Empty,
    /// The sender has finished.
    End,
    /// The receiver took only a part; this is the rest.
    Left(Rest),
    /// The engine cannot serve these sockets, now or ever.
    Refused,
}

/// Bytes that were read and are not written.
pub(super) enum Rest {
    /// In memory.
    Bytes(Vec<u8>),
    /// In the kernel.
    Piped(Pipe),
}

pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
}

impl Failed {
    /// The error of a direction with this sender.
    fn of(self, sender: Side) -> Error {
        match self {
            Self::Read(source) => Error::Read(super::Error::Broken { side: sender, source }),
            Self::Write(source) => Error::Write(super::Error::Broken { side: sender.other(), source }),
        }
    }
}

/// Which engine has the next turn. Bulk is spliced, which costs half of copying; what comes in small pieces is copied,
/// which costs fewer system calls.
#[derive(Debug, Default)]
struct Choice {
    splicing: bool,
    /// Turns in a row that speak for the other engine.
    streak: u8,
    refused: bool,
}

impl Choice {
    /// A read that fills half of the buffer has more behind it.
    const BULK: usize = 32 * 1024;
    const BULK_STREAK: u8 = 4;
    const SMALL: usize = 8 * 1024;
    const SMALL_STREAK: u8 = 8;

    fn moved(&mut self, bytes: usize) {
        let (other, after) = match self.splicing {
            false => (bytes >= Self::BULK, Self::BULK_STREAK),
            true => (bytes < Self::SMALL, Self::SMALL_STREAK),
        };
        self.streak = if other { self.streak.saturating_add(1) } else { 0 };
        if self.streak >= after && !self.refused {
            (self.splicing, self.streak) = (!self.splicing, 0);
        }
    }

    fn refused(&mut self) {
        *self = Self { refused: true, ..Self::default() };
    }
}

/// Writes what was read before, moves bytes until this sender's FIN, then passes the FIN on.
pub(super) async fn pump(relay: &Relay<'_>, sender: Side) -> Result<(), Error> {
    let (from, to) = (relay.socket(sender), relay.socket(sender.other()));
    let (first, moved) = match sender {
        Side::Client => (relay.first.take(), &relay.meter.to_upstream),
        Side::Upstream => (Vec::new(), &relay.meter.to_client),
    };
    let mut choice = Choice::default();
    let mut turn = copy::write(to, first, moved);
    loop {
        match turn {
            Ok(Turn::Moved(bytes)) => {
                relay.meter.note_engine(choice.splicing);
                choice.moved(bytes);
                // Others on this thread get their turn before a sender that never pauses.
                tokio::task::consume_budget().await;
            }
            // Needs no room in the future, unlike `readable`.
            Ok(Turn::Empty) => {
                poll_fn(|cx| from.poll_read_ready(cx))
                    .await
                    .map_err(|error| Failed::Read(error).of(sender))?;
            }
            Ok(Turn::End) if relay.broken.get() => return Ok(()),
            Ok(Turn::End) => break,
            // Boxed, so that connections that do not wait for their receiver need no room for it.
            Ok(Turn::Left(rest)) => {
                relay.meter.note_engine(choice.splicing);
                Box::pin(write_out(rest, from, to, moved)).await.map_err(|failed| failed.of(sender))?;
            }
            Ok(Turn::Refused) => choice.refused(),
            Err(failed) => return Err(failed.of(sender)),
        }
        turn = match choice.splicing {
            true => splice::turn(from, to, moved),
            false => copy::turn(from, to, moved),
        };
    }
    match SockRef::from(to).shutdown(Shutdown::Write) {
        Err(error) if error.kind() != ErrorKind::NotConnected => Err(Failed::Write(error).of(sender)),
        _ => Ok(()),
    }
}

/// Writes what the receiver had no room for. A sender that resets meanwhile would otherwise go unseen.
async fn write_out(rest: Rest, from: &TcpStream, to: &TcpStream, moved: &Cell<u64>) -> Result<(), Failed> {
    tokio::select! {
        result = rest.write(to, moved) => result.map_err(Failed::Write),
        error = reset(from) => Err(Failed::Read(error)),
    }
}

impl Rest {
    /// Writes all of it, waiting for room as often as need be.
    async fn write(self, to: &TcpStream, moved: &Cell<u64>) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => write_all(to, &bytes, moved).await,
            Self::Piped(mut pipe) => {
                while !pipe.drain(to, moved)? {
                    to.ready(Interest::WRITABLE).await?;
                }
                Ok(())
            }
        }
    }
}

/// Writes all of it, waiting for room as often as need be.
async fn write_all(to: &TcpStream, mut rest: &[u8], moved: &Cell<u64>) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(choice: &mut Choice, bytes: usize, turns: usize) -> bool {
        (0..turns).for_each(|_| choice.moved(bytes));
        choice.splicing
    }

    #[test]
    fn bulk_is_spliced_and_small_pieces_are_copied() {
        let mut choice = Choice::default();
        assert!(!after(&mut choice, 64, 1_000));
        assert!(!after(&mut choice, 64 * 1024, 3));
        assert!(!after(&mut choice, 64, 1), "one small read breaks the row");
        assert!(!after(&mut choice, 64 * 1024, 3));
        assert!(after(&mut choice, 64 * 1024, 1));
        assert!(after(&mut choice, 20_000, 100));
        assert!(after(&mut choice, 64, 7));
        assert!(!after(&mut choice, 64, 1));
    }

    #[test]
    fn an_engine_that_refused_is_not_tried_again() {
        let mut choice = Choice::default();
        assert!(after(&mut choice, 64 * 1024, 4));
        choice.refused();
        assert!(!after(&mut choice, 64 * 1024, 100));
    }
}
