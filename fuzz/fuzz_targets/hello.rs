//! A client's first bytes. However they are cut, the same is made of them, and a hello that was taken can be told from
//! what follows it: the way to a second one, of which nothing is changed that is passed on. And an endpoint's.

#![no_main]

use eastgate_fuzz::client_hello::second::{Error, Progress, Second};
use eastgate_fuzz::client_hello::{ClientHello, Inspector, Refusal, ja4};
use eastgate_fuzz::server_hello::Answer;
use libfuzzer_sys::fuzz_target;

const MAX_MESSAGE: usize = 16 << 10;

fuzz_target!(|bytes: &[u8]| {
    let whole = inspected(bytes, bytes.len().max(1));
    for cut in [1, 7, 100] {
        assert_eq!(whole, inspected(bytes, cut), "in pieces of {cut} bytes");
    }
    let _ = Answer::of(bytes);
    if let Ok(Some(hello)) = whole {
        let rest = &bytes[hello.consumed()..];
        let whole = followed(&hello, rest, rest.len().max(1));
        for cut in [1, 7, 100] {
            assert_eq!(whole, followed(&hello, rest, cut), "in pieces of {cut} bytes");
        }
    }
});

fn inspected(bytes: &[u8], cut: usize) -> Result<Option<ClientHello>, Refusal> {
    let mut inspector = Inspector::new(MAX_MESSAGE);
    let mut outcome = Ok(None);
    for piece in bytes.chunks(cut) {
        inspector.push(piece);
        outcome = inspector.advance();
        match &outcome {
            Ok(None) => {}
            Ok(Some(hello)) => {
                assert!(hello.consumed() <= inspector.received_bytes());
                let message = inspector.message().expect("what was read is there");
                let _ = ja4::fingerprint(message);
                let _ = (hello.alpn().count(), hello.versions().count(), hello.server_name().as_str());
                break;
            }
            Err(refusal) => {
                let _ = (refusal.to_string(), refusal.reason(), refusal.alert().record());
                break;
            }
        }
    }
    outcome
}

/// Is there a second hello that names the same server, or something that is no TLS? An error is told by its text.
fn followed(first: &ClientHello, rest: &[u8], cut: usize) -> Result<bool, String> {
    let mut second = Second::new(first.server_name().clone(), MAX_MESSAGE);
    let mut passed = Vec::new();
    for piece in rest.chunks(cut) {
        let (bytes, ended) = match second.push(piece) {
            Ok(Progress::Before(bytes)) => (bytes, false),
            Ok(Progress::Same(bytes)) => (bytes, true),
            // How much had come by then depends on the pieces.
            Err(Error::Refused(refusal)) => return Err(refusal.reason().to_owned()),
            Err(renamed) => return Err(renamed.to_string()),
        };
        passed.extend(bytes);
        assert!(rest.starts_with(&passed), "what is passed on is what came");
        if ended {
            return Ok(true);
        }
    }
    Ok(false)
}
