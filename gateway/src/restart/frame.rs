//! What two processes say to each other while one takes over from the other. Pure: bytes in, bytes out.
//!
//! ```text
//!  0        4         6      7      8         12
//! +--------+---------+------+------+---------+----------------+
//! | "EGHR" | version | kind | fds  | length  | payload ...    |
//! +--------+---------+------+------+---------+----------------+
//! ```
//!
//! Numbers are big-endian. `fds` file descriptors come with the header's bytes, as `SCM_RIGHTS` (`unix(7)`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Of this conversation; another one is refused, and the old process goes on serving.
pub const VERSION: u16 = 1;
/// Bytes of a header.
pub const HEADER: usize = 12;
/// The longest payload.
pub const MAX_PAYLOAD: usize = 8 << 20;
/// The most descriptors that one frame brings; the kernel takes 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 128;
/// The most tunnels of one frame, for each needs two descriptors.
pub const MAX_TUNNELS: usize = MAX_FDS / 2;

const MAGIC: [u8; 4] = *b"EGHR";

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The new process is there and wants the sockets. No payload.
    Hello,
    /// Listening sockets: JSON, and a descriptor for each. An empty frame is the last.
    Sockets,
    /// The new process accepts from now on. No payload.
    Ready,
    /// Open tunnels, and two descriptors for each: the client's and the endpoint's.
    Tunnels,
    /// The new process has the tunnels of one frame; the old one must not touch them any more. No payload.
    Taken,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Hello, Self::Sockets, Self::Ready, Self::Tunnels, Self::Taken];
}

/// How a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is for.
    pub kind: Kind,
    /// Descriptors that come with it.
    pub fds: usize,
    /// Bytes that follow.
    pub length: usize,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin as one.
    #[error("these are no bytes of another eastgate")]
    Magic,
    /// The other process is too old or too new.
    #[error("the other process speaks version {0} of the hand-over, this one {VERSION}")]
    Version(u16),
    /// Nobody knows what it is for.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// More descriptors or bytes than a frame may have.
    #[error("a frame of {fds} descriptors and {length} bytes")]
    TooLarge {
        /// Descriptors.
        fds: u8,
        /// Bytes.
        length: u32,
    },
    /// A payload that does not say what it should.
    #[error("a damaged payload")]
    Payload,
}

impl Header {
    /// Its bytes. What does not fit its field is refused by [`decode`](Self::decode) as too large.
    pub fn encode(&self) -> [u8; HEADER] {
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind).unwrap_or_default() as u8;
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        let version = VERSION.to_be_bytes();
        let fds = u8::try_from(self.fds).unwrap_or(u8::MAX);
        let mut bytes = [0; HEADER];
        let parts = MAGIC.iter().chain(&version).chain([&kind, &fds]).chain(&length);
        bytes.iter_mut().zip(parts).for_each(|(byte, part)| *byte = *part);
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// The bytes are no header, or one of another version, or of a frame that is too large.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, Error> {
        let [m0, m1, m2, m3, v0, v1, kind, fds, l0, l1, l2, l3] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(Error::Magic);
        }
        match u16::from_be_bytes([v0, v1]) {
            VERSION => {}
            other => return Err(Error::Version(other)),
        }
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if usize::from(fds) > MAX_FDS || length as usize > MAX_PAYLOAD {
            return Err(Error::TooLarge { fds, length });
        }
        let kind = *Kind::ALL.get(usize::from(kind)).ok_or(Error::Kind(kind))?;
        Ok(Self { kind, fds: fds.into(), length: length as usize })
    }
}

/// A listening socket without its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Such as a listener's name or a setting.
    pub name: String,
    /// The address that was asked for.
    pub wanted: SocketAddr,
}

impl Label {
    /// Reads a whole payload.
    ///
    /// # Errors
    /// It is no list of such.
    pub fn decode(payload: &[u8]) -> Result<Vec<Self>, Error> {
        serde_json::from_slice(payload).map_err(|_| Error::Payload)
    }
}

