//! Moves bytes between a TLS session of the gateway's own and a plain socket, as `relay` does between two sockets.
//!
//! `close_notify` is answered with a FIN and a FIN with `close_notify`, each after every byte before it; a reset is
//! answered with a reset. A TLS side that ends without `close_notify` may have been cut off by anybody on the way, so
//! that is a broken connection and not an end. An idle connection holds no buffer beside the TLS session's own.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Socket, Trust, with_remedy};
use crate::relay::{Error, Meter, Patience, Side, Watch, reset};

/// Two TLS records: larger reads find no more in the session, and smaller ones cost more calls.
const BUFFER: usize = 32 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// The two sockets, and which of them has TLS on it.
#[derive(Debug, Clone, Copy)]
pub struct Sockets<'a> {
    /// The client's.
    pub client: &'a TcpStream,
    /// The endpoint's.
    pub upstream: &'a TcpStream,
    /// The side that speaks TLS.
    pub tls: Side,
    /// By whose word it is believed.
    pub trust: Trust,
}

/// Relays until both directions have ended, one side broke, or patience is at its end. The endpoint gets `first`
/// before anything else.
///
/// # Errors
/// The connection did not end in good order. After [`Error::Broken`] both sockets are set to reset the other side when
/// they are closed.
pub async fn run<S>(
    session: &mut S,
    sockets: Sockets<'_>,
    first: Vec<u8>,
    meter: &Meter<'_>,
    patience: Patience,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let timer = pin!(patience.timer());
    let mut watch = Watch::new(&patience, timer);
    let result = tokio::select! {
        result = both(session, sockets, first, meter) => result,
        error = poll_fn(|cx| watch.poll(sockets.upstream, meter, cx)) => Err(error),
    };
    if matches!(result, Err(Error::Broken { .. })) {
        for socket in [sockets.client, sockets.upstream] {
            // A socket that is already gone cannot be told anything.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
    result
}

async fn both<'s, S>(
    session: &mut S,
    sockets: Sockets<'s>,
    first: Vec<u8>,
    meter: &'s Meter<'_>,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Sockets { client, upstream, tls, trust } = sockets;
    let mut plain = Socket(if tls == Side::Client { upstream } else { client });
    let mut up = Direction::new((client, Side::Client), Side::Upstream, first, &meter.to_upstream, trust);
    let mut down =
        Direction::new((upstream, Side::Upstream), Side::Client, Vec::new(), &meter.to_client, trust);
    // Boxed watches: few connections need one.
    let watch = |socket: &'s TcpStream| Box::pin(reset(socket));
    let (mut up_watch, mut down_watch) = (None, None);
    poll_fn(|cx| {
        let up_done = match tls {
            Side::Upstream => up.poll(cx, &mut plain, session),
            Side::Client => up.poll(cx, session, &mut plain),
        };
        // The error of a reset is told once, to the write perhaps; the read after it looks like an end.
        down.sender_broken |= up.failed.is_some();
        let down_done = match tls {
            Side::Upstream => down.poll(cx, session, &mut plain),
            Side::Client => down.poll(cx, &mut plain, session),
        };
        up.sender_broken |= down.failed.is_some();
        for done in [up_done, down_done] {
            if let Poll::Ready(Err(error)) = done {
                return Poll::Ready(Err(error));
            }
        }
        if up.has_ended() && down.has_ended() {
            return Poll::Ready(up.failed.take().or(down.failed.take()).map_or(Ok(()), Err));
        }
        // Where nobody reads, nobody would see a reset.
        for (direction, watching) in [(&up, &mut up_watch), (&down, &mut down_watch)] {
            if direction.reads() {
                *watching = None;
                continue;
            }
            if direction.failed.is_some() {
                continue;
            }
            let watching = watching.get_or_insert_with(|| watch(direction.from.0));
            if let Poll::Ready(source) = watching.as_mut().poll(cx) {
                return Poll::Ready(Err(Error::Broken { side: direction.from.1, source }));
            }
        }
        Poll::Pending
    })
    .await
}

/// One direction.
struct Direction<'a> {
    from: (&'a TcpStream, Side),
    to: Side,
    /// What was read and not yet taken by the receiver.
    rest: Vec<u8>,
    written: usize,
    state: State,
    /// The receiver is gone. What it sent before is still on its way to the other side.
    failed: Option<Error>,
    /// The sender is broken: what it sent is passed on, and its end is none.
    sender_broken: bool,
    moved: &'a Cell<u64>,
    trust: Trust,
}

#[derive(PartialEq)]
enum State {
    Reading,
    /// The sender has finished; the receiver is to be told.
    Ending,
    Ended,
}

impl<'a> Direction<'a> {
    fn new(
        from: (&'a TcpStream, Side),
        to: Side,
        first: Vec<u8>,
        moved: &'a Cell<u64>,
        trust: Trust,
    ) -> Self {
        Self {
            from,
            to,
            rest: first,
            written: 0,
            state: State::Reading,
            failed: None,
            sender_broken: false,
            moved,
            trust,
        }
    }

    fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    fn reads(&self) -> bool {
        self.state == State::Reading && self.rest.is_empty()
    }

    /// Moves what can be moved. An error is one of the sender; one of the receiver ends this direction only.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Error>> {
        loop {
            let step = match self.state {
                _ if !self.rest.is_empty() => self.write(cx, to),
                State::Reading => self.read(cx, from, to),
                State::Ending if self.sender_broken => {
                    self.state = State::Ended;
                    Poll::Ready(Ok(()))
                }
                State::Ending => Pin::new(&mut *to)
                    .poll_shutdown(cx)
                    .map_ok(|()| self.state = State::Ended)
                    .map_err(Failed::Write),
                State::Ended => return Poll::Ready(Ok(())),
            };
            match step {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Failed::Read(source))) => {
                    return Poll::Ready(Err(Error::Broken {
                        side: self.from.1,
                        source: with_remedy(source, self.trust),
                    }));
                }
                Poll::Ready(Err(Failed::Write(source))) => {
                    self.failed =
                        Some(Error::Broken { side: self.to, source: with_remedy(source, self.trust) });
                    (self.rest, self.state) = (Vec::new(), State::Ended);
                }
            }
        }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Failed>> {
        let left = self.rest.get(self.written..).unwrap_or_default();
        match Pin::new(to).poll_write(cx, left) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into()))),
            Poll::Ready(Ok(written)) => self.count(written),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Write(error))),
        }
        if self.written >= self.rest.len() {
            (self.rest, self.written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// One read into the buffer that the thread lends, and the write that follows from it.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), Failed>> {
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    // A TLS session may hold records back that the socket had no room for.
                    let flushed = Pin::new(to).poll_flush(cx).map_err(Failed::Write);
                    return if let Poll::Ready(Err(error)) = flushed {
                        Poll::Ready(Err(error))
                    } else {
                        Poll::Pending
                    };
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Read(error))),
                Poll::Ready(Ok(())) => {}
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            match Pin::new(to).poll_write(cx, read) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Write(error))),
                Poll::Ready(Ok(written)) => {
                    self.count(written);
                    self.written = 0;
                    self.rest = read.get(written..).unwrap_or_default().to_vec();
                }
                Poll::Pending => self.rest = read.to_vec(),
            }
            Poll::Ready(Ok(()))
        })
    }

    fn count(&mut self, bytes: usize) {
        self.written += bytes;
        self.moved.set(self.moved.get() + bytes as u64);
    }
}

enum Failed {
    Read(io::Error),
    Write(io::Error),
}
