//! How long a connection may go on, looked at now and then.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use eastgate_config::cluster::Keepalive;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::{Error, Meter};

/// The longest time that bytes are relayed without being shown in the shared counters.
const PUBLISH_EVERY: Duration = Duration::from_secs(10);

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

impl Patience {
    /// For a watch; by itself, because it must stay where it is.
    pub fn timer(&self) -> Sleep {
        sleep(self.step())
    }

    /// An eighth of it at most.
    fn step(&self) -> Duration {
        let shortest = self.age.map_or(self.idle, |age| age.min(self.idle));
        (shortest / 8).clamp(Duration::from_millis(1), PUBLISH_EVERY)
    }
}

/// Waits until patience ends, give or take an eighth: one coarse look at the counters now and then costs less than a
/// timer that is set anew with every read.
pub(crate) struct Watch<'a> {
    patience: &'a Patience,
    timer: Pin<&'a mut Sleep>,
    began: Instant,
    /// When bytes were last found to have moved; none before the first look.
    since: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(patience: &'a Patience, timer: Pin<&'a mut Sleep>) -> Self {
        Self { patience, timer, began: Instant::now(), since: None }
    }

    /// Gives why the connection must end, once it must.
    pub(crate) fn poll(
        &mut self,
        upstream: &TcpStream,
        meter: &Meter<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.since.is_none() {
                // A socket that is gone already is for the pumps to find out about.
                let _ = keep_alive(SockRef::from(upstream), self.patience.keepalive);
            }
            let now = Instant::now();
            if let Some(error) = self.look(now, meter.publish()) {
                return Poll::Ready(error);
            }
            self.timer.as_mut().reset(now + self.patience.step());
        }
    }

    fn look(&mut self, now: Instant, moved: bool) -> Option<Error> {
        let Patience { idle, age, .. } = *self.patience;
        let since = if moved { now } else { self.since.unwrap_or(self.began) };
        self.since = Some(since);
        if now.duration_since(since) >= idle {
            return Some(Error::Idle(idle));
        }
        age.filter(|age| now.duration_since(self.began) >= *age).map(Error::Expired)
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
