//! Moves bytes between two sockets until both directions have ended. Knows nothing else.
//!
//! A FIN is answered with a FIN after every byte before it, so that either side may go on alone; a reset is answered
//! with a reset, so that neither side takes a broken connection for a finished one. An idle connection holds no
//! buffer and no pipe: bytes go through one that the thread lends for a moment, and only what the other socket does not
//! take is owned until it does. Small pieces are copied and bulk is spliced, each direction by itself.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use eastgate_config::cluster::Keepalive;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

mod copy;
mod pump;
mod splice;

pub use copy::read;
pub use splice::limit_pipes;

/// The longest time that bytes are relayed without being shown in the shared counters.
const PUBLISH_EVERY: Duration = Duration::from_secs(10);

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

/// The bytes of one connection, and the shared counters that they are added to from time to time and at the end.
#[derive(Debug)]
pub struct Meter<'a> {
    /// From the client.
    pub to_upstream: Cell<u64>,
    /// From the endpoint.
    pub to_client: Cell<u64>,
    totals: (&'a AtomicU64, &'a AtomicU64),
    published: Cell<(u64, u64)>,
    spliced: Cell<bool>,
}

impl<'a> Meter<'a> {
    /// Counts into a pair of (to upstream, to client) counters.
    pub fn new(totals: (&'a AtomicU64, &'a AtomicU64)) -> Self {
        Self {
            to_upstream: Cell::new(0),
            to_client: Cell::new(0),
            totals,
            published: Cell::default(),
            spliced: Cell::default(),
        }
    }

    /// What moved the bytes: `splice` if it ever did for a part of them, else `copy`.
    pub fn engine(&self) -> &'static str {
        if self.spliced.get() { "splice" } else { "copy" }
    }

    fn note_engine(&self, spliced: bool) {
        self.spliced.set(self.spliced.get() | spliced);
    }

    fn publish(&self) {
        let now = (self.to_upstream.get(), self.to_client.get());
        let before = self.published.replace(now);
        self.totals.0.fetch_add(now.0 - before.0, Relaxed);
        self.totals.1.fetch_add(now.1 - before.1, Relaxed);
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.publish();
    }
}

/// How long a connection may go on.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// While nothing moves.
    pub idle: Duration,
    /// In all.
    pub age: Option<Duration>,
    /// How an endpoint's socket is kept alive that has lived for a while.
    pub keepalive: Keepalive,
}

/// Two sockets, and what is to be done between them.
///
/// Its futures share it by reference: what each held for itself would be paid for by every idle tunnel.
#[allow(missing_debug_implementations, reason = "bytes that are on their way are not for a log")]
pub struct Relay<'a> {
    client: &'a TcpStream,
    upstream: &'a TcpStream,
    /// For the endpoint before anything else.
    first: Cell<Vec<u8>>,
    meter: &'a Meter<'a>,
    patience: Patience,
    /// A receiver was found gone: what its own reading says from now on is no FIN, because the kernel tells of a reset
    /// once and has told the writer.
    broken: Cell<bool>,
}

impl<'a> Relay<'a> {
    /// Between these two. The endpoint gets `first` before anything else: what was read before the relay took over, such
    /// as the ClientHello.
    pub fn new(
        (client, upstream): (&'a TcpStream, &'a TcpStream),
        first: Vec<u8>,
        meter: &'a Meter<'a>,
        patience: Patience,
    ) -> Self {
        Self { client, upstream, first: Cell::new(first), meter, patience, broken: Cell::new(false) }
    }

    /// Relays until both directions have ended, one side broke, or patience is at its end.
    ///
    /// # Errors
    /// The connection did not end by a FIN from each side. After [`Error::Broken`] the other side's socket is set to be
    /// reset when it is closed.
    pub async fn run(&self) -> Result<(), Error> {
        let result = tokio::select! {
            result = self.both() => result,
            error = impatience(self.upstream, self.meter, &self.patience) => Err(error),
        };
        if let Err(Error::Broken { side, .. }) = result {
            // A socket that is already gone cannot be told anything.
            let _ = SockRef::from(self.socket(side.other())).set_linger(Some(Duration::ZERO));
        }
        result
    }

    async fn both(&self) -> Result<(), Error> {
        let mut up = pin!(pump::pump(self, Side::Client));
        let mut down = pin!(pump::pump(self, Side::Upstream));
        let (ended, rest, finished) = tokio::select! {
            result = &mut up => (result, down, Side::Client),
            result = &mut down => (result, up, Side::Upstream),
        };
        match ended {
            // This direction has ended; the other may go on for long, and nobody reads here any more to see a reset.
            Ok(()) => tokio::select! {
                result = rest => result.map_err(pump::Error::into_inner),
                // Boxed, because few connections come here and all would need the room.
                source = Box::pin(reset(self.socket(finished))) => Err(Error::Broken { side: finished, source }),
            },
            // The receiver is gone, but what it sent before is still on its way to the other side.
            Err(pump::Error::Write(error)) => {
                self.broken.set(true);
                let _ = rest.await;
                Err(error)
            }
            Err(pump::Error::Read(error)) => Err(error),
        }
    }

    fn socket(&self, side: Side) -> &'a TcpStream {
        match side {
            Side::Client => self.client,
            Side::Upstream => self.upstream,
        }
    }
}

/// Ends when patience does, give or take an eighth: one coarse look at the counters now and then costs less than a timer
/// that is set anew with every read.
pub(crate) async fn impatience(upstream: &TcpStream, meter: &Meter<'_>, patience: &Patience) -> Error {
    let Patience { idle, age, keepalive } = patience;
    let step = (age.map_or(*idle, |age| age.min(*idle)) / 8).clamp(Duration::from_millis(1), PUBLISH_EVERY);
    let began = Instant::now();
    let (mut seen, mut since) = ((0, 0), began);
    let mut sleep = pin!(tokio::time::sleep(step));
    sleep.as_mut().await;
    // A socket that is gone already is for the pumps to find out about.
    let _ = keep_alive(SockRef::from(upstream), *keepalive);
    loop {
        let now = (meter.to_upstream.get(), meter.to_client.get());
        if now != seen {
            meter.publish();
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= *idle {
            return Error::Idle(*idle);
        }
        if let Some(age) = age.filter(|age| began.elapsed() >= *age) {
            return Error::Expired(age);
        }
        sleep.as_mut().reset(Instant::now() + step);
        sleep.as_mut().await;
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

/// Switches keepalive on, with a user timeout to match: a peer that has vanished is given up after the same time
/// whether the connection was silent (probes) or had bytes under way (retransmissions), as ztunnel does it.
///
/// # Errors
/// The kernel refused an option.
pub fn keep_alive(socket: SockRef<'_>, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive { time, interval, probes } = keepalive;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes),
    )?;
    socket.set_tcp_user_timeout(Some(time + interval * probes))
}

#[cfg(test)]
mod tests;
