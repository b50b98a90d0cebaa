//! Taking in connections: so many at a time, each in a task that ends with this one.

use std::time::Duration;

use eastgate_config::bootstrap::dns::Dns as Settings;
use prometheus::{IntCounterVec, IntGauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::Transport;
use crate::gate::Gate;
use crate::metrics;

/// After an error of `accept`, which may be that there is no file descriptor left.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// The connections of one transport.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    transport: Transport,
    gate: Gate,
    open: IntGauge,
    dropped: IntCounterVec,
}

impl Connections {
    pub(super) fn new(settings: &Settings, transport: Transport, metrics: &metrics::Dns) -> Self {
        Self {
            transport,
            gate: Gate::new(settings.max_connections),
            open: metrics.connections.with_label_values(&[transport.label()]),
            dropped: metrics.dropped.clone(),
        }
    }

    /// Serves each in a task of its own. One too many is closed at once: its client may come again, or ask elsewhere.
    pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        socket: TcpListener,
        serve: impl Fn(TcpStream) -> F,
    ) -> anyhow::Result<()> {
        let mut served = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                Some(_) = served.join_next() => {
                    self.count_open();
                    continue;
                }
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, transport = self.transport.label(), "cannot accept for DNS");
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            let Some(pass) = self.gate.enter() else {
                self.dropped.with_label_values(&[self.transport.label(), "connections"]).inc();
                continue;
            };
            self.count_open();
            // Answers are small and whole; waiting for more would only delay them.
            let _ = stream.set_nodelay(true);
            let serving = serve(stream);
            served.spawn(async move {
                serving.await;
                drop(pass);
            });
        }
    }

    fn count_open(&self) {
        self.open.set(self.gate.inside().try_into().unwrap_or(i64::MAX));
    }
}
