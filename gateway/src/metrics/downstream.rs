//! Connections from clients. What every connection counts is counted by thread; what is rare has the library's counters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec};

use super::Made;
use super::exemplar::Exemplar;
use super::family::{family, sample, times};
use super::flag::Flag;
use super::milliseconds;
use super::per_thread::{Counts, Times};

/// Where a listener counts the connections that it accepted, and those that are over. Before these, each flag has a place.
const ACCEPTED: usize = Flag::ALL.len();
const OVER: usize = ACCEPTED + 1;
/// And of these those that were led to a cluster.
const LED: usize = OVER + 1;
const LED_OVER: usize = LED + 1;
/// How long these were there.
const LENGTHS: usize = LED_OVER + 1;
const ALL: usize = LENGTHS + milliseconds::COUNTS;

/// Connections from clients.
#[derive(Debug, Clone)]
pub struct Downstream {
    counted: Arc<Kept>,
    /// ClientHellos that were refused, by reason.
    pub hello_refused: IntCounterVec,
    /// Connections closed at once because a limit was reached, by limit.
    pub overflow: IntCounterVec,
    /// Errors of `accept`, by error.
    pub accept_errors: IntCounterVec,
    /// Names that were routed only after a rewrite.
    pub rewritten: IntCounter,
}

/// What every connection counts.
#[derive(Debug)]
struct Kept {
    listeners: Mutex<BTreeMap<String, Arc<Connections>>>,
    hello: Times,
    connect: Times,
    connection: Times,
}

type Connections = Counts<ALL>;

/// What a listener has counted.
#[derive(Debug)]
pub struct Counted {
    /// Its name.
    pub listener: String,
    /// Connections accepted.
    pub accepted: u64,
    /// Those of them that are over.
    pub over: u64,
    /// Connections that were led to a cluster.
    pub led: u64,
    /// Those of them that are over.
    pub led_over: u64,
    /// How long these were there.
    pub lengths: milliseconds::Counted,
    closed: [u64; Flag::ALL.len()],
}

impl Counted {
    /// Connections that ended in this way.
    pub fn closed(&self, flag: Flag) -> u64 {
        self.closed[flag as usize]
    }
}

impl Kept {
    fn listeners(&self) -> Vec<Counted> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = listeners.iter().map(|(name, counts)| {
            // Those that are over are read first: one that is accepted meanwhile counts as open, and none as less.
            let (over, led_over) = (counts.sum(OVER), counts.sum(LED_OVER));
            let closed = Flag::ALL.map(|flag| counts.sum(flag as usize));
            let (led, accepted) = (counts.sum(LED), counts.sum(ACCEPTED));
            let lengths = std::array::from_fn(|which| counts.sum(LENGTHS + which));
            Counted { listener: name.clone(), accepted, over, led, led_over, lengths, closed }
        });
        counted.collect()
    }
}

impl Downstream {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        // A hello takes from fractions of a millisecond to seconds, a connection from fractions of a second to hours.
        let (short, long) = (250_000, 250_000_000);
        let counted = Arc::new(Kept {
            listeners: Mutex::default(),
            hello: Times::from(short),
            connect: Times::from(short),
            connection: Times::from(long),
        });
        made.register(Scraped::new(Arc::clone(&counted))?)?;
        Ok(Self {
            counted,
            hello_refused: made.counters(
                "hello_refused_total",
                "ClientHellos refused, by reason",
                &["reason"],
            )?,
            overflow: made.counters(
                "downstream_overflow_total",
                "Connections closed at a limit",
                &["limit"],
            )?,
            accept_errors: made.counters("accept_errors_total", "Errors of accept", &["error"])?,
            rewritten: made.counter("rewritten_total", "Connections routed by a rewritten name")?,
        })
    }

    /// Of connections, from accept to the end of the ClientHello.
    pub fn hello_seconds(&self) -> &Times {
        &self.counted.hello
    }

    /// Of connections, from accept to a connected endpoint.
    pub fn connect_seconds(&self) -> &Times {
        &self.counted.connect
    }

    /// Of connections, from accept to the end.
    pub fn connection_seconds(&self) -> &Times {
        &self.counted.connection
    }

    /// A connection that was counted in this bucket of the family of this name.
    pub(super) fn exemplar(&self, family: &str, bucket: usize) -> Option<Exemplar> {
        let [.., hello, connect, connection] = FAMILIES.map(|(name, ..)| name);
        let times = match family.strip_prefix(super::PREFIX)? {
            name if name == hello => &self.counted.hello,
            name if name == connect => &self.counted.connect,
            name if name == connection => &self.counted.connection,
            _ => return None,
        };
        times.exemplar(bucket)
    }

    /// What each listener has counted.
    pub fn listeners(&self) -> Vec<Counted> {
        self.counted.listeners()
    }

    /// The counts of a listener, which go on where an earlier one of the name left off.
    pub(super) fn listener(&self, name: &str) -> Listener {
        let mut listeners = self.counted.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        Listener(Arc::clone(listeners.entry(name.to_owned()).or_default()))
    }
}

