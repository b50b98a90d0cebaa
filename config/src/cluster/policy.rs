//! How an endpoint is chosen.

use serde::Serialize;

/// The most places on a ring; Envoy's own limit, which keeps a configuration from allocating without bound.
pub const MAX_RING: u64 = 8 * 1024 * 1024;
/// The most places in Maglev's table; Envoy's own limit.
pub const MAX_MAGLEV_TABLE: u64 = 5_000_011;
/// Where nothing is said of the table's size.
const DEFAULT_MAGLEV_TABLE: u64 = 65_537;

/// How an endpoint is chosen for a new connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Of a few picked at random by weight, the one with the fewest open connections ([`LeastRequest`]).
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// At random, whatever the weights, as in Envoy.
    Random,
    /// By a hash on a ring, so that few connections move when endpoints come or go.
    RingHash(RingHash),
    /// By a hash in Maglev's table.
    Maglev {
        /// How many places the table has; a prime.
        table_size: u64,
    },
}

/// How [`Policy::LeastRequest`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LeastRequest {
    /// How many are picked to be compared.
    pub choices: u32,
    /// Where weights differ, open connections count by this power; in thousandths. 0: they do not count.
    pub active_request_bias: u32,
    /// All are compared.
    pub full_scan: bool,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: 2, active_request_bias: 1000, full_scan: false }
    }
}

impl LeastRequest {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How connections are kept in the gateway's own zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ZoneAware {
    /// For so many of the connections, in percent.
    pub percent: u32,
    /// Only with so many healthy endpoints.
    pub min_cluster_size: u64,
    /// With so many healthy endpoints in the own zone, all connections stay there, however many there are elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_from: Option<u32>,
    /// In a panic, no endpoint is used instead of all.
    pub fail_on_panic: bool,
}

/// A hash ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RingHash {
    /// At least so many places on the ring ...
    pub minimum_size: u64,
    /// ... and no more than these.
    pub maximum_size: u64,
    /// Of the places on the ring.
    pub function: HashFunction,
}

/// How a place on the ring is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashFunction {
    /// xxHash64.
    #[default]
    XxHash,
    /// MurmurHash2.
    MurmurHash2,
}

impl Policy {
    /// Maglev with a table of this size, or of the usual one. `None` where the size is not a prime, or too large.
    pub fn maglev(table_size: Option<u64>) -> Option<Self> {
        let table_size = table_size.unwrap_or(DEFAULT_MAGLEV_TABLE);
        let mut divisors = (2..).take_while(|divisor| divisor * divisor <= table_size);
        let fits = (2..=MAX_MAGLEV_TABLE).contains(&table_size)
            && divisors.all(|divisor| !table_size.is_multiple_of(divisor));
        fits.then_some(Self::Maglev { table_size })
    }
}
