//! The client's end of a tunnel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Order;
use super::exchange::{End, Plan, Verdict};
use super::origin::{CHUNK, discard, send};
use crate::hello::{BadName, hello, renew};

/// How many bytes a ping has, and its answer.
pub const PING: usize = 64;

/// The gateway, and the names to ask it for.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where the gateway listens.
    pub address: SocketAddr,
    hellos: Arc<[Vec<u8>]>,
}

impl Target {
    /// A target with a hello for each name; tunnels use them by their index.
    ///
    /// # Errors
    /// When a name cannot be sent.
    pub fn new<N: AsRef<str>>(
        address: SocketAddr,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, BadName> {
        let hellos = names.into_iter().map(|name| hello(name.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self { address, hellos })
    }

    /// How many names there are.
    pub fn names(&self) -> usize {
        self.hellos.len()
    }

    /// The hello for the name of that index; the indices go round.
    pub fn hello(&self, name: usize) -> &[u8] {
        &self.hellos[name % self.hellos.len().max(1)]
    }
}

/// A connection through the gateway to the origin. Dropping it resets it.
#[derive(Debug)]
pub struct Tunnel {
    stream: TcpStream,
}

impl Tunnel {
    /// Connects and sends, in one write, the hello and the order; an echo is asked for its first ping and awaited,
    /// so that the tunnel is known to reach the origin.
    ///
    /// # Errors
    /// When the connection is refused, breaks, or answers with other bytes.
    pub async fn open(target: &Target, name: usize, order: Order) -> io::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        // A client's TIME_WAIT would keep its port for a minute.
        stream.set_zero_linger()?;
        let mut tunnel = Self { stream };
        let mut first = Vec::with_capacity(1024);
        first.extend_from_slice(target.hello(name));
        renew(&mut first);
        first.extend_from_slice(&order.bytes());
        if order == Order::Echo {
            first.extend_from_slice(&[b'.'; PING]);
        }
        tunnel.stream.write_all(&first).await?;
        if order == Order::Echo {
            tunnel.answer(b'.').await?;
        }
        Ok(tunnel)
    }

    /// Sends 64 bytes and awaits them back.
    ///
    /// # Errors
    /// When the tunnel breaks or other bytes come.
    pub async fn ping(&mut self, content: u8) -> io::Result<()> {
        self.stream.write_all(&[content; PING]).await?;
        self.answer(content).await
    }

    async fn answer(&mut self, content: u8) -> io::Result<()> {
        let mut answer = [0; PING];
        self.stream.read_exact(&mut answer).await?;
        if answer == [content; PING] {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes came back than were sent"))
    }

    /// Throws away what has arrived, and says how much; 0 is the end.
    ///
    /// # Errors
    /// When the tunnel breaks.
    pub async fn discard(&self) -> io::Result<u64> {
        discard(&self.stream).await
    }

    /// Sends a chunk and says how much of it went.
    ///
    /// # Errors
    /// When the tunnel breaks.
    pub async fn send_some(&mut self) -> io::Result<u64> {
        Ok(self.stream.write(CHUNK).await? as u64)
    }

    /// Does the client's part of a plan, and says how many bytes came as they should, or what did not.
    ///
    /// # Errors
    /// What did not.
    pub async fn exchange(self, plan: Plan) -> Verdict {
        // A reset is for the plan to order; what is on its way at the end must arrive.
        let lingering = socket2::SockRef::from(&self.stream).set_linger(None);
        lingering.map_err(|error| error.to_string())?;
        plan.run(self.stream, End::Client, &[]).await
    }

    /// Sends so many bytes, half-closes, and returns how many the origin says it got.
    ///
    /// # Errors
    /// When the tunnel breaks, or ends without an answer.
    pub async fn upload(&mut self, length: u64) -> io::Result<u64> {
        if length > 0 {
            send(&mut self.stream, length).await?;
        }
        self.stream.shutdown().await?;
        self.stream.read_u64().await
    }
}

/// Asks the origin what came of its part of the plan with this seed.
///
/// # Errors
/// What did not come as it should, or that it could not be asked.
pub async fn verdict(target: &Target, seed: u64) -> Verdict {
    let unasked = |error: io::Error| format!("cannot ask: {error}");
    let mut tunnel = Tunnel::open(target, 0, Order::Verdict(seed)).await.map_err(unasked)?;
    let mut text = String::new();
    tunnel.stream.read_to_string(&mut text).await.map_err(unasked)?;
    match text.strip_prefix("ok ").map(str::parse) {
        Some(Ok(bytes)) => Ok(bytes),
        _ => Err(text),
    }
}
