//! Follows a connection whose endpoint asks for another ClientHello, until that is there and names the same server. Where
//! the endpoint has answered with a ServerHello, as it nearly always has, there is nothing to follow.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Error;
use crate::client_hello::second::{self, Progress, Second};
use crate::client_hello::{ClientHello, Refusal};
use crate::inspect;
use crate::listener::Listener;
use crate::relay::{self, Handed, Side};
use crate::server_hello::Answer;
use crate::tls::Socket;

/// More than a server's first flight needs.
const READ: usize = 16 * 1024;
/// Nobody who asks for a second hello takes longer than that to do so.
const SILENCE: Duration = Duration::from_secs(120);
/// As much of an answer as tells what it is.
const TELLING: usize = 64;

/// Follows a connection from its first hello, behind which `extra` bytes have come already, until there is no second one to
/// wait for, or it names the same server.
///
/// # Errors
/// The client names another server, or does not send the hello that it was asked for in time; or a side breaks, or is
/// silent for too long.
pub(super) async fn follow(
    sockets: (&TcpStream, &TcpStream),
    mut handed: Handed,
    (hello, extra): (&ClientHello, usize),
    answer: Option<Answer>,
    listener: &Listener,
) -> Result<Handed, Error> {
    let (max_message, in_time) = listener.hello_limits();
    let mut second = Second::new(hello.server_name().clone(), max_message);
    let deadline = Instant::now() + in_time;
    if answer.is_some() {
        return second_hello(sockets, handed, &mut second, deadline).await;
    }
    let early = handed.to_upstream.split_off(handed.to_upstream.len().saturating_sub(extra));
    match second.push(&early).map_err(refused)? {
        Progress::Same(bytes) => {
            handed.to_upstream.extend(bytes);
            return Ok(handed);
        }
        Progress::Before(bytes) => handed.to_upstream.extend(bytes),
    }
    let watching = watch(sockets, handed, &mut second, deadline);
    timeout(SILENCE, watching).await.unwrap_or(Err(relay::Error::Idle(SILENCE).into()))
}

/// The endpoint has asked for another hello: it gets one that names the same server, or none. `deadline` is the client's.
///
/// # Errors
/// The client names another server, or sends no ClientHello in time.
async fn second_hello(
    (client, upstream): (&TcpStream, &TcpStream),
    mut handed: Handed,
    second: &mut Second,
    deadline: Instant,
) -> Result<Handed, Error> {
    // The client answers what it has got.
    let waiting = std::mem::take(&mut handed.to_client);
    send(client, &waiting, Side::Client).await?;
    handed.moved.1 += waiting.len() as u64;
    loop {
        let mut bytes = Vec::new();
        let reading = read(client, &mut bytes);
        let Ok(read) = timeout_at(deadline, reading).await else {
            return Err(inspect::Error::Hello(Refusal::TooSlow { received: bytes.len() }).into());
        };
        // What a client does that has finished or reset, the relay finds out and passes on.
        if !read.is_ok_and(|read| read > 0) {
            return Ok(handed);
        }
        match second.push(&bytes).map_err(refused)? {
            Progress::Same(bytes) => {
                handed.to_upstream.extend(bytes);
                return Ok(handed);
            }
            // Early data, of which there may be any amount.
            Progress::Before(bytes) => {
                let all = [std::mem::take(&mut handed.to_upstream), bytes].concat();
                send(upstream, &all, Side::Upstream).await?;
                handed.moved.0 += all.len() as u64;
            }
        }
    }
}

/// Follows both sides until the endpoint has answered: a client that goes on without waiting for that, as with early
/// data, might send its second hello before anybody has asked for one.
///
/// # Errors
/// As [`second_hello`], and if a side breaks.
async fn watch(
    (client, upstream): (&TcpStream, &TcpStream),
    mut handed: Handed,
    second: &mut Second,
    deadline: Instant,
) -> Result<Handed, Error> {
    let mut answer = Vec::new();
    loop {
        let first = std::mem::take(&mut handed.to_upstream);
        send(upstream, &first, Side::Upstream).await?;
        handed.moved.0 += first.len() as u64;
        let (mut from_client, mut from_upstream) = (Vec::new(), Vec::new());
        tokio::select! {
            read = read(upstream, &mut from_upstream) => {
                match read {
                    Ok(0) => return Ok(handed),
                    Ok(_) => {}
                    // The kernel tells of a reset once.
                    Err(source) => return Err(relay::Error::Broken { side: Side::Upstream, source }.into()),
                }
                answer.extend(from_upstream.iter().take(TELLING));
                handed.to_client.extend(from_upstream);
                match Answer::of(&answer) {
                    Answer::HelloRetryRequest => {
                        return second_hello((client, upstream), handed, second, deadline).await;
                    }
                    Answer::Cut if answer.len() < TELLING => {}
                    _ => return Ok(handed),
                }
            }
            read = read(client, &mut from_client) => {
                if !read.is_ok_and(|read| read > 0) {
                    return Ok(handed);
                }
                match second.push(&from_client).map_err(refused)? {
                    Progress::Same(bytes) => {
                        handed.to_upstream = bytes;
                        return Ok(handed);
                    }
                    Progress::Before(bytes) => handed.to_upstream = bytes,
                }
            }
        }
        let waiting = std::mem::take(&mut handed.to_client);
        send(client, &waiting, Side::Client).await?;
        handed.moved.1 += waiting.len() as u64;
    }
}

fn refused(error: second::Error) -> Error {
    match error {
        second::Error::Refused(refusal) => inspect::Error::Hello(refusal).into(),
        renamed @ second::Error::Renamed { .. } => Error::Renamed(Box::new(renamed)),
    }
}

/// What is there, as much as fits one read.
async fn read(socket: &TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match relay::read(socket, READ, |bytes| into.extend_from_slice(bytes)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn send(socket: &TcpStream, bytes: &[u8], side: Side) -> Result<(), Error> {
    let sent = Socket(socket).write_all(bytes).await;
    Ok(sent.map_err(|source| relay::Error::Broken { side, source })?)
}