/// A tunnel without its descriptors.
///
/// ```text
///  0          4
/// +----------+-----------+----------+-----------------+----------+---------------+
/// | length   | state     | length   | to the endpoint | length   | to the client |
/// +----------+-----------+----------+-----------------+----------+---------------+
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tunnel {
    /// Whatever the connection needs to go on, as JSON.
    pub state: Vec<u8>,
    /// Bytes from the client that the endpoint has not been sent yet.
    pub to_upstream: Vec<u8>,
    /// Bytes from the endpoint that the client has not been sent yet.
    pub to_client: Vec<u8>,
}

impl Tunnel {
    /// Its bytes in a payload.
    pub fn length(&self) -> usize {
        3 * 4 + self.state.len() + self.to_upstream.len() + self.to_client.len()
    }

    /// Adds it to a payload.
    pub fn encode(&self, payload: &mut Vec<u8>) {
        for part in [&self.state, &self.to_upstream, &self.to_client] {
            payload.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            payload.extend_from_slice(part);
        }
    }

    /// Reads a whole payload.
    ///
    /// # Errors
    /// Something is missing or left, or there are more than a frame may have.
    pub fn decode(mut payload: &[u8]) -> Result<Vec<Self>, Error> {
        let mut tunnels = Vec::new();
        while !payload.is_empty() {
            let mut part = || part(&mut payload).map(<[u8]>::to_vec).ok_or(Error::Payload);
            tunnels.push(Self { state: part()?, to_upstream: part()?, to_client: part()? });
            if tunnels.len() > MAX_TUNNELS {
                return Err(Error::Payload);
            }
        }
        Ok(tunnels)
    }
}

/// Takes bytes that stand behind their number.
fn part<'a>(payload: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *payload = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let kind = prop::sample::select(Kind::ALL.to_vec());
        (kind, 0..=MAX_FDS, 0..=MAX_PAYLOAD).prop_map(|(kind, fds, length)| Header { kind, fds, length })
    }

    fn tunnel() -> impl Strategy<Value = Tunnel> {
        (vec(any::<u8>(), 0..50), vec(any::<u8>(), 0..50), vec(any::<u8>(), 0..50))
            .prop_map(|(state, to_upstream, to_client)| Tunnel { state, to_upstream, to_client })
    }

    proptest! {
        #[test]
        fn a_header_is_read_as_it_was_written(header in header()) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn garbage_is_no_header_of_another_size(bytes in any::<[u8; HEADER]>()) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }

        #[test]
        fn tunnels_are_read_as_they_were_written(tunnels in vec(tunnel(), 0..MAX_TUNNELS)) {
            let mut payload = Vec::new();
            tunnels.iter().for_each(|tunnel| tunnel.encode(&mut payload));
            prop_assert_eq!(payload.len(), tunnels.iter().map(Tunnel::length).sum::<usize>());
            prop_assert_eq!(Tunnel::decode(&payload), Ok(tunnels));
        }

        #[test]
        fn a_cut_payload_is_refused(tunnel in tunnel(), cut in any::<prop::sample::Index>()) {
            let mut payload = Vec::new();
            tunnel.encode(&mut payload);
            let cut = cut.index(payload.len() - 1) + 1;
            prop_assert_eq!(Tunnel::decode(&payload[..cut]), Err(Error::Payload));
        }

        #[test]
        fn garbage_is_no_tunnel_or_is_one_as_it_stands(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(tunnels) = Tunnel::decode(&bytes) {
                let mut payload = Vec::new();
                tunnels.iter().for_each(|tunnel| tunnel.encode(&mut payload));
                prop_assert_eq!(payload, bytes);
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_with_its_reason() {
        let good = Header { kind: Kind::Taken, fds: 0, length: 0 }.encode();
        let changed = |index: usize, byte: u8| {
            let mut bytes = good;
            bytes[index] = byte;
            Header::decode(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, b'G'), Error::Magic);
        assert_eq!(changed(5, 9), Error::Version(9));
        assert_eq!(changed(6, 99), Error::Kind(99));
        assert_eq!(changed(7, 200), Error::TooLarge { fds: 200, length: 0 });
        assert_eq!(changed(8, 1), Error::TooLarge { fds: 0, length: 1 << 24 });
    }

    #[test]
    fn more_tunnels_than_a_frame_may_have_are_refused() {
        let mut payload = Vec::new();
        (0..=MAX_TUNNELS).for_each(|_| Tunnel::default().encode(&mut payload));
        assert_eq!(Tunnel::decode(&payload), Err(Error::Payload));
    }
}
