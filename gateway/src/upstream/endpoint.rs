//! One address of a cluster, and what is counted about it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eastgate_config::endpoint::{Health, MaybeExtras};
use eastgate_config::locality::Locality;

use super::health;
use super::latency::Latency;

/// One resolved address of a cluster.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share against the others; at least 1.
    pub weight: u32,
    /// What the source says of it.
    pub health: Health,
    /// Which of the `localities` of its cluster's configuration it is in.
    pub group: usize,
    /// Where it stands, shared by the cluster's endpoints there.
    pub locality: Arc<Locality>,
    /// The pod behind it, if the source said; else empty.
    pub workload: Arc<str>,
    /// What few have.
    pub extras: MaybeExtras,
    /// Other addresses of the same workload, to be raced against the first.
    pub additional: Box<[SocketAddr]>,
    /// What is counted about it. The one thing that outlives a table, carried over by cluster and address.
    pub stats: Arc<Stats>,
}

impl Endpoint {
    /// Does it take new connections, by what the source says and by what was found out since?
    pub fn takes_connections(&self) -> bool {
        matches!(self.health, Health::Healthy | Health::Degraded) && !self.stats.is_out()
    }
}

/// Why an endpoint takes no new connections, besides what the source says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Out {
    /// It was ejected, because connections to it failed.
    Outlier = 1,
    /// It failed its active health check.
    FailedCheck = 2,
}

impl Out {
    /// Every reason there is.
    pub const ALL: [Self; 2] = [Self::Outlier, Self::FailedCheck];
}

/// What is counted and known about an endpoint.
#[derive(Debug)]
pub struct Stats {
    /// When it came into its cluster.
    first_seen: Instant,
    /// The reasons it is out for, a bit each. What is set here counts at the next pick; see [`super::Cluster::rebalance`].
    out: AtomicU8,
    active: AtomicU32,
    connecting: AtomicU32,
    /// Of a mesh's endpoints a gateway uses few, and what is noted of those would be half of what each of them takes.
    experience: OnceLock<Box<Experience>>,
}

/// What is noted of an endpoint from its first use on.
#[derive(Debug, Default)]
struct Experience {
    latency: Latency,
    connected: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    health: health::Counts,
}

impl Stats {
    /// Those of an endpoint that has just come.
    pub fn new(now: Instant) -> Self {
        Self {
            first_seen: now,
            out: AtomicU8::default(),
            active: AtomicU32::default(),
            connecting: AtomicU32::default(),
            experience: OnceLock::new(),
        }
    }

    fn experience(&self) -> &Experience {
        self.experience.get_or_init(Box::default)
    }

    /// Where what is seen of its health is noted.
    pub fn health(&self) -> &health::Counts {
        &self.experience().health
    }

    /// What was seen of its health; `None` where nothing was.
    pub fn known_health(&self) -> Option<&health::Counts> {
        self.experience.get().map(|experience| &experience.health)
    }

    /// When it came into its cluster.
    pub fn first_seen(&self) -> Instant {
        self.first_seen
    }

    /// Notes how long it took to connect, or to fail.
    pub fn took(&self, took: Duration, now: Instant) {
        self.experience().latency.add(took, now.saturating_duration_since(self.first_seen));
    }

    /// How long it takes, in milliseconds, as far as that is remembered; `None` where nothing was ever noted.
    pub fn latency(&self, now: Instant) -> Option<f32> {
        self.experience.get()?.latency.get(now.saturating_duration_since(self.first_seen))
    }

    /// Is there a reason that it takes no new connections? This is what the data path reads.
    pub fn is_out(&self) -> bool {
        self.out.load(Relaxed) != 0
    }

    /// The reasons.
    pub fn out(&self) -> impl Iterator<Item = Out> {
        let out = self.out.load(Relaxed);
        Out::ALL.into_iter().filter(move |reason| out & *reason as u8 != 0)
    }

    /// Takes it out for a reason; false when it was out for it already.
    pub fn take_out(&self, reason: Out) -> bool {
        self.out.fetch_or(reason as u8, Relaxed) & reason as u8 == 0
    }

    /// Ends a reason; false when it was not out for it.
    pub fn let_in(&self, reason: Out) -> bool {
        self.out.fetch_and(!(reason as u8), Relaxed) & reason as u8 != 0
    }

    /// Open connections.
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Those of them that are not established yet.
    pub fn connecting(&self) -> u32 {
        self.connecting.load(Relaxed)
    }

    /// Connections established so far.
    pub fn connected(&self) -> u64 {
        self.experience.get().map_or(0, |experience| experience.connected.load(Relaxed))
    }

    /// Attempts that ended in an error of the network or the host.
    pub fn refused(&self) -> u64 {
        self.experience.get().map_or(0, |experience| experience.refused.load(Relaxed))
    }

    /// Attempts that ended with the connect timeout.
    pub fn timed_out(&self) -> u64 {
        self.experience.get().map_or(0, |experience| experience.timed_out.load(Relaxed))
    }

    pub(super) fn count_connected(&self) {
        self.experience().connected.fetch_add(1, Relaxed);
    }

    pub(super) fn count_refused(&self) {
        self.experience().refused.fetch_add(1, Relaxed);
    }

    pub(super) fn count_timed_out(&self) {
        self.experience().timed_out.fetch_add(1, Relaxed);
    }
}

/// An endpoint in use: counts as one open connection, attempts included, until it is dropped.
#[derive(Debug)]
pub struct InUse {
    endpoint: Arc<Endpoint>,
    connecting: bool,
}

impl InUse {
    /// Begins to connect to it, unless so many connections are open already, or so many of them not answered; 0 is no
    /// limit.
    pub(super) fn take(endpoint: &Arc<Endpoint>, most: u32, most_connecting: u32) -> Option<Self> {
        let below = |count: u32, limit: u32| limit == 0 || count < limit;
        // Counted first, so that what goes too far takes itself back by its drop.
        let active = endpoint.stats.active.fetch_add(1, Relaxed);
        let connecting = endpoint.stats.connecting.fetch_add(1, Relaxed);
        let taken = Self { endpoint: Arc::clone(endpoint), connecting: true };
        (below(active, most) && below(connecting, most_connecting)).then_some(taken)
    }

    /// The connection is established.
    pub(super) fn connected(mut self) -> Self {
        self.connecting = false;
        self.endpoint.stats.connecting.fetch_sub(1, Relaxed);
        self
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same, to be kept.
    pub(super) fn shared(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.endpoint.stats.active.fetch_sub(1, Relaxed);
        if self.connecting {
            self.endpoint.stats.connecting.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_never_used_takes_little() {
        let stats = Stats::new(Instant::now());
        assert_eq!((stats.connected(), stats.refused(), stats.latency(Instant::now())), (0, 0, None));
        assert!(stats.known_health().is_none() && size_of::<Stats>() <= 48);
        stats.count_connected();
        assert_eq!((stats.connected(), stats.known_health().is_some()), (1, true));
    }

    #[test]
    fn an_endpoint_is_out_until_every_reason_has_ended() {
        let stats = Stats::new(Instant::now());
        assert!(!stats.is_out() && !stats.let_in(Out::Outlier));
        assert!(stats.take_out(Out::Outlier) && !stats.take_out(Out::Outlier));
        assert!(stats.take_out(Out::FailedCheck));
        assert_eq!(stats.out().collect::<Vec<_>>(), Out::ALL);
        assert!(stats.let_in(Out::Outlier) && stats.is_out());
        assert!(stats.let_in(Out::FailedCheck) && !stats.is_out());
    }
}
