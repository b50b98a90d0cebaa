//! Endpoints given by DNS name: looked up off the data threads, kept fresh, and kept when a look-up fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use eastgate_config::bootstrap::UpstreamDns;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cluster::Resolutions;
use crate::metrics;

mod names;
mod servers;

pub use names::Wanted;
use names::{Counts, Found, Names, Result as Outcome, Settled};
use servers::Servers;

/// Where the system names its DNS servers.
const SYSTEM: &str = "/etc/resolv.conf";
/// A look-up with all its attempts may take so many times the timeout of one; then it has failed.
const ATTEMPTS: u32 = 4;
/// A wait that may be as long as it likes.
const IDLE: Duration = Duration::from_secs(3600);

/// Keeps `resolved` in step with `wanted` until either end is dropped.
pub async fn run(
    settings: UpstreamDns,
    mut wanted: watch::Receiver<BTreeMap<String, Wanted>>,
    resolved: watch::Sender<Resolutions>,
    metrics: metrics::Resolve,
) {
    let longest = settings.timeout.saturating_mul(ATTEMPTS);
    let mut servers = Servers::new(settings.clone(), SYSTEM);
    if let Err(error) = servers.resolver() {
        tracing::warn!("{error}; until then endpoints that are given by a DNS name have no address");
    }
    let mut names = Names::new(settings);
    let mut lookups = JoinSet::new();
    loop {
        if names.want(&wanted.borrow_and_update(), Instant::now()) {
            resolved.send_replace(names.resolutions());
        }
        for name in names.due(Instant::now()) {
            let way = servers.resolver().and_then(|resolver| Ok((resolver, servers.question(&name)?)));
            lookups.spawn(async move {
                let found = match way {
                    Ok((resolver, question)) => look_up(&resolver, &question, longest).await,
                    Err(error) => [Found::Failed(error.clone()), Found::Failed(error)],
                };
                (name, found)
            });
        }
        let Counts { fresh, stale, unknown } = names.counts();
        for (state, count) in [("fresh", fresh), ("stale", stale), ("unknown", unknown)] {
            metrics.names.with_label_values(&[state]).set(count.try_into().unwrap_or(i64::MAX));
        }
        let next = names.next().unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = resolved.closed() => return,
            () = tokio::time::sleep_until(next.into()) => {}
            Some(Ok((name, found))) = lookups.join_next() => {
                let settled = names.settle(&name, found, Instant::now(), fastrand::f64());
                if let Some(settled) = settled {
                    tell(&name, &settled, &metrics);
                    if settled.changed {
                        resolved.send_replace(names.resolutions());
                    }
                }
            }
        }
    }
}

/// A name that fails is worth a line when it begins to, and one when it is over.
fn tell(name: &str, settled: &Settled, metrics: &metrics::Resolve) {
    let result = match settled.result {
        Outcome::Answered => "answered",
        Outcome::Negative => "negative",
        Outcome::Failed => "failed",
    };
    metrics.lookups.with_label_values(&[result]).inc();
    if let Some((error, kept)) = &settled.began_to_fail {
        tracing::warn!(%name, %error, kept, "look-up of an endpoint's name failed; its last addresses stay in use");
    }
    if settled.recovered {
        tracing::info!(%name, "the endpoint's name is resolved again");
    }
}

/// Asks for both families: they fail, and are kept, each by itself.
async fn look_up(resolver: &TokioResolver, name: &Name, longest: Duration) -> [Found; 2] {
    let family = async |kind| match tokio::time::timeout(longest, resolver.lookup(name.clone(), kind)).await {
        Ok(answer) => found(answer),
        Err(_) => Found::Failed(format!("no answer within {longest:?}")),
    };
    let (v4, v6) = tokio::join!(family(RecordType::A), family(RecordType::AAAA));
    [v4, v6]
}

fn found(answer: Result<hickory_resolver::lookup::Lookup, NetError>) -> Found {
    match answer {
        Ok(lookup) => {
            let addresses = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(address.0.into()),
                RData::AAAA(address) => Some(address.0.into()),
                _ => None,
            });
            let addresses: Vec<_> = addresses.collect();
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            if addresses.is_empty() { Found::None(Some(ttl)) } else { Found::Addresses(addresses, ttl) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            hickory_resolver::proto::op::ResponseCode::NXDomain
            | hickory_resolver::proto::op::ResponseCode::NoError => {
                Found::None(none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into())))
            }
            code => Found::Failed(format!("the DNS server answers {code}")),
        },
        Err(error) => Found::Failed(error.to_string()),
    }
}
