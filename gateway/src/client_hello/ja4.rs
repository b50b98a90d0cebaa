//! The JA4 fingerprint of a TLS client, which FoxIO publishes under the BSD 3-clause licence
//! ([its rules](https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md)).
//!
//! ```text
//! t 13 d 15 16 h2 _ 8daaf6152771 _ e5627efa2ab1
//! |  | |  |  |  |        |              +- hash of the sorted extensions, and of the signature algorithms as they come
//! |  | |  |  |  |        +---------------- hash of the sorted cipher suites
//! |  | |  |  |  +------------------------- first and last character of the first ALPN protocol
//! |  | |  +--+---------------------------- how many cipher suites, how many extensions
//! |  | +---------------------------------- d: with a server name, i: without
//! |  +------------------------------------ the highest version
//! +--------------------------------------- over TCP
//! ```
//!
//! GREASE counts nowhere. It takes sorting, formatting and two hashes: nothing for every connection.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::message;

const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
/// What stands for the hash of an empty list.
const NOTHING: &str = "000000000000";

/// The fingerprint of a whole ClientHello message with its handshake header (see
/// [`Inspector::message`](super::Inspector::message)), or `None` where the bytes are no such message.
pub fn fingerprint(client_hello: &[u8]) -> Option<String> {
    let facts = Facts::read(client_hello)?;
    let mut extensions = facts.extensions.clone();
    extensions.retain(|kind| !matches!(*kind, SERVER_NAME | ALPN));
    let mut ciphers = facts.ciphers.clone();
    extensions.sort_unstable();
    ciphers.sort_unstable();
    let mut hashed = hex_list(&extensions);
    if !facts.signatures.is_empty() && !extensions.is_empty() {
        hashed.push('_');
        hashed.push_str(&hex_list(&facts.signatures));
    }
    Some(format!(
        "t{}{}{:02}{:02}{}_{}_{}",
        version(facts.version),
        if facts.extensions.contains(&SERVER_NAME) { 'd' } else { 'i' },
        facts.ciphers.len().min(99),
        facts.extensions.len().min(99),
        protocol(facts.alpn),
        short_hash(&hex_list(&ciphers)),
        short_hash(&hashed),
    ))
}

/// What of the hello goes into the fingerprint, without GREASE.
struct Facts<'a> {
    version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    signatures: Vec<u16>,
    /// The first ALPN protocol.
    alpn: &'a [u8],
}

impl<'a> Facts<'a> {
    fn read(client_hello: &'a [u8]) -> Option<Self> {
        let body = message::body(client_hello).ok()?;
        let ciphers = body.ciphers.iter().map(|cipher| cipher.0).filter(is_no_grease).collect();
        let mut facts =
            Self { version: body.version.0, ciphers, extensions: vec![], signatures: vec![], alpn: &[] };
        for extension in message::extensions(body.ext.unwrap_or_default()) {
            let (kind, data) = extension.ok()?;
            facts.add(kind, data);
        }
        Some(facts)
    }

    fn add(&mut self, kind: u16, data: &'a [u8]) {
        if !is_no_grease(&kind) {
            return;
        }
        self.extensions.push(kind);
        match kind {
            ALPN => self.alpn = first_protocol(data).unwrap_or_default(),
            SIGNATURE_ALGORITHMS => self.signatures = values(data.get(2..).unwrap_or_default()).collect(),
            SUPPORTED_VERSIONS => {
                let highest = values(data.get(1..).unwrap_or_default()).max();
                self.version = highest.unwrap_or(self.version);
            }
            _ => {}
        }
    }
}

fn first_protocol(data: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = data.get(2..)?.split_first()?;
    rest.get(..usize::from(length))
}

fn values(list: &[u8]) -> impl Iterator<Item = u16> {
    list.as_chunks().0.iter().map(|value| u16::from_be_bytes(*value)).filter(is_no_grease)
}

/// GREASE values are the two-byte ones of the form `?A?A` with equal bytes
/// ([RFC 8701 §2](https://www.rfc-editor.org/rfc/rfc8701#section-2)).
fn is_no_grease(value: &u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high != low || low & 0x0f != 0x0a
}

fn version(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

/// The first and last character, or those of the hexadecimal form where one of them is no letter or digit.
fn protocol(alpn: &[u8]) -> String {
    let (Some(first), Some(last)) = (alpn.first(), alpn.last()) else { return "00".into() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)].iter().collect();
    }
    format!("{:x}{:x}", first >> 4, last & 0x0f)
}

fn hex_list(values: &[u16]) -> String {
    let mut text = String::with_capacity(values.len() * 5);
    for value in values {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{value:04x}");
    }
    text
}

fn short_hash(text: &str) -> String {
    if text.is_empty() {
        return NOTHING.into();
    }
    Sha256::digest(text).iter().take(6).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests;
