//! What connections have counted by server name, for the few names that have most.
//!
//! A name is what a client has sent, and so a label only under three conditions: a filter chain lists it, or a wildcard
//! that it falls under; it is among the `metrics.server_names` that have most; and it certainly has more than all those that
//! were forgotten, so that whoever makes names up makes no series.
//!
//! Each data thread counts for itself. Whoever wants to know has the threads [send](ServerNames::sender) what they have counted
//! since they were last asked, and what is told is the sum of that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use eastgate_config::server_name::ServerName;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::Made;
use super::family::{family, sample};

mod sketch;

use sketch::Sketch;

/// There is room for so many names for each that is told of: the more room, the less is missed.
const ROOM: usize = 8;

/// What is counted of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Connections that were led to a cluster.
    Connections,
    /// Those of them that have ended otherwise than in the ordinary way.
    Failures,
    /// Bytes, both ways, of those that have ended.
    Bytes,
}

impl What {
    const ALL: [Self; 3] = [Self::Connections, Self::Failures, Self::Bytes];
}

/// The sketch of each [`What`].
type Sketches = [Sketch; 3];

thread_local! {
    static HERE: RefCell<Sketches> = RefCell::default();
}

/// Counts for a name on this thread, of which so many are to be told.
pub fn count(name: &ServerName, what: What, count: u64, told: usize) {
    HERE.with_borrow_mut(|here| here[what as usize].add(name, count, told * ROOM));
}

/// What a thread has counted since it was last asked.
#[derive(Debug)]
pub struct Lately(Sketches);

/// What this thread has counted since it was last asked.
pub fn lately() -> Lately {
    Lately(HERE.take())
}

/// What has been counted by server name.
#[derive(Debug, Clone)]
pub struct ServerNames {
    all: Arc<Mutex<All>>,
    arrived: Sender<Lately>,
}

#[derive(Debug)]
struct All {
    told: usize,
    sketches: Sketches,
    /// The most that a name can have counted while it had no place in a thread's sketch.
    missed: [u64; 3],
    arriving: Receiver<Lately>,
}

/// A name and what it has counted, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: ServerName,
    /// Connections that were led to a cluster.
    pub connections: u64,
    /// Those of them that have failed.
    pub failures: u64,
    /// Bytes of those that have ended.
    pub bytes: u64,
}

impl ServerNames {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        let (arrived, arriving) = channel();
        let all = All { told: 0, sketches: Sketches::default(), missed: [0; 3], arriving };
        let names = Self { all: Arc::new(Mutex::new(all)), arrived };
        made.register(Scraped::new(names.clone())?)?;
        Ok(names)
    }

    /// Tells of so many names from now on.
    pub fn tell(&self, told: usize) {
        self.all().told = told;
    }

    /// Where [`lately`]'s are sent.
    pub fn sender(&self) -> Sender<Lately> {
        self.arrived.clone()
    }

    /// Every name that is certain to have counted much of something.
    pub fn known(&self) -> Vec<Named> {
        let all = self.all();
        let mut names: HashMap<&ServerName, [u64; 3]> = HashMap::new();
        for what in What::ALL {
            for (name, count) in all.sketches[what as usize].certain() {
                names.entry(name).or_default()[what as usize] = count;
            }
        }
        let named = |(name, [connections, failures, bytes]): (&ServerName, [u64; 3])| Named {
            name: name.clone(),
            connections,
            failures,
            bytes,
        };
        names.into_iter().map(named).collect()
    }

    /// With whatever has arrived.
    fn all(&self) -> MutexGuard<'_, All> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Lately(sketches)) = all.arriving.try_recv() {
            all.take(&sketches);
        }
        all
    }
}

impl All {
    fn take(&mut self, lately: &Sketches) {
        for what in What::ALL.map(|what| what as usize) {
            for (name, count) in lately[what].certain() {
                self.sketches[what].add(name, count, self.told * ROOM);
            }
            // One that has its place and is not certain may have counted that much before and after it had it.
            self.missed[what] += 2 * lately[what].missed();
        }
    }
}

