//! Settings of the look-up of endpoints' DNS names.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::xds::one_or_many;
use crate::duration;

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
