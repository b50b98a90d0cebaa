//! Connections for OpenTelemetry's collectors: a span for each, with its phases below it, and a log record. What a collector does
//! not take in time is dropped and counted; nothing waits for it.

use std::path::PathBuf;
use std::time::Duration;

use eastgate_config::bootstrap;
use eastgate_proto::Message;
use eastgate_proto::otlp::{ExportLogs, ExportResponse, ExportTraces};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_prost::ProstCodec;

use crate::access_log::{Also, Record};
use crate::metrics;

mod message;

use message::Reporter;

/// Records that wait to be sent.
const QUEUE: usize = 4 * 1024;
/// Records in a message, at most.
const BATCH: usize = 512;
/// A record is on its way after this at the latest.
const DELAY: Duration = Duration::from_secs(1);
/// For one message.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a collector is left alone that did not take a message, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why there is no collector.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error(
        "otlp.address: {address} is no address of a collector; write it like http://otel-collector:4317 or https://otel.example:4317"
    )]
    Address {
        /// As it is set.
        address: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("otlp.ca_path: {} cannot be read", path.display())]
    Roots {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    #[error("it does not answer within {TIMEOUT:?}")]
    TimedOut,
}

/// What is sent to a collector, and how.
#[derive(Debug)]
pub struct Exporter {
    records: mpsc::Receiver<Box<Record>>,
    endpoint: Endpoint,
    /// Until it has failed.
    channel: Option<Channel>,
    settings: bootstrap::Otlp,
    reporter: Reporter,
    metrics: metrics::Otlp,
}

impl Exporter {
    /// For the collector of the settings, if they name one. Nothing is connected yet.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(
        settings: &bootstrap::Settings,
        metrics: &metrics::Otlp,
    ) -> Result<Option<(Also, Self)>, Error> {
        let Some(address) = settings.otlp.address.clone() else { return Ok(None) };
        let endpoint = Endpoint::from_shared(address.clone())
            .map_err(|source| Error::Address { address, source })?
            .connect_timeout(TIMEOUT);
        let (sender, records) = mpsc::channel(QUEUE);
        let also =
            Also { records: sender, dropped: metrics.dropped.clone(), wants_extra: settings.otlp.traces };
        let exporter = Self {
            records,
            endpoint,
            channel: None,
            settings: settings.otlp.clone(),
            reporter: Reporter::new(&settings.node),
            metrics: metrics.clone(),
        };
        Ok(Some((also, exporter)))
    }

    /// Sends what comes, until nobody sends any more and all is gone.
    pub async fn run(mut self) {
        let mut back_off = BACK_OFF.0;
        let mut failing = false;
        while let Some(batch) = self.batch().await {
            match self.export(&batch).await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the OTLP collector takes records again");
                    }
                    self.metrics.exported.inc_by(batch.len() as u64);
                    back_off = BACK_OFF.0;
                }
                Err(error) => {
                    self.channel = None;
                    self.metrics.dropped.inc_by(batch.len() as u64);
                    if !std::mem::replace(&mut failing, true) {
                        let address = self.settings.address.as_deref();
                        tracing::warn!(address, error = %with_causes(&error), "the OTLP collector does not take records");
                    }
                    // Whoever wants to end waits no longer for it.
                    let wait = Instant::now() + back_off;
                    while Instant::now() < wait && !self.records.is_closed() {
                        tokio::time::sleep(DELAY.min(wait - Instant::now())).await;
                    }
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    /// The next records, once there are enough or the first has waited for long enough.
    async fn batch(&mut self) -> Option<Vec<Box<Record>>> {
        let mut batch = vec![self.records.recv().await?];
        let due = Instant::now() + DELAY;
        while batch.len() < BATCH
            && let Ok(Some(record)) = timeout_at(due, self.records.recv()).await
        {
            batch.push(record);
        }
        Some(batch)
    }

    async fn export(&mut self, batch: &[Box<Record>]) -> Result<(), Failure> {
        let channel = self.channel().await?;
        let ids: Vec<_> = batch.iter().map(|record| message::ids(record)).collect();
        let told: Vec<_> = batch.iter().map(|record| &**record).zip(ids).collect();
        if self.settings.traces {
            self.send(&channel, ExportTraces::METHOD, self.reporter.traces(&told)).await?;
        }
        if self.settings.logs {
            self.send(&channel, ExportLogs::METHOD, self.reporter.logs(&told)).await?;
        }
        Ok(())
    }

    /// The way to the collector. Whom to believe is read for each new one, so that a renewed file is in use after the first failure.
    async fn channel(&mut self) -> Result<Channel, Failure> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let mut endpoint = self.endpoint.clone();
        if endpoint.uri().scheme_str() == Some("https") {
            let tls = match &self.settings.ca_path {
                None => ClientTlsConfig::new().with_native_roots(),
                Some(path) => {
                    let pem = tokio::fs::read(path).await;
                    let pem = pem.map_err(|source| Failure::Roots { path: path.clone(), source })?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
            };
            endpoint = endpoint.tls_config(tls)?;
        }
        Ok(self.channel.insert(endpoint.connect_lazy()).clone())
    }

    async fn send<M: Message + Default + 'static>(
        &self,
        channel: &Channel,
        method: &'static str,
        message: M,
    ) -> Result<(), Failure> {
        let mut client = tonic::client::Grpc::new(channel.clone());
        let sending = async {
            client.ready().await?;
            let codec = ProstCodec::<M, ExportResponse>::default();
            let request = tonic::Request::new(message);
            let answer = client.unary(request, PathAndQuery::from_static(method), codec).await;
            answer.map_err(|status| Failure::Refused(Box::new(status)))
        };
        let answer = timeout(TIMEOUT, sending).await.unwrap_or(Err(Failure::TimedOut))?.into_inner();
        if let Some(rejected) = answer.partial_success.filter(|partial| partial.rejected > 0) {
            self.metrics.rejected.inc_by(rejected.rejected.try_into().unwrap_or_default());
        }
        Ok(())
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
