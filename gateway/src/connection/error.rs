//! Why a connection did not end in the ordinary way: for the log, for the metric, and for the client.

use crate::client_hello::{Alert, Refusal, second};
use crate::gate;
use crate::inspect;
use crate::metrics::Flag;
use crate::open;
use crate::relay::{self, Side};
use crate::{table, tls, upstream};

/// Why a connection did not end in the ordinary way.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its first bytes were refused.
    #[error("refused ({reason}): {0}", reason = reason(.0))]
    Beginning(#[from] inspect::Error),
    /// Too many clients are still sending their ClientHello.
    #[error("{0} ClientHellos are pending (limits.max_pending_hellos)")]
    Pending(usize),
    /// The client has as many connections as it may.
    #[error(transparent)]
    ClientFull(#[from] gate::Full),
    /// More connections came in a time than the listener or its chain takes.
    #[error("connections come faster than the rate limit allows (local_ratelimit)")]
    TooFast,
    /// The chain has as many connections as it may.
    #[error("filter chain {chain} has its {limit} connections (connection_limit)")]
    TooMany {
        /// Its name.
        chain: String,
        /// How many it may have.
        limit: usize,
    },
    /// No filter chain takes it.
    #[error(transparent)]
    Route(#[from] table::Error),
    /// No endpoint took it.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// After a HelloRetryRequest the client named another server.
    #[error(transparent)]
    Renamed(Box<second::Error>),
    /// It is a connection of the gateway's own that has come back.
    #[error(
        "the ClientHello is on its way to an endpoint already: one of cluster {0} is this gateway, or leads back to it; take \
         it out of the service's endpoints"
    )]
    Loop(String),
    /// The client left before an endpoint had taken the connection.
    #[error("the client left while an endpoint was sought")]
    ClientLeft,
    /// The gateway's own TLS session with a side did not come about.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// It broke while bytes were relayed.
    #[error(transparent)]
    Relay(#[from] relay::Error),
    /// Another process has it.
    #[error("the connection went to another process")]
    Passed,
    /// It was asked to end.
    #[error(transparent)]
    Ended(#[from] open::End),
}

/// Who an abnormal end is down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client sent what cannot be served, or broke off.
    Client,
    /// The endpoint.
    Upstream,
    /// The gateway or its configuration.
    Gateway,
}

/// The reason in one word of a small fixed set, for a metric's label.
pub(super) fn reason(error: &inspect::Error) -> &'static str {
    match error {
        inspect::Error::Hello(refusal) => refusal.reason(),
        inspect::Error::Proxy(_) => "proxy_protocol",
    }
}

impl Error {
    /// How the connection ended, in a word.
    pub fn flag(&self) -> Flag {
        match self {
            Self::Beginning(inspect::Error::Hello(Refusal::TooSlow { .. })) => Flag::TimedOut,
            Self::Beginning(inspect::Error::Hello(Refusal::ClosedEarly { .. } | Refusal::ClosedUnused))
            | Self::ClientLeft => Flag::ClientLeft,
            Self::Beginning(_) | Self::Renamed(_) => Flag::ProtocolError,
            Self::Loop(_) => Flag::Loop,
            Self::Pending(_)
            | Self::TooMany { .. }
            | Self::ClientFull(_)
            | Self::Ended(open::End::Memory) => Flag::Overload,
            Self::TooFast => Flag::RateLimited,
            Self::Route(table::Error::NoCluster { .. }) => Flag::NoCluster,
            Self::Route(table::Error::Denied { .. }) => Flag::Denied,
            Self::Route(_) => Flag::NoRoute,
            Self::Upstream(upstream::Error::NoEndpoint(_)) => Flag::NoHealthyUpstream,
            Self::Upstream(upstream::Error::Overflow { .. } | upstream::Error::EndpointsFull(_)) => {
                Flag::UpstreamFull
            }
            Self::Upstream(upstream::Error::Connect { .. } | upstream::Error::NoOther(_)) => {
                Flag::UpstreamFailed
            }
            Self::Tls(tls::Error::Stranger { side: Side::Client, .. }) => Flag::Denied,
            Self::Tls(
                tls::Error::Handshake { side: Side::Client, .. }
                | tls::Error::TimedOut(Side::Client)
                | tls::Error::Nobody(Side::Client),
            ) => Flag::ProtocolError,
            Self::Tls(_) => Flag::UpstreamFailed,
            Self::Relay(relay::Error::Broken { side: Side::Client, .. }) => Flag::ClientLeft,
            Self::Relay(relay::Error::Broken { side: Side::Upstream, .. }) => Flag::UpstreamBroke,
            Self::Relay(relay::Error::Idle(_)) => Flag::Idle,
            Self::Relay(relay::Error::Expired(_)) => Flag::TimedOut,
            Self::Passed => Flag::Ordinary,
            Self::Ended(_) => Flag::EndedHere,
        }
    }

    /// Who it is down to.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Relay(relay::Error::Broken { side: Side::Upstream, .. }) | Self::Upstream(_) => {
                Fault::Upstream
            }
            Self::Route(table::Error::NoListener | table::Error::NoCluster { .. })
            | Self::Pending(_)
            | Self::Loop(_)
            | Self::TooFast
            | Self::TooMany { .. }
            | Self::ClientFull(_)
            | Self::Tls(tls::Error::NoCredentials | tls::Error::NoName | tls::Error::Unfit(_))
            | Self::Ended(_)
            | Self::Passed
            | Self::Relay(relay::Error::Expired(_)) => Fault::Gateway,
            Self::Tls(
                tls::Error::Handshake { side: Side::Upstream, .. }
                | tls::Error::TimedOut(Side::Upstream)
                | tls::Error::Nobody(Side::Upstream)
                | tls::Error::Stranger { side: Side::Upstream, .. },
            ) => Fault::Upstream,
            Self::Tls(_) => Fault::Client,
            Self::Renamed(_) | Self::Beginning(_) | Self::Route(_) | Self::ClientLeft | Self::Relay(_) => {
                Fault::Client
            }
        }
    }

    /// The alert that tells a TLS client, as long as no byte of an endpoint has been sent to it.
    pub fn alert(&self) -> Option<Alert> {
        match self {
            // Nobody is there, or it is no TLS yet, or an endpoint speaks already.
            Self::Beginning(inspect::Error::Hello(Refusal::ClosedUnused) | inspect::Error::Proxy(_))
            | Self::ClientLeft
            | Self::Tls(_)
            | Self::Ended(_)
            | Self::Passed
            | Self::Relay(_) => None,
            Self::Beginning(inspect::Error::Hello(refusal)) => Some(refusal.alert()),
            Self::Route(table::Error::NoChain { .. } | table::Error::NoListener) => {
                Some(Alert::UnrecognizedName)
            }
            Self::Route(table::Error::NoProtocol { .. }) => Some(Alert::NoApplicationProtocol),
            Self::Route(table::Error::Denied { .. }) => Some(Alert::AccessDenied),
            Self::Renamed(_) => Some(Alert::IllegalParameter),
            Self::Loop(_)
            | Self::Pending(_)
            | Self::TooFast
            | Self::TooMany { .. }
            | Self::ClientFull(_)
            | Self::Route(table::Error::NoCluster { .. })
            | Self::Upstream(_) => Some(Alert::InternalError),
        }
    }

    /// The error and its causes on one line.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let line = error.to_string();
            // A transparent error's cause is the same line again.
            if !text.ends_with(&line) {
                text = format!("{text}: {line}");
            }
            cause = error.source();
        }
        text
    }
}
