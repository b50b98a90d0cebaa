//! Bytes that both sides can compute: every position has its own value, so that lost, doubled and swapped pieces all
//! change the SHA-256, and no large body must be held in memory to be compared.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use sha2::{Digest as _, Sha256};

/// How much is produced at once: large enough to be cheap, small enough to stay in the cache.
const PIECE: usize = 64 * 1024;

/// Fills a buffer with the bytes from `offset` on.
pub fn fill(offset: u64, mut buffer: &mut [u8]) {
    let mut word = offset / 8;
    let mut skip = (offset % 8) as usize;
    while !buffer.is_empty() {
        let bytes = mix(word).to_le_bytes();
        let (piece, rest) = buffer.split_at_mut(buffer.len().min(bytes.len() - skip));
        piece.copy_from_slice(&bytes[skip..skip + piece.len()]);
        buffer = rest;
        word += 1;
        skip = 0;
    }
}

/// The first `length` bytes, for bodies small enough to hold.
pub fn bytes(length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    fill(0, &mut bytes);
    bytes.into()
}

/// The SHA-256, in hexadecimal, of the first `length` bytes.
pub fn sha256(length: u64) -> String {
    sha256_from(0, length).0
}

/// The SHA-256 of `length` bytes from `offset` on, and their number.
pub fn sha256_from(offset: u64, length: u64) -> (String, u64) {
    let mut content = Content { at: offset, end: offset + length };
    let mut digest = Digest::default();
    while let Some(piece) = content.piece() {
        digest.add(&piece);
    }
    digest.finish()
}

/// The finaliser of SplitMix64: cheap, and without a period that a lost buffer could hide in.
pub(crate) fn mix(word: u64) -> u64 {
    let mut x = word.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A running SHA-256 and byte count of what was received.
#[derive(Debug, Default)]
pub struct Digest {
    hash: Sha256,
    length: u64,
}

impl Digest {
    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The hash in hexadecimal, and how many bytes it covers.
    pub fn finish(self) -> (String, u64) {
        let hash = self.hash.finalize();
        (hash.iter().map(|byte| format!("{byte:02x}")).collect(), self.length)
    }
}

/// The first bytes as an HTTP body, produced as fast as they are taken.
#[derive(Debug)]
pub(crate) struct Content {
    at: u64,
    end: u64,
}

impl Content {
    /// The first `length` bytes.
    pub(crate) fn new(length: u64) -> Self {
        Self { at: 0, end: length }
    }

    /// The next bytes, until there are no more.
    pub(crate) fn piece(&mut self) -> Option<Bytes> {
        if self.at == self.end {
            return None;
        }
        let mut piece = vec![0; PIECE.min(usize::try_from(self.end - self.at).unwrap_or(PIECE))];
        fill(self.at, &mut piece);
        self.at += piece.len() as u64;
        Some(piece.into())
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_the_same_however_it_is_cut() {
        let whole = bytes(1000);
        for cut in [1, 3, 8, 13, 999] {
            let mut pieces = vec![0; 1000];
            for (index, piece) in pieces.chunks_mut(cut).enumerate() {
                fill((index * cut) as u64, piece);
            }
            assert_eq!(whole, pieces, "in pieces of {cut}");
        }
    }

    #[test]
    fn the_hash_is_the_hash_of_the_bytes() {
        let length = PIECE * 2 + 17;
        let mut digest = Digest::default();
        digest.add(&bytes(length));
        assert_eq!(digest.finish(), (sha256(length as u64), length as u64));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(0), empty);
    }

    #[test]
    fn a_buffer_that_is_lost_or_doubled_shows() {
        let content = bytes(4 * 4096);
        let pieces: Vec<_> = content.chunks(4096).collect();
        assert!((1..4).all(|index| pieces[index] != pieces[0]));
    }
}
