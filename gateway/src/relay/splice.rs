//! The `splice` engine: bytes go from socket to socket through a pipe, and never into this process
//! (<https://man7.org/linux/man-pages/man2/splice.2.html>).
//!
//! A pipe is filled only when it is empty. Otherwise `EAGAIN` could mean an empty socket or a full pipe, and nobody
//! could say what to wait for.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use eastgate_config::bootstrap::DEFAULT_MAX_PIPES;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pump::{Failed, Rest, Turn};

/// What a pipe holds. An unprivileged user has 64 MiB in all his pipes (`pipe-user-pages-soft`); past that, new ones
/// have a page or two, which is worse than copying.
const CAPACITY: usize = 256 * 1024;

thread_local! {
    /// Pipes that the thread has at most, those with a stalled receiver included.
    static MOST: Cell<usize> = const { Cell::new(DEFAULT_MAX_PIPES) };
    static FREE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static ALIVE: Cell<usize> = const { Cell::new(0) };
}

/// From now on this thread makes no pipe beyond so many; what cannot have one is copied.
pub fn limit_pipes(most: usize) {
    MOST.set(most);
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe in use. When it is dropped, it goes back to the thread's free ones, unless bytes are left in it: those belong
/// to a connection that is gone.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<Ends>,
    filled: usize,
}

impl Pipe {
    /// A free pipe, or a new one while the thread may have more.
    fn take() -> Option<Self> {
        if let Some(ends) = FREE.with_borrow_mut(Vec::pop) {
            return Some(Self { ends: Some(ends), filled: 0 });
        }
        if ALIVE.get() >= MOST.get() {
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        fcntl_setpipe_size(&write, CAPACITY).ok().filter(|size| *size >= CAPACITY)?;
        ALIVE.set(ALIVE.get() + 1);
        Some(Self { ends: Some(Ends { read, write }), filled: 0 })
    }

    /// Moves what is in the pipe to the socket; false when the socket is full before the pipe is empty.
    pub(super) fn drain(&mut self, to: &TcpStream, moved: &Cell<u64>) -> io::Result<bool> {
        let Some(ends) = &self.ends else { return Ok(true) };
        while self.filled > 0 {
            let written = to.try_io(Interest::WRITABLE, || {
                Ok(splice(
                    &ends.read,
                    None,
                    to,
                    None,
                    self.filled,
                    SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
                )?)
            });
            match written {
                Ok(written) => {
                    self.filled -= written;
                    moved.set(moved.get() + written as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Pipe {
    /// Takes out what is in it.
    pub(super) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.filled];
        while let Some(ends) = self.ends.as_ref().filter(|_| self.filled > 0) {
            let begin = bytes.len() - self.filled;
            match rustix::io::read(&ends.read, bytes.get_mut(begin..).unwrap_or_default())? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.filled -= read,
            }
        }
        Ok(bytes)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match self.ends.take() {
            Some(ends) if self.filled == 0 => FREE.with_borrow_mut(|free| free.push(ends)),
            Some(_) => ALIVE.set(ALIVE.get() - 1),
            None => {}
        }
    }
}

/// One splice into an empty pipe and those out of it that follow.
pub(super) fn turn(from: &TcpStream, to: &TcpStream, moved: &Cell<u64>) -> Result<Turn, Failed> {
    let Some(mut pipe) = Pipe::take() else { return Ok(Turn::Refused) };
    let Some(ends) = &pipe.ends else { return Ok(Turn::Refused) };
    let read = from.try_io(Interest::READABLE, || {
        Ok(splice(from, None, &ends.write, None, CAPACITY, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    });
    let read = match read {
        Ok(0) => return Ok(Turn::End),
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Empty),
        // Not every kind of socket can be spliced, nor every kernel splice.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            return Ok(Turn::Refused);
        }
        Err(error) => return Err(Failed::Read(error)),
    };
    pipe.filled = read;
    match pipe.drain(to, moved) {
        Ok(true) => Ok(Turn::Moved(read)),
        Ok(false) => Ok(Turn::Left(Rest::Piped(pipe))),
        Err(error) => Err(Failed::Write(error)),
    }
}
