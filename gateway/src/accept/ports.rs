//! Keeps the bound sockets in step with the table's listeners.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use super::Threads;
use crate::connection::Arrived;
use crate::listener::{Listener, Shared};
use crate::relay::keep_alive;
use crate::restart::{Kept, Sockets};
use crate::table::Table;

/// Connections that the kernel completes before they are accepted; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The bound listeners.
#[derive(Debug)]
pub struct Ports {
    threads: Threads,
    shared: Shared,
    sockets: Sockets,
    /// Another process accepts yet.
    waiting: bool,
    open: BTreeMap<String, Open>,
    failed: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Open {
    wanted: SocketAddr,
    bound: SocketAddr,
    listener: Arc<Listener>,
    /// To be accepted from.
    waiting: Vec<std::net::TcpListener>,
    _kept: Vec<Kept>,
    /// Ends the accepting; connections go on.
    stop: watch::Sender<()>,
}

impl Ports {
    /// With nothing bound. Nobody is accepted before [`accept`](Self::accept).
    pub fn new(threads: Threads, shared: Shared, sockets: Sockets) -> Self {
        Self { threads, shared, sockets, waiting: true, open: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// From now on accepts from whatever is bound.
    pub fn accept(&mut self) {
        self.waiting = false;
        self.open.retain(|name, open| match open.start(&self.threads) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(listener = name, %error, "cannot accept");
                false
            }
        });
    }

    /// Binds what the table has and is not bound, and closes what it has no more. A listener that cannot be bound is
    /// reported once and left out; the next call tries again.
    pub fn reconcile(&mut self, table: &Table) {
        let wanted: BTreeMap<_, _> =
            table.listeners().map(|listener| (&listener.config.name, listener.config.address)).collect();
        self.open.retain(|name, open| {
            let keep = wanted.get(name) == Some(&open.wanted);
            if !keep {
                tracing::info!(listener = name, address = %open.bound, "stopped listening");
            }
            keep
        });
        self.failed.retain(|name, _| wanted.contains_key(name));
        for (name, address) in wanted {
            if self.open.contains_key(name) {
                continue;
            }
            match self.bind(name, address) {
                Ok(open) => {
                    tracing::info!(listener = name, address = %open.bound, "listening");
                    self.failed.remove(name);
                    self.open.insert(name.clone(), open);
                }
                Err(error) => {
                    let text = format!("cannot listen on {address}: {error}");
                    if self.failed.insert(name.clone(), text.clone()) != Some(text) {
                        tracing::error!(listener = name, %address, %error, "cannot listen; {}", remedy(&error));
                    }
                }
            }
        }
    }

    /// Where each listener is bound.
    pub fn bound(&self) -> BTreeMap<String, SocketAddr> {
        self.open.iter().map(|(name, open)| (name.clone(), open.bound)).collect()
    }

    /// The listeners that could not be bound, and why.
    pub fn failed(&self) -> &BTreeMap<String, String> {
        &self.failed
    }

    /// Goes on with connections that another process has served so far. Their listener may be gone from the table.
    pub fn resume(&self, arrived: Vec<Arrived>) {
        for arrived in arrived {
            let name = arrived.listener();
            let listener = self.open.get(name).map(|open| Arc::clone(&open.listener));
            let listener = listener.unwrap_or_else(|| Arc::new(Listener::new(name, &self.shared)));
            self.threads.resume(arrived, listener);
        }
    }

    /// Stops accepting everywhere and at once, because another process goes on; connections go on, too.
    pub fn abandon(&mut self) {
        self.open.clear();
    }

    /// Stops accepting everywhere, once those are in who are connecting; connections go on.
    pub fn close(&mut self) {
        for (_, open) in std::mem::take(&mut self.open) {
            open.stop.send_replace(());
        }
    }

    fn bind(&self, name: &str, wanted: SocketAddr) -> io::Result<Open> {
        let taken = self.sockets.take(name, wanted);
        let sockets: Vec<_> = match taken.is_empty() {
            false => taken.into_iter().map(std::net::TcpListener::from).collect(),
            true => {
                // Sockets with SO_REUSEPORT would share the address with another process that has it, too, and take half
                // of its connections. One without finds out.
                drop(socket(wanted, Shares::No)?);
                shared_sockets(wanted, self.threads.count())?
            }
        };
        let bound = sockets.first().map_or(Ok(wanted), std::net::TcpListener::local_addr)?;
        let mut kept = Vec::new();
        for socket in &sockets {
            kept.push(self.sockets.pass(name, wanted, socket)?);
            socket.set_nonblocking(true)?;
            // Accepted sockets inherit these: two system calls less for each connection.
            let socket = socket2::SockRef::from(socket);
            socket.set_tcp_nodelay(true)?;
            keep_alive(socket, self.shared.settings.relay.keepalive)?;
        }
        let stop = watch::Sender::new(());
        let listener = Arc::new(Listener::new(name, &self.shared));
        let mut open = Open { wanted, bound, listener, waiting: sockets, _kept: kept, stop };
        if !self.waiting {
            open.start(&self.threads)?;
        }
        Ok(open)
    }
}

impl Open {
    fn start(&mut self, threads: &Threads) -> io::Result<()> {
        threads.accept(&std::mem::take(&mut self.waiting), &self.listener, &self.stop)
    }
}

/// So many sockets that listen on one address.
pub(super) fn shared_sockets(wanted: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = socket(wanted, Shares::Yes)?;
    let bound = first.local_addr()?;
    let others = (1..count).map(|_| socket(bound, Shares::Yes));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// What to do about an address that cannot be bound.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 want CAP_NET_BIND_SERVICE: run with it (the systemd unit does), or set listen.ports"
        }
        io::ErrorKind::AddrNotAvailable => {
            "the address is not this machine's: give it one (ip route add local ADDRESS dev lo), or have the firewall \
             redirect (vm run --redirect)"
        }
        _ => "free the address, or set listen.ports",
    }
}

#[derive(PartialEq)]
enum Shares {
    Yes,
    No,
}

fn socket(address: SocketAddr, shares: Shares) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `::` means every address of the host, as it does in Envoy and Istio with dual stack.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    if shares == Shares::Yes {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if shares == Shares::Yes {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}
