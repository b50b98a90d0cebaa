//! Origins: what stands behind the gateway. [`Origin::start`] is a pod that speaks TLS and answers like httpbin;
//! [`RawOrigin`] is plain TCP that behaves in one chosen way, for tests of single bytes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::RootCertStore;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ca::Identity;

mod http;
mod pod;
mod raw;

pub use http::POD_HEADER;
pub use raw::RawOrigin;

/// The protocols, all with HTTP/1.1 inside, that a pod behind an Istio sidecar agrees to.
pub const ISTIO_ALPN: [&str; 5] =
    ["istio-peer-exchange", "istio-http/1.1", "istio-http/1.0", "istio", "http/1.1"];

/// How long to wait after a failed accept: mostly file descriptors ran out, and trying at once would burn a core.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Why an origin did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The certificate and key, or the protocols, are not fit for a TLS server.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The roots for client certificates are not fit for it.
    #[error("cannot verify clients with these roots")]
    Clients(#[from] rustls::server::VerifierBuilderError),
    /// The pod's name would not fit a response header.
    #[error("`{0}` cannot be a pod's name: only visible ASCII is possible")]
    Name(String),
}

/// How a pod is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The pod's name, which `/hostname` and the header [`POD_HEADER`] show.
    pub name: String,
    /// The certificate that clients see.
    pub identity: Identity,
    /// The protocols to agree to; a client that offers only others is refused, one that offers none is served.
    pub alpn: Vec<String>,
    /// Which clients may connect.
    pub clients: Clients,
    /// Whether to print a line to stderr for each connection.
    pub verbose: bool,
}

impl Options {
    /// A pod on a free port of 127.0.0.1 that agrees to [`ISTIO_ALPN`] and serves every client.
    pub fn new(name: impl Into<String>, identity: Identity) -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            name: name.into(),
            identity,
            alpn: ISTIO_ALPN.map(str::to_owned).to_vec(),
            clients: Clients::Anyone,
            verbose: false,
        }
    }
}

/// Which clients a pod serves.
#[derive(Debug, Clone)]
pub enum Clients {
    /// Everyone; no certificate is asked for.
    Anyone,
    /// Those with a certificate from these roots, as in strict mutual TLS.
    Verified(RootCertStore),
}

/// What an origin has counted since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// TLS handshakes completed; always 0 for a [`RawOrigin`].
    pub handshakes: AtomicU64,
    /// Requests whose head was read; always 0 for a [`RawOrigin`].
    pub requests: AtomicU64,
}

/// An origin that runs until it is stopped, reset or dropped.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    counters: Arc<Counters>,
    ending: watch::Sender<Option<Ending>>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Starts a pod on the current tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on or the certificate cannot be used.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let address = options.address;
        let pod = pod::Pod::new(options)?;
        Self::listen(address, Service::Pod(Arc::new(pod))).await
    }

    async fn listen(address: SocketAddr, service: Service) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let counters = Arc::new(Counters::default());
        let (ending, end) = watch::channel(None);
        let task = tokio::spawn(accept(listener, service, Arc::clone(&counters), End(end)));
        Ok(Self { address, counters, ending, task })
    }

    /// Where the origin listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counters, which outlive the origin.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Stops accepting and closes every connection as a process that is killed does: at once, with a FIN but no TLS
    /// `close_notify` (the system makes it a RST where bytes were left unread). Dropping does the same, but cannot
    /// wait until it is done. Afterwards the address is free.
    pub async fn stop(self) {
        self.finish(Ending::Close).await;
    }

    /// Like [`stop`](Self::stop), but every connection ends with a RST, and bytes not sent yet are lost.
    pub async fn reset(self) {
        self.finish(Ending::Reset).await;
    }

    /// Stops accepting, as a process that is told to end, and lets every connection that is open go on to its own end.
    /// What the kernel has accepted and the process has not is reset.
    pub async fn retire(self) {
        self.finish(Ending::Retire).await;
    }

    async fn finish(self, ending: Ending) {
        self.ending.send_replace(Some(ending));
        // The task fails only by a panic, of which tokio has told already.
        let _ = self.task.await;
    }
}

/// How an origin's connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    Reset,
    Retire,
}

/// Tells a connection that its origin ends.
#[derive(Clone)]
struct End(watch::Receiver<Option<Ending>>);

impl End {
    /// Resolves when the origin accepts no more.
    async fn retired(&mut self) {
        // An origin that was dropped has ended as well.
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// Resolves when the origin ends its connections; an origin that was dropped closes.
    async fn wait(&mut self) -> Ending {
        let ends = |ending: &Option<Ending>| matches!(ending, Some(Ending::Close | Ending::Reset));
        match self.0.wait_for(ends).await {
            Ok(ending) => ending.unwrap_or(Ending::Close),
            Err(_) => Ending::Close,
        }
    }
}

#[derive(Clone)]
enum Service {
    Pod(Arc<pod::Pod>),
    Raw(Arc<RawOrigin>),
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, service: Service, counters: Arc<Counters>, mut end: End) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = select! {
            () = end.retired() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let open = Open::new(&counters);
                connections.spawn(serve(service.clone(), stream, peer, open, end.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_BACK_OFF).await,
        }
    }
    drop(listener);
    // Every connection waits for the same end, so this takes no longer than a turn of the runtime.
    while connections.join_next().await.is_some() {}
}

async fn serve(service: Service, stream: TcpStream, peer: SocketAddr, open: Open, end: End) {
    // Small answers must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    match service {
        Service::Pod(pod) => pod::serve(pod, stream, peer, &open.0, end).await,
        Service::Raw(behaviour) => raw::serve(&behaviour, stream, end).await,
    }
}

/// Closes a connection the way its origin ends; what is not reset closes by being dropped.
fn finish(stream: &TcpStream, ending: Ending) {
    if ending == Ending::Reset {
        let _ = stream.set_zero_linger();
    }
}
