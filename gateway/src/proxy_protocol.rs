//! The PROXY protocol header that a load balancer puts before a connection's own bytes, versions 1 and 2
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Pure: bytes in, verdict out.
//!
//! ```text
//! version 1:  PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n          (at most 107 bytes)
//! version 2:
//! +--------------------+-----+-----+--------+----------------------------+-----------+
//! | signature,12 bytes | 2|c | f|p | length | source, destination, ports | TLVs      |
//! +--------------------+-----+-----+--------+----------------------------+-----------+
//!    c: 0 LOCAL, 1 PROXY    f: 1 IPv4, 2 IPv6, 3 Unix, 0 unspecified    p: 1 stream
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use eastgate_config::cluster::ProxyVersion;

mod tlvs;

pub use tlvs::Tlvs;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_START: &[u8] = b"PROXY ";
const V1_MAX: usize = 107;
const V2_FIXED: usize = 16;
/// The longest header that is read, TLVs included.
pub const MAX_HEADER: usize = 8 * 1024;

/// What a header tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The client and the address it connected to. They are missing where the load balancer speaks for itself (health
    /// checks) or the connection is not over IP.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// What is said beside that.
    pub tlvs: Tlvs,
}

impl Told {
    fn of(ends: Option<(SocketAddr, SocketAddr)>) -> Self {
        Self { ends, tlvs: Tlvs::default() }
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The beginning of a header; more must come.
    NeedMore,
    /// A header of so many bytes, and what it tells.
    Header(Told, usize),
    /// No header.
    Absent,
}

/// Why a header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The listener expects a header and there is none.
    #[error("no PROXY protocol header, which this listener expects")]
    Missing,
    /// Version 1 that does not follow the form.
    #[error("a malformed PROXY protocol version 1 header")]
    Version1,
    /// Version 2 with an unknown version, command or family.
    #[error("a PROXY protocol version 2 header with the bytes 0x{0:02x} 0x{1:02x}, which mean nothing")]
    Version2(u8, u8),
    /// Lengths that do not add up.
    #[error("a PROXY protocol version 2 header whose lengths do not add up")]
    Length,
    /// A value that is not what its type says, or one too many.
    #[error("a PROXY protocol version 2 header with a bad value of type 0x{0:02x}")]
    Tlv(u8),
    /// Something was changed on the way.
    #[error("a PROXY protocol version 2 header whose checksum is wrong: it was damaged or forged on the way")]
    Checksum,
    /// Longer than is read.
    #[error("a PROXY protocol header of {0} bytes, more than {MAX_HEADER}")]
    TooLong(usize),
    /// It was not there in time, or the client closed in the middle of it.
    #[error("an unfinished PROXY protocol header")]
    Unfinished,
}

/// Says what the bytes are. The same bytes with more behind them get the same answer.
///
/// # Errors
/// It begins like a header and is none.
pub fn parse(bytes: &[u8]) -> Result<Verdict, Error> {
    if starts_like(bytes, SIGNATURE) {
        version2(bytes)
    } else if starts_like(bytes, V1_START) {
        version1(bytes)
    } else {
        Ok(Verdict::Absent)
    }
}

/// The header that tells an endpoint who its client is and where that one connected to. Version 2 has the server name
/// that it asked for, and its protocol where it offers just one, and a checksum.
pub fn header(
    version: ProxyVersion,
    (source, destination): (SocketAddr, SocketAddr),
    server_name: Option<&str>,
    alpn: Option<&[u8]>,
) -> Vec<u8> {
    // One header is of one family: where the two differ, both are told as IPv6, an IPv4 address as a mapped one.
    let (one, other) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let both_v4 =
        if let (IpAddr::V4(one), IpAddr::V4(other)) = (one, other) { Some((one, other)) } else { None };
    let v6 = |address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let (source_port, destination_port) = (source.port(), destination.port());
    match version {
        ProxyVersion::V1 => match both_v4 {
            Some((one, other)) => format!("PROXY TCP4 {one} {other} {source_port} {destination_port}\r\n"),
            None => format!("PROXY TCP6 {} {} {source_port} {destination_port}\r\n", v6(one), v6(other)),
        }
        .into_bytes(),
        ProxyVersion::V2 => {
            let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
            let (family, addresses) = match both_v4 {
                Some((one, other)) => ([0x21, 0x11, 0, 12], [one.octets(), other.octets()].concat()),
                None => ([0x21, 0x21, 0, 36], [v6(one).octets(), v6(other).octets()].concat()),
            };
            let mut header = [&SIGNATURE[..], &family, &addresses, &ports].concat();
            tlvs::add(&mut header, server_name, alpn);
            header
        }
    }
}

