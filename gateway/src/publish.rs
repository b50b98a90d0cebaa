//! The one writer of the table: takes snapshots and DNS answers in, compiles, and swaps.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use eastgate_config::rejection::{Notice, Rejection};
use eastgate_config::snapshot::Snapshot;
use tokio::sync::watch;

use crate::metrics;
use crate::table::Table;
use crate::tls::client;
use crate::upstream::Cluster;
use crate::upstream::cluster::Resolutions;
use crate::upstream::resolve::Wanted;

/// How often the shares of endpoints that are slowly started grow.
const WARMING: Duration = Duration::from_millis(500);

/// How long a table is kept that another has replaced. Everybody else has let go of it by then, so that the publisher frees
/// it, a cluster at a time: thousands of endpoints freed at a stretch keep a data thread on the same core waiting for
/// milliseconds, and a data thread that let go last would free them itself.
const RETIREMENT: Duration = Duration::from_millis(20);

/// The ends that the publisher works between.
#[derive(Debug)]
pub struct Publisher {
    /// What the data path reads.
    pub table: Arc<ArcSwap<Table>>,
    /// Tells that there is a new table.
    pub published: watch::Sender<Arc<Table>>,
    /// The DNS names that endpoints are given by, and how they are to be looked up.
    pub wanted: watch::Sender<BTreeMap<String, Wanted>>,
    /// What they resolve to.
    pub resolved: watch::Receiver<Resolutions>,
    /// The TLS that the gateway itself speaks to endpoints.
    pub tls: watch::Sender<client::Wanted>,
    /// What is counted.
    pub metrics: metrics::Table,
}

impl Publisher {
    /// Publishes every snapshot, and the current one anew when an endpoint's name resolves to something else, until
    /// the source is gone.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) {
        let mut told = Told::default();
        let mut retired = None;
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                told.tell(&snapshot);
                free(retired.take());
                retired = Some(self.publish(snapshot));
                let (names, tls) = (self.table.load().dns_names(), self.table.load().upstream_tls());
                self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, names) != *wanted);
                self.tls.send_if_modified(|spoken| std::mem::replace(spoken, tls) != *spoken);
            }
            let published = tokio::time::Instant::now();
            let goes_on = loop {
                let warms = self.table.load().warm(Instant::now(), WARMING);
                tokio::select! {
                    changed = snapshots.changed() => break changed.is_ok(),
                    changed = self.resolved.changed() => break changed.is_ok(),
                    () = tokio::time::sleep_until(published + RETIREMENT), if retired.is_some() => free(retired.take()),
                    () = tokio::time::sleep(WARMING), if warms => {}
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) -> Retired {
        let began = Instant::now();
        let resolved = self.resolved.borrow_and_update().clone();
        let old = self.table.load_full();
        let (table, clusters) = Table::succeed(snapshot, &resolved, &old);
        let table = Arc::new(table);
        self.table.store(Arc::clone(&table));
        let metrics = &self.metrics;
        metrics.publish_seconds.observe(began.elapsed().as_secs_f64());
        metrics.published.inc();
        let snapshot = &table.snapshot;
        for (gauge, count) in [
            (&metrics.rejections, snapshot.rejections.len()),
            (&metrics.notices, snapshot.notices.len()),
            (&metrics.listeners, snapshot.listeners.len()),
            (&metrics.clusters, snapshot.clusters.len()),
        ] {
            gauge.set(count.try_into().unwrap_or(i64::MAX));
        }
        tracing::info!(
            version = table.version,
            listeners = snapshot.listeners.len(),
            clusters = snapshot.clusters.len(),
            rejections = snapshot.rejections.len(),
            "table published"
        );
        self.published.send_replace(table);
        Retired { table: old, clusters }
    }
}

/// A table that is not in use any more, and those of its clusters that the next one has not.
struct Retired {
    table: Arc<Table>,
    clusters: Vec<Arc<Cluster>>,
}

fn free(retired: Option<Retired>) {
    let Some(Retired { table, clusters }) = retired else { return };
    drop(table);
    for cluster in clusters {
        drop(cluster);
        // What is freed in small pieces glibc joins when somebody asks for a large one, and then all of it at a stretch.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(2048)));
        std::thread::yield_now();
    }
}

/// What has been logged already: a rejection is worth one line when it comes up, not one with every table.
#[derive(Default)]
struct Told {
    rejections: HashSet<String>,
    notices: HashSet<Notice>,
}

impl Told {
    fn tell(&mut self, snapshot: &Snapshot) {
        let rejections: HashSet<_> = snapshot.rejections.iter().map(Rejection::to_string).collect();
        for rejection in rejections.difference(&self.rejections) {
            tracing::warn!("refused {rejection}");
        }
        let notices: HashSet<_> = snapshot.notices.iter().cloned().collect();
        for notice in notices.difference(&self.notices) {
            tracing::info!("note {notice}");
        }
        (self.rejections, self.notices) = (rejections, notices);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use eastgate_config::cluster;
    use tokio::time::{sleep, timeout};

    use super::*;

    fn snapshot(max_connections: u32) -> Option<Arc<Snapshot>> {
        let config = cluster::Cluster {
            max_connections: Some(max_connections),
            ..cluster::Cluster::new("c", Vec::new())
        };
        let mut snapshot = Snapshot::default();
        snapshot.clusters.insert("c".into(), Arc::new(config));
        Some(Arc::new(snapshot))
    }

    /// Until nobody has it any more.
    async fn freed<T>(it: &Weak<T>) {
        while it.strong_count() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_a_table_has_replaced_is_kept_for_those_who_follow_and_no_longer() {
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let (published, mut tables) = watch::channel(Arc::default());
        let (snapshots, source) = watch::channel(snapshot(1));
        let (_answers, resolved) = watch::channel(Resolutions::default());
        let publisher = Publisher {
            table: Arc::clone(&table),
            published,
            wanted: watch::Sender::default(),
            resolved,
            tls: watch::Sender::default(),
            metrics: metrics::Metrics::new().unwrap().table,
        };
        let running = tokio::spawn(publisher.run(source));
        let (mut replaced, mut old) = (Weak::new(), Weak::new());
        for (version, max_connections) in [(1, 1), (2, 2), (3, 3)] {
            snapshots.send_replace(snapshot(max_connections));
            tables.wait_for(|table| table.version == version).await.unwrap();
            // Nobody else has it any more: neither is it freed by whoever let go of it last, nor with the next table only.
            let kept = usize::from(version > 1);
            assert_eq!(
                (replaced.strong_count(), old.strong_count()),
                (2 * kept, kept),
                "with table {version}"
            );
            let both = async { (freed(&replaced).await, freed(&old).await) };
            timeout(Duration::from_secs(60), both).await.expect("the publisher frees it");
            replaced = Arc::downgrade(table.load().cluster_of_name("c").unwrap());
            old = Arc::downgrade(&table.load());
        }
        drop(snapshots);
        running.await.unwrap();
    }
}
