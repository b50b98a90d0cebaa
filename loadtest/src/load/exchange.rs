//! A tunnel that tries its relay: pieces of random sizes both ways, with pauses, an end of either kind, and a SHA-256 of
//! what arrived. Both sides compute the plan from one seed, so nothing but the seed must be told.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::content::{self, Digest};

/// The largest piece, and the largest read. A pipe of the gateway's holds less.
const LARGEST: u64 = 1 << 20;
/// One pause in so many pieces or reads, so that buffers run full and empty.
const PAUSES: u64 = 64;
/// The longest of them.
const LONGEST_PAUSE: u64 = 3;

/// Which end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Whoever connected.
    Client,
    /// Whoever was connected to.
    Origin,
}

/// What happens in a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    seed: u64,
    /// Bytes from the client, and from the origin.
    lengths: [u64; 2],
    /// Who resets the connection when it has sent that much of its bytes; else each half-closes when it has sent all.
    reset: Option<(End, u64)>,
}

/// What one end found.
pub type Verdict = Result<u64, String>;

impl Plan {
    /// The number of a plan of its own, with at most 2^`magnitude` bytes each way.
    pub fn seed(number: u64, magnitude: u8) -> u64 {
        u64::from(magnitude.min(40)) << 56 | number & (u64::MAX >> 8)
    }

    /// The plan of a [`seed`](Self::seed).
    pub fn new(seed: u64) -> Self {
        let most = 1 << (seed >> 56).min(40);
        let mut random = Random::new(seed);
        let lengths = [random.size(most), random.size(most)];
        let reset = (random.below(4) == 0).then(|| {
            let (end, length) =
                if random.below(2) == 0 { (End::Client, lengths[0]) } else { (End::Origin, lengths[1]) };
            (end, random.below(length))
        });
        Self { seed, lengths, reset }
    }

    /// Does this end's part, and says how many bytes came as they should, or what did not.
    pub async fn run(&self, mut stream: TcpStream, end: End, already: &[u8]) -> Verdict {
        let resets = self.reset.is_some_and(|(who, _)| who == end);
        if resets && end == End::Client {
            // A gateway need not connect a client that has left, and then there is no other end to say anything.
            stream.read_u8().await.map_err(|error| format!("no first byte: {error}"))?;
        }
        let (mut read, mut write) = stream.split();
        let sending = self.send(&mut write, end);
        let receiving = self.receive(&mut read, end, already);
        if resets {
            // What the other end sends meanwhile is read, so that it never waits for this one, and not judged.
            let received = tokio::select! {
                sent = sending => { sent.map_err(|error| format!("cannot send: {error}"))?; 0 }
                received = async { drop(receiving.await); std::future::pending().await } => received,
            };
            stream.set_zero_linger().map_err(|error| format!("cannot reset: {error}"))?;
            return Ok(received);
        }
        let (sent, received) = tokio::join!(sending, receiving);
        match (self.reset, sent) {
            // The kernel tells of a reset once. Where sending was told, reading saw an end.
            (Some(_), Err(_)) => Ok(0),
            (None, Err(error)) => Err(format!("cannot send: {error}")),
            (_, Ok(())) => received,
        }
    }

    fn length(&self, end: End) -> u64 {
        self.lengths[end as usize]
    }

    /// Where an end's bytes begin in the endless content, so that no two tunnels or directions have the same.
    fn base(&self, end: End) -> u64 {
        (content::mix(self.seed ^ (end as u64 + 1)) >> 2) & !7
    }

    async fn send(&self, write: &mut WriteHalf<'_>, end: End) -> io::Result<()> {
        let mut random = Random::new(self.base(end));
        let stop = self.reset.filter(|(who, _)| *who == end).map(|(_, at)| at);
        let length = stop.unwrap_or(self.length(end));
        let mut buffer = Vec::new();
        let (mut at, mut small) = (0, 0);
        while at < length {
            // A row of small pieces now and then, long enough for the gateway to think that this is how it goes on.
            small = if small == 0 && random.below(32) == 0 { 40 } else { u64::saturating_sub(small, 1) };
            let size = random.size(if small > 0 { 512 } else { LARGEST }).min(length - at);
            buffer.resize(usize::try_from(size).unwrap_or_default(), 0);
            content::fill(self.base(end) + at, &mut buffer);
            write.write_all(&buffer).await?;
            at += size;
            random.pause().await;
        }
        match stop {
            Some(_) => Ok(()),
            None => write.shutdown().await,
        }
    }

