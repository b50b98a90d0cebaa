//! Finds an endpoint that takes the connection: one after the other where they refuse, beside each other where they are
//! silent.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use eastgate_config::bootstrap;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::cluster::{Cluster, Limit};
use super::endpoint::{Endpoint, InUse};
use super::health::Outcome;
use super::limit::{Established, Place};
use super::{Error, Held, Upstream, dial, health, retry};
use crate::attempt::{self, Attempt, Told};

/// How soon a retry that the budget did not allow is asked for again, at most and at random.
const BUDGET_AGAIN: Duration = Duration::from_millis(20);

/// The endpoints that one connection has tried, and what it may still do.
#[derive(Debug)]
pub struct Attempts<'a> {
    rules: &'a bootstrap::Upstream,
    /// How many may be tried.
    limit: u32,
    /// What the connection is hashed by.
    key: Option<u64>,
    tried: Vec<SocketAddr>,
    /// Attempts so far, and those of them that failed.
    begun: u32,
    failures: u32,
    /// When it is given up, once it has begun.
    deadline: Option<Instant>,
    /// The connection's place in the cluster, which it holds from its first attempt on.
    place: Option<Place>,
    /// Its place among the retries, from its second attempt until it is connected. One for all of them, so that a retry
    /// that meets a black hole need not wait for others to get past it.
    retry: Option<Place>,
    over_budget: bool,
    told: Told,
}

/// An attempt under way.
struct Running<F> {
    dial: Pin<Box<F>>,
    endpoint: InUse,
    began: Instant,
}

impl<'a> Attempts<'a> {
    /// At most so many, for a connection that is hashed by this key; `told` if somebody wants to know of each.
    pub fn new(rules: &'a bootstrap::Upstream, limit: Option<u32>, key: Option<u64>, told: bool) -> Self {
        let limit = limit.unwrap_or(rules.connect_attempts);
        Self {
            rules,
            limit,
            key,
            tried: Vec::new(),
            begun: 0,
            failures: 0,
            deadline: None,
            place: None,
            retry: None,
            over_budget: false,
            told: Told::new(told),
        }
    }

    /// Notes that the endpoint that was connected last is no good.
    pub fn failed(&mut self) {
        self.failures += 1;
    }

    /// Tells why an endpoint that was connected is no good.
    pub fn tell(&mut self, endpoint: SocketAddr, why: impl FnOnce() -> String) {
        self.told.end(endpoint, std::time::Instant::now(), || attempt::Result::Failed(why()));
    }

    /// What became of each so far, if that was wanted.
    pub fn told(&self) -> &[Attempt] {
        self.told.all()
    }

    /// How many attempts were made.
    pub fn begun(&self) -> u32 {
        self.begun
    }

    /// The connection's place in the cluster, which counts it until it is dropped.
    pub fn into_place(self) -> Option<Place> {
        self.place
    }

    /// An endpoint that was not tried; nothing while the budget allows no retry.
    fn next(&mut self, cluster: &Cluster, now: std::time::Instant) -> Result<Option<InUse>, Error> {
        let most = cluster.config.max_connections_per_endpoint;
        let most = most.unwrap_or(self.rules.max_connections_per_endpoint);
        let mut skipped = self.tried.clone();
        while self.tried.len() < self.limit as usize {
            let draw = |below| fastrand::u64(..below);
            let picked = cluster.balancer().pick(&skipped, self.key, now, draw).map(Arc::clone);
            let Some(picked) = picked else { break };
            if !self.tried.is_empty() && self.retry.is_none() {
                self.retry = cluster.take(Limit::Retries, self.rules);
                if self.retry.is_none() {
                    return Ok(None);
                }
            }
            if let Some(endpoint) = InUse::take(&picked, most, self.rules.max_connects_per_endpoint) {
                self.tried.push(picked.address);
                return Ok(Some(endpoint));
            }
            cluster.stats.endpoint_full.fetch_add(1, Relaxed);
            skipped.push(picked.address);
        }
        let name = cluster.config.name.clone();
        Err(match (skipped.len() > self.tried.len(), self.tried.is_empty()) {
            (true, _) => Error::EndpointsFull(name),
            (false, true) => Error::NoEndpoint(name),
            (false, false) => Error::NoOther(name),
        })
    }

