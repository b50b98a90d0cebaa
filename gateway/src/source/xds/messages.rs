//! Messages of a stream, read out of the pieces in which they come.
//!
//! tonic gathers a message in one buffer, which keeps its size for the rest of the stream: after a full push that is as
//! much memory again as the push had bytes, for as long as the gateway lives. So the pieces are gathered here, and each
//! is let go as soon as it is read. What tonic is to read is every piece as a message of its own ([`Pieces`]); streams,
//! trailers and errors stay its business.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use eastgate_proto::bytes::buf::Chain;
use eastgate_proto::bytes::{Buf, Bytes};
use eastgate_proto::{DecodeError, Message};
use http_body_util::BodyExt;
use http_body_util::combinators::MapFrame;
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::{self, Channel};
use tonic_prost::ProstEncoder;

/// The length that goes before a message
/// ([Length-Prefixed-Message](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)):
///
/// ```text
///  0            1                         5
/// +------------+-------------------------+---------
/// | compressed | length (big-endian u32) | message
/// +------------+-------------------------+---------
/// ```
const PREFIX: usize = 5;

/// Why a stream's bytes are no messages.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It would take more memory than it may.
    #[error("a message of {0} bytes is more than {1}; raise xds.max_message_bytes")]
    TooLarge(usize, usize),
    /// No compression was offered.
    #[error("a message is compressed, or its length is damaged")]
    Compressed,
    /// The stream is over before the message is.
    #[error("it ended in the middle of a message")]
    Unfinished,
    /// The bytes are of something else.
    #[error("a message cannot be read")]
    Unreadable(#[source] DecodeError),
}

/// What has come of a stream and is not read yet.
#[derive(Debug)]
pub(super) struct Messages {
    rope: Rope,
    /// Of the message whose length is known already.
    awaited: Option<usize>,
    most: usize,
}

impl Messages {
    /// Takes messages of up to `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { rope: Rope::default(), awaited: None, most }
    }

    /// Takes what comes next.
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.rope.length += piece.len();
            self.rope.pieces.push_back(piece);
        }
    }

    /// The next message, if all of it has come.
    pub(super) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        let length = match self.awaited {
            Some(length) => length,
            None if self.rope.length < PREFIX => return Ok(None),
            None => self.prefix()?,
        };
        self.awaited = Some(length);
        if self.rope.length < length {
            return Ok(None);
        }
        self.awaited = None;
        M::decode((&mut self.rope).take(length)).map(Some).map_err(Error::Unreadable)
    }

    fn prefix(&mut self) -> Result<usize, Error> {
        if self.rope.get_u8() != 0 {
            return Err(Error::Compressed);
        }
        let length = usize::try_from(self.rope.get_u32()).unwrap_or(usize::MAX);
        if length > self.most { Err(Error::TooLarge(length, self.most)) } else { Ok(length) }
    }

    /// The stream is over.
    pub(super) fn end(&self) -> Result<(), Error> {
        if self.rope.length == 0 && self.awaited.is_none() { Ok(()) } else { Err(Error::Unfinished) }
    }
}

/// Pieces one behind the other, none of them empty, each let go when it is read.
#[derive(Debug, Default)]
struct Rope {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }
}

/// A channel whose responses are to tonic messages of as many bytes as come at a time.
#[derive(Debug)]
pub(super) struct Pieces(pub(super) Channel);

type Prefixed = fn(Frame<Bytes>) -> Frame<Chain<Bytes, Bytes>>;

impl Service<http::Request<Body>> for Pieces {
    type Response = http::Response<MapFrame<Body, Prefixed>>;
    type Error = transport::Error;
    type Future = BoxFuture<Self::Response, transport::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async { Ok(answered.await?.map(|body| body.map_frame(prefixed as Prefixed))) })
    }
}

fn prefixed(frame: Frame<Bytes>) -> Frame<Chain<Bytes, Bytes>> {
    frame.map_data(|piece| {
        // A frame of HTTP/2 has 24 bits for its length.
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let mut prefix = [0; PREFIX];
        prefix[1..].copy_from_slice(&length.to_be_bytes());
        Bytes::copy_from_slice(&prefix).chain(piece)
    })
}

/// Writes requests, and takes pieces of responses as they are.
#[derive(Debug)]
pub(super) struct InPieces<Request>(std::marker::PhantomData<Request>);

impl<Request> Default for InPieces<Request> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<Request: Message + Send + 'static> Codec for InPieces<Request> {
    type Encode = Request;
    type Decode = Bytes;
    type Encoder = ProstEncoder<Request>;
    type Decoder = Piece;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Piece {
        Piece
    }
}

/// Reads a piece.
#[derive(Debug)]
pub(super) struct Piece;

impl Decoder for Piece {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use eastgate_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
    use proptest::prelude::*;

    use super::*;

    fn stream(messages: &[DeltaDiscoveryResponse]) -> Vec<u8> {
        let framed = messages.iter().flat_map(|message| {
            let body = message.encode_to_vec();
            [vec![0], (body.len() as u32).to_be_bytes().to_vec(), body].concat()
        });
        framed.collect()
    }

    fn messages() -> Vec<DeltaDiscoveryResponse> {
        let message = |nonce: &str, removed: usize| DeltaDiscoveryResponse {
            nonce: nonce.into(),
            removed_resources: vec!["a name of some length".into(); removed],
            ..Default::default()
        };
        vec![message("1", 0), DeltaDiscoveryResponse::default(), message("2", 100), message("3", 1)]
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_they_are_cut(cuts in prop::collection::vec(0..300_usize, 0..200)) {
            let bytes = Bytes::from(stream(&messages()));
            let (mut reader, mut read, mut from) = (Messages::new(1 << 20), Vec::new(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                let to = bytes.len().min(from + cut);
                reader.push(bytes.slice(from..to));
                from = to;
                while let Some(message) = reader.next::<DeltaDiscoveryResponse>().unwrap() {
                    read.push(message);
                }
                prop_assert_eq!(reader.end().is_ok(), reader.rope.length == 0 && reader.awaited.is_none());
            }
            prop_assert_eq!(read, messages());
            prop_assert!(reader.end().is_ok() && reader.rope.pieces.is_empty());
        }
    }

    #[test]
    fn what_is_too_large_compressed_unfinished_or_no_message_is_told() {
        let reader = |bytes: &[u8]| {
            let mut reader = Messages::new(10);
            reader.push(Bytes::copy_from_slice(bytes));
            reader
        };
        let next = |bytes: &[u8]| reader(bytes).next::<DeltaDiscoveryResponse>();
        assert!(matches!(next(&[0, 0, 0, 0, 11]), Err(Error::TooLarge(11, 10))));
        assert!(matches!(next(&[1, 0, 0, 0, 0]), Err(Error::Compressed)));
        assert!(matches!(next(&[0, 0, 0, 0, 1, 0xff]), Err(Error::Unreadable(_))));
        for unfinished in [&[0][..], &[0, 0, 0, 0, 9], &[0, 0, 0, 0, 9, 1]] {
            let mut reader = reader(unfinished);
            assert!(matches!(reader.next::<DeltaDiscoveryResponse>(), Ok(None)));
            assert!(matches!(reader.end(), Err(Error::Unfinished)));
        }
    }
}
