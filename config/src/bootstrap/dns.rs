//! Settings of DNS.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::xds::one_or_many;
use super::{Error, empty_is_none};
use crate::duration;
use crate::server_name::ServerName;

/// What DNS answers, where, and to how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "KEYS says what each means")]
pub struct Dns {
    #[serde(deserialize_with = "one_or_many")]
    pub addresses: Vec<SocketAddr>,
    #[serde(deserialize_with = "empty_is_none")]
    pub grpc_address: Option<SocketAddr>,
    #[serde(deserialize_with = "one_or_many")]
    pub zones: Vec<ServerName>,
    #[serde(with = "duration::text")]
    pub ttl: Duration,
    #[serde(with = "duration::text")]
    pub negative_ttl: Duration,
    pub automatic_addresses: bool,
    #[serde(deserialize_with = "one_or_many")]
    pub forward: Vec<SocketAddr>,
    #[serde(with = "duration::text")]
    pub forward_timeout: Duration,
    pub max_forwards: usize,
    pub max_udp_bytes: u16,
    pub max_query_bytes: u16,
    pub max_connections: usize,
    #[serde(with = "duration::text")]
    pub idle_timeout: Duration,
}

/// What every resolver takes without EDNS ([RFC 1035 §2.3.4](https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4)).
pub const MIN_UDP_BYTES: u16 = 512;

impl Default for Dns {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            grpc_address: None,
            zones: "global".parse().into_iter().collect(),
            ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(5),
            automatic_addresses: true,
            forward: Vec::new(),
            forward_timeout: Duration::from_secs(2),
            max_forwards: 256,
            // Fits every link without fragments (https://www.dnsflagday.net/2020/).
            max_udp_bytes: 1232,
            max_query_bytes: 4096,
            max_connections: 256,
            idle_timeout: Duration::from_secs(10),
        }
    }
}

impl Dns {
    /// Is it asked for at all?
    pub fn is_on(&self) -> bool {
        !self.addresses.is_empty() || self.grpc_address.is_some()
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let wrong = |key: &str, reason: &str| Err(Error::Value { key: key.into(), reason: reason.into() });
        if self.max_udp_bytes < MIN_UDP_BYTES {
            return wrong("dns.max_udp_bytes", "give a number from 512 to 65535");
        }
        if self.max_query_bytes < MIN_UDP_BYTES {
            return wrong("dns.max_query_bytes", "give a number from 512 to 65535");
        }
        if self.max_connections == 0 {
            return wrong(
                "dns.max_connections",
                "give at least 1; a truncated answer is asked for again over TCP",
            );
        }
        for (key, duration) in
            [("dns.forward_timeout", self.forward_timeout), ("dns.idle_timeout", self.idle_timeout)]
        {
            if duration.is_zero() {
                return wrong(key, "give a duration above 0, such as 2s");
            }
        }
        for (key, duration) in [("dns.ttl", self.ttl), ("dns.negative_ttl", self.negative_ttl)] {
            if duration > Duration::from_hours(24) {
                return wrong(key, "give at most 24h: a name that moves is not found before this is over");
            }
        }
        let twice = (1..self.addresses.len()).find(|index| {
            self.addresses[*index].port() != 0 && self.addresses[..*index].contains(&self.addresses[*index])
        });
        if twice.is_some() {
            return wrong("dns.addresses", "an address is there twice; remove one");
        }
        if self.forward.iter().any(|resolver| self.addresses.contains(resolver)) {
            return wrong("dns.forward", "it leads back to dns.addresses; give other resolvers");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;

    fn with(file: &str) -> Result<Dns, String> {
        let settings = Layers::new().file(file).and_then(Layers::settings);
        settings.map(|settings| settings.dns).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_unless_an_address_is_given() {
        assert!(!Dns::default().is_on());
        assert!(with("dns: {addresses: '127.0.0.1:53, [::1]:53'}").unwrap().is_on());
        assert!(with("dns: {grpc_address: '127.0.0.1:8053'}").unwrap().is_on());
    }

    #[test]
    fn what_cannot_be_is_refused_by_key() {
        for (text, key) in [
            ("dns: {max_udp_bytes: 511}", "dns.max_udp_bytes"),
            ("dns: {max_connections: 0}", "dns.max_connections"),
            ("dns: {idle_timeout: 0s}", "dns.idle_timeout"),
            ("dns: {ttl: 25h}", "dns.ttl"),
            ("dns: {zones: ['a..b']}", "dns.zones"),
            ("dns: {addresses: ['1.2.3.4:53', '1.2.3.4:53']}", "dns.addresses"),
            ("dns: {addresses: ['1.2.3.4:53'], forward: ['1.2.3.4:53']}", "dns.forward"),
        ] {
            let error = with(text).unwrap_err();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }
}