    /// When another endpoint is tried beside one that is silent from now on.
    fn hedge_at(&self, cluster: &Cluster, now: Instant) -> Option<Instant> {
        let hedge = &self.rules.hedge;
        let after = cluster.stats.connect_time.p99().clamp(hedge.floor, hedge.ceiling.max(hedge.floor));
        hedge.on.then(|| now + after)
    }

    /// Begins the next attempt, if one is to be had, and says when another is due.
    fn begin<F>(
        &mut self,
        cluster: &Cluster,
        running: &mut Vec<Running<F>>,
        dial: impl Fn(Arc<Endpoint>) -> F,
        now: Instant,
    ) -> Result<Option<Instant>, Error> {
        let Some(endpoint) = self.next(cluster, now.into_std())? else {
            if !std::mem::replace(&mut self.over_budget, true) {
                cluster.stats.overflow(Limit::Retries).fetch_add(1, Relaxed);
            }
            return Ok(Some(now + BUDGET_AGAIN.mul_f64(fastrand::f64())));
        };
        if !running.is_empty() {
            cluster.stats.hedged.fetch_add(1, Relaxed);
        }
        self.begun += 1;
        self.told.begin(endpoint.endpoint().address, now.into_std());
        let dial = Box::pin(dial(Arc::clone(endpoint.shared())));
        running.push(Running { dial, endpoint, began: now });
        Ok(self.hedge_at(cluster, now))
    }

    /// When the next attempt may be made, after as many failures as there were.
    fn after_failure(&self, now: Instant) -> Instant {
        now + retry::backoff(self.rules.retry_backoff, self.failures, fastrand::f64())
    }
}

/// Connects to an endpoint of the cluster that was not tried yet. One that refuses is left for another at once, and one
/// that has not answered for longer than nearly all do gets another one beside it; the first to answer is taken.
///
/// # Errors
/// No endpoint was reached, or the cluster has as many connections as it may.
pub async fn connect(cluster: &Cluster, attempts: &mut Attempts<'_>) -> Result<Upstream, Error> {
    if attempts.place.is_none() {
        attempts.place = Some(cluster.admit(Limit::Connections, attempts.rules)?);
    }
    let _pending = match cluster.config.max_pending_connections {
        None => None,
        Some(_) => Some(cluster.admit(Limit::Pending, attempts.rules)?),
    };
    let sources = sources(cluster, attempts.rules);
    let found = seek(cluster, attempts, |endpoint| async move {
        dial::dial_any(endpoint.address, &endpoint.additional, sources).await
    });
    let found = found.await;
    if let Err(Error::NoEndpoint(_)) = &found {
        cluster.stats.no_endpoint.fetch_add(1, Relaxed);
    }
    found
}