/// The counts of one listener.
#[derive(Debug)]
pub struct Listener(Arc<Connections>);

/// A connection that counts as open until this is dropped.
#[derive(Debug)]
pub struct OpenConnection<'a>(&'a Connections);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.add(OVER, 1);
    }
}

impl Listener {
    /// Counts a new connection.
    pub fn open(&self) -> OpenConnection<'_> {
        self.0.add(ACCEPTED, 1);
        OpenConnection(&self.0)
    }

    /// Counts a connection that is led to a cluster.
    pub fn lead(&self) {
        self.0.add(LED, 1);
    }

    /// Counts the end of a connection under its response flag, and of one that was [led](Self::lead), how long it was there.
    pub fn close(&self, flag: Flag, led: Option<Duration>) {
        self.0.add(flag as usize, 1);
        if let Some(length) = led {
            self.0.add(LED_OVER, 1);
            milliseconds::counts(length)
                .iter()
                .for_each(|(which, count)| self.0.add(LENGTHS + which, *count));
        }
    }
}

/// The families that connections count themselves, by name, help and labels.
const FAMILIES: [(&str, &str, &[&str]); 6] = [
    ("downstream_connections_total", "Connections accepted", &["listener"]),
    ("downstream_connections_active", "Connections open", &["listener"]),
    (
        "downstream_connections_closed_total",
        "Connections ended, by Envoy's response flag",
        &["listener", "flag"],
    ),
    ("hello_seconds", "From accept to the end of the ClientHello", &[]),
    ("connect_seconds", "From accept to a connected endpoint", &[]),
    ("connection_seconds", "From accept to the end of a connection", &[]),
];

#[derive(Debug)]
struct Scraped {
    counted: Arc<Kept>,
    descriptions: Vec<Desc>,
}

impl Scraped {
    fn new(counted: Arc<Kept>) -> Result<Self, prometheus::Error> {
        let describe = |(name, help, labels): &(&str, &str, &[&str])| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new((*name).into(), (*help).into(), labels, HashMap::new())
        };
        Ok(Self { counted, descriptions: FAMILIES.iter().map(describe).collect::<Result<_, _>>()? })
    }
}

impl Collector for Scraped {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut accepted, mut active, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        for counted in self.counted.listeners() {
            let labels = [("listener", counted.listener.as_str())];
            accepted.push(sample(MetricType::COUNTER, &labels, counted.accepted));
            let open = counted.accepted.saturating_sub(counted.over);
            active.push(sample(MetricType::GAUGE, &labels, open));
            closed.extend(Flag::ALL.iter().map(|flag| {
                let labels = [labels[0], ("flag", flag.name())];
                sample(MetricType::COUNTER, &labels, counted.closed(*flag))
            }));
        }
        let Kept { hello, connect, connection, .. } = &*self.counted;
        let [hello, connect, connection] = [hello, connect, connection].map(|all| vec![times(all)]);
        let metrics = [accepted, active, closed, hello, connect, connection];
        let kinds = [
            MetricType::COUNTER,
            MetricType::GAUGE,
            MetricType::COUNTER,
            MetricType::HISTOGRAM,
            MetricType::HISTOGRAM,
            MetricType::HISTOGRAM,
        ];
        let families = FAMILIES.iter().zip(kinds).zip(metrics).filter(|(_, metrics)| !metrics.is_empty());
        families.map(|(((name, help, _), kind), metrics)| family(name, help, kind, metrics)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_as_open_until_its_guard_is_gone() {
        let counts = Counts::default();
        let listener = Listener(Arc::new(counts));
        let counted = || [ACCEPTED, OVER].map(|which| listener.0.sum(which));
        let open = listener.open();
        assert_eq!(counted(), [1, 0]);
        drop(open);
        assert_eq!(counted(), [1, 1]);
        listener.close(Flag::NoHealthyUpstream, None);
        assert_eq!(Flag::ALL.map(|flag| listener.0.sum(flag as usize)).iter().sum::<u64>(), 1);
    }
}
