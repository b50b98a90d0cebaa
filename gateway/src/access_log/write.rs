//! The thread that turns records into lines.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::mpsc;

use super::{Record, Shape};

/// Lines are on their way to the disk after this long at the latest.
pub(super) const FLUSH: Duration = Duration::from_millis(200);
/// A wait that may be as long as it likes.
const IDLE: Duration = Duration::from_secs(3600);

/// What the writer is sent.
#[derive(Debug)]
pub(super) enum Message {
    Record(Box<Record>),
    /// There is something to look at.
    Wake,
}

/// Who gets the records after they are written.
#[derive(Debug)]
pub struct Also {
    /// Never waited for.
    pub records: mpsc::Sender<Box<Record>>,
    /// Counts what is lost because there is no room.
    pub dropped: IntCounter,
    /// Whether they are to have what only some want.
    pub wants_extra: bool,
}

/// Where lines go.
pub(super) enum Out {
    Nowhere,
    Stdout(BufWriter<io::Stdout>),
    File(PathBuf, BufWriter<File>),
}

impl Out {
    /// What this path means: nothing, standard output, or a file.
    pub(super) fn open(path: &str) -> io::Result<Self> {
        Ok(match path {
            "" => Self::Nowhere,
            "-" => Self::Stdout(BufWriter::with_capacity(BUFFER, io::stdout())),
            path => Self::File(path.into(), file(&path.into())?),
        })
    }

    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self, Self::Nowhere)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout(out) => out.flush(),
            Self::File(_, out) => out.flush(),
        }
    }

    /// Writes the record's line, in one piece, so that a disk that is full takes none of it.
    fn write(&mut self, line: &mut Vec<u8>, shape: &Shape, record: &Record) -> io::Result<()> {
        let out: &mut dyn Write = match self {
            Self::Nowhere => return Ok(()),
            Self::Stdout(out) => out,
            Self::File(_, out) => out,
        };
        line.clear();
        shape.line(line, record);
        out.write_all(line)
    }

    /// Opens the file anew, after all that is for the old one has gone there. If that fails, the old one stays.
    fn reopen(&mut self) {
        let Self::File(path, out) = self else { return };
        if let Err(error) = out.flush() {
            tracing::error!(path = %path.display(), %error, "access_log.path: lines are lost");
        }
        match file(path) {
            Ok(new) => {
                // What the old one did not take is still in it.
                let old = std::mem::replace(out, new);
                let (_, unwritten) = old.into_parts();
                let _ = unwritten.map(|lines| out.write_all(&lines));
                tracing::info!(path = %path.display(), "the access log's file is opened anew");
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "access_log.path: cannot open it anew; the old file stays");
            }
        }
    }
}

const BUFFER: usize = 64 * 1024;

fn file(path: &PathBuf) -> io::Result<BufWriter<File>> {
    Ok(BufWriter::with_capacity(BUFFER, OpenOptions::new().create(true).append(true).open(path)?))
}

/// Writes lines until every sender is gone. A flush waits for a line of a while ago, and not for a pause, which a busy
/// gateway never makes.
pub(super) fn write(
    messages: &Receiver<Message>,
    mut out: Out,
    shape: &Shape,
    reopen: &AtomicBool,
    (lost, also): (&IntCounter, Option<&Also>),
) {
    let mut line = Vec::new();
    // When what is in the buffer has to be out.
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        match messages.recv_timeout(wait) {
            Ok(Message::Record(record)) => {
                // A log that cannot be written must not end the process that it tells of.
                if out.write(&mut line, shape, &record).is_err() {
                    lost.inc();
                }
                if let Some(Also { records, dropped, .. }) = also
                    && records.try_send(record).is_err()
                {
                    dropped.inc();
                }
                due.get_or_insert_with(|| Instant::now() + FLUSH);
            }
            Ok(Message::Wake) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let _ = out.flush();
                return;
            }
        }
        if reopen.swap(false, Relaxed) {
            out.reopen();
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            let _ = out.flush();
            due = None;
        }
    }
}
