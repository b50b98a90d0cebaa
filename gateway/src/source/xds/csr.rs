//! A client certificate from the mesh's CA: asked for with a key that never leaves the process, and renewed when half
//! of its life is over.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use eastgate_config::bootstrap::xds::Address;
use eastgate_proto::istio::{IstioCertificateRequest, IstioCertificateResponse};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;
use x509_parser::pem::Pem;

use super::backoff::Backoff;
use super::certificate::KeyAndChain;
use super::transport::{self, Transport, with_causes};
use crate::metrics;

/// Renewed at this part of its life, as Istio's agent does ...
const RENEW_AT: f64 = 0.5;
/// ... give or take this part of it, so that a fleet that started at once does not ask at once.
const JITTER: f64 = 0.01;
/// The CA is not asked more often than this, however short the life that it gives.
const SHORTEST: Duration = Duration::from_secs(1);
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
    #[error("its answer holds {0} certificates; there should be a leaf and a root at least")]
    Short(usize),
    #[error("its answer holds no certificate that can be read")]
    Unreadable,
}

/// A certificate and its life.
#[derive(Debug)]
struct Issued {
    certificate: KeyAndChain,
    from: SystemTime,
    until: SystemTime,
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
    /// What is counted.
    pub(super) metrics: metrics::Xds,
}

impl Ca {
    /// Keeps a valid certificate there.
    pub(super) async fn keep(self, issued: watch::Sender<Option<Arc<KeyAndChain>>>) {
        let mut backoff = Backoff::default();
        let mut failing = false;
        let mut valid_until = None;
        loop {
            let wait = match self.ask_in_time().await {
                Ok(Issued { certificate, from, until }) => {
                    issued.send_replace(Some(Arc::new(certificate)));
                    self.metrics.certificate_requests.with_label_values(&["ok"]).inc();
                    self.metrics.certificate_expiry.set(metrics::timestamp(until));
                    let renewal = renewal(from, until, SystemTime::now(), fastrand::f64());
                    let identity = &self.spiffe;
                    tracing::info!(address = %self.address, identity, ?renewal, "the mesh's CA has issued a certificate");
                    backoff.reset();
                    failing = false;
                    valid_until = Some(until);
                    renewal
                }
                Err(error) => {
                    self.metrics.certificate_requests.with_label_values(&["failed"]).inc();
                    let wait = backoff.wait(fastrand::f64());
                    let error = with_causes(&error);
                    if failing {
                        tracing::debug!(address = %self.address, error, ?wait, "still no certificate");
                    } else {
                        tracing::warn!(address = %self.address, error, ?wait, "no certificate from the mesh's CA");
                    }
                    failing = true;
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

    async fn ask_in_time(&self) -> Result<Issued, Error> {
        tokio::time::timeout(TIMEOUT, self.ask()).await.unwrap_or(Err(Error::TimedOut))
    }

    async fn ask(&self) -> Result<Issued, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let seconds = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let request = IstioCertificateRequest {
            csr: signing_request(&self.spiffe, &key)?,
            validity_duration: seconds,
            metadata: None,
        };
        let channel = self.transport.connect(&self.address).await?;
        let mut call = tonic::Request::new(request);
        self.transport.authenticate(&self.address, &mut call).await?;
        let refused = |status| Error::Refused(Box::new(status));
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|error| refused(Status::unavailable(error.to_string())))?;
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let method = PathAndQuery::from_static(IstioCertificateRequest::METHOD);
        let response = client.unary(call, method, codec).await.map_err(refused)?;
        accept(response.into_inner().cert_chain, &key)
    }
}

fn signing_request(spiffe: &str, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(spiffe.try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Takes the CA's answer apart: the leaf is first, and the root, which peers have already, last.
fn accept(mut chain: Vec<String>, key: &KeyPair) -> Result<Issued, Error> {
    if chain.len() < 2 {
        return Err(Error::Short(chain.len()));
    }
    chain.pop();
    let leaf = chain.first().ok_or(Error::Unreadable)?;
    let pem = Pem::iter_from_buffer(leaf.as_bytes()).next().and_then(Result::ok).ok_or(Error::Unreadable)?;
    let validity = pem.parse_x509().map_err(|_| Error::Unreadable)?.validity().clone();
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let (from, until) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    let chain: String = chain.iter().map(|pem| format!("{}\n", pem.trim_end())).collect();
    Ok(Issued { certificate: KeyAndChain { chain, key: key.serialize_pem() }, from, until })
}

/// How long from now until the certificate is to be renewed; `chance` is from 0 to 1.
fn renewal(from: SystemTime, until: SystemTime, now: SystemTime, chance: f64) -> Duration {
    let life = until.duration_since(from).unwrap_or_default();
    let part = RENEW_AT + JITTER * (2.0 * chance.clamp(0.0, 1.0) - 1.0);
    let at = from + life.mul_f64(part);
    at.duration_since(now).unwrap_or_default().max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + hours * 3600)
    }

    #[test]
    fn it_is_renewed_at_half_of_its_life_give_or_take_a_hundredth() {
        let hours = |chance| renewal(at(0), at(100), at(10), chance).as_secs_f64() / 3600.0;
        assert_eq!([hours(0.0), hours(0.5), hours(1.0)], [39.0, 40.0, 41.0]);
    }

    #[test]
    fn one_that_is_past_half_of_its_life_or_has_none_is_renewed_soon_but_not_at_once() {
        assert_eq!(renewal(at(0), at(10), at(9), 0.5), SHORTEST);
        assert_eq!(renewal(at(0), at(10), at(99), 0.5), SHORTEST);
        assert_eq!(renewal(at(10), at(0), at(5), 0.5), 5 * Duration::from_secs(3600));
        assert_eq!(renewal(at(1), at(1), at(1), 1.0), SHORTEST);
    }

    #[test]
    fn the_request_names_the_identity() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = signing_request("spiffe://cluster.local/ns/a/sa/b", &key).unwrap();
        let der = Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap().contents;
        assert!(String::from_utf8_lossy(&der).contains("spiffe://cluster.local/ns/a/sa/b"));
    }

    #[test]
    fn a_chain_is_taken_without_its_root_and_a_shorter_one_not_at_all() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["x".into()]).unwrap();
        params.not_before = at(0).into();
        params.not_after = at(24).into();
        let pem = params.self_signed(&key).unwrap().pem();
        let chain = |texts: &[&str]| accept(texts.iter().map(ToString::to_string).collect(), &key);
        let issued = chain(&[&pem, "middle", "root"]).unwrap();
        assert_eq!((issued.from, issued.until), (at(0), at(24)));
        assert!(issued.certificate.chain.ends_with("middle\n") && issued.certificate.key.contains("PRIVATE"));
        assert!(matches!(chain(&[&pem]), Err(Error::Short(1))));
        assert!(matches!(chain(&[]), Err(Error::Short(0))));
        assert!(matches!(chain(&["rubbish", "root"]), Err(Error::Unreadable)));
    }
}
