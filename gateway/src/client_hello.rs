//! Reads the first flight of a TLS client: finds the ClientHello and in it the server name to route by.
//!
//! Sans-IO: the shell reads bytes into an [`Inspector`] and asks it to [`advance`](Inspector::advance); deadlines and
//! sockets are the shell's. The rule is that whatever a TLS server would accept passes, whatever is ambiguous is
//! refused with a reason and the fitting alert, and nothing falls through to a default.
//!
//! ```
//! use eastgate::client_hello::{DEFAULT_MAX_MESSAGE, Inspector};
//!
//! let mut inspector = Inspector::new(DEFAULT_MAX_MESSAGE);
//! inspector.push(b"GET / HTTP/1.1\r\n");
//! let refusal = inspector.advance().unwrap_err();
//! assert_eq!(refusal.reason(), "http");
//! ```

mod deframe;
mod foreign;
pub mod ja4;
mod message;
mod refusal;
pub mod second;
mod seen;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use eastgate_config::server_name::ServerName;
use serde::{Serialize, Serializer};

use self::deframe::Deframer;
pub use self::refusal::{Alert, Refusal};

/// The longest ClientHello taken where nothing else is configured, in bytes.
pub const DEFAULT_MAX_MESSAGE: usize = 64 << 10;
/// The longest ClientHello that can be configured, in bytes.
pub const MAX_MAX_MESSAGE: usize = 128 << 10;
/// What is offered to the first read: room for a post-quantum hello, which is about 1.8 KB.
const FIRST_READ: usize = 4 << 10;
/// What is offered to a later one, at most.
const LARGEST_READ: usize = 64 << 10;

/// Takes a client's bytes until they are a ClientHello or are refused, and keeps them for the replay.
///
/// All work is linear in the bytes, however they arrive, and memory in the bytes received: no length that the client
/// claims is allocated.
#[derive(Debug)]
pub struct Inspector {
    /// What was received.
    raw: Vec<u8>,
    deframer: Deframer,
    refused: Option<Refusal>,
}

impl Inspector {
    /// An inspector that takes ClientHellos of at most so many bytes, [`MAX_MAX_MESSAGE`] at most, and with their
    /// records' headers and cuts at most [`max_raw`] bytes. Allocates nothing before there are bytes to read.
    pub fn new(max_message: usize) -> Self {
        let max_message = max_message.min(MAX_MAX_MESSAGE);
        Self { raw: Vec::new(), deframer: Deframer::new(max_message, max_raw(max_message)), refused: None }
    }

    /// How many bytes to read next, at most. It grows with what was received, so that a client cannot have much more held
    /// for it than it needs for its hello.
    pub fn wanted(&self) -> usize {
        self.raw.len().clamp(FIRST_READ, LARGEST_READ)
    }

    /// Takes bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// Looks at what is new and gives the ClientHello once it is whole, or `None` while there is more to come.
    ///
    /// # Errors
    /// Refuses at the first byte after which no record or message could be accepted; what is inside the message is
    /// judged when the message is whole. A refusal is final.
    pub fn advance(&mut self) -> Result<Option<ClientHello>, Refusal> {
        if let Some(refusal) = self.refused {
            return Err(refusal);
        }
        let outcome = self.look();
        self.refused = outcome.as_ref().err().copied();
        outcome
    }

    fn look(&mut self) -> Result<Option<ClientHello>, Refusal> {
        if self.deframer.advance(&self.raw)?.is_none() {
            return Ok(None);
        }
        let consumed = self.deframer.consumed();
        self.deframer.message(&self.raw).map(|message| message::read(message, consumed)).transpose()
    }

    /// How many bytes were received.
    pub fn received_bytes(&self) -> usize {
        self.raw.len()
    }

    /// The refusal for a client that closed before its ClientHello was whole.
    pub fn closed(&self) -> Refusal {
        match self.raw.len() {
            0 => Refusal::ClosedUnused,
            received => Refusal::ClosedEarly { received },
        }
    }

    /// The refusal for a client whose ClientHello was not whole in time.
    pub fn too_slow(&self) -> Refusal {
        Refusal::TooSlow { received: self.raw.len() }
    }

    /// The ClientHello as a handshake message with its four bytes of header, once it is whole: joined out of its
    /// records, for a fingerprint.
    pub fn message(&self) -> Option<&[u8]> {
        self.deframer.message(&self.raw)
    }

    /// Everything that was received, to be replayed to the endpoint: the ClientHello's records as they came, and what
    /// followed them.
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

/// The most raw bytes that are taken for a ClientHello of at most `max_message` bytes: tiny records need six bytes for
/// one, and somewhere that must end.
pub fn max_raw(max_message: usize) -> usize {
    2 * max_message.min(MAX_MAX_MESSAGE) + (16 << 10)
}

/// What the gateway wants to know of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    server_name: ServerName,
    /// The ALPN list and behind it the list of supported versions, as on the wire.
    lists: Box<[u8]>,
    alpn_length: usize,
    legacy_version: u16,
    client_random: [u8; 32],
    early_data: bool,
    ech: bool,
    consumed: usize,
}

/// The beginning of a client's random bytes: the same at every hop that passes the hello on and in a capture, so that
/// it names a connection there, too. Written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomPrefix(u64);

impl RandomPrefix {
    /// The bytes, as one number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RandomPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RandomPrefix {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for RandomPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ClientHello {
    /// The name to route by. With encrypted ClientHello it is the outer hello's.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The ALPN protocols in the client's order, none where it sent no such extension. Their bytes may be anything.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut rest = self.lists.get(..self.alpn_length).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first()?;
            let (protocol, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            Some(protocol)
        })
    }

    /// The TLS versions that the client supports, in its order and with its GREASE; the legacy version alone where it
    /// sent no list of them, which means that version and those before.
    pub fn versions(&self) -> impl Iterator<Item = u16> {
        let list = self.lists.get(self.alpn_length..).unwrap_or_default();
        let legacy = list.is_empty().then_some(self.legacy_version);
        legacy.into_iter().chain(list.as_chunks().0.iter().map(|version| u16::from_be_bytes(*version)))
    }

    /// The client's random bytes: the same at every hop that passes the hello on, so an id across hops.
    pub fn client_random(&self) -> &[u8; 32] {
        &self.client_random
    }

    /// The beginning of these.
    pub fn random_prefix(&self) -> RandomPrefix {
        let (prefix, _) = self.client_random.split_first_chunk().unwrap_or((&[0; 8], &[]));
        RandomPrefix(u64::from_be_bytes(*prefix))
    }

    /// Does the client offer early data? Then more than the hello has gone out with it, and must not be replayed twice.
    pub fn early_data(&self) -> bool {
        self.early_data
    }

    /// Is this the outer hello of an encrypted one, or one that pretends to be (GREASE)?
    pub fn has_ech(&self) -> bool {
        self.ech
    }

    /// How many of the raw bytes the hello took, with its records' headers. What follows was sent without waiting for
    /// an answer.
    pub fn consumed(&self) -> usize {
        self.consumed
    }
}