/// The families, by name and help, in the order of [`What`], and the last.
const FAMILIES: [(&str, &str); 4] = [
    (
        "server_name_connections_total",
        "Connections led to a cluster, of the server names that have most (metrics.server_names)",
    ),
    (
        "server_name_failures_total",
        "Connections that did not end in the ordinary way, of the server names that have most",
    ),
    ("server_name_bytes_total", "Bytes of connections that have ended, of the server names that have most"),
    ("server_name_missed", "The most that a server name may have counted that is not told of, by what"),
];

#[derive(Debug)]
struct Scraped {
    names: ServerNames,
    descriptions: Vec<Desc>,
}

impl Scraped {
    fn new(names: ServerNames) -> Result<Self, prometheus::Error> {
        let describe = |(index, (name, help)): (usize, &(&str, &str))| {
            let label = if index < What::ALL.len() { "server_name" } else { "what" };
            Desc::new((*name).into(), (*help).into(), vec![label.into()], HashMap::new())
        };
        let descriptions = FAMILIES.iter().enumerate().map(describe).collect::<Result<_, _>>()?;
        Ok(Self { names, descriptions })
    }
}

impl Collector for Scraped {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let all = self.names.all();
        if all.told == 0 {
            return Vec::new();
        }
        let [.., (missed, missed_help)] = FAMILIES;
        let missing = What::ALL.map(|what| {
            let label = ["connections", "failures", "bytes"][what as usize];
            let most = all.missed[what as usize] + all.sketches[what as usize].missed();
            sample(MetricType::GAUGE, &[("what", label)], most)
        });
        let counted = What::ALL.map(|what| {
            let top = all.sketches[what as usize].top(all.told).into_iter();
            let one = |(name, count): (&ServerName, u64)| {
                sample(MetricType::COUNTER, &[("server_name", name.as_str())], count)
            };
            let (name, help) = FAMILIES[what as usize];
            family(name, help, MetricType::COUNTER, top.map(one).collect())
        });
        let counted = counted.into_iter().filter(|family| !family.get_metric().is_empty());
        counted.chain([family(missed, missed_help, MetricType::GAUGE, missing.into())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::metrics::exposition::Format;

    fn name(text: &str) -> ServerName {
        ServerName::from_sni(text.as_bytes()).unwrap()
    }

    fn told(metrics: &Metrics) -> Vec<String> {
        let text: String = metrics.render(Format::Text).collect::<Result<_, _>>().unwrap();
        text.lines().filter(|line| line.starts_with("eastgate_server_name_")).map(str::to_owned).collect()
    }

    #[test]
    fn what_each_thread_has_counted_is_summed_up_and_only_so_many_names_are_told() {
        let metrics = Metrics::new().unwrap();
        metrics.server_names.tell(2);
        for _ in 0..2 {
            let sender = metrics.server_names.sender();
            let thread = std::thread::spawn(move || {
                for (count_of, often) in [("a.example", 5), ("b.example", 3), ("c.example", 1)] {
                    (0..often).for_each(|_| count(&name(count_of), What::Connections, 1, 2));
                }
                count(&name("c.example"), What::Bytes, 1_000, 2);
                sender.send(lately()).unwrap();
                assert_eq!(lately().0[0].certain().count(), 0, "it was asked for already");
            });
            thread.join().unwrap();
        }
        assert_eq!(
            told(&metrics),
            [
                "eastgate_server_name_bytes_total{server_name=\"c.example\"} 2000",
                "eastgate_server_name_connections_total{server_name=\"a.example\"} 10",
                "eastgate_server_name_connections_total{server_name=\"b.example\"} 6",
                "eastgate_server_name_missed{what=\"bytes\"} 0",
                "eastgate_server_name_missed{what=\"connections\"} 0",
                "eastgate_server_name_missed{what=\"failures\"} 0",
            ]
        );
        let known = metrics.server_names.known();
        let c = known.iter().find(|named| named.name == name("c.example"));
        assert_eq!(c.map(|c| (c.connections, c.bytes)), Some((2, 2_000)), "an operator sees all of them");
    }

    #[test]
    fn where_none_are_wanted_none_are_counted() {
        let metrics = Metrics::new().unwrap();
        count(&name("a.example"), What::Connections, 1, 0);
        metrics.server_names.sender().send(lately()).unwrap();
        assert_eq!((told(&metrics), metrics.server_names.known()), (vec![], vec![]));
    }
}
