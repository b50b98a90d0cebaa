//! Moves bytes between two sockets until both directions have ended. Knows nothing else.
//!
//! A FIN is answered with a FIN after every byte before it, so that either side may go on alone; a reset is answered
//! with a reset, so that neither side takes a broken connection for a finished one. An idle connection holds no
//! buffer: bytes are read into one that the whole thread shares and written from it at once, and only what the other
//! socket does not take is owned until it does.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

mod copy;

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
}

impl<'a> Meter<'a> {
    /// Counts into a pair of (to upstream, to client) counters.
    pub fn new(totals: (&'a AtomicU64, &'a AtomicU64)) -> Self {
        Self { to_upstream: Cell::new(0), to_client: Cell::new(0), totals, published: Cell::default() }
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
}

/// Relays until both directions have ended, one side broke, or patience is at its end.
///
/// # Errors
/// The connection did not end by a FIN from each side. After [`Error::Broken`] both sockets are set to reset the
/// other side when they are closed.
pub async fn run(
    client: &TcpStream,
    upstream: &TcpStream,
    meter: &Meter<'_>,
    patience: Patience,
) -> Result<(), Error> {
    let result = tokio::select! {
        result = both(client, upstream, meter) => result,
        error = impatience(meter, patience) => Err(error),
    };
    if matches!(result, Err(Error::Broken { .. })) {
        for socket in [client, upstream] {
            // A socket that is already gone cannot be told anything.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
    result
}

/// Writes bytes that were read before the relay took over, such as the ClientHello.
///
/// # Errors
/// The endpoint is gone.
pub async fn replay(upstream: &TcpStream, bytes: &[u8], meter: &Meter<'_>) -> Result<(), Error> {
    let broken = |source| Error::Broken { side: Side::Upstream, source };
    copy::write_all(upstream, bytes, &meter.to_upstream).await.map_err(broken)
}

async fn both(client: &TcpStream, upstream: &TcpStream, meter: &Meter<'_>) -> Result<(), Error> {
    let mut up = pin!(copy::pump((client, Side::Client), (upstream, Side::Upstream), &meter.to_upstream));
    let mut down = pin!(copy::pump((upstream, Side::Upstream), (client, Side::Client), &meter.to_client));
    let (first, rest, finished) = tokio::select! {
        result = &mut up => (result, down, (client, Side::Client)),
        result = &mut down => (result, up, (upstream, Side::Upstream)),
    };
    match first {
        // This direction has ended; the other may go on for long, and nobody reads here any more to see a reset.
        Ok(()) => tokio::select! {
            result = rest => result.map_err(copy::Error::into_inner),
            error = reset(finished.0) => Err(Error::Broken { side: finished.1, source: error }),
        },
        // The receiver is gone, but what it sent before is still on its way to the other side.
        Err(copy::Error::Write(error)) => {
            let _ = rest.await;
            Err(error)
        }
        Err(copy::Error::Read(error)) => Err(error),
    }
}

/// Waits until the socket is reset, however much is still to be read from it, and takes the error off it.
pub async fn reset(socket: &TcpStream) -> io::Error {
    loop {
        match socket.ready(Interest::ERROR).await {
            Err(error) => return error,
            Ok(_) => match socket.take_error() {
                Ok(None) => tokio::task::yield_now().await,
                Ok(Some(error)) | Err(error) => return error,
            },
        }
    }
}

/// Ends when patience does, give or take an eighth: one coarse look at the counters now and then costs less than a
/// timer that is set anew with every read.
async fn impatience(meter: &Meter<'_>, Patience { idle, age }: Patience) -> Error {
    let shortest = age.map_or(idle, |age| age.min(idle));
    let step = (shortest / 8).clamp(Duration::from_millis(1), PUBLISH_EVERY);
    let began = Instant::now();
    let (mut seen, mut since) = ((0, 0), began);
    loop {
        tokio::time::sleep(step).await;
        let now = (meter.to_upstream.get(), meter.to_client.get());
        if now != seen {
            meter.publish();
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= idle {
            return Error::Idle(idle);
        }
        if let Some(age) = age.filter(|age| began.elapsed() >= *age) {
            return Error::Expired(age);
        }
    }
}

#[cfg(test)]
mod tests;
