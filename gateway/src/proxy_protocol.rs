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

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_START: &[u8] = b"PROXY ";
const V1_MAX: usize = 107;
const V2_FIXED: usize = 16;
/// The longest header that is read, TLVs included.
pub const MAX_HEADER: usize = 8 * 1024;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The beginning of a header; more must come.
    NeedMore,
    /// A header of so many bytes, and the client and the address it connected to. They are missing where the load
    /// balancer speaks for itself (health checks) or the connection is not over IP.
    Header(Option<(SocketAddr, SocketAddr)>, usize),
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

/// The header that tells an endpoint who its client is and where that one connected to.
pub fn header(version: ProxyVersion, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
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
            [&SIGNATURE[..], &family, &addresses, &ports].concat()
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
    Ok(Verdict::Header(addresses, end + 1))
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
    let (addresses, tlvs) = match (command, family) {
        // A health check of the load balancer's own; whatever else it says is not about a client.
        (0x20, _) => return Ok(Verdict::Header(None, total)),
        (0x21, 0x11) => {
            let (ends, tlvs) = body.split_first_chunk::<12>().ok_or(Error::Length)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *ends;
            (Some(v2_ends([a, b, c, d].into(), [e, f, g, h].into(), ports)), tlvs)
        }
        (0x21, 0x21) => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(Error::Length)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(Error::Length)?;
            let (ports, tlvs) = rest.split_first_chunk::<4>().ok_or(Error::Length)?;
            (Some(v2_ends((*source).into(), (*destination).into(), *ports)), tlvs)
        }
        (0x21, 0x31) => (None, body.get(216..).ok_or(Error::Length)?),
        (0x21, 0x00) => return Ok(Verdict::Header(None, total)),
        (command, family) => return Err(Error::Version2(command, family)),
    };
    check_tlvs(tlvs)?;
    Ok(Verdict::Header(addresses, total))
}

fn v2_ends(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> (SocketAddr, SocketAddr) {
    let [a, b, c, d] = ports;
    (
        SocketAddr::new(source, u16::from_be_bytes([a, b])),
        SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    )
}

/// The TLVs must fill what is left exactly; what they say is not used.
fn check_tlvs(mut tlvs: &[u8]) -> Result<(), Error> {
    while let [_, high, low, rest @ ..] = tlvs {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        tlvs = rest.get(length..).ok_or(Error::Length)?;
    }
    if tlvs.is_empty() { Ok(()) } else { Err(Error::Length) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, body].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];

    fn ends() -> Option<(SocketAddr, SocketAddr)> {
        Some(("192.0.2.1:56324".parse().unwrap(), "192.0.2.2:443".parse().unwrap()))
    }

    #[test]
    fn both_versions_name_the_client() {
        let one = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n\x16\x03\x01";
        assert_eq!(parse(one), Ok(Verdict::Header(ends(), one.len() - 3)));
        let six = b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n";
        let expected = Some(("[2001:db8::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()));
        assert_eq!(parse(six), Ok(Verdict::Header(expected, six.len())));
        let two = v2(0x21, 0x11, V4);
        assert_eq!(parse(&two), Ok(Verdict::Header(ends(), two.len())));
        let with_tlvs = v2(0x21, 0x11, &[V4, &[4, 0, 1, 9, 0xea, 0, 0]].concat());
        assert_eq!(parse(&with_tlvs), Ok(Verdict::Header(ends(), with_tlvs.len())));
    }

    #[test]
    fn a_load_balancers_own_connection_names_nobody() {
        for header in
            [v2(0x20, 0x00, &[]), v2(0x20, 0x11, &[1]), v2(0x21, 0x00, &[7, 7]), v2(0x21, 0x31, &[0; 216])]
        {
            assert_eq!(parse(&header), Ok(Verdict::Header(None, header.len())));
        }
        assert_eq!(parse(b"PROXY UNKNOWN what ever\r\n"), Ok(Verdict::Header(None, 25)));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "PROXY TCP4 999.1.2.3 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Error::Version1), "{line}");
        }
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 120]].concat()), Err(Error::Version1));
        assert_eq!(parse(&v2(0x31, 0x11, V4)), Err(Error::Version2(0x31, 0x11)));
        assert_eq!(parse(&v2(0x21, 0x12, V4)), Err(Error::Version2(0x21, 0x12)));
        assert_eq!(parse(&v2(0x21, 0x11, &V4[1..])), Err(Error::Length));
        assert_eq!(parse(&v2(0x21, 0x11, &[V4, &[4, 0, 2, 9]].concat())), Err(Error::Length));
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 60_000])), Err(Error::TooLong(60_016)));
    }

    #[test]
    fn other_protocols_have_no_header() {
        for bytes in [&b"\x16\x03\x01"[..], b"GET /", b"PROXIES", b"\r\n\r\nGET"] {
            assert_eq!(parse(bytes), Ok(Verdict::Absent));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(source: SocketAddr, destination: SocketAddr, v2_form: bool) {
            let version = if v2_form { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let header = header(version, source, destination);
            let Ok(Verdict::Header(Some(read), length)) = parse(&header) else { panic!("{header:?}") };
            prop_assert_eq!(length, header.len());
            let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port());
            prop_assert_eq!(canonical(read.0), canonical(source));
            prop_assert_eq!(canonical(read.1), canonical(destination));
        }

        #[test]
        fn every_prefix_of_a_header_needs_more_and_what_follows_changes_nothing(
            tail in prop::collection::vec(any::<u8>(), 0..40), v2_form: bool,
        ) {
            let header =
                if v2_form { v2(0x21, 0x11, V4) } else { b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec() };
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end]), Ok(Verdict::NeedMore));
            }
            prop_assert_eq!(parse(&[&header[..], &tail].concat()), Ok(Verdict::Header(ends(), header.len())));
        }

        #[test]
        fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..3) {
            match start {
                0 => { bytes.splice(0..0, *SIGNATURE); }
                1 => { bytes.splice(0..0, V1_START.iter().copied()); }
                _ => {}
            }
            let _ = parse(&bytes);
        }
    }
}
