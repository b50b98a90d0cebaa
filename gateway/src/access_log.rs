//! One line for each connection.
//!
//! The data threads only fill in a record and hand it over; a thread of its own turns records into lines and writes
//! them in batches. When that thread is behind (a full disk, a pipe that nobody reads), records are dropped and
//! counted: the data path never waits for a log.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use eastgate_config::bootstrap::{self, Format};
use eastgate_config::cluster::Cluster;
use eastgate_config::locality::Locality;
use eastgate_config::server_name::ServerName;
use prometheus::IntCounter;
use serde::Serialize;

use crate::client_hello::RandomPrefix;

/// Records that wait for the writer.
const QUEUE: usize = 16 * 1024;
/// Lines are on their way to the disk after this long at the latest.
const FLUSH: Duration = Duration::from_millis(200);
/// A wait that may be as long as it likes.
const IDLE: Duration = Duration::from_secs(3600);

/// What a connection's line says. Field names are the line's keys.
#[derive(Debug, Serialize)]
pub struct Record {
    /// When the connection was accepted.
    #[serde(serialize_with = "timestamp")]
    pub start: SystemTime,
    #[serde(skip)]
    began: Instant,
    /// How long it was open.
    pub duration_ms: u64,
    /// The listener's name.
    pub listener: Arc<str>,
    /// Who connected.
    pub client_addr: SocketAddr,
    /// What a load balancer before the gateway says of the connection beside addresses (PROXY protocol version 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxied: Option<Box<str>>,
    /// The name that was sent, in canonical form: it holds no byte that could forge a line.
    pub server_name: Option<ServerName>,
    /// The beginning of the ClientHello's random bytes, which are the same at every hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_random: Option<RandomPrefix>,
    /// The version of the table that it was routed by.
    pub table: u64,
    /// The name it was routed by, where a rewrite made it.
    pub rewritten: Option<String>,
    /// The filter chain.
    pub route: Option<Arc<str>>,
    /// The cluster.
    #[serde(serialize_with = "name")]
    pub cluster: Option<Arc<Cluster>>,
    /// The endpoint that was connected, or the last one that was tried.
    pub endpoint: Option<SocketAddr>,
    /// Where that endpoint stands.
    #[serde(serialize_with = "place")]
    pub locality: Option<Arc<Locality>>,
    /// Who is at the other end of the gateway's own TLS session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Bytes from the client.
    pub to_upstream_bytes: u64,
    /// Bytes to the client.
    pub to_client_bytes: u64,
    /// Connection attempts.
    pub attempts: u32,
    /// What moved the bytes.
    pub engine: &'static str,
    /// Envoy's response flag; `-` for an ordinary end.
    pub flag: &'static str,
    /// Why it ended, where that was not ordinary.
    pub error: Option<Cow<'static, str>>,
}

fn timestamp<S: serde::Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(*time))
}

fn name<S: serde::Serializer>(cluster: &Option<Arc<Cluster>>, serializer: S) -> Result<S::Ok, S::Error> {
    cluster.as_ref().map(|cluster| &cluster.name).serialize(serializer)
}

fn place<S: serde::Serializer>(locality: &Option<Arc<Locality>>, serializer: S) -> Result<S::Ok, S::Error> {
    let known = locality.as_ref().filter(|locality| ***locality != Locality::default());
    known.map(|locality| locality.to_string()).serialize(serializer)
}

fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "-".into(), |time| format!("{time:.3}"))
}

