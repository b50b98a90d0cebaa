//! A client's first bytes. However they are cut, the same is made of them, and a hello that was taken can be told from
//! what follows it.

#![no_main]

use eastgate_fuzz::client_hello::{ClientHello, Inspector, Refusal, ja4};
use libfuzzer_sys::fuzz_target;

const MAX_MESSAGE: usize = 16 << 10;

fuzz_target!(|bytes: &[u8]| {
    let whole = inspected(bytes, bytes.len().max(1));
    for cut in [1, 7, 100] {
        assert_eq!(whole, inspected(bytes, cut), "in pieces of {cut} bytes");
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
