//! What the process counts. Each subsystem registers its struct once; handles with labels are resolved when the
//! labelled thing is made, never on the hot path. No label ever holds what a client sent, but for the few names of
//! [`server_names`], under the conditions that stand there.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

mod dns;
mod downstream;
mod exemplar;
pub mod exposition;
pub mod family;
pub mod flag;
mod kubernetes;
pub mod milliseconds;
mod otlp;
mod overload;
pub mod per_thread;
mod resolve;
pub mod server_names;
mod tasks;
mod tls;
mod usage;
mod xds;
pub use dns::Dns;
pub use downstream::{Counted, Downstream, Listener, OpenConnection};
use exposition::Format;
pub use flag::Flag;
pub use kubernetes::Kubernetes;
pub use otlp::Otlp;
pub use overload::Overload;
pub use resolve::Resolve;
pub use server_names::ServerNames;
pub use tasks::Tasks;
pub use tls::Tls;
pub use usage::Usage;
pub use xds::{Xds, timestamp};

/// Names start with it.
const NAMESPACE: &str = "eastgate";
const PREFIX: &str = "eastgate_";

/// All metrics of a process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Those of many samples, each by itself, so that no two of them are in memory at once.
    large: Arc<Mutex<Vec<Registry>>>,
    described: Arc<Mutex<Vec<Description>>>,
    /// Connections from clients.
    pub downstream: Downstream,
    /// The server names that count most.
    pub server_names: ServerNames,
    /// The table and what it was made from.
    pub table: Table,
    /// The conversation with the control plane.
    pub xds: Xds,
    /// What the Kubernetes source hears.
    pub kubernetes: Kubernetes,
    /// DNS.
    pub dns: Dns,
    /// Shortage of memory and file descriptors.
    pub overload: Overload,
    /// Records for OpenTelemetry's collectors.
    pub otlp: Otlp,
    /// Look-ups of endpoints' names.
    pub resolve: Resolve,
    /// Tasks of each thread.
    pub tasks: Tasks,
    /// The process's own end of the mesh's TLS.
    pub tls: Tls,
    /// Records of the access log that were lost because its writer was behind.
    pub access_log_dropped: IntCounter,
    /// Connections taken from endpoints that had more than their share.
    pub shed: IntCounter,
    /// Whether `/ready` says yes.
    pub ready: IntGauge,
}

/// What a metric is, for documents and for whoever wants to know whether there is one of that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description {
    /// Its name, prefix included.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// Its labels.
    pub labels: Vec<String>,
}

impl Description {
    fn new(name: String, desc: &Desc) -> Self {
        Self { name, help: desc.help.clone(), labels: desc.variable_labels.clone() }
    }
}