/// Do the bytes agree with this beginning, as far as they go?
fn starts_like(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

fn version1(bytes: &[u8]) -> Result<Verdict, Error> {
    let Some(end) = bytes.iter().take(V1_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_MAX { Ok(Verdict::NeedMore) } else { Err(Error::Version1) };
    };
    let line =
        bytes.get(V1_START.len()..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Error::Version1)?;
    let line = std::str::from_utf8(line).map_err(|_| Error::Version1)?;
    let fields: Vec<&str> = line.split(' ').collect();
    let addresses = match fields.as_slice() {
        ["UNKNOWN", ..] => None,
        ["TCP4", ends @ ..] => Some(v1_ends::<Ipv4Addr>(ends)?),
        ["TCP6", ends @ ..] => Some(v1_ends::<Ipv6Addr>(ends)?),
        _ => return Err(Error::Version1),
    };
    Ok(Verdict::Header(Told::of(addresses), end + 1))
}

fn v1_ends<T: std::str::FromStr + Into<IpAddr>>(fields: &[&str]) -> Result<(SocketAddr, SocketAddr), Error> {
    let [source, destination, source_port, destination_port] = fields else { return Err(Error::Version1) };
    let end = |address: &str, port: &str| {
        let address: T = address.parse().ok()?;
        // No sign and no leading zero: a number is written in one way.
        let canonical =
            port == "0" || port.bytes().next().is_some_and(|first| (b'1'..=b'9').contains(&first));
        canonical
            .then(|| port.parse::<u16>().ok())
            .flatten()
            .map(|port| SocketAddr::new(address.into(), port))
    };
    end(source, source_port).zip(end(destination, destination_port)).ok_or(Error::Version1)
}

fn version2(bytes: &[u8]) -> Result<Verdict, Error> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else { return Ok(Verdict::NeedMore) };
    let [.., command, family, length_high, length_low] = *fixed;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let total = V2_FIXED + length;
    if total > MAX_HEADER {
        return Err(Error::TooLong(total));
    }
    let Some(body) = rest.get(..length) else { return Ok(Verdict::NeedMore) };
    let (ends, tlvs) = match (command, family) {
        // A health check of the load balancer's own; whatever else it says is not about a client.
        (0x20, _) | (0x21, 0x00) => return Ok(Verdict::Header(Told::default(), total)),
        (0x21, 0x11) => {
            let (ends, _) = body.split_first_chunk::<12>().ok_or(Error::Length)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *ends;
            (Some(v2_ends([a, b, c, d].into(), [e, f, g, h].into(), ports)), 12)
        }
        (0x21, 0x21) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(Error::Length)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(Error::Length)?;
            let (ports, _) = rest.split_first_chunk::<4>().ok_or(Error::Length)?;
            (Some(v2_ends((*source).into(), (*destination).into(), *ports)), 36)
        }
        (0x21, 0x31) if length >= 216 => (None, 216),
        (0x21, 0x31) => return Err(Error::Length),
        (command, family) => return Err(Error::Version2(command, family)),
    };
    let tlvs = tlvs::read(bytes.get(..total).unwrap_or_default(), V2_FIXED + tlvs)?;
    Ok(Verdict::Header(Told { ends, tlvs }, total))
}

fn v2_ends(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> (SocketAddr, SocketAddr) {
    let [a, b, c, d] = ports;
    (
        SocketAddr::new(source, u16::from_be_bytes([a, b])),
        SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    )
}

#[cfg(test)]
mod tests;
