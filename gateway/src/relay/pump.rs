//! One direction: turns of whichever engine fits what is moving.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::splice::Pipe;
use super::{Between, Side, copy, reset, splice};

/// Which system call ended a direction.
#[derive(Debug)]
pub(super) enum Error {
    /// The sender is gone.
    Read(super::Error),
    /// The receiver is gone.
    Write(super::Error),
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

/// Turns that a direction has before others on this thread have theirs.
const TURNS: usize = 16;

/// One direction, while it lasts. What it works on is lent to it, because every idle tunnel pays for two of these.
pub(super) struct Pump<'a> {
    sender: Side,
    choice: Choice,
    /// The FIN is passed on, or the receiver is gone.
    ended: bool,
    /// The rest of a turn, being written. Few directions ever wait for their receiver, so it is boxed.
    left: Option<Box<Left<'a>>>,
}

/// The rest of a turn, and a look at its sender: one that resets meanwhile would otherwise go unseen.
struct Left<'a> {
    rest: Rest,
    reset: Pin<Box<dyn Future<Output = io::Error> + 'a>>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(sender: Side) -> Self {
        Self { sender, choice: Choice::default(), ended: false, left: None }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Writes what was read before, and goes on after that, unless the direction has ended.
    pub(super) fn begin(&mut self, between: Between<'a>, first: Vec<u8>, ended: bool) -> Result<(), Error> {
        let (_, to, moved) = between.way(self.sender);
        let turn = copy::write(to, first, moved);
        let settled = self.settle(turn, between).map(drop);
        self.ended = ended || settled.is_err();
        settled
    }

    /// Moves bytes until none are there or the receiver is full; after the sender's FIN, passes it on and has ended, as
    /// it has after an error. If the sender is `broken`, its end is none and is not passed on.
    pub(super) fn poll(
        &mut self,
        between: Between<'a>,
        broken: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let done = ready!(self.turns(between, broken, cx));
        (self.ended, self.left) = (true, None);
        Poll::Ready(done)
    }

    fn turns(&mut self, between: Between<'a>, broken: bool, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let (from, to, moved) = between.way(self.sender);
        for _ in 0..TURNS {
            if let Some(left) = &mut self.left {
                ready!(left.poll(to, moved, cx)).map_err(|failed| failed.of(self.sender))?;
                self.left = None;
            }
            let turn = match self.choice.splicing {
                true => splice::turn(from, to, moved),
                false => copy::turn(from, to, moved),
            };
            match self.settle(turn, between)? {
                Next::Turn => {}
                Next::Wait => {
                    ready!(from.poll_read_ready(cx)).map_err(|error| Failed::Read(error).of(self.sender))?;
                }
                Next::End => {
                    return Poll::Ready(
                        if broken { Ok(()) } else { finish(to) }
                            .map_err(|error| Failed::Write(error).of(self.sender)),
                    );
                }
            }
        }
        // Only asks to be polled again once the others were, and the sockets looked at.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Takes out what was read and is not written.
    pub(super) fn take_left(&mut self) -> Result<Vec<u8>, super::Error> {
        let sender = self.sender;
        let bytes = self.left.take().map_or(Ok(Vec::new()), |left| left.rest.into_bytes());
        bytes.map_err(|source| super::Error::Broken { side: sender, source })
    }

    fn settle(&mut self, turn: Result<Turn, Failed>, between: Between<'a>) -> Result<Next, Error> {
        match turn {
            Ok(Turn::Moved(bytes)) => {
                between.meter.note_engine(self.choice.splicing);
                self.choice.moved(bytes);
            }
            Ok(Turn::Left(rest)) => {
                between.meter.note_engine(self.choice.splicing);
                let (from, ..) = between.way(self.sender);
                self.left = Some(Box::new(Left { rest, reset: Box::pin(reset(from)) }));
            }
            Ok(Turn::Refused) => self.choice.refused(),
            Ok(Turn::Empty) => return Ok(Next::Wait),
            Ok(Turn::End) => return Ok(Next::End),
            Err(failed) => return Err(failed.of(self.sender)),
        }
        Ok(Next::Turn)
    }
}

/// What a turn leads to.
enum Next {
    Turn,
    Wait,
    End,
}

/// Tells the receiver that nothing more will come.
fn finish(to: &TcpStream) -> io::Result<()> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        Err(error) if error.kind() != ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

impl Left<'_> {
    fn poll(&mut self, to: &TcpStream, moved: &Cell<u64>, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        while !self.rest.push(to, moved).map_err(Failed::Write)? {
            match to.poll_write_ready(cx) {
                Poll::Ready(result) => result.map_err(Failed::Write)?,
                Poll::Pending => return self.reset.as_mut().poll(cx).map(|error| Err(Failed::Read(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Rest {
    /// Writes as much as the receiver has room for; true when that was all.
    fn push(&mut self, to: &TcpStream, moved: &Cell<u64>) -> io::Result<bool> {
        match self {
            Self::Bytes(bytes) => {
                let left = copy::push(to, bytes, moved)?.len();
                bytes.drain(..bytes.len() - left);
                Ok(left == 0)
            }
            Self::Piped(pipe) => pipe.drain(to, moved),
        }
    }

    /// The bytes, wherever they are.
    fn into_bytes(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Piped(pipe) => pipe.into_bytes(),
        }
    }
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
