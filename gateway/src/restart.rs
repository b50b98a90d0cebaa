//! One process takes over from another without a connection being refused: the very sockets pass, and their queues
//! with them.
//!
//! ```text
//!  new process                            old process (serves all the while)
//!      |── Hello ───────────────────────────→|
//!      |←──────────── Sockets, …, Sockets{} ─|   listening sockets, by name and address
//!      |  … has its first table, binds       |
//!      |── Ready ───────────────────────────→|   accepts from now on; the old one stops accepting
//!      |←─────────────────────────── Tunnels |   some open tunnels, each with its two sockets
//!      |── Taken ───────────────────────────→|   and only then relays them
//!      |                                     |   … until it has no more, and ends
//! ```
//!
//! Whatever goes wrong before `Ready` leaves the old process as it was. A tunnel belongs to the old process until it has
//! heard `Taken`, and to the new one once that is sent: if either process dies in between, the other goes on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

mod channel;
pub mod frame;
mod sockets;

use channel::Channel;
use frame::{Kind, Label, MAX_FDS, MAX_PAYLOAD, MAX_TUNNELS, Tunnel};
pub use sockets::{Kept, Socket, Sockets};

/// For the sockets of a process that is alive.
const SOCKETS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why one process does not take over from another.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other process has ended, or hung up.
    #[error("the other process is gone")]
    Gone,
    /// The other one is somebody else's.
    #[error("the other process is user {0}'s, and neither this one's nor root's")]
    Stranger(u32),
    /// It does not answer.
    #[error("the other process does not answer; is it stopped, or no eastgate?")]
    Silent,
    /// It sent what is no frame.
    #[error(transparent)]
    Frame(#[from] frame::Error),
    /// It sent another frame than it should.
    #[error("the other process says {came:?} where {wanted:?} is due")]
    Unexpected {
        /// What it sent.
        came: Kind,
        /// What it should have sent.
        wanted: Kind,
    },
    /// Descriptors are missing; the kernel drops them where a process may have no more.
    #[error("{came} of {wanted} descriptors came; raise ulimit -n")]
    Descriptors {
        /// What the frame says.
        wanted: usize,
        /// What there is.
        came: usize,
    },
}

/// The offer of a process to be taken over from, at a path.
#[derive(Debug)]
pub struct Offer {
    socket: UnixListener,
    path: PathBuf,
    /// Of the socket, while it is to be taken away with this.
    inode: Option<u64>,
}