/// Where records go. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    /// None where nothing is logged.
    records: Option<SyncSender<Box<Record>>>,
    dropped: IntCounter,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(settings: &bootstrap::AccessLog, dropped: IntCounter) -> io::Result<(Self, Writer)> {
        let out: Box<dyn Write + Send> = match settings.path.as_str() {
            "" => return Ok((Self(Arc::new(Queue { records: None, dropped })), Writer(None))),
            "-" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, records) = sync_channel(QUEUE);
        let format = settings.format;
        let thread = std::thread::Builder::new().name("access-log".into());
        let lost = dropped.clone();
        let thread = thread.spawn(move || write(&records, out, format, &lost))?;
        Ok((Self(Arc::new(Queue { records: Some(sender), dropped })), Writer(Some(thread))))
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
        let record = Record {
            start: SystemTime::now(),
            began: Instant::now(),
            duration_ms: 0,
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
            flag: "-",
            error: Some("the connection's task was ended".into()),
        };
        Open { record: Some(Box::new(record)), log: self.clone() }
    }

    fn push(&self, record: Box<Record>) {
        if let Some(records) = &self.0.records
            && records.try_send(record).is_err()
        {
            self.0.dropped.inc();
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

/// The record of an open connection; written when it is dropped, whatever ended the connection.
#[derive(Debug)]
pub struct Open {
    record: Option<Box<Record>>,
    log: AccessLog,
}

impl Open {
    /// Notes how the connection ended: in the ordinary way, or with a flag and an error, which is told only if somebody
    /// will read it.
    pub fn close(&mut self, end: Option<(&'static str, impl FnOnce() -> String)>) {
        let logged = self.log.0.records.is_some();
        (self.flag, self.error) = match end {
            None => ("-", None),
            Some((flag, explain)) => (flag, logged.then(|| explain().into())),
        };
    }

    /// Writes nothing: another process goes on with it.
    pub fn forget(mut self) {
        self.record = None;
    }

    /// How long the connection has been open.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }
}

impl std::ops::Deref for Open {
    type Target = Record;

    #[allow(clippy::expect_used, reason = "only drop takes the record out")]
    fn deref(&self) -> &Record {
        self.record.as_ref().expect("the record is there until drop")
    }
}

impl std::ops::DerefMut for Open {
    #[allow(clippy::expect_used, reason = "only drop takes the record out")]
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_mut().expect("the record is there until drop")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.duration_ms = record.began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
            self.log.push(record);
        }
    }
}

/// Writes lines until every sender is gone. A flush waits for a line of a while ago, and not for a pause, which a busy
/// gateway never makes. A log that cannot be written must not end the process that it tells of: what does not fit into
/// the buffer any more is lost, as whole lines, and counted.
fn write(records: &Receiver<Box<Record>>, out: Box<dyn Write + Send>, format: Format, lost: &IntCounter) {
    let mut out = BufWriter::with_capacity(64 * 1024, out);
    let mut text = Vec::new();
    // When what is in the buffer has to be out.
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        match records.recv_timeout(wait) {
            Ok(record) => {
                text.clear();
                if line(&mut text, &record, format).and_then(|()| out.write_all(&text)).is_err() {
                    lost.inc();
                }
                due.get_or_insert_with(|| Instant::now() + FLUSH);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let _ = out.flush();
                return;
            }
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            let _ = out.flush();
            due = None;
        }
    }
}

fn line(out: &mut impl Write, record: &Record, format: Format) -> io::Result<()> {
    match format {
        Format::Json => serde_json::to_writer(&mut *out, record)?,
        Format::Text => text(out, record)?,
    }
    out.write_all(b"\n")
}

/// The order of Istio's default TCP access log, as far as the fields exist here.
fn text(out: &mut impl Write, record: &Record) -> io::Result<()> {
    fn or_dash<T: std::fmt::Display>(value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| "-".into(), T::to_string)
    }
    write!(
        out,
        "[{}] {} {} {} {} {} {} {} {} {} {} \"{}\"",
        rfc3339(record.start),
        record.flag,
        record.to_upstream_bytes,
        record.to_client_bytes,
        record.duration_ms,
        or_dash(&record.endpoint),
        or_dash(&record.cluster.as_ref().map(|cluster| &cluster.name)),
        record.listener,
        record.client_addr,
        or_dash(&record.server_name),
        or_dash(&record.route),
        or_dash(&record.error),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &std::path::Path, format: Format) -> (AccessLog, Writer) {
        let settings = bootstrap::AccessLog { path: path.display().to_string(), format };
        AccessLog::open(&settings, IntCounter::new("dropped", "x").unwrap()).unwrap()
    }

    fn lines(format: Format) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (log, writer) = log(&path, format);
        let mut record = log.begin(&"l".into(), ([127, 0, 0, 1], 1).into());
        record.server_name = Some("a.b".parse().unwrap());
        record.error = None;
        drop(record);
        drop(log.begin(&"l".into(), ([127, 0, 0, 1], 2).into()));
        drop(log);
        writer.finish();
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn a_record_is_one_line_of_json_even_when_its_connection_was_cut() {
        let text = lines(Format::Json);
        let records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records[0]["server_name"], "a.b");
        assert_eq!(records[0]["error"], serde_json::Value::Null);
        assert_eq!(records[1]["error"], "the connection's task was ended");
    }

    #[test]
    fn lines_come_out_though_there_is_no_pause() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let (log, writer) = log(&path, Format::Json);
        // So few do not fill the buffer, and none of them is late enough for a pause.
        let out = (0..100).any(|_| {
            drop(log.begin(&"l".into(), ([127, 0, 0, 1], 1).into()));
            std::thread::sleep(FLUSH / 10);
            path.metadata().unwrap().len() > 0
        });
        drop(log);
        writer.finish();
        assert!(out && path.metadata().unwrap().len() < 64 * 1024);
    }

    #[test]
    fn text_has_a_dash_for_what_is_not_known() {
        let text = lines(Format::Text);
        assert!(text.lines().next().unwrap().contains(" - 0 0 "), "{text}");
    }
}
