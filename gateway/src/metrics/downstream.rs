//! Connections from clients. What every connection counts is counted by thread; what is rare has the library's counters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec};

use super::Made;
use super::family::{family, sample, times};
use super::per_thread::{Counts, Times};

/// How connections end, as [`Listener::close`] is told, and last whatever else it is told.
const FLAGS: [&str; 17] = [
    "-", "DC", "UC", "NR", "UH", "UF", "UO", "DT", "SI", "DPE", "OM", "RL", "NC", "UAEX", "LR", "LOOP",
    "other",
];
const OTHER: usize = FLAGS.len() - 1;
/// Where a listener counts the connections that it accepted, and those that are over.
const ACCEPTED: usize = FLAGS.len();
const OVER: usize = ACCEPTED + 1;

/// Connections from clients.
#[derive(Debug, Clone)]
pub struct Downstream {
    counted: Arc<Counted>,
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
#[derive(Debug, Default)]
struct Counted {
    listeners: Mutex<BTreeMap<String, Arc<Connections>>>,
    hello: Times,
    connect: Times,
}

type Connections = Counts<{ OVER + 1 }>;

impl Downstream {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        let counted = Arc::<Counted>::default();
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

    /// Counts the end of a connection under its response flag.
    pub fn close(&self, flag: &'static str) {
        self.0.add(FLAGS.iter().position(|known| *known == flag).unwrap_or(OTHER), 1);
    }
}

/// The families that connections count themselves, by name, help and labels.
const FAMILIES: [(&str, &str, &[&str]); 5] = [
    ("downstream_connections_total", "Connections accepted", &["listener"]),
    ("downstream_connections_active", "Connections open", &["listener"]),
    (
        "downstream_connections_closed_total",
        "Connections ended, by Envoy's response flag",
        &["listener", "flag"],
    ),
    ("hello_seconds", "From accept to the end of the ClientHello", &[]),
    ("connect_seconds", "From accept to a connected endpoint", &[]),
];

#[derive(Debug)]
struct Scraped {
    counted: Arc<Counted>,
    descriptions: Vec<Desc>,
}

impl Scraped {
    fn new(counted: Arc<Counted>) -> Result<Self, prometheus::Error> {
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
        let listeners = self.counted.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut accepted, mut active, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        for (name, counts) in listeners.iter() {
            let labels = [("listener", name.as_str())];
            // Those that are over are read first: one that is accepted meanwhile counts as open, and none as less.
            let over = counts.sum(OVER);
            let begun = counts.sum(ACCEPTED);
            accepted.push(sample(MetricType::COUNTER, &labels, begun));
            active.push(sample(MetricType::GAUGE, &labels, begun.saturating_sub(over)));
            closed.extend(FLAGS.iter().enumerate().map(|(index, flag)| {
                sample(MetricType::COUNTER, &[labels[0], ("flag", flag)], counts.sum(index))
            }));
        }
        let metrics =
            [accepted, active, closed, vec![times(&self.counted.hello)], vec![times(&self.counted.connect)]];
        let kinds = [
            MetricType::COUNTER,
            MetricType::GAUGE,
            MetricType::COUNTER,
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
        listener.close("UH");
        listener.close("what nobody knows");
        assert_eq!([4, OTHER].map(|which| listener.0.sum(which)), [1, 1]);
    }
}
