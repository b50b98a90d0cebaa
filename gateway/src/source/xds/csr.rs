//! A client certificate from the mesh's CA: asked for with a key that the CA never sees, and renewed when half
//! of its life is over. With a state directory it outlives the process.

mod issued;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use eastgate_config::bootstrap::xds::Address;
use eastgate_proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::backoff::Backoff;
use super::certificate::KeyAndChain;
use super::kept::Kept;
use super::transport::{self, Transport, with_causes};
use crate::metrics;

pub(super) use issued::Issued;

/// For the whole of one request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Transport(#[from] transport::Error),
    #[error("{:?}: {}", .0.code(), .0.message())]
    Refused(Box<Status>),
    #[error("it does not answer within {TIMEOUT:?}")]
    TimedOut,
    #[error("cannot make a signing request")]
    Request(#[from] rcgen::Error),
    #[error(transparent)]
    Answer(#[from] issued::Error),
}

/// The mesh's CA, and what is asked of it.
#[derive(Debug)]
pub(super) struct Ca {
    /// Where it is.
    pub(super) address: Address,
    /// How it is reached; shows the certificate in use, once there is one.
    pub(super) transport: Transport,
    /// The identity asked for. The CA goes by the credentials, but other CAs than Istio's look at it.
    pub(super) spiffe: String,
    /// How long it is to live.
    pub(super) lifetime: Duration,
    /// Where the certificate is kept, if it is.
    pub(super) file: Option<Kept>,
    /// What is counted.
    pub(super) metrics: metrics::Xds,
}

impl Ca {
    /// Keeps a valid certificate there; `known` is one of an earlier process. That is renewed at once: it may be of a
    /// root that is not the mesh's any more.
    pub(super) async fn keep(self, issued: watch::Sender<Option<Arc<KeyAndChain>>>, known: Option<Issued>) {
        let mut backoff = Backoff::default();
        let mut failed = 0_u32;
        let mut valid_until = known.map(|known| known.until);
        if let Some(until) = valid_until {
            self.metrics.certificate_expiry.set(metrics::timestamp(until));
        }
        loop {
            // The certificate may be what the CA takes offence at, or the token: each gets its turn alone.
            let transport = match failed % 2 {
                0 => self.transport.clone(),
                _ => self.transport.without_certificate(),
            };
            let wait = match self.ask_in_time(&transport).await {
                Ok(new) => {
                    issued.send_replace(Some(Arc::new(new.certificate.clone())));
                    self.metrics.certificate_requests.with_label_values(&["ok"]).inc();
                    self.metrics.certificate_expiry.set(metrics::timestamp(new.until));
                    let renewal = new.renewal(SystemTime::now(), fastrand::f64());
                    let identity = &self.spiffe;
                    tracing::info!(address = %self.address, identity, ?renewal, "the mesh's CA has issued a certificate");
                    backoff.reset();
                    failed = 0;
                    valid_until = Some(new.until);
                    self.write(new).await;
                    renewal
                }
                Err(error) => {
                    self.metrics.certificate_requests.with_label_values(&["failed"]).inc();
                    let wait = backoff.wait(fastrand::f64());
                    let error = with_causes(&error);
                    if failed > 0 {
                        tracing::debug!(address = %self.address, error, ?wait, "still no certificate");
                    } else {
                        tracing::warn!(address = %self.address, error, ?wait, "no certificate from the mesh's CA");
                    }
                    failed = failed.saturating_add(1);
                    // A control plane refuses one that is over, where it might have taken the token alone.
                    if valid_until.is_some_and(|until| SystemTime::now() >= until) {
                        issued.send_replace(None);
                    }
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn write(&self, issued: Issued) {
        let Some(file) = self.file.clone() else { return };
        let directory = file.directory.display().to_string();
        let writing = tokio::task::spawn_blocking(move || issued.write(&file, SystemTime::now()));
        if let Err(error) = writing.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::warn!(directory, %error, "cannot keep the client certificate; it ends with this process");
        }
    }

    async fn ask_in_time(&self, transport: &Transport) -> Result<Issued, Error> {
        tokio::time::timeout(TIMEOUT, self.ask(transport)).await.unwrap_or(Err(Error::TimedOut))
    }

    async fn ask(&self, transport: &Transport) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let seconds = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let request = IstioCertificateRequest {
            csr: signing_request(&self.spiffe, &key)?,
            validity_duration: seconds,
            metadata: None,
        };
        let channel = transport.connect(&self.address).await?;
        let mut call = tonic::Request::new(request);
        transport.authenticate(&self.address, &mut call).await?;
        let refused = |status| Error::Refused(Box::new(status));
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| refused(Status::unavailable(error.to_string())))?;
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let method = PathAndQuery::from_static(IstioCertificateRequest::METHOD);
        let response = client.unary(call, method, codec).await.map_err(refused)?;
        Ok(Issued::accept(response.into_inner().cert_chain, key.serialize_pem())?)
    }
}

fn signing_request(spiffe: &str, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(spiffe.try_into()?)];
    params.serialize_request(key)?.pem()
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::Pem;

    use super::*;

    #[test]
    fn the_request_names_the_identity() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = signing_request("spiffe://cluster.local/ns/a/sa/b", &key).unwrap();
        let der = Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap().contents;
        assert!(String::from_utf8_lossy(&der).contains("spiffe://cluster.local/ns/a/sa/b"));
    }
}
