//! Moves bytes between two sockets until both directions have ended. Knows nothing else.
//!
//! A FIN is answered with a FIN after every byte before it, so that either side may go on alone; a reset is answered
//! with a reset, so that neither side takes a broken connection for a finished one. An idle connection holds no
//! buffer and no pipe: bytes go through one that the thread lends for a moment, and only what the other socket does not
//! take is owned until it does. Small pieces are copied and bulk is spliced, each direction by itself.

use std::cell::Cell;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Sleep;

mod copy;
mod patience;
mod pump;
mod splice;

pub use copy::read;
pub(crate) use patience::Watch;
pub use patience::{Patience, keep_alive};
use pump::Pump;
pub use splice::limit_pipes;

/// Which of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// The endpoint's.
    Upstream,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// Why a connection ended before both sides had finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A side reset the connection, or vanished.
    #[error("the {} broke the connection", match .side { Side::Client => "client", Side::Upstream => "endpoint" })]
    Broken {
        /// Which one.
        side: Side,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Neither side sent anything for this long.
    #[error("nothing was sent in either direction for {0:?}")]
    Idle(Duration),
    /// The connection is as old as it may become.
    #[error("the connection was open for {0:?}, as long as it may be")]
    Expired(Duration),
}

/// The bytes that one connection has moved so far, for whoever looks on from its thread.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the client.
    pub to_upstream: Cell<u64>,
    /// From the endpoint.
    pub to_client: Cell<u64>,
    spliced: Cell<bool>,
}

impl Moved {
    /// What moved them: `splice` if it ever did for a part of them, else `copy`.
    pub fn engine(&self) -> &'static str {
        if self.spliced.get() { "splice" } else { "copy" }
    }
}

/// The bytes of one connection, and the shared counters that they are added to from time to time and at the end.
#[derive(Debug)]
pub struct Meter<'a> {
    moved: &'a Moved,
    totals: (&'a AtomicU64, &'a AtomicU64),
    published: Cell<(u64, u64)>,
}

impl<'a> Meter<'a> {
    /// Counts for a connection, and what is new from now on into a pair of (to upstream, to client) counters.
    pub fn new(moved: &'a Moved, totals: (&'a AtomicU64, &'a AtomicU64)) -> Self {
        Self { moved, totals, published: Cell::new((moved.to_upstream.get(), moved.to_client.get())) }
    }

    fn note_engine(&self, spliced: bool) {
        self.moved.spliced.set(self.moved.spliced.get() | spliced);
    }

    /// Adds what has moved since the last time; false if nothing has.
    fn publish(&self) -> bool {
        let now = (self.to_upstream.get(), self.to_client.get());
        let before = self.published.replace(now);
        if now == before {
            return false;
        }
        self.totals.0.fetch_add(now.0 - before.0, Relaxed);
        self.totals.1.fetch_add(now.1 - before.1, Relaxed);
        true
    }
}

impl Deref for Meter<'_> {
    type Target = Moved;

    fn deref(&self) -> &Moved {
        self.moved
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.publish();
    }
}

/// What was read before the relay took over and is still to be written, and how much is written already; or what one that
/// pauses holds between the sockets, which is all that another needs to go on.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "bytes that are on their way are not for a log")]
pub struct Handed {
    /// For the endpoint, such as the ClientHello.
    pub to_upstream: Vec<u8>,
    /// For the client.
    pub to_client: Vec<u8>,
    /// Bytes written to the endpoint and to the client.
    pub moved: (u64, u64),
    /// The FIN is passed on: from the client, from the endpoint.
    pub ended: [bool; 2],
}

/// The two sockets of a connection, and the count of what moves between them.
#[derive(Clone, Copy)]
struct Between<'a> {
    client: &'a TcpStream,
    upstream: &'a TcpStream,
    meter: &'a Meter<'a>,
}

/// From where to where, and the count of that.
type Way<'a> = (&'a TcpStream, &'a TcpStream, &'a Cell<u64>);

impl<'a> Between<'a> {
    fn socket(self, side: Side) -> &'a TcpStream {
        match side {
            Side::Client => self.client,
            Side::Upstream => self.upstream,
        }
    }

    fn way(self, sender: Side) -> Way<'a> {
        let moved = match sender {
            Side::Client => &self.meter.to_upstream,
            Side::Upstream => &self.meter.to_client,
        };
        (self.socket(sender), self.socket(sender.other()), moved)
    }
}

