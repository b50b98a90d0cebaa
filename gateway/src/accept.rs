//! Accepts clients: data threads, each with its own runtime and its own socket of every listener.
//!
//! The kernel spreads connections over the sockets that share an address (`SO_REUSEPORT`), and a connection stays on
//! the thread that accepted it, so the threads have nothing to agree on. With few long-lived clients that may leave a
//! thread idle; `listen.exact_balance` has each given to the thread with the fewest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{LocalOptions, RuntimeMetrics};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::connection::{self, Arrived};
use crate::drain::{self, Leaving};
use crate::gate::{Bucket, Gate, Pass};
use crate::listener::Listener;
use crate::open;
use crate::relay;

mod last;
pub mod ports;

/// After an error of `accept` that will not pass by itself, such as too many open files: wait, and longer each time,
/// because the same connection would be offered again at once.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often those are thought of who come faster than they are accepted.
const PACE: Duration = Duration::from_millis(20);

/// The data threads. Dropping it ends them, and with them every connection that is still open.
#[derive(Debug)]
pub struct Threads {
    threads: Vec<(mpsc::UnboundedSender<Work>, JoinHandle<()>)>,
    runtimes: Vec<RuntimeMetrics>,
    admission: Admission,
    leaving: Arc<Leaving>,
    seats: Option<Arc<[Seat]>>,
    open: open::Registry,
    resumed: AtomicUsize,
}

/// How data threads are.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many.
    pub count: usize,
    /// Each client is given to the thread that has the fewest.
    pub exact_balance: bool,
    /// Pipes that a thread may have.
    pub max_pipes: usize,
}

/// How many clients are taken on, of all listeners.
#[derive(Debug, Clone)]
pub struct Admission {
    /// At a time.
    pub connections: Gate,
    /// In a time, and since when that is counted.
    pub rate: Option<(Arc<Bucket>, Instant)>,
    /// None while this is true.
    pub pause: watch::Receiver<bool>,
    /// It has changed, and was not looked at since.
    pub changed: bool,
}

/// What a thread is given to do.
#[derive(Debug)]
enum Work {
    Accept(Accepting),
    Serve(Accepted),
    /// A connection that another process has served so far.
    Resume(Box<Arrived>, Arc<Listener>, Held),
}

/// A socket to accept from until `stop` says so: by a change when the whole gateway leaves, by its end when only the
/// listener goes, whose address may be wanted at once.
#[derive(Debug)]
struct Accepting {
    socket: std::net::TcpListener,
    stop: watch::Receiver<()>,
    clients: Clients,
    /// Given back when accepting has ended.
    token: drain::Token,
}

/// What becomes of the clients that are accepted.
#[derive(Debug)]
struct Clients {
    listener: Arc<Listener>,
    admission: Admission,
    leaving: Arc<Leaving>,
    /// Where connections are spread by count, and this thread's place in it.
    seats: Option<(Arc<[Seat]>, usize)>,
}

/// A client that another thread has accepted.
#[derive(Debug)]
struct Accepted {
    client: std::net::TcpStream,
    client_addr: SocketAddr,
    listener: Arc<Listener>,
    held: Held,
}

/// What a connection gives back when it ends.
#[derive(Debug)]
struct Held {
    _connection: Pass,
    _leaving: drain::Token,
    _seat: Option<Pass>,
}

/// A data thread as the others see it.
#[derive(Debug)]
struct Seat {
    work: mpsc::WeakUnboundedSender<Work>,
    taken: Gate,
}

impl Threads {
    /// Starts threads.
    ///
    /// # Errors
    /// The system gives no further thread, or no epoll.
    pub fn start(options: Options, admission: Admission, leaving: Arc<Leaving>) -> io::Result<Self> {
        let Options { count, exact_balance, max_pipes } = options;
        let (mut threads, mut runtimes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (open, questions) = open::Registry::new(count);
        for (index, questions) in questions.into_iter().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let thread = std::thread::Builder::new().name(format!("data-{index}"));
            let (started, starting) = std::sync::mpsc::sync_channel(1);
            let thread = thread.spawn(move || {
                relay::limit_pipes(max_pipes);
                // It belongs to the thread that makes it.
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                match runtime.enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        let _ = started.send(Ok(runtime.handle().metrics()));
                        runtime.block_on(work(receiver, questions));
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            })?;
            runtimes.push(starting.recv().map_err(io::Error::other)??);
            threads.push((sender, thread));
        }
        let seat = |(sender, _): &(mpsc::UnboundedSender<Work>, _)| Seat {
            work: sender.downgrade(),
            taken: Gate::new(usize::MAX),
        };
        let seats = (exact_balance && count > 1).then(|| threads.iter().map(seat).collect());
        Ok(Self { threads, runtimes, admission, leaving, seats, open, resumed: AtomicUsize::new(0) })
    }

    /// The way to their open connections.
    pub fn open(&self) -> &open::Registry {
        &self.open
    }

