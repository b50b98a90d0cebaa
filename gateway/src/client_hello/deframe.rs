//! Finds the first handshake message in the records that carry it.
//!
//! ```text
//!  record header, 5 bytes                       handshake header, 4 bytes
//! +------+-------+-------+--------+--------+   +------+--------+--------+--------+------
//! |  22  |   3   | minor | length, 2 bytes |   |   1  |    length, 3 bytes       | body
//! +------+-------+-------+--------+--------+   +------+--------+--------+--------+------
//! ```
//!
//! The message may be spread over any number of records, each cut anywhere
//! ([RFC 8446 §5.1](https://www.rfc-editor.org/rfc/rfc8446#section-5.1)); even its header may be cut.

use std::ops::Range;

use super::foreign;
use super::refusal::Refusal;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// The longest plaintext record ([RFC 8446 §5.1](https://www.rfc-editor.org/rfc/rfc8446#section-5.1)).
const MAX_RECORD: u16 = 1 << 14;

/// Walks over the records, once: what it has seen it does not look at again.
#[derive(Debug)]
pub(super) struct Deframer {
    max_message: usize,
    max_raw: usize,
    /// The next byte to look at.
    at: usize,
    /// Where the current record ends; `at` once it is used up.
    record_end: usize,
    /// The message's length with its header, once the header is known.
    length: Option<usize>,
    /// The message's bytes so far, where it is spread over records. Grows with bytes received, not with lengths claimed.
    collected: Vec<u8>,
    /// Where the whole message lies in the raw bytes, if one record holds it.
    in_place: Option<Range<usize>>,
}

impl Deframer {
    pub(super) fn new(max_message: usize, max_raw: usize) -> Self {
        Self {
            max_message,
            max_raw,
            at: 0,
            record_end: 0,
            length: None,
            collected: Vec::new(),
            in_place: None,
        }
    }

    /// How many of the raw bytes carry the message, records' headers and all.
    pub(super) fn consumed(&self) -> usize {
        self.at
    }

    /// Walks on over `raw`, which starts with all that an earlier call was given, and gives the whole message with its
    /// header, or `None` while it is not all there.
    pub(super) fn advance<'a>(&'a mut self, raw: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
        while !self.is_whole() {
            let moved =
                if self.at == self.record_end { self.record_header(raw)? } else { self.payload(raw)? };
            if !moved {
                return Ok(None);
            }
        }
        Ok(self.message(raw))
    }

    /// The whole message with its header, once it has been found in `raw`.
    pub(super) fn message<'a>(&'a self, raw: &'a [u8]) -> Option<&'a [u8]> {
        match &self.in_place {
            Some(range) => raw.get(range.clone()),
            None => self.is_whole().then_some(&self.collected),
        }
    }

    fn is_whole(&self) -> bool {
        self.in_place.is_some() || self.length == Some(self.collected.len())
    }

    /// Reads a record's header; false where it is not all there. Each byte is judged as soon as it is there, so that
    /// the answer is the same however the bytes arrive.
    fn record_header(&mut self, raw: &[u8]) -> Result<bool, Refusal> {
        let header = raw.get(self.at..).unwrap_or_default();
        match header.first() {
            None => return Ok(false),
            Some(&HANDSHAKE) => {}
            Some(_) if self.at == 0 => return foreign::name(header).map_or(Ok(false), Err),
            Some(other) => return Err(Refusal::ContentType(*other)),
        }
        // A TLS server must not look at the minor version: RFC 8446 §5.1, legacy_record_version.
        if let Some(major) = header.get(1).filter(|major| **major != 3) {
            return Err(Refusal::RecordVersion(*major));
        }
        let Some(&[high, low]) = header.get(3..RECORD_HEADER) else { return Ok(false) };
        let length = u16::from_be_bytes([high, low]);
        if length > MAX_RECORD {
            return Err(Refusal::RecordOverflow(length));
        }
        let start = self.at + RECORD_HEADER;
        let end = start + usize::from(length);
        if end > self.max_raw {
            return Err(Refusal::TooManyRecords { limit: self.max_raw });
        }
        if let Some(total) = self.length {
            refuse_more(usize::from(length), total - self.collected.len())?;
        }
        (self.at, self.record_end) = (start, end);
        Ok(true)
    }

    /// Takes what is there of the current record's payload; false where nothing more can be done with it.
    fn payload(&mut self, raw: &[u8]) -> Result<bool, Refusal> {
        if self.length.is_none() && self.collected.is_empty() {
            let head = raw.get(self.at..).unwrap_or_default();
            let in_record = self.record_end - self.at;
            if in_record >= MESSAGE_HEADER {
                let Some(length) = self.message_length(head)? else { return Ok(false) };
                refuse_more(in_record, length)?;
                if length == in_record {
                    return Ok(self.take_in_place(raw));
                }
                self.length = Some(length);
            }
        }
        self.collect(raw)
    }

    /// The common case: the record holds just the message, which need not be copied.
    fn take_in_place(&mut self, raw: &[u8]) -> bool {
        let whole = raw.len() >= self.record_end;
        if whole {
            self.in_place = Some(self.at..self.record_end);
            self.at = self.record_end;
        }
        whole
    }

    /// Copies what is there of a message that spreads over records.
    fn collect(&mut self, raw: &[u8]) -> Result<bool, Refusal> {
        let end = raw.len().min(self.record_end);
        let Some(piece) = raw.get(self.at..end).filter(|piece| !piece.is_empty()) else { return Ok(false) };
        // While the length is unknown no more than the rest of the message's header is taken.
        let missing = match self.length {
            Some(length) => length - self.collected.len(),
            None => MESSAGE_HEADER - self.collected.len(),
        };
        let piece = piece.get(..missing).unwrap_or(piece);
        self.collected.extend_from_slice(piece);
        self.at += piece.len();
        if self.length.is_none() {
            self.length = self.message_length(&self.collected)?;
            if let Some(length) = self.length {
                refuse_more(self.record_end - self.at, length - self.collected.len())?;
            }
        }
        Ok(true)
    }

    /// The message's length with its header, once the header is there.
    fn message_length(&self, head: &[u8]) -> Result<Option<usize>, Refusal> {
        if let Some(other) = head.first().filter(|kind| **kind != CLIENT_HELLO) {
            return Err(Refusal::HandshakeType(*other));
        }
        let Some(&[high, middle, low]) = head.get(1..MESSAGE_HEADER) else { return Ok(None) };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize + MESSAGE_HEADER;
        if length > self.max_message {
            return Err(Refusal::TooLarge { length, limit: self.max_message });
        }
        Ok(Some(length))
    }
}

/// Refuses a record that goes on after the ClientHello: a client has nothing more to say before the server's answer,
/// and what two parsers make of the rest is anyone's guess.
fn refuse_more(in_record: usize, missing: usize) -> Result<(), Refusal> {
    match in_record.checked_sub(missing) {
        None | Some(0) => Ok(()),
        Some(more) => Err(Refusal::MessageAfterHello(more)),
    }
}