impl Offer {
    /// Makes it, in the place of another process' offer if there is one.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn new(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        // What a process of this number has left.
        let _ = std::fs::remove_file(&beside);
        let socket = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        let inode = Some(std::fs::metadata(&beside)?.ino());
        std::fs::rename(&beside, path)?;
        Ok(Self { socket, path: path.to_owned(), inode })
    }

    /// Ends the offer, but leaves its path to the successor, who puts an offer of its own there.
    pub fn leave_path(mut self) {
        self.inode = None;
    }

    /// Waits for a process that has what it needs to take over, and is ready. One that fails before changes nothing;
    /// where two try, the later one counts.
    ///
    /// # Errors
    /// Nobody can connect any more.
    pub async fn successor(&self, sockets: &Sockets) -> io::Result<Successor> {
        type Talk = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send>>;
        let mut talk: Option<Talk> = None;
        loop {
            tokio::select! {
                accepted = self.socket.accept() => {
                    let (stream, _) = accepted?;
                    match friendly(&stream) {
                        Ok(()) => {
                            tracing::info!("another process wants to take over");
                            talk = Some(Box::pin(prepare(Channel::new(stream), sockets.passed())));
                        }
                        Err(error) => tracing::warn!(%error, "a process may not take over"),
                    }
                }
                Some(prepared) = async { Some(talk.as_mut()?.await) } => match prepared {
                    Ok(channel) => return Ok(Successor(channel)),
                    Err(error) => {
                        tracing::warn!(%error, "the process that wanted to take over has failed; this one goes on");
                        talk = None;
                    }
                },
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        // Another process may have put its own there.
        if std::fs::metadata(&self.path).is_ok_and(|found| Some(found.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Is the other process this user's, or root's? The kernel says (`SO_PEERCRED`).
fn friendly(stream: &UnixStream) -> Result<(), Error> {
    let uid = stream.peer_cred()?.uid();
    let mine = rustix::process::geteuid().as_raw();
    if uid == mine || uid == 0 { Ok(()) } else { Err(Error::Stranger(uid)) }
}

async fn prepare(mut channel: Channel, sockets: Vec<Socket>) -> Result<Channel, Error> {
    channel.expect(Kind::Hello).await?;
    for some in sockets.chunks(MAX_FDS) {
        let labels: Vec<_> = some
            .iter()
            .map(|Socket { name, wanted, .. }| Label { name: name.clone(), wanted: *wanted })
            .collect();
        let payload = serde_json::to_vec(&labels).map_err(io::Error::from)?;
        let fds: Vec<_> = some.iter().map(|socket| socket.fd.as_fd()).collect();
        channel.send(Kind::Sockets, &payload, &fds).await?;
    }
    channel.send(Kind::Sockets, &[], &[]).await?;
    // This process must not hold what a listener closes meanwhile.
    drop(sockets);
    channel.expect(Kind::Ready).await?;
    Ok(channel)
}

/// A tunnel with its two sockets, the client's and the endpoint's.
pub type Passed = (Tunnel, [OwnedFd; 2]);

/// The process that has taken over from this one.
#[derive(Debug)]
pub struct Successor(Channel);

impl Successor {
    /// Gives it tunnels, at most [`MAX_TUNNELS`]. The caller's sockets stay open and must not be touched meanwhile.
    ///
    /// # Errors
    /// It does not have them, and the caller may go on.
    pub async fn give(&mut self, tunnels: &[Passed]) -> Result<(), Error> {
        let mut payload = Vec::new();
        tunnels.iter().for_each(|(tunnel, _)| tunnel.encode(&mut payload));
        let fds: Vec<_> = tunnels.iter().flat_map(|(_, sockets)| sockets).map(AsFd::as_fd).collect();
        self.0.send(Kind::Tunnels, &payload, &fds).await?;
        self.0.expect(Kind::Taken).await?;
        Ok(())
    }
}

/// Takes as many of the first tunnels as fit one frame.
pub fn batch<T>(tunnels: &mut VecDeque<T>, length: impl Fn(&T) -> usize) -> Vec<T> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    while let Some(next) = tunnels.front() {
        bytes += length(next);
        if taken.len() == MAX_TUNNELS || (bytes > MAX_PAYLOAD && !taken.is_empty()) {
            break;
        }
        taken.extend(tunnels.pop_front());
    }
    taken
}

/// The process that this one takes over from.
#[derive(Debug)]
pub struct Predecessor(Channel);

impl Predecessor {
    /// Looks for a process at this path and takes its sockets; `None` when there is none.
    ///
    /// # Errors
    /// There is one, and it does not give them.
    pub async fn find(path: &Path) -> Result<Option<(Self, Vec<Socket>)>, Error> {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        friendly(&stream)?;
        let mut channel = Channel::new(stream);
        let sockets = timeout(SOCKETS_TIMEOUT, sockets(&mut channel)).await.map_err(|_| Error::Silent)??;
        Ok(Some((Self(channel), sockets)))
    }

    /// Tells it that this process accepts from now on.
    ///
    /// # Errors
    /// It is gone, so that nobody else accepts.
    pub async fn ready(&mut self) -> Result<(), Error> {
        self.0.send(Kind::Ready, &[], &[]).await
    }

    /// Its next open tunnels; `None` when it has ended, and there are no more. They are this process's only after [`taken`](Self::taken).
    ///
    /// # Errors
    /// It sent what cannot be understood.
    pub async fn tunnels(&mut self) -> Result<Option<Vec<Passed>>, Error> {
        let frame = match self.0.expect(Kind::Tunnels).await {
            Err(Error::Gone) => return Ok(None),
            frame => frame?,
        };
        let tunnels = Tunnel::decode(&frame.payload)?;
        if tunnels.len() * 2 != frame.fds.len() {
            return Err(Error::Descriptors { wanted: tunnels.len() * 2, came: frame.fds.len() });
        }
        let mut fds = frame.fds.into_iter();
        let pairs = tunnels.into_iter().map(|tunnel| Some((tunnel, [fds.next()?, fds.next()?])));
        Ok(pairs.collect())
    }

    /// Tells it that they are this process's.
    ///
    /// # Errors
    /// It is gone. It may not have heard, so that they are nobody's to relay.
    pub async fn taken(&mut self) -> Result<(), Error> {
        self.0.send(Kind::Taken, &[], &[]).await
    }
}

async fn sockets(channel: &mut Channel) -> Result<Vec<Socket>, Error> {
    channel.send(Kind::Hello, &[], &[]).await?;
    let mut sockets = Vec::new();
    loop {
        let frame = channel.expect(Kind::Sockets).await?;
        if frame.payload.is_empty() {
            return Ok(sockets);
        }
        let labels = Label::decode(&frame.payload)?;
        if labels.len() != frame.fds.len() {
            return Err(Error::Descriptors { wanted: labels.len(), came: frame.fds.len() });
        }
        let named = labels.into_iter().zip(frame.fds);
        sockets.extend(named.map(|(Label { name, wanted }, fd)| Socket { name, wanted, fd: Arc::new(fd) }));
    }
}

/// Tells systemd, if it is there and wants to know (`sd_notify(3)`).
pub fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd is not told");
    }
}

#[cfg(test)]
mod tests;
