//! Reads what an endpoint answers a ClientHello with, as far as its first bytes tell. Pure: the bytes are passed on by
//! somebody else and changed by nobody.
//!
//! ```text
//!  record                          handshake message, where the type is 22
//! +------+---------+---------+    +-------------+------------+----------------+-----------+
//! | type | version | length  |    | msg_type: 1 | length: 3  | legacy_vers: 2 | random 32 | ...
//! |  1   |    2    |    2    |    +-------------+------------+----------------+-----------+
//! +------+---------+---------+    alert, where it is 21: level 1, description 1
//! ```
//! <https://www.rfc-editor.org/rfc/rfc8446#section-5.1>

/// What the first bytes of an endpoint are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A ServerHello: the handshake goes on.
    ServerHello,
    /// The ServerHello that asks for another ClientHello.
    HelloRetryRequest,
    /// An alert, by its description (<https://www.rfc-editor.org/rfc/rfc8446#section-6>).
    Alert(u8),
    /// The beginning of a record, too short to tell more.
    Cut,
    /// No TLS, or none that a server begins with.
    NotTls,
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;

/// The random that makes a ServerHello a HelloRetryRequest: SHA-256 of that word
/// (<https://www.rfc-editor.org/rfc/rfc8446#section-4.1.3>).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

impl Answer {
    /// What these bytes, the first of an endpoint, are.
    pub fn of(bytes: &[u8]) -> Self {
        let (header, fragment) = bytes.split_at(bytes.len().min(5));
        let (kind, version) = match header {
            [kind @ (ALERT | HANDSHAKE)] => (*kind, 3),
            [kind @ (ALERT | HANDSHAKE), version, ..] => (*kind, *version),
            _ => return Self::NotTls,
        };
        match (kind, fragment) {
            _ if version != 3 => Self::NotTls,
            (ALERT, [_level, description, ..]) => Self::Alert(*description),
            (HANDSHAKE, [SERVER_HELLO, body @ ..]) => match body.get(5..37) {
                Some(random) if random == RETRY => Self::HelloRetryRequest,
                Some(_) => Self::ServerHello,
                None => Self::Cut,
            },
            (HANDSHAKE, [_, ..]) => Self::NotTls,
            _ => Self::Cut,
        }
    }
}

// rustls, whose messages are read here, is in part C, which Miri does not run.
#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn server_hello(random: [u8; 32]) -> Vec<u8> {
        [&[22, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3][..], &random, &[0, 0x13, 1, 0]].concat()
    }

    #[test]
    fn a_retry_is_told_from_a_server_hello_by_its_random() {
        assert_eq!(RETRY[..], Sha256::digest("HelloRetryRequest")[..]);
        assert_eq!(Answer::of(&server_hello([7; 32])), Answer::ServerHello);
        assert_eq!(Answer::of(&server_hello(RETRY)), Answer::HelloRetryRequest);
    }

    #[test]
    fn an_alert_has_its_description_and_http_is_no_tls() {
        assert_eq!(Answer::of(&[21, 3, 3, 0, 2, 2, 40]), Answer::Alert(40));
        assert_eq!(Answer::of(b"HTTP/1.1 400 Bad Request\r\n"), Answer::NotTls);
        // What an endpoint sends that echoes.
        assert_eq!(Answer::of(&[22, 3, 1, 0, 100, 1, 0, 0, 96]), Answer::NotTls);
        assert_eq!(Answer::of(&[22, 2, 0]), Answer::NotTls);
    }

    #[test]
    fn a_real_server_is_recognized() {
        let certified = rcgen::generate_simple_self_signed(["a.b".into()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certified.cert.into()], key).unwrap();
        let mut server = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty());
        let config = std::sync::Arc::new(config.with_no_client_auth());
        let mut client = rustls::ClientConnection::new(config, "a.b".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut answer = Vec::new();
        server.write_tls(&mut answer).unwrap();
        assert_eq!(Answer::of(&answer), Answer::ServerHello);
    }

    proptest! {
        #[test]
        fn every_prefix_is_cut_until_it_tells_and_then_stays_as_it_is(length in 1_usize..46, retry: bool) {
            let bytes = server_hello(if retry { RETRY } else { [7; 32] });
            let wanted = match length {
                ..43 => Answer::Cut,
                _ if retry => Answer::HelloRetryRequest,
                _ => Answer::ServerHello,
            };
            prop_assert_eq!(Answer::of(&bytes[..length]), wanted);
        }

        #[test]
        fn any_bytes_are_something(bytes: Vec<u8>) {
            Answer::of(&bytes);
        }
    }
}
