//! Processes that end when their guard is dropped, and, if this process is killed first, with this process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::Place;
use crate::process;

/// How much of a log an error shows.
const LOG_TAIL: usize = 2000;
/// Ports to try: below what Linux gives to clients by default, above what services use.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

#[derive(Debug)]
pub(super) struct Child {
    child: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts a command through this program's own `exec`, which takes its core and its parent's death to heart
    /// before it becomes the command: between fork and exec only unsafe code could do so.
    pub(super) fn start(place: &Place, command: Vec<OsString>, directory: &Path) -> io::Result<Self> {
        let log = directory.join("log");
        let file = File::create(&log)?;
        let child = Command::new(&place.launcher)
            .args(["exec", "--core", &place.core.to_string(), "--parent", &std::process::id().to_string()])
            .arg("--")
            .args(command)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(super) fn has_children(&self) -> bool {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.is_ok_and(|children| !children.trim().is_empty())
    }

    /// The end of what it said.
    pub(super) fn log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).trim().to_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes this process another program: on one core, and killed when its parent dies, whatever the parent dies of.
/// Returns only where that fails.
pub fn become_program(core: usize, parent: u32, command: &[OsString]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    if let Err(error) = process::pin(core) {
        return io::Error::other(error);
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the line above.
    if getppid().is_none_or(|now| now.as_raw_nonzero().get().unsigned_abs() != parent) {
        return io::Error::other("the parent is gone");
    }
    Command::new(program).args(arguments).exec()
}

/// A port on loopback that nobody listens on and no client is given: a client's own port may be any of
/// `ip_local_port_range`, and a gateway could then not listen on it.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut range = range.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let clients = range.next().unwrap_or(32_768)..=range.next().unwrap_or(60_999);
    // Where two comparisons run at once, they should not meet at the same ports.
    let start = u16::try_from(std::process::id() % 97).unwrap_or_default() * 100;
    for _ in PORTS {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = PORTS.start + offset;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !clients.contains(&port) && TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::other(format!("no free port in {PORTS:?} outside ip_local_port_range")))
}
