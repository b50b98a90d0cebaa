//! The tasks of each thread's runtime, counted when they are scraped. One that never ends holds what it holds for good.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntGaugeVec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use tokio::runtime::RuntimeMetrics;

use super::Made;

/// Threads with a runtime. Clones speak of the same.
#[derive(Debug, Clone)]
pub struct Tasks {
    threads: Arc<Mutex<Vec<(String, RuntimeMetrics)>>>,
    shown: IntGaugeVec,
}

impl Tasks {
    pub(super) fn new(made: &Made<'_>) -> Result<Self, prometheus::Error> {
        let options = prometheus::opts!("tasks", "Tasks of a thread that have not ended");
        let shown = IntGaugeVec::new(options, &["thread"])?;
        let tasks = Self { threads: Arc::default(), shown };
        made.register(tasks.clone())?;
        Ok(tasks)
    }

    /// Counts those of this thread from now on.
    pub fn count(&self, thread: String, runtime: RuntimeMetrics) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((thread, runtime));
    }
}

impl Collector for Tasks {
    fn desc(&self) -> Vec<&Desc> {
        self.shown.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (thread, runtime) in &*self.threads.lock().unwrap_or_else(PoisonError::into_inner) {
            let alive = i64::try_from(runtime.num_alive_tasks()).unwrap_or(i64::MAX);
            self.shown.with_label_values(&[thread]).set(alive);
        }
        self.shown.collect()
    }
}
