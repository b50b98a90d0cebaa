//! Watches the health of the table's endpoints: ejects outliers and lets them in again, and has them checked.
//!
//! One task, on the control thread. It learns of failures by a call from the data path, which comes for the first one of a
//! quiet cluster and for each that completes a row; from then on it looks at that cluster by itself until there is nothing
//! left to look at. So a mesh in which nothing fails costs nothing here, however large it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::table::Table;

mod checks;
mod outliers;
mod probe;

use checks::Checks;
pub use checks::Options;
use outliers::Outliers;

/// With nothing due, there is a look at least this often.
const IDLE: Duration = Duration::from_secs(3600);

/// Watches until there are no more tables.
pub async fn run(mut tables: watch::Receiver<Arc<Table>>, options: Options) {
    let began = Instant::now();
    let (watcher, mut calls) = mpsc::unbounded_channel();
    let mut outliers = Outliers::new(watcher);
    let mut checks = Checks::new(options);
    let mut followed = Arc::default();
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        if !Arc::ptr_eq(&table, &followed) {
            follow(&mut outliers, &mut checks, &followed, &table, began.elapsed());
            followed = table;
        }
        // Everything that follows is done at once and to the table in use, which nobody replaces meanwhile: its one writer
        // is on this thread, too.
        outliers.look_where_due(&followed, began.elapsed());
        checks.start_where_due(&followed, began.elapsed());
        let due = outliers.due().into_iter().chain(checks.due()).min();
        let next = began + due.unwrap_or(began.elapsed() + IDLE);
        tokio::select! {
            changed = tables.changed() => if changed.is_err() { return },
            Some(cluster) = calls.recv() => outliers.call(cluster, began.elapsed()),
            Some(result) = checks.result() => checks.settle(result, &tables.borrow(), began.elapsed()),
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Takes notice of what is different in the next table, and looks at nothing else.
fn follow(outliers: &mut Outliers, checks: &mut Checks, old: &Table, new: &Table, now: Duration) {
    let mut changed = BTreeSet::new();
    for difference in old.snapshot.clusters.diff(&new.snapshot.clusters) {
        // As in the table's making, a data thread on the same core does not wait for all of them.
        std::thread::yield_now();
        match difference {
            DiffItem::Remove(name, _) => {
                outliers.forget(name);
                checks.forget(name);
            }
            DiffItem::Add(name, _) | DiffItem::Update { new: (name, _), .. } => {
                changed.insert(&**name);
            }
        }
    }
    // The endpoints of these may differ although their configuration does not.
    changed.extend(new.named_by_dns());
    for name in changed {
        let Some(cluster) = new.cluster_of_name(name) else { continue };
        std::thread::yield_now();
        outliers.follow(cluster);
        checks.follow(cluster, now);
    }
}
