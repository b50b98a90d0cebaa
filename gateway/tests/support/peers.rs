//! A row of the comparison with other gateways, and what we make of it.

use eastgate::client_hello::Inspector;

use crate::support::HelloBuilder;

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Routed by this name.
    Route(String),
    /// Refused at once: reason and alert.
    Refuse(&'static str, u8),
    /// Not whole when the deadline passes, with so many bytes received.
    AtDeadline(&'static str, usize),
}

/// What happens after the last byte of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the client waits for an answer.
    Silence,
    /// The client closes its half.
    Fin,
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The bytes as TCP segments brought them.
    pub(crate) segments: Vec<Vec<u8>>,
    pub(crate) then: Then,
    pub(crate) expected: Verdict,
}

pub(crate) const GOOD: &str = "good.example";
pub(crate) const OTHER: &str = "other.example";

pub(crate) fn good() -> HelloBuilder {
    HelloBuilder::new(GOOD)
}

pub(crate) fn row(name: &'static str, bytes: Vec<u8>, expected: Verdict) -> Row {
    Row { name, segments: vec![bytes], then: Then::Silence, expected }
}

pub(crate) fn routed(name: &'static str, bytes: Vec<u8>, to: &str) -> Row {
    row(name, bytes, Verdict::Route(to.into()))
}

pub(crate) fn refused(name: &'static str, bytes: Vec<u8>, reason: &'static str, alert: u8) -> Row {
    row(name, bytes, Verdict::Refuse(reason, alert))
}

pub(crate) fn in_segments(name: &'static str, bytes: &[u8], size: usize) -> Row {
    let segments = bytes.chunks(size).map(<[u8]>::to_vec).collect();
    Row { name, segments, then: Then::Silence, expected: Verdict::Route(GOOD.into()) }
}

pub(crate) fn judge(row: &Row, limit: usize) -> Verdict {
    let mut inspector = Inspector::new(limit);
    for segment in &row.segments {
        inspector.push(segment);
        match inspector.advance() {
            Ok(Some(hello)) => return Verdict::Route(hello.server_name().to_string()),
            Ok(None) => {}
            Err(refusal) => return Verdict::Refuse(refusal.reason(), refusal.alert().code()),
        }
    }
    let refusal = match row.then {
        Then::Silence => inspector.too_slow(),
        Then::Fin => inspector.closed(),
    };
    Verdict::AtDeadline(refusal.reason(), inspector.received_bytes())
}

pub(crate) fn check(rows: Vec<Row>, limit: usize) {
    for row in rows {
        assert_eq!(judge(&row, limit), row.expected, "{}", row.name);
        let bytes: Vec<u8> = row.segments.concat();
        let whole = Row { segments: vec![bytes.clone()], ..row };
        assert_eq!(judge(&whole, limit), whole.expected, "{}, in one segment", whole.name);
        // Longer rows would take their time, and differ only in size.
        if bytes.len() < 40_000 {
            let single = Row { segments: bytes.chunks(1).map(<[u8]>::to_vec).collect(), ..whole };
            assert_eq!(judge(&single, limit), single.expected, "{}, byte by byte", single.name);
        }
    }
}
