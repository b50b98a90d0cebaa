//! Accepts clients: data threads, each with its own runtime and its own socket of every listener.
//!
//! The kernel spreads connections over the sockets that share an address (`SO_REUSEPORT`), and a connection stays on
//! the thread that accepted it, so the threads have nothing to agree on.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::connection;
use crate::drain::{self, Leaving};
use crate::gate::Gate;
use crate::listener::Listener;

pub mod ports;

/// After an error of `accept` that will not pass by itself, such as too many open files: wait, and longer each time,
/// because the same connection would be offered again at once.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The data threads. Dropping it ends them, and with them every connection that is still open.
#[derive(Debug)]
pub struct Threads {
    threads: Vec<(mpsc::UnboundedSender<Accepting>, JoinHandle<()>)>,
    connections: Gate,
    leaving: Arc<Leaving>,
}

/// A socket to accept from until `stop` closes.
#[derive(Debug)]
struct Accepting {
    socket: std::net::TcpListener,
    listener: Arc<Listener>,
    stop: watch::Receiver<()>,
    connections: Gate,
    leaving: Arc<Leaving>,
    /// Given back when accepting has ended.
    token: drain::Token,
}

impl Threads {
    /// Starts so many threads; `connections` limits how many clients they have at a time in all.
    ///
    /// # Errors
    /// The system gives no further thread, or no epoll.
    pub fn start(count: usize, connections: Gate, leaving: Arc<Leaving>) -> io::Result<Self> {
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("data-{index}"));
            let thread = thread.spawn(move || runtime.block_on(LocalSet::new().run_until(work(receiver))))?;
            threads.push((sender, thread));
        }
        Ok(Self { threads, connections, leaving })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Has each thread accept from one of the sockets, until `stop` is closed.
    fn accept(
        &self,
        sockets: Vec<std::net::TcpListener>,
        listener: &Arc<Listener>,
        stop: &watch::Sender<()>,
    ) {
        for ((sender, _), socket) in self.threads.iter().zip(sockets) {
            let accepting = Accepting {
                socket,
                listener: Arc::clone(listener),
                stop: stop.subscribe(),
                connections: self.connections.clone(),
                leaving: Arc::clone(&self.leaving),
                token: self.leaving.accepting.token(),
            };
            // A thread only ends when this is dropped.
            let _ = sender.send(accepting);
        }
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

async fn work(mut sockets: mpsc::UnboundedReceiver<Accepting>) {
    while let Some(accepting) = sockets.recv().await {
        spawn_local(accept(accepting));
    }
}

async fn accept(accepting: Accepting) {
    let Accepting { socket, listener, mut stop, connections, leaving, token: _accepting } = accepting;
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            return tracing::error!(listener = %listener.name, %error, "the socket cannot be polled");
        }
    };
    let mut wait = FIRST_WAIT;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.changed() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((client, client_addr)) => {
                wait = FIRST_WAIT;
                let Some(pass) = connections.enter() else {
                    listener.downstream.overflow.with_label_values(&["connections"]).inc();
                    continue;
                };
                let (listener, token) = (Arc::clone(&listener), leaving.connections.token());
                spawn_local(async move {
                    connection::serve(client, client_addr, listener).await;
                    drop((pass, token));
                });
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
