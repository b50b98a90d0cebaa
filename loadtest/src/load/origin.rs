//! The origin: it skips the hello, reads the order, and does it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::exchange::{End, Plan, Verdict};
use super::{ORDER, Order};
use crate::hello::{RECORD_HEADER, record_length};

/// What a bulk sender gives the kernel at once.
pub(super) const CHUNK: &[u8] = &[0x5a; 128 * 1024];
/// How much a bulk receiver throws away at once.
const DISCARD: usize = 1024 * 1024;
const ECHO_BUFFER: usize = 4 * 1024;
/// How long the end of an exchange is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait after a failed accept: mostly descriptors ran out, and trying at once would burn the load's core.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// An origin for tunnels, which runs until it is dropped.
#[derive(Debug)]
pub struct LoadOrigin {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl LoadOrigin {
    /// Starts the origin on the current tokio runtime; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, task: tokio::spawn(accept(listener)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for LoadOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener) {
    // Dropping the set ends the connections with the origin.
    let mut connections = JoinSet::new();
    let verdicts = Verdicts::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let verdicts = Arc::clone(&verdicts);
                // What a connection ends with is its client's business.
                connections.spawn(async move { drop(serve(stream, &verdicts).await) });
            }
            Err(_) => tokio::time::sleep(ACCEPT_BACK_OFF).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What came of exchanges, by seed, until somebody asks.
type Verdicts = Arc<watch::Sender<HashMap<u64, Verdict>>>;

async fn serve(mut stream: TcpStream, verdicts: &Verdicts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Whoever closes last leaves no TIME_WAIT, which at 20,000 connections a second would use up the ports.
    stream.set_zero_linger()?;
    let mut buffer = vec![0; ECHO_BUFFER];
    let mut filled = 0;
    let (order, rest) = loop {
        if let Some(found) = order(&buffer[..filled]) {
            break found;
        }
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            length => filled += length,
        }
    };
    let Some(order) = order else { return Ok(()) };
    match order {
        Order::Echo => echo(&mut stream, buffer, rest..filled).await,
        Order::Sink => sink(&mut stream, (filled - rest) as u64).await,
        Order::Stream(length) => {
            // Bytes that are there need their time; a reset would overtake them.
            socket2::SockRef::from(&stream).set_linger(None)?;
            send(&mut stream, length).await
        }
        Order::Exchange(seed) => {
            socket2::SockRef::from(&stream).set_linger(None)?;
            let verdict = Plan::new(seed).run(stream, End::Origin, &buffer[rest..filled]).await;
            verdicts.send_modify(|verdicts| drop(verdicts.insert(seed, verdict)));
            Ok(())
        }
        Order::Verdict(seed) => {
            socket2::SockRef::from(&stream).set_linger(None)?;
            stream.write_all(verdict(verdicts, seed).await.as_bytes()).await
        }
    }
}

/// Waits for what came of an exchange, because its client may have been done first.
async fn verdict(verdicts: &Verdicts, seed: u64) -> String {
    let mut changes = verdicts.subscribe();
    let known = changes.wait_for(|verdicts| verdicts.contains_key(&seed));
    match timeout(PATIENCE, known).await.map(|known| known.map(|verdicts| verdicts.get(&seed).cloned())) {
        Ok(Ok(Some(verdict))) => {
            verdicts.send_if_modified(|verdicts| verdicts.remove(&seed).is_none());
            verdict.map_or_else(|error| error, |bytes| format!("ok {bytes}"))
        }
        _ => "the origin's part has not ended".into(),
    }
}

/// The order, and where the scenario's bytes begin; `None` while it is not there, `Some(None)` for rubbish.
fn order(bytes: &[u8]) -> Option<(Option<Order>, usize)> {
    let at = record_length(*bytes.first_chunk::<RECORD_HEADER>()?);
    if at + ORDER > ECHO_BUFFER {
        return Some((None, 0));
    }
    let order = bytes.get(at..)?.first_chunk::<ORDER>()?;
    Some((Order::parse(*order), at + ORDER))
}

async fn echo(
    stream: &mut TcpStream,
    mut buffer: Vec<u8>,
    mut part: std::ops::Range<usize>,
) -> io::Result<()> {
    loop {
        stream.write_all(&buffer[part]).await?;
        part = match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => 0..length,
        };
    }
}

async fn sink(stream: &mut TcpStream, mut total: u64) -> io::Result<()> {
    loop {
        match discard(stream).await? {
            0 => break,
            length => total += length,
        }
    }
    socket2::SockRef::from(&*stream).set_linger(None)?;
    stream.write_all(&total.to_be_bytes()).await
}

/// Sends `length` bytes, or bytes without end where it is 0.
pub(super) async fn send(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let mut left = if length == 0 { u64::MAX } else { length };
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK.len());
        left -= stream.write(&CHUNK[..part]).await? as u64;
    }
    Ok(())
}

/// Throws away what has arrived, and says how much; 0 is the end.
///
/// `MSG_TRUNC` on TCP frees the bytes without copying them, which leaves the load's core to its sender.
pub(super) async fn discard(stream: &TcpStream) -> io::Result<u64> {
    thread_local! {
        static NOWHERE: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; DISCARD]);
    }
    let receive = || {
        NOWHERE.with_borrow_mut(|nowhere| {
            let (_, length) = recv(stream, nowhere.as_mut_slice(), RecvFlags::TRUNC)?;
            Ok(length as u64)
        })
    };
    stream.async_io(Interest::READABLE, receive).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::{RECORDED_NAME, hello};

    #[test]
    fn an_order_is_found_behind_the_hello_and_not_before_it_is_whole() {
        let hello = hello(RECORDED_NAME).unwrap();
        let sent = [&hello[..], &Order::Stream(7).bytes(), b"more"].concat();
        let whole = hello.len() + ORDER;
        for length in 0..whole {
            assert_eq!(order(&sent[..length]), None);
        }
        assert_eq!(order(&sent), Some((Some(Order::Stream(7)), whole)));
        assert_eq!(order(&[0xff; 100]), Some((None, 0)), "a record too long for a hello");
    }
}
