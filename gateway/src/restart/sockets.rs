//! Listening sockets: those that another process or systemd has bound already, and those to be passed to the next one.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A listening socket, by what it is for and the address that was asked for.
#[derive(Debug)]
pub struct Socket {
    /// Such as a listener's name or a setting; empty for whoever wants the address.
    pub name: String,
    /// As configured; the port may be 0.
    pub wanted: SocketAddr,
    /// The socket itself.
    pub fd: Arc<OwnedFd>,
}

/// Keeps a socket among those to be passed on.
pub type Kept = Option<Arc<OwnedFd>>;

/// What there is to be taken, and what is to be passed on. Clones speak of the same process.
#[derive(Debug, Clone, Default)]
pub struct Sockets(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Somebody may ask for them.
    offered: bool,
    inherited: Vec<Socket>,
    /// Gone when whoever bound it lets go of it.
    passed: Vec<(String, SocketAddr, Weak<OwnedFd>)>,
}

impl Sockets {
    /// With these to be taken.
    pub fn new(inherited: Vec<Socket>) -> Self {
        Self(Arc::new(Mutex::new(Known { inherited, ..Known::default() })))
    }

    /// From now on sockets are kept to be passed on.
    pub fn offer(&self) {
        self.known().offered = true;
    }

    /// Adds the sockets that systemd has bound (`sd_listen_fds(3)`), each for whoever wants its address. To be called
    /// once, before there are threads.
    ///
    /// # Errors
    /// A descriptor is no TCP socket.
    pub fn from_environment() -> io::Result<Self> {
        let mut environment = listenfd::ListenFd::from_env();
        let mut inherited = Vec::new();
        for index in 0..environment.len() {
            let Some(socket) = environment.take_tcp_listener(index)? else { continue };
            let wanted = socket.local_addr()?;
            inherited.push(Socket { name: String::new(), wanted, fd: Arc::new(socket.into()) });
        }
        Ok(Self::new(inherited))
    }

    /// Adds what another process gives.
    pub fn inherit(&self, more: Vec<Socket>) {
        self.known().inherited.extend(more);
    }

    /// Takes what there is for this purpose and address: none, one, or several that share the address.
    pub fn take(&self, name: &str, wanted: SocketAddr) -> Vec<OwnedFd> {
        let fits =
            |socket: &mut Socket| socket.wanted == wanted && (socket.name == name || socket.name.is_empty());
        let taken = self.known().inherited.extract_if(.., fits).collect::<Vec<_>>();
        taken.into_iter().filter_map(|socket| Arc::into_inner(socket.fd)).collect()
    }

    /// Closes what nobody has taken, and tells for what it was.
    pub fn close_rest(&self) -> Vec<(String, SocketAddr)> {
        let rest = std::mem::take(&mut self.known().inherited);
        rest.into_iter().map(|socket| (socket.name, socket.wanted)).collect()
    }

    /// Has a socket be passed on for as long as what is returned is kept; that is nothing where nobody can ask for it.
    ///
    /// # Errors
    /// The process may have no more descriptors.
    pub fn pass(&self, name: &str, wanted: SocketAddr, socket: impl AsFd) -> io::Result<Kept> {
        let mut known = self.known();
        if !known.offered {
            return Ok(None);
        }
        let fd = Arc::new(socket.as_fd().try_clone_to_owned()?);
        known.passed.retain(|(_, _, fd)| fd.strong_count() > 0);
        known.passed.push((name.to_owned(), wanted, Arc::downgrade(&fd)));
        Ok(Some(fd))
    }

    /// Takes or binds a TCP socket, and has it be passed on.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn tcp(&self, name: &str, wanted: SocketAddr) -> io::Result<(TcpListener, Kept)> {
        let socket = match self.take(name, wanted).pop() {
            Some(fd) => TcpListener::from(fd),
            None => TcpListener::bind(wanted)?,
        };
        socket.set_nonblocking(true)?;
        let kept = self.pass(name, wanted, &socket)?;
        Ok((socket, kept))
    }

    /// Takes or binds a UDP socket at `address`, which is `wanted` but for a port that was free, and has it be passed on.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn udp(&self, name: &str, wanted: SocketAddr, address: SocketAddr) -> io::Result<(UdpSocket, Kept)> {
        let socket = match self.take(name, wanted).pop() {
            Some(fd) => UdpSocket::from(fd),
            None => UdpSocket::bind(address)?,
        };
        socket.set_nonblocking(true)?;
        let kept = self.pass(name, wanted, &socket)?;
        Ok((socket, kept))
    }

    /// What is to be passed on now.
    pub fn passed(&self) -> Vec<Socket> {
        let known = self.known();
        let passed = known.passed.iter();
        let living = passed.filter_map(|(name, wanted, fd)| Some((name.clone(), *wanted, fd.upgrade()?)));
        living.map(|(name, wanted, fd)| Socket { name, wanted, fd }).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_passed_on_while_it_is_kept_and_taken_once_by_purpose_and_address() {
        let (old, new) = (Sockets::default(), Sockets::default());
        old.offer();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = TcpListener::bind(any).unwrap();
        let keep = [old.pass("a", any, &bound).unwrap(), old.pass("a", any, &bound).unwrap()];
        drop(old.pass("b", any, &bound).unwrap());
        let copies = old
            .passed()
            .into_iter()
            .map(|socket| Socket { fd: Arc::new(socket.fd.try_clone().unwrap()), ..socket });
        new.inherit(copies.collect());
        assert!(new.take("b", any).is_empty());
        assert!(new.take("a", bound.local_addr().unwrap()).is_empty());
        assert_eq!((new.take("a", any).len(), new.take("a", any).len()), (2, 0));
        drop(keep);
        assert!(old.passed().is_empty());
    }

    #[test]
    fn a_socket_without_a_purpose_is_for_whoever_wants_its_address() {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = bound.local_addr().unwrap();
        let sockets = Sockets::new(vec![Socket { name: String::new(), wanted, fd: Arc::new(bound.into()) }]);
        assert!(sockets.take("l", ([127, 0, 0, 1], 1).into()).is_empty());
        assert_eq!(sockets.take("l", wanted).len(), 1);
        assert!(sockets.close_rest().is_empty());
    }
}
