//! After a HelloRetryRequest the client sends a second ClientHello, by which some servers choose. It must name the same
//! server: what was let through for one name must not become a connection to another. Pure: bytes in, verdict out.
//!
//! ```text
//! client:  ClientHello | (change_cipher_spec | early data)* | ClientHello
//! server:              | HelloRetryRequest                  |             | ServerHello
//! ```
//! <https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2>: the second is the first but for certain extensions, of which
//! `server_name` is none.

use eastgate_config::server_name::ServerName;

use super::{Inspector, Refusal};

const HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
/// Of every version since SSL 3.
const MAJOR: u8 = 3;
/// From change_cipher_spec to heartbeat. What is of no other kind is no TLS: no server takes a hello from behind it.
const KINDS: std::ops::RangeInclusive<u8> = 20..=24;

/// Follows a client's bytes behind its first ClientHello until the second one is there.
#[derive(Debug)]
pub struct Second {
    named: ServerName,
    max_message: usize,
    /// What may not be passed on yet: the beginning of a record's header, or of the second hello.
    held: Vec<u8>,
    /// What is left of a record that is none of a handshake.
    skip: usize,
    hello: Option<Inspector>,
}

/// What may be done with the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// These may be passed on; the second hello is still to come.
    Before(Vec<u8>),
    /// The second hello is whole and names the same server, or there will be none because this is no TLS: these may be
    /// passed on, and whatever comes.
    Same(Vec<u8>),
}

/// Why the connection must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It names another server.
    #[error("the ClientHello after a HelloRetryRequest names {second}, and the one before it {first}")]
    Renamed {
        /// What was asked for, and let through.
        first: ServerName,
        /// What is asked for now.
        second: ServerName,
    },
    /// It is none that would be let through.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Second {
    /// For a connection whose first hello named this, with second hellos of at most so many bytes.
    pub fn new(named: ServerName, max_message: usize) -> Self {
        Self { named, max_message, held: Vec::new(), skip: 0, hello: None }
    }

    /// Has a part of the second hello come?
    pub fn has_begun(&self) -> bool {
        self.hello.is_some()
    }

    /// Takes the client's next bytes.
    ///
    /// # Errors
    /// The second hello names another server, or is none. Nothing of it has been given out.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        if let Some(hello) = &mut self.hello {
            hello.push(bytes);
            return self.judge(Vec::new());
        }
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let left = self.held.len() - at;
            let passed = self.skip.min(left);
            self.skip -= passed;
            at += passed;
            match self.held.get(at..) {
                Some([HANDSHAKE, MAJOR, ..]) => break,
                Some([kind, rest @ ..])
                    if !KINDS.contains(kind) || rest.first().is_some_and(|major| *major != MAJOR) =>
                {
                    return Ok(Progress::Same(std::mem::take(&mut self.held)));
                }
                Some([_, _, _, high, low, ..]) => {
                    self.skip = HEADER + usize::from(u16::from_be_bytes([*high, *low]));
                }
                _ => {
                    let rest = self.held.split_off(at);
                    return Ok(Progress::Before(std::mem::replace(&mut self.held, rest)));
                }
            }
        }
        let mut hello = Inspector::new(self.max_message);
        hello.push(self.held.get(at..).unwrap_or_default());
        self.held.truncate(at);
        self.hello = Some(hello);
        let before = std::mem::take(&mut self.held);
        self.judge(before)
    }

    fn judge(&mut self, mut before: Vec<u8>) -> Result<Progress, Error> {
        let Some(hello) = &mut self.hello else { return Ok(Progress::Before(before)) };
        let Some(found) = hello.advance()? else { return Ok(Progress::Before(before)) };
        if *found.server_name() != self.named {
            let second = found.server_name().clone();
            return Err(Error::Renamed { first: self.named.clone(), second });
        }
        let whole = self.hello.take().map(Inspector::into_raw).unwrap_or_default();
        before.extend_from_slice(&whole);
        Ok(Progress::Same(before))
    }
}

// rustls, whose messages are read here, is in part C, which Miri does not run.
#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"istio".to_vec()];
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn second() -> Second {
        Second::new("a.b".parse().unwrap(), 16 << 10)
    }

    const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];
    const EARLY: &[u8] = &[23, 3, 3, 0, 4, 22, 22, 22, 22];

    #[test]
    fn what_is_no_tls_is_let_through_because_no_hello_can_come_behind_it() {
        for opaque in [&b"GET / HTTP/1.1"[..], &[22, 9, 9], &[255; 40]] {
            let bytes = [CHANGE, opaque].concat();
            assert_eq!(second().push(&bytes), Ok(Progress::Same(bytes)));
        }
    }

    #[test]
    fn the_same_name_goes_on_and_another_does_not() {
        let same = [CHANGE, &hello("a.b")].concat();
        assert_eq!(second().push(&same), Ok(Progress::Same(same)));
        let Err(Error::Renamed { first, second: other }) = second().push(&[CHANGE, &hello("c.d")].concat())
        else {
            panic!()
        };
        assert_eq!((first.as_str(), other.as_str()), ("a.b", "c.d"));
        assert!(matches!(second().push(&[22, 3, 3, 0, 4, 2, 0, 0, 0]), Err(Error::Refused(_))));
    }

    proptest! {
        #[test]
        fn every_split_gives_the_same_and_nothing_of_another_hello_is_given_out(
            cuts in prop::collection::vec(1_usize..400, 0..12), early: bool, renamed: bool,
        ) {
            let before = if early { [CHANGE, EARLY, EARLY].concat() } else { CHANGE.to_vec() };
            let all = [&before[..], &hello(if renamed { "c.d" } else { "a.b" }), b"rest"].concat();
            let mut second = second();
            let (mut given, mut rest, mut ended) = (Vec::new(), &all[..], None);
            for cut in cuts.into_iter().chain(std::iter::repeat(7)) {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                rest = tail;
                match second.push(piece) {
                    Ok(Progress::Before(bytes)) => given.extend(bytes),
                    Ok(Progress::Same(bytes)) => {
                        given.extend(bytes);
                        ended = Some(true);
                    }
                    Err(Error::Renamed { .. }) => ended = Some(false),
                    Err(error) => panic!("{error}"),
                }
                if ended.is_some() || rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(ended, Some(!renamed));
            let wanted = if renamed { &before[..] } else { &all[..all.len() - rest.len()] };
            prop_assert_eq!(&given[..], wanted);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>) {
            let _ = second().push(&bytes);
        }
    }
}