    async fn receive(&self, read: &mut ReadHalf<'_>, end: End, already: &[u8]) -> Verdict {
        let from = if end == End::Client { End::Origin } else { End::Client };
        let mut random = Random::new(!self.base(end));
        let mut digest = Digest::default();
        digest.add(already);
        let mut total = already.len() as u64;
        let mut buffer = Vec::new();
        let ended = loop {
            buffer.resize(usize::try_from(random.size(LARGEST)).unwrap_or_default().max(1), 0);
            match read.read(&mut buffer).await {
                Ok(0) => break None,
                Ok(length) => {
                    digest.add(&buffer[..length]);
                    total += length as u64;
                }
                Err(error) => break Some(error),
            }
            random.pause().await;
        };
        match (ended, self.reset) {
            (None, None) if total == self.length(from) => {}
            (None, None) => return Err(format!("{total} bytes came of {}", self.length(from))),
            (None, Some(_)) => return Err("a reset came as the end of all bytes".into()),
            (Some(error), None) => return Err(format!("broke after {total} bytes: {error}")),
            (Some(_), Some(_)) => {}
        }
        if digest.finish() != content::sha256_from(self.base(from), total) {
            return Err(format!("other bytes came than were sent, among the first {total}"));
        }
        Ok(total)
    }
}

/// Small and repeatable: both ends must draw the same.
struct Random(u64);

impl Random {
    /// Seeds that follow each other must not draw the same, one step apart.
    fn new(seed: u64) -> Self {
        Self(content::mix(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        content::mix(self.0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A size from 1 to `most`, of every order of magnitude as often.
    fn size(&mut self, most: u64) -> u64 {
        let magnitude = self.below(u64::from(most.max(1).ilog2()) + 1);
        (1 + self.below(2 << magnitude)).min(most)
    }

    async fn pause(&mut self) {
        if self.below(PAUSES) == 0 {
            tokio::time::sleep(Duration::from_millis(self.below(LONGEST_PAUSE + 1))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_have_both_kinds_of_end_and_lengths_of_every_order() {
        let plans: Vec<_> = (0..1_000).map(|number| Plan::new(Plan::seed(number, 26))).collect();
        let resets = plans.iter().filter(|plan| plan.reset.is_some()).count();
        assert!((150..350).contains(&resets), "{resets}");
        let small = plans.iter().filter(|plan| plan.lengths[0] < 1_000).count();
        let large = plans.iter().filter(|plan| plan.lengths[1] > 1_000_000).count();
        assert!(small > 100 && large > 100, "{small} {large}");
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn both_ends_agree_without_anything_in_between() {
        for number in 0..40 {
            let plan = Plan::new(Plan::seed(number, 20));
            let (client, origin) = pair().await;
            let (client, origin) =
                tokio::join!(plan.run(client, End::Client, &[]), plan.run(origin, End::Origin, &[]));
            assert!(client.is_ok() && origin.is_ok(), "{plan:?}: {client:?} {origin:?}");
        }
    }

    #[tokio::test]
    async fn a_changed_byte_shows() {
        let plan = Plan { seed: 1, lengths: [8, 8], reset: None };
        let (client, mut origin) = pair().await;
        let wrong = async {
            origin.write_all(&[0; 8]).await.unwrap();
            origin.shutdown().await.unwrap();
            origin.read_to_end(&mut Vec::new()).await.unwrap()
        };
        let (verdict, _) = tokio::join!(plan.run(client, End::Client, &[]), wrong);
        assert!(verdict.unwrap_err().contains("other bytes"));
    }
}