/// Begins attempts, each when it is due, until one of them has succeeded or none is left.
async fn seek<F: Future<Output = io::Result<TcpStream>>>(
    cluster: &Cluster,
    attempts: &mut Attempts<'_>,
    dial: impl Fn(Arc<Endpoint>) -> F,
) -> Result<Upstream, Error> {
    let mut now = Instant::now();
    let deadline = *attempts.deadline.get_or_insert(now + attempts.rules.connect_deadline);
    let timeout = cluster.config.connect_timeout;
    let mut running: Vec<Running<F>> = Vec::with_capacity(1);
    let mut last = None;
    // When the next attempt is begun, if there may be another one.
    let mut due = Some(attempts.after_failure(now));
    loop {
        if due.is_some_and(|due| due <= now) {
            due = match attempts.begin(cluster, &mut running, &dial, now) {
                Ok(due) => due,
                Err(_) if !running.is_empty() => None,
                Err(nothing) => return Err(last.unwrap_or(nothing)),
            };
        }
        // They stand in the order in which they were begun.
        let expiring = running.first().map(|one| one.began + timeout);
        let wake = [due, expiring].into_iter().flatten().fold(deadline, Instant::min);
        let done = tokio::select! {
            // In this order: what has answered has not timed out.
            biased;
            done = dial::first_of(&mut running, |one| one.dial.as_mut()) => Some(done),
            () = sleep_until(wake) => None,
        };
        now = Instant::now();
        let (index, dialled) = match done {
            Some(done) => done,
            None if expiring.is_some_and(|at| at <= now) => (0, Err(timed_out("connect timeout"))),
            None if deadline <= now => {
                let error = given_up(cluster, &running, last, now);
                attempts.told.end_rest(now.into_std(), || attempt::Result::Failed(error.reason()));
                return Err(error);
            }
            None => continue,
        };
        let settled = running.remove(index);
        let at = settled.endpoint.endpoint().address;
        match settled.settle(cluster, dialled, now) {
            Ok(upstream) => {
                attempts.retry = None;
                attempts.told.end(at, now.into_std(), || attempt::Result::Connected);
                attempts.told.end_rest(now.into_std(), || attempt::Result::Overtaken);
                overtaken(cluster, running.get(..index).unwrap_or_default(), now);
                return Ok(upstream);
            }
            Err(error) => {
                attempts.told.end(at, now.into_std(), || attempt::Result::Failed(error.reason()));
                last = Some(error);
                attempts.failures += 1;
                let again = attempts.after_failure(now);
                due = Some(due.map_or(again, |due| due.min(again)));
            }
        }
    }
}

impl<F> Running<F> {
    /// Counts what became of it.
    fn settle(
        self,
        cluster: &Cluster,
        dialled: io::Result<TcpStream>,
        now: Instant,
    ) -> Result<Upstream, Error> {
        let took = now - self.began;
        health::report(cluster, self.endpoint.endpoint(), Outcome::of_attempt(&dialled), took);
        match dialled {
            Ok(stream) => {
                cluster.stats.connect_time.observe(took);
                let endpoint = self.endpoint.connected();
                let _established = Established::new(cluster, self.began);
                Ok(Upstream { stream, endpoint, since: now, _established, _held: Held::default() })
            }
            Err(source) => Err(Error::Connect { endpoint: self.endpoint.endpoint().address, source }),
        }
    }
}

/// Those that were begun before the one that has answered count as timed out: a black hole that is overtaken each time
/// would never be seen to fail otherwise.
fn overtaken<F>(cluster: &Cluster, older: &[Running<F>], now: Instant) {
    if !older.is_empty() {
        cluster.stats.hedge_won.fetch_add(1, Relaxed);
    }
    for one in older {
        health::report(cluster, one.endpoint.endpoint(), Outcome::ConnectTimedOut, now - one.began);
    }
}

/// Nothing was found in the time for all attempts together.
fn given_up<F>(cluster: &Cluster, running: &[Running<F>], last: Option<Error>, now: Instant) -> Error {
    for one in running {
        health::report(cluster, one.endpoint.endpoint(), Outcome::ConnectTimedOut, now - one.began);
    }
    match running.first() {
        Some(one) => Error::Connect {
            endpoint: one.endpoint.endpoint().address,
            source: timed_out("upstream.connect_deadline"),
        },
        // The budget has allowed no other attempt.
        None => last.unwrap_or_else(|| Error::NoOther(cluster.config.name.clone())),
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Where connections to the cluster come from.
fn sources<'a>(cluster: &'a Cluster, rules: &'a bootstrap::Upstream) -> &'a [IpAddr] {
    match cluster.config.source_addresses.as_slice() {
        [] => &rules.source_addresses,
        own => own,
    }
}
