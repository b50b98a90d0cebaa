//! One stream after the other: connects, carries messages both ways, and says how it ended.

use std::time::Duration;

use eastgate_config::bootstrap::xds::Address;
use eastgate_config::xds::{Request, Response, Variant};
use eastgate_proto::bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::backoff::Order;
use super::messages::{self, InPieces, Messages, Pieces};
use super::transport::{self, Transport, with_causes};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Requests that wait for the network.
const QUEUE: usize = 8;

/// What happens on the way to a control plane.
#[derive(Debug)]
pub(super) enum Event {
    /// A stream is being opened; requests for it go here.
    Opened(Address, mpsc::Sender<Request>),
    /// It sent this.
    Response(Box<Response>),
    /// The stream has ended, or there was none.
    Ended {
        /// Whose.
        address: Address,
        /// Had it sent anything?
        answered: bool,
        /// Why.
        end: End,
        /// When the next attempt is.
        wait: Duration,
    },
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// In good order, as servers do every half hour.
    #[error("it closed the stream")]
    Closed,
    /// With an error.
    #[error("{}", describe(.0))]
    Status(Box<Status>),
    /// It took the request and sent nothing.
    #[error("it has sent nothing for {0:?} (xds.response_timeout)")]
    Silent(Duration),
    /// What it sent cannot be read.
    #[error(transparent)]
    Messages(#[from] messages::Error),
    /// It did not come to a stream.
    #[error(transparent)]
    Transport(#[from] transport::Error),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn describe(status: &Status) -> String {
    let code = status.code();
    let hint = match code {
        Code::Unauthenticated => {
            "; look at xds.token_path and the token's audience, or give a client certificate"
        }
        Code::PermissionDenied => "; POD_NAMESPACE and SERVICE_ACCOUNT have to be those of the token",
        _ => "",
    };
    let cause = std::error::Error::source(status).map(with_causes).unwrap_or_default();
    let message = if status.message().is_empty() { &cause } else { status.message() };
    format!("{code:?}: {message}{hint}").replace('\n', " ")
}

impl End {
    /// A word for metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent(_) => "silent",
            Self::Transport(error) => error.reason(),
            Self::Messages(messages::Error::TooLarge(..)) => "oversized",
            Self::Messages(_) => "broken",
            Self::Status(status) => match status.code() {
                Code::Unavailable => "unavailable",
                Code::ResourceExhausted => "resource_exhausted",
                Code::Unauthenticated => "unauthenticated",
                Code::PermissionDenied => "permission_denied",
                Code::InvalidArgument => "invalid_argument",
                Code::Unimplemented => "unimplemented",
                Code::Cancelled => "cancelled",
                Code::Unknown | Code::Internal => "broken",
                _ => "other",
            },
        }
    }

    /// After one of these it would be wrong to come back at once, whatever was sent before.
    fn asks_for_a_pause(&self) -> bool {
        matches!(self.reason(), "resource_exhausted" | "oversized" | "unauthenticated" | "permission_denied")
    }
}

/// The control planes and how they are spoken to.
#[derive(Debug)]
pub(super) struct Planes {
    /// By priority.
    pub(super) addresses: Vec<Address>,
    /// How they are reached.
    pub(super) transport: Transport,
    /// Which of the two methods.
    pub(super) variant: Variant,
    /// How long one may owe its first answer.
    pub(super) response_timeout: Duration,
    /// The largest message that is taken.
    pub(super) max_message_bytes: usize,
    /// Is everything known that a control plane must send? Then it may well have nothing to say.
    pub(super) settled: watch::Receiver<bool>,
}