/// The table and what it was made from.
#[derive(Debug, Clone)]
pub struct Table {
    /// Tables published so far; also the version of the current one.
    pub published: IntCounter,
    /// Resources refused in the current snapshot.
    pub rejections: IntGauge,
    /// Notices in the current snapshot.
    pub notices: IntGauge,
    /// Listeners in the table.
    pub listeners: IntGauge,
    /// Clusters in the table.
    pub clusters: IntGauge,
    /// From a snapshot to its table in use.
    pub publish_seconds: Histogram,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// Two metrics have one name, which is a bug that any test finds.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(NAMESPACE.into()), None)?;
        let described = Arc::default();
        let made = Made(&registry, &described);
        let build = made.gauges("build_info", "The version that runs; always 1", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            downstream: Downstream::new(&made)?,
            server_names: ServerNames::new(&made)?,
            table: Table {
                published: made.counter("tables_published_total", "Tables published")?,
                rejections: made.gauge("rejections", "Resources refused in the current snapshot")?,
                notices: made.gauge("notices", "Notices in the current snapshot")?,
                listeners: made.gauge("listeners", "Listeners in the table")?,
                clusters: made.gauge("clusters", "Clusters in the table")?,
                publish_seconds: made.seconds("publish_seconds", "From a snapshot to its table in use")?,
            },
            xds: Xds::new(&made)?,
            kubernetes: Kubernetes::new(&made)?,
            dns: Dns::new(&made)?,
            overload: Overload::new(&made)?,
            otlp: Otlp::new(&made)?,
            resolve: Resolve::new(&made)?,
            tasks: Tasks::new(&made)?,
            tls: Tls::new(&made)?,
            access_log_dropped: made.counter("access_log_dropped_total", "Access-log records lost")?,
            shed: made.counter(
                "upstream_shed_total",
                "Connections taken from endpoints that had more than their share",
            )?,
            ready: made.gauge("ready", "1 when /ready says yes")?,
            registry,
            large: Arc::default(),
            described,
        })
    }

    /// What each metric is, by name; also of those that have no value yet.
    pub fn descriptions(&self) -> Vec<Description> {
        let mut all = self.described.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        all
    }

    /// The handles of a listener.
    pub fn listener(&self, name: &str) -> Listener {
        self.downstream.listener(name)
    }

    /// Adds something that counts for itself.
    ///
    /// # Errors
    /// Its name is taken.
    pub fn register(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        Made(&self.registry, &self.described).register(collector)
    }

    /// Adds something that counts for itself and has a sample, or some, for each cluster.
    ///
    /// # Errors
    /// It describes itself badly.
    pub fn register_large(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        let registry = Registry::new_custom(Some(NAMESPACE.into()), None)?;
        Made(&registry, &self.described).register(collector)?;
        self.add(registry);
        Ok(())
    }

    /// The same, of names that are not ours: Istio's and Envoy's.
    ///
    /// # Errors
    /// It describes itself badly.
    pub fn register_foreign(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        let descriptions: Vec<_> =
            collector.desc().into_iter().map(|desc| Description::new(desc.fq_name.clone(), desc)).collect();
        let registry = Registry::new();
        registry.register(Box::new(collector))?;
        self.described.lock().unwrap_or_else(PoisonError::into_inner).extend(descriptions);
        self.add(registry);
        Ok(())
    }

    fn add(&self, registry: Registry) {
        self.large.lock().unwrap_or_else(PoisonError::into_inner).push(registry);
    }

    fn registries(&self) -> impl Iterator<Item = Registry> + Send + use<> {
        let large = self.large.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::iter::once(self.registry.clone()).chain(large)
    }

    /// Everything as it is when it is come to, our own before what has others' names.
    pub fn gather(&self) -> impl Iterator<Item = MetricFamily> {
        self.registries().flat_map(|registry| registry.gather())
    }

    /// Everything as text, in pieces that are made as they are asked for: in a mesh of ten thousand clusters all of it at
    /// once would be as much memory as the table.
    pub fn render(&self, format: Format) -> impl Iterator<Item = Result<String, fmt::Error>> + Send + use<> {
        let downstream = self.downstream.clone();
        let families = self.registries().flat_map(|registry| registry.gather());
        let pieces = families.flat_map(move |family| {
            let downstream = downstream.clone();
            let exemplar = move |name: &str, bucket| downstream.exemplar(name, bucket);
            exposition::pieces(family, format, exemplar)
        });
        pieces.chain(format.end().map(|end| Ok(end.to_owned())))
    }
}

struct Made<'a>(&'a Registry, &'a Mutex<Vec<Description>>);

impl Made<'_> {
    fn register(&self, collector: impl Collector + 'static) -> Result<(), prometheus::Error> {
        let described = |desc: &Desc| Description::new(format!("{PREFIX}{}", desc.fq_name), desc);
        let descriptions: Vec<_> = collector.desc().into_iter().map(described).collect();
        self.0.register(Box::new(collector))?;
        self.1.lock().unwrap_or_else(PoisonError::into_inner).extend(descriptions);
        Ok(())
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.register(metric.clone())?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }

    fn seconds(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.histogram(name, help, prometheus::exponential_buckets(0.000_25, 4.0, 9)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_registers_and_renders_under_one_prefix() {
        let metrics = Metrics::new().unwrap();
        metrics.listener("0.0.0.0_15443").close(Flag::Ordinary, None);
        let text: String = metrics.render(Format::Text).collect::<Result<_, _>>().unwrap();
        assert!(text.contains(
            "eastgate_downstream_connections_closed_total{flag=\"-\",listener=\"0.0.0.0_15443\"} 1"
        ));
        let names = text.lines().filter(|line| !line.starts_with('#'));
        assert!(names.clone().count() > 10 && names.clone().all(|line| line.starts_with("eastgate_")));
    }
}