    /// What their runtimes say of themselves.
    pub fn runtimes(&self) -> &[RuntimeMetrics] {
        &self.runtimes
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Has one thread after the other go on with a connection that another process has served so far.
    fn resume(&self, arrived: Arrived, listener: Arc<Listener>) {
        let index = self.resumed.fetch_add(1, Relaxed) % self.threads.len().max(1);
        let seat = self.seats.as_ref().and_then(|seats| seats.get(index)).map(|seat| seat.taken.admit());
        let held = Held {
            _connection: self.admission.connections.admit(),
            _leaving: self.leaving.connections.token(),
            _seat: seat,
        };
        if let Some((sender, _)) = self.threads.get(index) {
            // A thread only ends when this is dropped.
            let _ = sender.send(Work::Resume(Box::new(arrived), listener, held));
        }
    }

    /// Has each thread accept from one of the sockets, until `stop` is closed.
    ///
    /// # Errors
    /// The process may have no more descriptors.
    fn accept(
        &self,
        sockets: &[std::net::TcpListener],
        listener: &Arc<Listener>,
        stop: &watch::Sender<()>,
    ) -> io::Result<()> {
        // A process before this one may have had another number of threads: each socket is served by one at least, and each
        // thread serves one.
        let (threads, count) = (self.threads.len(), sockets.len());
        for place in 0..threads.max(count) {
            let (index, socket) = (place % threads.max(1), sockets.get(place % count.max(1)));
            let (Some((sender, _)), Some(socket)) = (self.threads.get(index), socket) else { return Ok(()) };
            let socket = socket.try_clone()?;
            let clients = Clients {
                listener: Arc::clone(listener),
                admission: self.admission.clone(),
                leaving: Arc::clone(&self.leaving),
                seats: self.seats.as_ref().map(|seats| (Arc::clone(seats), index)),
            };
            let token = self.leaving.accepting.token();
            let accepting = Accepting { socket, stop: stop.subscribe(), clients, token };
            // A thread only ends when this is dropped.
            let _ = sender.send(Work::Accept(accepting));
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for (sender, thread) in self.threads.drain(..) {
            drop(sender);
            let _ = thread.join();
        }
    }
}

async fn work(mut given: mpsc::UnboundedReceiver<Work>, questions: open::Questions) {
    spawn_local(open::answer(questions));
    while let Some(work) = given.recv().await {
        match work {
            Work::Accept(accepting) => {
                spawn_local(accept(accepting));
            }
            Work::Resume(arrived, listener, held) => {
                spawn_local(async move {
                    connection::resume(*arrived, &listener).await;
                    drop(held);
                });
            }
            Work::Serve(Accepted { client, client_addr, listener, held }) => {
                match TcpStream::from_std(client) {
                    Ok(client) => serve(client, client_addr, listener, held),
                    Err(error) => tracing::warn!(%error, "a client cannot be polled, and is let go"),
                }
            }
        }
    }
}

fn serve(client: TcpStream, client_addr: SocketAddr, listener: Arc<Listener>, held: Held) {
    spawn_local(connection::serve(client, client_addr, listener, held));
}

async fn accept(accepting: Accepting) {
    let Accepting { socket, mut stop, mut clients, token: _accepting } = accepting;
    let listener = Arc::clone(&clients.listener);
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            return tracing::error!(listener = %listener.name, %error, "the socket cannot be polled");
        }
    };
    let mut wait = FIRST_WAIT;
    loop {
        if clients.admission.waits() {
            tokio::select! {
                () = clients.admission.turn(&listener) => {}
                leaving = stop.changed() => return take_last(socket, leaving.is_ok(), &clients).await,
            }
        }
        let accepted = tokio::select! {
            // In this order, because looking at `stop` costs more than accepting the next of many; tokio's budget makes
            // a batch end, and then it is looked at.
            biased;
            accepted = socket.accept() => accepted,
            leaving = stop.changed() => return take_last(socket, leaving.is_ok(), &clients).await,
            Ok(()) = clients.admission.pause.changed() => {
                clients.admission.changed = true;
                continue;
            }
        };
        match accepted {
            Ok((client, client_addr)) => {
                wait = FIRST_WAIT;
                clients.take(client, client_addr);
            }
            Err(error) => {
                listener.downstream.accept_errors.with_label_values(&[name_of(&error)]).inc();
                if !passes_by_itself(&error) {
                    if wait == FIRST_WAIT {
                        tracing::warn!(listener = %listener.name, %error, "accept failed; trying again more slowly");
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }
}

impl Admission {
    /// May there be something to wait for? Each client is asked for, so that it costs no more than a look.
    fn waits(&self) -> bool {
        self.rate.is_some() || self.changed || self.pause.has_changed().unwrap_or(false)
    }

    /// Returns when one more may be taken on.
    async fn turn(&mut self, listener: &Listener) {
        // The sender goes with the gateway.
        let _ = self.pause.wait_for(|paused| !*paused).await;
        self.changed = false;
        let Some((rate, since)) = &self.rate else { return };
        if rate.take(since.elapsed()) {
            return;
        }
        listener.downstream.overflow.with_label_values(&["accept_rate"]).inc();
        while !rate.take(since.elapsed()) {
            tokio::time::sleep(PACE).await;
        }
    }
}

/// Serves those who are connected already, and closes the socket.
async fn take_last(socket: TcpListener, leaving: bool, clients: &Clients) {
    let name = &clients.listener.name;
    let socket = match socket.into_std() {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(listener = %name, %error, "clients that wait may be reset"),
    };
    if leaving {
        match last::begin_no_more(&socket) {
            Ok(()) => tokio::time::sleep(last::HALF_OPEN).await,
            Err(error) => {
                tracing::warn!(listener = %name, %error, "clients that are connecting may be reset")
            }
        }
    }
    for (client, client_addr) in last::connected(&socket) {
        let client = client.set_nonblocking(true).and_then(|()| TcpStream::from_std(client));
        match client {
            Ok(client) => clients.take(client, client_addr),
            Err(error) => {
                tracing::warn!(listener = %name, %error, "a client cannot be polled, and is let go")
            }
        }
    }
}

impl Clients {
    /// Serves a client here, or has another thread do it.
    fn take(&self, client: TcpStream, client_addr: SocketAddr) {
        let listener = Arc::clone(&self.listener);
        let Some(connection) = self.admission.connections.enter() else {
            listener.downstream.overflow.with_label_values(&["connections"]).inc();
            return;
        };
        let held =
            |seat| Held { _connection: connection, _leaving: self.leaving.connections.token(), _seat: seat };
        let Some((seats, mine)) = &self.seats else {
            return serve(client, client_addr, listener, held(None));
        };
        let chosen = fewest(seats, *mine);
        let held = held(seats.get(chosen).and_then(|seat| seat.taken.enter()));
        let other = seats.get(chosen).filter(|_| chosen != *mine).and_then(|seat| seat.work.upgrade());
        match other {
            None => serve(client, client_addr, listener, held),
            // What cannot be handed over has lost its epoll or its thread, and with it whoever would serve it.
            Some(other) => {
                if let Ok(client) = client.into_std() {
                    let _ = other.send(Work::Serve(Accepted { client, client_addr, listener, held }));
                }
            }
        }
    }
}

/// The thread with the fewest connections; this one, where it is one of these, because handing over costs two system
/// calls.
fn fewest(seats: &[Seat], mine: usize) -> usize {
    let taken = seats.iter().map(|seat| seat.taken.inside()).enumerate();
    taken.min_by_key(|(index, taken)| (*taken, *index != mine)).map_or(mine, |(index, _)| index)
}

/// Errors of the one connection that was to be accepted (`accept(2)`, "Error handling").
fn passes_by_itself(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkUnreachable
    )
}

/// A label of a small fixed set.
fn name_of(error: &io::Error) -> &'static str {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    match error.raw_os_error() {
        Some(ENFILE | EMFILE) => "too_many_files",
        _ if passes_by_itself(error) => "connection",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdStream;

    use arc_swap::ArcSwap;
    use eastgate_config::bootstrap::Settings;

    use super::*;
    use crate::access_log::AccessLog;
    use crate::listener::Shared;
    use crate::metrics::Metrics;
    use crate::table::Table;

    const THREADS: usize = 4;

    fn shared() -> Shared {
        let metrics = Metrics::new().unwrap();
        let mut settings = Settings::default();
        settings.access_log.path.clear();
        let dropped = metrics.access_log_dropped.clone();
        Shared {
            access_log: AccessLog::open(&settings.access_log, None, dropped).unwrap().0,
            settings: Arc::new(settings),
            table: Arc::new(ArcSwap::from_pointee(Table::default())),
            tables: watch::channel(Arc::default()).1,
            metrics,
            in_flight: Arc::default(),
            mesh: Arc::default(),
            clients: crate::tls::Clients::new(watch::channel(Arc::default()).1),
            hellos: Gate::new(usize::MAX),
            per_client: crate::gate::PerClient::new(0),
        }
    }

    #[test]
    fn with_exact_balance_every_thread_has_as_many_connections() {
        let (_sender, pause) = watch::channel(false);
        let admission = Admission { connections: Gate::new(usize::MAX), rate: None, pause, changed: false };
        let options = Options { count: THREADS, exact_balance: true, max_pipes: 0 };
        let threads = Threads::start(options, admission, Arc::default()).unwrap();
        let seats = Arc::clone(threads.seats.as_ref().unwrap());
        let sockets = ports::shared_sockets(([127, 0, 0, 1], 0).into(), THREADS).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let stop = watch::Sender::new(());
        threads.accept(&sockets, &Arc::new(Listener::new("l", &shared())), &stop).unwrap();
        drop(sockets);
        let taken = || seats.iter().map(|seat| seat.taken.inside()).collect::<Vec<_>>();
        // They are silent, and so held until the time for a ClientHello is over. One after the other, because two threads
        // that accept at the same moment may choose the same third.
        let mut clients = Vec::new();
        for count in 1..=40 {
            clients.push(StdStream::connect(address).unwrap());
            while taken().iter().sum::<usize>() < count {
                std::thread::yield_now();
            }
        }
        assert_eq!(taken(), [10; THREADS]);
        drop(clients);
        while taken().iter().sum::<usize>() > 0 {
            std::thread::yield_now();
        }
    }
}
