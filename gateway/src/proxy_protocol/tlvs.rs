//! What a version 2 header says beside addresses: type, length, value, one behind the other (section 2.2).

use std::fmt;

use crc::{CRC_32_ISCSI, Crc};

use super::Error;

/// `PP2_TYPE_ALPN`
const ALPN: u8 = 0x01;
/// `PP2_TYPE_AUTHORITY`: the server name.
const AUTHORITY: u8 = 0x02;
/// `PP2_TYPE_CRC32C`
const CHECKSUM: u8 = 0x03;
/// `PP2_TYPE_UNIQUE_ID`
const UNIQUE_ID: u8 = 0x05;
/// As long as a server name may be.
const MAX_AUTHORITY: usize = 255;
/// As the specification has it.
const MAX_UNIQUE_ID: usize = 128;
/// Nobody has more to say.
const MAX_COUNT: usize = 64;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What the load balancer says of the connection, as far as it is of use here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// The server name that its client asked for.
    pub authority: Option<String>,
    /// The protocol that its client speaks.
    pub alpn: Option<Vec<u8>>,
    /// What it calls the connection by.
    pub unique_id: Option<Vec<u8>>,
}

impl fmt::Display for Tlvs {
    /// For a log: what comes from outside is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        if let Some(name) = &self.authority {
            write!(f, "authority={}", name.escape_debug())?;
            space = " ";
        }
        let bytes = [("alpn", &self.alpn), ("unique_id", &self.unique_id)];
        for (name, bytes) in bytes.into_iter().filter_map(|(name, bytes)| Some((name, bytes.as_ref()?))) {
            write!(f, "{space}{name}={}", bytes.escape_ascii())?;
            space = " ";
        }
        Ok(())
    }
}

/// Reads those that begin at `start` of the whole header. They must fill it to its end; the checksum, if there is one, is
/// over all of it.
pub(super) fn read(header: &[u8], start: usize) -> Result<Tlvs, Error> {
    let mut tlvs = Tlvs::default();
    let mut at = start;
    let mut count = 0;
    while let Some([kind, high, low, rest @ ..]) = header.get(at..).filter(|rest| !rest.is_empty()) {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = rest.get(..length).ok_or(Error::Length)?;
        count += 1;
        if count > MAX_COUNT {
            return Err(Error::Tlv(*kind));
        }
        match *kind {
            AUTHORITY => {
                let name = std::str::from_utf8(value).ok().filter(|name| name.len() <= MAX_AUTHORITY);
                tlvs.authority = Some(name.ok_or(Error::Tlv(AUTHORITY))?.to_owned());
            }
            ALPN => tlvs.alpn = Some(value.to_vec()),
            UNIQUE_ID if length > MAX_UNIQUE_ID => return Err(Error::Tlv(UNIQUE_ID)),
            UNIQUE_ID => tlvs.unique_id = Some(value.to_vec()),
            CHECKSUM => {
                let told = <[u8; 4]>::try_from(value).map_err(|_| Error::Tlv(CHECKSUM))?;
                if u32::from_be_bytes(told) != checksum(header, at + 3) {
                    return Err(Error::Checksum);
                }
            }
            _ => {}
        }
        at += 3 + length;
    }
    if at == header.len() { Ok(tlvs) } else { Err(Error::Length) }
}

/// Of the header, with zeros for the checksum itself, which stands at `at`.
fn checksum(header: &[u8], at: usize) -> u32 {
    let mut digest = CRC.digest();
    digest.update(header.get(..at).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(header.get(at + 4..).unwrap_or_default());
    digest.finalize()
}

/// Adds these to a header that has its addresses, and a checksum, and puts its length right.
pub(super) fn add(header: &mut Vec<u8>, server_name: Option<&str>, alpn: Option<&[u8]>) {
    let values = [(AUTHORITY, server_name.map(str::as_bytes)), (ALPN, alpn), (CHECKSUM, Some(&[0; 4][..]))];
    for (kind, value) in values {
        let Some(value) = value else { continue };
        // What does not fit a length is left out: a server name and a protocol always do.
        let Ok(length) = u16::try_from(value.len()) else { continue };
        header.push(kind);
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(value);
    }
    let length = u16::try_from(header.len() - super::V2_FIXED).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(place) = header.get_mut(14..16) {
        place.copy_from_slice(&length);
    }
    let at = header.len() - 4;
    let sum = checksum(header, at).to_be_bytes();
    if let Some(place) = header.get_mut(at..) {
        place.copy_from_slice(&sum);
    }
}
