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
    /// Of two picked at random by weight, the one with fewer open connections.
    #[default]
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// By a hash on a ring, so that few connections move when endpoints come or go.
    RingHash(RingHash),
    /// By a hash in Maglev's table.
    Maglev {
        /// How many places the table has; a prime.
        table_size: u64,
    },
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
