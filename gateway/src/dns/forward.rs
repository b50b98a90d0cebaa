//! Queries for names that are not the mesh's: passed on as they are, over the same transport, to one resolver after the
//! other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use eastgate_config::bootstrap::dns::Dns as Settings;
use prometheus::IntCounterVec;
use tokio::net::{TcpStream, UdpSocket};

use super::answer::Transport;
use super::tcp;
use crate::gate::Gate;

/// A DNS message's header, in bytes.
const HEADER: usize = 12;

/// The resolvers, and how many queries wait for them.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolvers: Vec<SocketAddr>,
    timeout: Duration,
    waiting: Gate,
    results: IntCounterVec,
}

impl Forwarder {
    pub(super) fn new(settings: &Settings, results: IntCounterVec) -> Self {
        Self {
            resolvers: settings.forward.clone(),
            timeout: settings.forward_timeout,
            waiting: Gate::new(settings.max_forwards),
            results,
        }
    }

    /// The first answer that one of them gives in its time.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let count = |result: &str| self.results.with_label_values(&[result]).inc();
        let Some(_pass) = self.waiting.enter() else {
            count("limit");
            return None;
        };
        let id = fastrand::u16(..).to_be_bytes();
        let mut sent = query.to_vec();
        sent.get_mut(..2)?.copy_from_slice(&id);
        for resolver in &self.resolvers {
            let asking = async {
                match transport {
                    Transport::Udp => over_udp(*resolver, &sent).await,
                    // What came without a packet's bounds may have an answer that needs none.
                    Transport::Tcp | Transport::Grpc => over_tcp(*resolver, &sent).await,
                }
            };
            match tokio::time::timeout(self.timeout, asking).await {
                Ok(Ok(mut answer)) => {
                    answer.get_mut(..2)?.copy_from_slice(query.get(..2)?);
                    count("ok");
                    return Some(answer);
                }
                Ok(Err(error)) => {
                    count("error");
                    tracing::debug!(%resolver, %error, "a resolver cannot be asked");
                }
                Err(_) => {
                    count("timeout");
                    tracing::debug!(%resolver, "a resolver does not answer in time");
                }
            }
        }
        None
    }
}

/// A socket of its own for each query, so that its port is as hard to guess as its number.
async fn over_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut answer).await?;
        if is_answer_to(query, &answer[..length]) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    tcp::write(&mut stream, query).await?;
    let answer = tcp::read(&mut stream).await?;
    if is_answer_to(query, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "it answers another question"))
    }
}

/// Has it the query's number and question, and is it marked as an answer?
fn is_answer_to(query: &[u8], answer: &[u8]) -> bool {
    const RESPONSE: u8 = 0x80;
    let Some(end) = end_of_question(query) else { return false };
    let (Some(asked), Some(answered)) = (query.get(HEADER..end), answer.get(HEADER..end)) else {
        return false;
    };
    answer[..2] == query[..2] && answer[2] & RESPONSE != 0 && answered.eq_ignore_ascii_case(asked)
}

/// Behind the name, type and class of the one question; it comes first, so nothing in it can be compressed.
fn end_of_question(query: &[u8]) -> Option<usize> {
    const LONGEST_LABEL: u8 = 63;
    let mut at = HEADER;
    loop {
        match *query.get(at)? {
            0 => return Some(at + 5),
            length if length <= LONGEST_LABEL => at += usize::from(length) + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01";

    fn changed(at: usize, byte: u8) -> Vec<u8> {
        let mut answer = QUERY.to_vec();
        answer[2] |= 0x80;
        answer[at] = byte;
        answer
    }

    #[test]
    fn only_a_response_to_the_same_question_is_an_answer() {
        assert!(is_answer_to(QUERY, &changed(3, 0x80)));
        assert!(is_answer_to(QUERY, &changed(13, b'A')));
        for (at, byte) in [(0, 0), (1, 0), (2, 0x01), (13, b'x'), (19, 28), (21, 3)] {
            assert!(!is_answer_to(QUERY, &changed(at, byte)), "{at}");
        }
        assert!((0..QUERY.len()).all(|length| !is_answer_to(QUERY, &changed(3, 0x80)[..length])));
    }
}
