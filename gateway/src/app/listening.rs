//! The sockets of listeners, in step with the table and with the gateway's life.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use crate::accept::ports::Ports;
use crate::connection::Arrived;
use crate::drain::Phase;
use crate::readiness::Wait;
use crate::table::Table;

/// A listener that cannot be bound is tried again this often.
const BIND_AGAIN: Duration = Duration::from_secs(2);

/// Keeps the sockets in step with the table, until accepting is to stop.
pub(super) async fn listen(
    mut ports: Ports,
    mut tables: watch::Receiver<Arc<Table>>,
    mut phase: watch::Receiver<Phase>,
    mut arriving: mpsc::Receiver<Vec<Arrived>>,
    bound: watch::Sender<BTreeMap<String, SocketAddr>>,
    first_table: Wait,
) -> anyhow::Result<()> {
    let mut first_table = Some(first_table);
    loop {
        let now = *phase.borrow_and_update();
        match now {
            Phase::Waiting => {}
            Phase::Accepting => ports.accept(),
            Phase::Leaving => break ports.close(),
            Phase::Succeeded => break ports.abandon(),
        }
        let table = Arc::clone(&tables.borrow_and_update());
        ports.reconcile(&table);
        if table.version > 0 && ports.failed().is_empty() {
            first_table = None;
        }
        bound.send_replace(ports.bound());
        let again = !ports.failed().is_empty();
        tokio::select! {
            changed = tables.changed() => changed.context("the publisher is gone")?,
            changed = phase.changed() => changed.context("the gateway is gone")?,
            Some(arrived) = arriving.recv() => ports.resume(arrived),
            () = tokio::time::sleep(BIND_AGAIN), if again => {}
        }
    }
    bound.send_replace(BTreeMap::new());
    drop(first_table);
    // The data threads live as long as this task.
    std::future::pending::<()>().await;
    drop(ports);
    Ok(())
}
