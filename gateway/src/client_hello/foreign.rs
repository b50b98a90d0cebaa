//! What first bytes are when they are no TLS record: named, so that the log says what the client speaks.

use super::refusal::Refusal;

/// How the protocols begin that are met on a TLS port by mistake. None is a prefix of another.
const OPENINGS: [(&[u8], Refusal); 13] = [
    (b"GET ", Refusal::Http),
    (b"HEAD ", Refusal::Http),
    (b"POST ", Refusal::Http),
    (b"PUT ", Refusal::Http),
    (b"PATCH ", Refusal::Http),
    (b"DELETE ", Refusal::Http),
    (b"OPTIONS ", Refusal::Http),
    (b"TRACE ", Refusal::Http),
    (b"CONNECT ", Refusal::Http),
    (b"PRI * HTTP/2", Refusal::Http),
    (b"PROPFIND ", Refusal::Http),
    (b"PROXY ", Refusal::ProxyHeader),
    (b"\r\n\r\n\0\r\nQUIT\n", Refusal::ProxyHeader),
];

/// Names bytes that do not start with a handshake record, or gives `None` while they are still the start of several
/// things.
///
/// The answer is that of the shortest prefix that has one, so that it does not depend on how the bytes arrive. It
/// comes at most eleven bytes after the first wrong one, all of them bytes of a known protocol.
pub(super) fn name(bytes: &[u8]) -> Option<Refusal> {
    let first = *bytes.first()?;
    match first {
        // The content types of TLS but for the handshake's 22: change_cipher_spec, alert, application_data, heartbeat.
        20 | 21 | 23 | 24 => Some(Refusal::ContentType(first)),
        0x80.. => ssl2(first, bytes),
        _ => opening(first, bytes),
    }
}

/// Tells SSL 2.0 from noise. [RFC 5246 E.2](https://www.rfc-editor.org/rfc/rfc5246#appendix-E.2) draws its hello:
///
/// ```text
/// | 1 length (15 bits) | 1 (client hello) | version: 00 02 or 03 xx | ...
/// ```
fn ssl2(first: u8, bytes: &[u8]) -> Option<Refusal> {
    if *bytes.get(2)? != 1 {
        return Some(Refusal::NotTls(first));
    }
    match *bytes.get(3)? {
        0 | 3 => Some(Refusal::Ssl2),
        _ => Some(Refusal::NotTls(first)),
    }
}

fn opening(first: u8, bytes: &[u8]) -> Option<Refusal> {
    let known = OPENINGS.iter().find(|(opening, _)| bytes.starts_with(opening));
    if let Some((_, refusal)) = known {
        return Some(*refusal);
    }
    let undecided = OPENINGS.iter().any(|(opening, _)| opening.starts_with(bytes));
    (!undecided).then_some(Refusal::NotTls(first))
}