impl Planes {
    /// Keeps a stream open, until nobody wants its events any more.
    pub(super) async fn keep(self, events: mpsc::Sender<Event>) {
        let mut order = Order::of(self.addresses.len());
        while let Some(address) = self.addresses.get(order.current()) {
            let mut answered = None;
            let end = match self.converse(address, &events, &mut answered).await {
                Ok(end) | Err(end) => end,
            };
            let answering =
                answered.filter(|_| !end.asks_for_a_pause()).map(|since: Instant| since.elapsed());
            let wait = order.ended(answering, fastrand::f64());
            let ended = Event::Ended { address: address.clone(), answered: answered.is_some(), end, wait };
            if events.send(ended).await.is_err() {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream, from the connection to its end; `answered` is set to when it first sent something.
    async fn converse(
        &self,
        address: &Address,
        events: &mpsc::Sender<Event>,
        answered: &mut Option<Instant>,
    ) -> Result<End, End> {
        let channel = self.transport.connect(address).await?;
        let (sender, requests) = mpsc::channel(QUEUE);
        // The server may send its headers no sooner than its first answer, so that requests have to flow before.
        if events.send(Event::Opened(address.clone(), sender)).await.is_err() {
            return Ok(End::Closed);
        }
        let opened = self.open(address, channel, requests);
        let mut responses = self.patiently(false, opened).await??;
        loop {
            let Some(response) = self.patiently(answered.is_some(), responses.next()).await?? else {
                return Ok(End::Closed);
            };
            answered.get_or_insert_with(Instant::now);
            if events.send(Event::Response(Box::new(response))).await.is_err() {
                return Ok(End::Closed);
            }
        }
    }

    async fn open(
        &self,
        address: &Address,
        channel: Channel,
        requests: mpsc::Receiver<Request>,
    ) -> Result<Responses, End> {
        let requests = ReceiverStream::new(requests);
        let pieces = match self.variant {
            Variant::Delta => {
                let requests = requests.filter_map(|request| match request {
                    Request::Delta(request) => Some(request),
                    Request::Sotw(_) => None,
                });
                self.call(address, channel, requests, DELTA).await?
            }
            Variant::Sotw => {
                let requests = requests.filter_map(|request| match request {
                    Request::Sotw(request) => Some(request),
                    Request::Delta(_) => None,
                });
                self.call(address, channel, requests, SOTW).await?
            }
        };
        Ok(Responses { pieces, messages: Messages::new(self.max_message_bytes), variant: self.variant })
    }

    async fn call<Message: eastgate_proto::Message + 'static>(
        &self,
        address: &Address,
        channel: Channel,
        requests: impl Stream<Item = Message> + Send + 'static,
        method: &'static str,
    ) -> Result<Streaming<Bytes>, End> {
        let mut call = tonic::Request::new(requests);
        self.transport.authenticate(address, &mut call).await?;
        let mut client = Grpc::new(Pieces(channel));
        client.ready().await.map_err(transport::Error::Connect)?;
        let opened = client.streaming(call, PathAndQuery::from_static(method), InPieces::default()).await;
        opened.map(tonic::Response::into_inner).map_err(End::from)
    }

    /// Waits for it, but not for ever while the control plane owes an answer.
    async fn patiently<T>(&self, answered: bool, what: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return Ok(done),
                () = tokio::time::sleep(self.response_timeout), if !answered => {}
            }
            if !*self.settled.borrow() {
                return Err(End::Silent(self.response_timeout));
            }
        }
    }
}

/// The answers of either method.
struct Responses {
    pieces: Streaming<Bytes>,
    messages: Messages,
    variant: Variant,
}

impl Responses {
    /// The next one, or none when the stream has ended in good order.
    async fn next(&mut self) -> Result<Option<Response>, End> {
        loop {
            let response = match self.variant {
                Variant::Delta => self.messages.next()?.map(Response::Delta),
                Variant::Sotw => self.messages.next()?.map(Response::Sotw),
            };
            if response.is_some() {
                return Ok(response);
            }
            match self.pieces.message().await? {
                Some(piece) => self.messages.push(piece),
                None => return self.messages.end().map(|()| None).map_err(End::from),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_a_word_and_a_hint() {
        let end = |status| End::from(status);
        let oversized = End::from(messages::Error::TooLarge(9, 8));
        assert_eq!(oversized.reason(), "oversized");
        assert!(oversized.to_string().contains("xds.max_message_bytes") && oversized.asks_for_a_pause());
        let refused = end(Status::unauthenticated("authentication failure"));
        assert!(refused.to_string().contains("authentication failure"));
        assert!(refused.to_string().contains("xds.token_path"));
        assert!(!end(Status::unavailable("")).asks_for_a_pause() && !End::Closed.asks_for_a_pause());
    }
}
