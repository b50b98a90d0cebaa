//! Load without cryptography: tunnels that begin with a recorded ClientHello and go on with whatever bytes a scenario
//! wants, and the origin that understands them.
//!
//! What the client sends after its hello tells the origin what to do, so that one origin serves every scenario and
//! the gateway in between needs to know one cluster only:
//!
//! ```text
//! ClientHello, one TLS record | what to do: 1 byte | how many bytes: 8, big endian | bytes of the scenario
//! ```

mod exchange;
mod origin;
mod pace;
mod tunnel;

pub use exchange::{Plan, Verdict};
pub use origin::LoadOrigin;
pub use pace::{Pace, Wait};
pub use tunnel::{PING, Target, Tunnel, verdict};

/// How many bytes follow the hello before the scenario's own.
const ORDER: usize = 9;

/// What the origin shall do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Send every byte back.
    Echo,
    /// Throw every byte away; after the end, answer with their number as 8 bytes, big endian.
    Sink,
    /// Send so many bytes and close, or bytes without end where it is 0.
    Stream(u64),
    /// Do the origin's part of the [`Plan`] with this seed.
    Exchange(u64),
    /// Say what came of that: a line of text, `ok` and a number of bytes where all is well.
    Verdict(u64),
}

impl Order {
    fn bytes(self) -> [u8; ORDER] {
        let (what, length) = match self {
            Self::Echo => (b'e', 0),
            Self::Sink => (b's', 0),
            Self::Stream(length) => (b'd', length),
            Self::Exchange(seed) => (b'x', seed),
            Self::Verdict(seed) => (b'v', seed),
        };
        let mut bytes = [what; ORDER];
        bytes[1..].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn parse(bytes: [u8; ORDER]) -> Option<Self> {
        let [what, length @ ..] = bytes;
        match what {
            b'e' => Some(Self::Echo),
            b's' => Some(Self::Sink),
            b'd' => Some(Self::Stream(u64::from_be_bytes(length))),
            b'x' => Some(Self::Exchange(u64::from_be_bytes(length))),
            b'v' => Some(Self::Verdict(u64::from_be_bytes(length))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_arrives_as_it_was_given() {
        for order in
            [Order::Echo, Order::Sink, Order::Stream(0), Order::Exchange(7), Order::Verdict(u64::MAX)]
        {
            assert_eq!(Order::parse(order.bytes()), Some(order));
        }
        assert_eq!(Order::parse([0; ORDER]), None);
    }
}
