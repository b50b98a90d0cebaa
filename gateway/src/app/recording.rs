//! What is told of each connection, to the access log and to a collector, until the last has been told.

use std::time::Duration;

use eastgate_config::bootstrap::Settings;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::access_log::{AccessLog, Reopener, Writer};
use crate::metrics::Metrics;
use crate::otlp::Exporter;

/// The end waits no longer for a collector.
const LAST_EXPORT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Recording {
    writer: Writer,
    reopener: Reopener,
    exporting: Option<JoinHandle<()>>,
}

impl Recording {
    pub(super) fn start(settings: &Settings, metrics: &Metrics) -> anyhow::Result<(AccessLog, Self)> {
        let (also, exporter) = Exporter::new(settings, &metrics.otlp)?.unzip();
        let dropped = metrics.access_log_dropped.clone();
        let (log, writer) = AccessLog::open(&settings.access_log, also, dropped)?;
        let reopener = log.reopener();
        let exporting = exporter.map(|exporter| tokio::spawn(exporter.run()));
        Ok((log, Self { writer, reopener, exporting }))
    }

    /// A way to have the access log's file opened anew.
    pub(super) fn reopener(&self) -> Reopener {
        self.reopener.clone()
    }

    /// Returns when all is told, or the collector does not hear it. Every [`AccessLog`] must be gone by then.
    pub(super) async fn finish(self) {
        self.writer.finish();
        if let Some(exporting) = self.exporting
            && timeout(LAST_EXPORT, exporting).await.is_err()
        {
            tracing::warn!("the OTLP collector did not take the last records in time");
        }
    }
}
