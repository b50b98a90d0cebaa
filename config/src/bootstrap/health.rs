//! Settings of endpoints' health.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::xds::one_or_many;
use crate::cluster::{HealthCheck, Probe};
use crate::duration;

/// How endpoints are checked where the source does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Health {
    pub check: Check,
    #[serde(with = "duration::text")]
    pub interval: Duration,
    #[serde(with = "duration::text")]
    pub timeout: Duration,
    #[serde(with = "duration::text")]
    pub jitter: Duration,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    #[serde(deserialize_with = "one_or_many")]
    pub protocols: Vec<String>,
    pub max_probes: usize,
}

/// What endpoints are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Nothing.
    #[default]
    Off,
    /// To take a connection.
    Tcp,
    /// To answer a ClientHello.
    Tls,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            check: Check::default(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            jitter: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 1,
            protocols: ["istio-peer-exchange", "istio"].map(str::to_owned).into(),
            max_probes: 64,
        }
    }
}

impl Health {
    /// The check of the clusters for which the source gives none.
    pub fn default_check(&self) -> Option<HealthCheck> {
        let probe = match self.check {
            Check::Off => return None,
            Check::Tcp => Probe::Tcp { send: Vec::new(), receive: Vec::new() },
            Check::Tls => Probe::Tls { server_name: String::new(), protocols: self.protocols.clone() },
        };
        Some(HealthCheck {
            interval: self.interval,
            timeout: self.timeout,
            unhealthy_threshold: self.unhealthy_threshold,
            healthy_threshold: self.healthy_threshold,
            jitter: self.jitter,
            no_traffic_interval: None,
            port: None,
            probe,
        })
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, reason: &str| {
            Err(Error::Value { key: format!("health.{key}"), reason: reason.to_owned() })
        };
        let protocols = &self.protocols;
        match self {
            _ if self.interval.is_zero() => {
                wrong("interval", "endpoints would be asked all the time; give 1s or more")
            }
            _ if self.timeout.is_zero() => {
                wrong("timeout", "no endpoint could answer in time; give 1s or more")
            }
            _ if self.unhealthy_threshold == 0 => wrong("unhealthy_threshold", "give 1 or more"),
            _ if self.healthy_threshold == 0 => wrong("healthy_threshold", "give 1 or more"),
            _ if self.max_probes == 0 => wrong("max_probes", "no endpoint could be asked; give 1 or more"),
            _ if protocols.iter().any(|name| name.is_empty() || name.len() > 255) => {
                wrong("protocols", "a protocol's name has 1 to 255 bytes")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_never_work_is_refused_by_its_key() {
        let refused = |health: Health| health.validate().map_err(|error| error.to_string());
        assert_eq!(refused(Health::default()), Ok(()));
        let idle = Health { max_probes: 0, ..Health::default() };
        assert!(refused(idle).unwrap_err().starts_with("health.max_probes"));
        let busy = Health { interval: Duration::ZERO, ..Health::default() };
        assert!(refused(busy).unwrap_err().starts_with("health.interval"));
    }

    #[test]
    fn nothing_is_asked_unless_that_is_set() {
        assert_eq!(Health::default().default_check(), None);
        let check = Health { check: Check::Tls, ..Health::default() }.default_check().unwrap();
        assert!(matches!(check.probe, Probe::Tls { ref server_name, .. } if server_name.is_empty()));
    }
}