/// Relays between a client and an endpoint until both directions have ended, one side broke, or patience is at its end.
/// Before anything else, both get what was read before the relay took over. The timer is [`Patience::timer`].
///
/// The future gives an error where the connection did not end by a FIN from each side. After [`Error::Broken`] the other
/// side's socket is set to be reset when it is closed.
pub fn run<'a>(
    (client, upstream): (&'a TcpStream, &'a TcpStream),
    handed: Handed,
    meter: &'a Meter<'a>,
    patience: &'a Patience,
    timer: Pin<&'a mut Sleep>,
) -> Relay<'a> {
    let between = Between { client, upstream, meter };
    let mut relay = Relay {
        between,
        up: Pump::new(Side::Client),
        down: Pump::new(Side::Upstream),
        failed: None,
        unread: None,
        watch: Watch::new(patience, timer),
    };
    meter.to_upstream.set(handed.moved.0);
    meter.to_client.set(handed.moved.1);
    relay.go_on(handed);
    relay
}

/// Both directions, polled by one task. The future is written by hand, because the room that it takes is most of what an
/// idle tunnel costs.
#[allow(missing_debug_implementations, reason = "bytes that are on their way are not for a log")]
pub struct Relay<'a> {
    between: Between<'a>,
    up: Pump<'a>,
    down: Pump<'a>,
    /// A receiver was found gone. What it sent before is still on its way to the other side, but what its own reading says
    /// from now on is no FIN, because the kernel tells of a reset once and has told the writer.
    failed: Option<Error>,
    /// Looks for a reset where one direction has ended and nobody reads any more. Few connections come here, so it is
    /// boxed.
    unread: Option<Pin<Box<dyn Future<Output = io::Error> + 'a>>>,
    watch: Watch<'a>,
}

impl Future for Relay<'_> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let between = self.between;
        let result = match self.directions(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(ready!(self.watch.poll(between.upstream, between.meter, cx))),
        };
        if let Err(Error::Broken { side, .. }) = result {
            // A socket that is already gone cannot be told anything.
            let _ = SockRef::from(between.socket(side.other())).set_linger(Some(Duration::ZERO));
        }
        Poll::Ready(result)
    }
}

impl Relay<'_> {
    /// Takes out what is between the sockets, so that somebody else may go on, or this one by [`go_on`](Self::go_on).
    /// Where a side is broken there is none: only this one knows what to do.
    pub fn pause(&mut self) -> Option<Handed> {
        if self.failed.is_some() {
            return None;
        }
        let ended = [self.up.has_ended(), self.down.has_ended()];
        match (self.up.take_left(), self.down.take_left()) {
            (Ok(to_upstream), Ok(to_client)) => {
                let moved = (self.between.meter.to_upstream.get(), self.between.meter.to_client.get());
                Some(Handed { to_upstream, to_client, moved, ended })
            }
            (Err(error), _) | (_, Err(error)) => {
                self.failed = Some(error);
                None
            }
        }
    }

    /// Goes on with what is between the sockets.
    pub fn go_on(&mut self, handed: Handed) {
        let Handed { to_upstream, to_client, ended: [up, down], .. } = handed;
        for (pump, bytes, ended) in [(&mut self.up, to_upstream, up), (&mut self.down, to_client, down)] {
            if let Err(pump::Error::Read(error) | pump::Error::Write(error)) =
                pump.begin(self.between, bytes, ended)
            {
                self.failed = Some(error);
            }
        }
    }

    fn directions(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        for pump in [&mut self.up, &mut self.down] {
            if pump.has_ended() {
                continue;
            }
            match pump.poll(self.between, self.failed.is_some(), cx) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(pump::Error::Write(error))) if self.failed.is_none() => {
                    self.failed = Some(error);
                }
                Poll::Ready(Err(pump::Error::Read(error) | pump::Error::Write(error))) => {
                    return Poll::Ready(Err(self.failed.take().unwrap_or(error)));
                }
            }
        }
        let finished = match (self.up.has_ended(), self.down.has_ended()) {
            (true, true) => return Poll::Ready(self.failed.take().map_or(Ok(()), Err)),
            (false, false) => return Poll::Pending,
            _ if self.failed.is_some() => return Poll::Pending,
            (true, false) => Side::Client,
            (false, true) => Side::Upstream,
        };
        let socket = self.between.socket(finished);
        let unread = self.unread.get_or_insert_with(|| Box::pin(reset(socket)));
        unread.as_mut().poll(cx).map(|source| Err(Error::Broken { side: finished, source }))
    }
}

/// Waits until the socket is reset, however much is still to be read from it, and takes the error off it.
pub async fn reset(socket: &TcpStream) -> io::Error {
    loop {
        match socket.ready(Interest::ERROR).await {
            Err(error) => return error,
            Ok(_) => match socket.take_error() {
                // Somebody else took the error, and will act on it; wait for another one.
                Ok(None) => {
                    let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                }
                Ok(Some(error)) | Err(error) => return error,
            },
        }
    }
}

#[cfg(test)]
mod tests;
