//! One line for each connection.
//!
//! The data threads only fill in a record and hand it over; a thread of its own turns records into lines and writes
//! them in batches. When that thread is behind (a full disk, a pipe that nobody reads), records are dropped and
//! counted: the data path never waits for a log.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use eastgate_config::bootstrap;
use prometheus::IntCounter;

use crate::metrics::Flag;

mod line;
mod record;
mod write;

pub use line::{Error, Shape};
use record::Extra;
pub use record::{Micros, Open, Record};
pub use write::Also;
use write::{Message, Out, write};

/// Records that wait for the writer.
const QUEUE: usize = 16 * 1024;

/// Where records go. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    /// None where nothing is logged.
    messages: Option<SyncSender<Message>>,
    /// The file is to be opened anew.
    reopen: Arc<AtomicBool>,
    filter: Filter,
    wants_extra: bool,
    dropped: IntCounter,
}

/// Which connections are recorded.
#[derive(Debug)]
struct Filter {
    only_failures: bool,
    min_duration_ms: u64,
    /// From 0 to 1.
    sample: f64,
}

impl Filter {
    /// Is this one recorded? Those that failed are. `draw` is from 0 to below 1.
    fn keeps(&self, flag: Flag, duration_ms: u64, draw: impl FnOnce() -> f64) -> bool {
        flag != Flag::Ordinary
            || (!self.only_failures
                && duration_ms >= self.min_duration_ms
                && (self.sample >= 1.0 || draw() < self.sample))
    }
}

/// Counts connections, where a format wants that.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

impl AccessLog {
    /// Opens the log and starts its writer, which passes records on.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the format is none.
    pub fn open(
        settings: &bootstrap::AccessLog,
        also: Option<Also>,
        dropped: IntCounter,
    ) -> Result<(Self, Writer), Error> {
        let shape = Shape::new(settings)?;
        let wants_extra = shape.wants_extra() || also.as_ref().is_some_and(|also| also.wants_extra);
        let out = Out::open(&settings.path)
            .map_err(|source| Error::Open { path: settings.path.clone(), source })?;
        let filter = Filter {
            only_failures: settings.only_failures,
            min_duration_ms: settings.min_duration.as_millis().try_into().unwrap_or(u64::MAX),
            sample: settings.sample_percent / 100.0,
        };
        let reopen = Arc::new(AtomicBool::new(false));
        let mut queue = Queue { messages: None, reopen, filter, wants_extra, dropped };
        if out.is_nowhere() && also.is_none() {
            return Ok((Self(Arc::new(queue)), Writer(None)));
        }
        let (sender, messages) = sync_channel(QUEUE);
        queue.messages = Some(sender);
        let (reopen, lost) = (Arc::clone(&queue.reopen), queue.dropped.clone());
        let thread = std::thread::Builder::new().name("access-log".into());
        let thread = thread.spawn(move || write(&messages, out, &shape, &reopen, (&lost, also.as_ref())));
        let thread = thread.map_err(|source| Error::Open { path: settings.path.clone(), source })?;
        Ok((Self(Arc::new(queue)), Writer(Some(thread))))
    }

    /// A way to have the file opened anew, which does not keep the writer from ending.
    pub fn reopener(&self) -> Reopener {
        Reopener(Arc::downgrade(&self.0))
    }

    /// Goes on with the record of a connection that another process has begun.
    pub fn resume(&self, listener: &Arc<str>, client_addr: SocketAddr, age: Duration) -> Open {
        let mut open = self.begin(listener, client_addr);
        open.start = open.start.checked_sub(age).unwrap_or(open.start);
        open.began = open.began.checked_sub(age).unwrap_or(open.began);
        open
    }

    /// Begins a connection's record.
    pub fn begin(&self, listener: &Arc<str>, client_addr: SocketAddr) -> Open {
        let extra = self.0.wants_extra.then(|| {
            let id = CONNECTIONS.fetch_add(1, Relaxed) + 1;
            let attempts = Box::default();
            Box::new(Extra { id, local: None, direct_client: client_addr, upstream_local: None, attempts })
        });
        let record = Record {
            start: SystemTime::now(),
            began: Instant::now(),
            listed: false,
            usage: None,
            extra,
            duration_ms: 0,
            hello: Micros::default(),
            connect: Micros::default(),
            listener: Arc::clone(listener),
            client_addr,
            proxied: None,
            server_name: None,
            client_random: None,
            table: 0,
            rewritten: None,
            route: None,
            cluster: None,
            endpoint: None,
            locality: None,
            peer: None,
            to_upstream_bytes: 0,
            to_client_bytes: 0,
            attempts: 0,
            engine: "-",
            flag: Flag::Ordinary,
            error: Some("the connection's task was ended".into()),
        };
        Open { record: Some(Box::new(record)), log: self.clone() }
    }

    fn is_on(&self) -> bool {
        self.0.messages.is_some()
    }

    fn push(&self, record: Box<Record>) {
        let Some(messages) = &self.0.messages else { return };
        if self.0.filter.keeps(record.flag, record.duration_ms, fastrand::f64)
            && messages.try_send(Message::Record(record)).is_err()
        {
            self.0.dropped.inc();
        }
    }
}

/// Has the log's file opened anew, once whoever rotates logs has renamed it.
#[derive(Debug, Clone)]
pub struct Reopener(Weak<Queue>);

impl Reopener {
    /// Records that are not written yet may still go to the old file; none is lost.
    pub fn reopen(&self) {
        let Some(queue) = self.0.upgrade() else { return };
        queue.reopen.store(true, Relaxed);
        if let Some(messages) = &queue.messages {
            // A writer with a full queue is awake.
            let _ = messages.try_send(Message::Wake);
        }
    }
}

/// The thread that writes.
#[derive(Debug)]
pub struct Writer(Option<JoinHandle<()>>);

impl Writer {
    /// Returns when every record is written. Every [`AccessLog`] must be gone by then.
    pub fn finish(self) {
        if let Some(thread) = self.0 {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
