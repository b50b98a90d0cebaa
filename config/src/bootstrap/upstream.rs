//! How endpoints are reached, and how their DNS names are looked up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::xds::one_or_many;
use crate::cluster::{DEFAULT_CONNECT_TIMEOUT, RetryBudget};
use crate::duration;

/// How endpoints are reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Upstream {
    #[serde(with = "duration::text")]
    pub connect_timeout: Duration,
    pub connect_attempts: u32,
    #[serde(with = "duration::text")]
    pub answer_timeout: Duration,
    pub peak_ewma: bool,
    pub hash_by: HashBy,
    pub dns: UpstreamDns,
    #[serde(with = "duration::text")]
    pub connect_deadline: Duration,
    pub hedge: Hedge,
    #[serde(with = "duration::text")]
    pub retry_backoff: Duration,
    pub retry_budget: RetryBudget,
    pub source_addresses: Vec<IpAddr>,
    pub max_connections_per_endpoint: u32,
    pub max_connects_per_endpoint: u32,
    #[serde(with = "duration::text")]
    pub hold_empty: Duration,
}

/// When a second endpoint is tried beside one that is silent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Hedge {
    pub on: bool,
    #[serde(with = "duration::text")]
    pub floor: Duration,
    #[serde(with = "duration::text")]
    pub ceiling: Duration,
}

impl Default for Hedge {
    fn default() -> Self {
        // A lost SYN is sent again by the kernel after a second, so waiting longer gains nothing.
        Self { on: true, floor: Duration::from_millis(10), ceiling: Duration::from_secs(1) }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        // Three silent endpoints in a row take less than the 10 s that a sidecar of Istio has for the whole handshake.
        let answer_timeout = Duration::from_secs(3);
        Self {
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            connect_attempts: 3,
            answer_timeout,
            peak_ewma: false,
            hash_by: HashBy::SourceIp,
            connect_deadline: Duration::from_secs(15),
            hedge: Hedge::default(),
            retry_backoff: Duration::from_millis(25),
            retry_budget: RetryBudget::default(),
            source_addresses: Vec::new(),
            max_connections_per_endpoint: 0,
            max_connects_per_endpoint: 1000,
            hold_empty: Duration::from_secs(5),
            dns: UpstreamDns::default(),
        }
    }
}

/// What decides where a connection goes whose cluster hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// The client's address, where the filter chain says so.
    #[default]
    SourceIp,
    /// The server name that the client sent: all clients of a name go to one endpoint.
    ServerName,
}

/// How the DNS names of endpoints are looked up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct UpstreamDns {
    #[serde(deserialize_with = "one_or_many")]
    pub servers: Vec<SocketAddr>,
    pub search: bool,
    #[serde(with = "duration::text")]
    pub min_ttl: Duration,
    #[serde(with = "duration::text")]
    pub max_ttl: Duration,
    #[serde(with = "duration::text")]
    pub timeout: Duration,
    #[serde(with = "duration::text")]
    pub retry: Duration,
    #[serde(with = "duration::text")]
    pub max_retry: Duration,
    pub max_lookups: usize,
}

impl Default for UpstreamDns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            search: false,
            // Neither a storm of look-ups nor an address that is kept for a day.
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            max_retry: Duration::from_secs(30),
            max_lookups: 16,
        }
    }
}

impl UpstreamDns {
    pub(super) fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, reason: &str| {
            Err(Error::Value { key: format!("upstream.dns.{key}"), reason: reason.into() })
        };
        let durations = [("min_ttl", self.min_ttl), ("timeout", self.timeout), ("retry", self.retry)];
        for (key, duration) in durations {
            if duration.is_zero() {
                return wrong(key, "give a duration above 0, such as 5s");
            }
        }
        if self.max_ttl < self.min_ttl {
            return wrong("max_ttl", "give at least upstream.dns.min_ttl");
        }
        if self.max_retry < self.retry {
            return wrong("max_retry", "give at least upstream.dns.retry");
        }
        if self.max_lookups == 0 {
            return wrong("max_lookups", "give at least 1");
        }
        Ok(())
    }
}
