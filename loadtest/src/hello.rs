//! The ClientHello of load without cryptography: one that OpenSSL once sent, with the server name of one's choice.
//!
//! A gateway that passes TLS through reads the first flight and never the rest, so what follows this hello may be any
//! bytes, and neither client nor origin spends a cycle on keys.

use std::ops::Range;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What `openssl s_client -alpn istio-peer-exchange,istio` sent (`gateway/tests/hellos/README.md`).
const RECORDED: &[u8] = include_bytes!("../data/hello.bin");
/// The server name in it.
pub const RECORDED_NAME: &str = "outbound_.8000_._.httpbin.bar.global";
/// The longest name that DNS, and so TLS, has.
const LONGEST_NAME: usize = 255;

// ```text
// record            handshake    body                                        extension server_name
// 22 3 1 length:2 | 1 length:3 | 3 3 random:32 ... extensions length:2 | ... 0 0 length:2 | list:2 | 0 | name:2 | name
// ```
const RECORD_LENGTH: usize = 3;
const HANDSHAKE_LENGTH: usize = 6;
const RANDOM: Range<usize> = 11..43;
const EXTENSIONS_LENGTH: usize = 0x8e;
const EXTENSION_LENGTH: usize = 0x92;
const LIST_LENGTH: usize = 0x94;
const NAME_LENGTH: usize = 0x97;
const NAME: usize = 0x99;

/// The header of a TLS record: type, version, length.
pub const RECORD_HEADER: usize = 5;

/// Why a hello cannot carry a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` cannot be a server name: 1 to {LONGEST_NAME} visible ASCII characters")]
pub struct BadName(String);

/// A ClientHello that asks for `server_name`, as one TLS record.
///
/// # Errors
/// When the name is empty, too long, or not visible ASCII.
pub fn hello(server_name: &str) -> Result<Vec<u8>, BadName> {
    let length = server_name.len();
    if length == 0 || length > LONGEST_NAME || !server_name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadName(server_name.to_owned()));
    }
    let rest = &RECORDED[NAME + RECORDED_NAME.len()..];
    let mut hello = [&RECORDED[..NAME], server_name.as_bytes(), rest].concat();
    // Each length holds all that comes after itself; the handshake's has three bytes, of which the first stays 0.
    for at in [RECORD_LENGTH, HANDSHAKE_LENGTH + 1, EXTENSIONS_LENGTH] {
        set(&mut hello, at, RECORDED.len() - RECORDED_NAME.len() + length - at - 2);
    }
    set(&mut hello, EXTENSION_LENGTH, length + 5);
    set(&mut hello, LIST_LENGTH, length + 3);
    set(&mut hello, NAME_LENGTH, length);
    Ok(hello)
}

/// Gives a hello random bytes of its own. No two clients send the same, and a gateway that sees some twice at once takes it
/// for a loop.
pub fn renew(hello: &mut [u8]) {
    static RENEWED: AtomicU64 = AtomicU64::new(0);
    let mark = [u64::from(process::id()), RENEWED.fetch_add(1, Relaxed)].map(u64::to_be_bytes);
    hello[RANDOM][..16].copy_from_slice(mark.as_flattened());
}

fn set(hello: &mut [u8], at: usize, length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    hello[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// How many bytes the TLS record takes that begins with `header`, its header included.
pub fn record_length(header: [u8; RECORD_HEADER]) -> usize {
    RECORD_HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::server::Acceptor;

    #[test]
    fn the_recorded_name_gives_the_recorded_bytes() {
        assert_eq!(hello(RECORDED_NAME).unwrap(), RECORDED);
    }

    #[test]
    fn another_tls_library_reads_the_name_that_was_set() {
        for name in ["a.bar", "outbound_.8000_._.svc-1234.bar.global", &format!("{}.global", "x".repeat(60))]
        {
            let bytes = hello(name).unwrap();
            let mut acceptor = Acceptor::default();
            acceptor.read_tls(&mut bytes.as_slice()).unwrap();
            let accepted = acceptor.accept().map_err(|(error, _)| error).unwrap().expect("a whole hello");
            assert_eq!(accepted.client_hello().server_name(), Some(name));
            assert_eq!(accepted.client_hello().alpn().unwrap().count(), 2);
            assert_eq!(record_length(bytes[..RECORD_HEADER].try_into().unwrap()), bytes.len());
        }
    }

    #[test]
    fn a_renewed_hello_differs_in_its_random_bytes_alone() {
        let (mut one, mut other) = (RECORDED.to_vec(), RECORDED.to_vec());
        renew(&mut one);
        renew(&mut other);
        assert!(one[RANDOM] != other[RANDOM] && one[RANDOM] != RECORDED[RANDOM]);
        assert_eq!((&one[..11], &one[43..]), (&RECORDED[..11], &RECORDED[43..]));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "two words", "ä", &"x".repeat(256)] {
            assert_eq!(hello(name), Err(BadName(name.to_owned())));
        }
    }
}
