//! Which endpoint takes the next connection. Pure: time and chance come in as arguments.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use eastgate_config::cluster::{self, Policy};
use eastgate_config::endpoint::Health;

use super::endpoint::Endpoint;

pub mod hashing;
mod round_robin;

/// The endpoints that may be chosen, ready for the cluster's policy.
#[derive(Debug)]
pub struct Balancer {
    policy: Choice,
    endpoints: Box<[Arc<Endpoint>]>,
    /// Running sums of the weights, where they differ: a draw below the total finds its endpoint by binary search.
    cumulative: Option<Box<[u64]>>,
}

#[derive(Debug)]
enum Choice {
    LeastRequest,
    Random,
    RoundRobin {
        /// Indices in the order of smooth weighted round robin, where weights differ.
        order: Option<Box<[u32]>>,
        next: AtomicUsize,
    },
    RingHash(hashing::Ring),
    Maglev(hashing::Maglev),
}

impl Balancer {
    /// Prepares a choice among those endpoints that take new connections: the healthy ones of the first priority
    /// that has any, else its degraded ones.
    pub fn new(config: &cluster::Cluster, endpoints: &[Arc<Endpoint>], _now: Instant) -> Self {
        let priority =
            |endpoint: &Endpoint| config.localities.get(endpoint.group).map_or(0, |at| at.priority);
        let mut usable: Vec<_> = endpoints
            .iter()
            .filter(|endpoint| endpoint.takes_connections())
            .map(|endpoint| ((priority(endpoint), endpoint.health == Health::Degraded), endpoint))
            .collect();
        let first = usable.iter().map(|(rank, _)| *rank).min();
        usable.retain(|(rank, _)| Some(*rank) == first);
        let endpoints: Box<[_]> = usable.into_iter().map(|(_, endpoint)| Arc::clone(endpoint)).collect();

        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight.max(1)).collect();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let policy = match config.policy {
            Policy::LeastRequest => Choice::LeastRequest,
            Policy::RingHash(ring) => Choice::RingHash(hashing::Ring::new(
                &weighted(&endpoints),
                ring.minimum_size,
                ring.maximum_size,
            )),
            Policy::Maglev { table_size } => {
                Choice::Maglev(hashing::Maglev::new(&weighted(&endpoints), table_size))
            }
            Policy::Random => Choice::Random,
            Policy::RoundRobin => Choice::RoundRobin {
                order: (!equal).then(|| round_robin::smooth_order(&weights)),
                next: AtomicUsize::new(0),
            },
        };
        let cumulative = (!equal).then(|| {
            let sums = weights.iter().scan(0u64, |sum, weight| {
                *sum += u64::from(*weight);
                Some(*sum)
            });
            sums.collect()
        });
        Self { policy, endpoints, cumulative }
    }

    /// The endpoints that may be chosen.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// An endpoint for a new connection, other than those tried before and those that went out since the choice was
    /// made; `None` when none is left. `key` is what the connection is hashed by, where it is; `draw(n)` gives a number
    /// below `n` by chance.
    pub fn pick(
        &self,
        tried: &[SocketAddr],
        key: Option<u64>,
        _now: Instant,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Option<&Arc<Endpoint>> {
        // Without a key, any place is as good as another.
        let mut key = || key.unwrap_or_else(|| draw(u64::MAX));
        match &self.policy {
            Choice::RingHash(ring) => self.first_untried(ring.after(key()), tried),
            Choice::Maglev(maglev) => self.first_untried(maglev.after(key()), tried),
            Choice::Random => self.untried(self.drawn(&mut draw)?, tried),
            Choice::RoundRobin { order, next } => {
                // A further attempt of the same connection takes nobody's turn.
                let turn = if tried.is_empty() { next.fetch_add(1, Relaxed) } else { next.load(Relaxed) };
                let index = match order {
                    Some(order) => order[turn % order.len()] as usize,
                    None => turn.checked_rem(self.endpoints.len())?,
                };
                self.untried(index, tried)
            }
            Choice::LeastRequest => {
                let one = self.untried(self.drawn(&mut draw)?, tried)?;
                let other = self.untried(self.drawn(&mut draw)?, tried)?;
                Some(if other.stats.active() < one.stats.active() { other } else { one })
            }
        }
    }

    /// The index of an endpoint drawn by weight.
    fn drawn(&self, draw: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        match &self.cumulative {
            None if self.endpoints.is_empty() => None,
            None => Some(draw(self.endpoints.len() as u64) as usize),
            Some(sums) => {
                let point = draw(*sums.last()?);
                Some(sums.partition_point(|sum| *sum <= point))
            }
        }
    }

    fn first_untried(
        &self,
        indices: impl Iterator<Item = usize>,
        tried: &[SocketAddr],
    ) -> Option<&Arc<Endpoint>> {
        let mut endpoints = indices.filter_map(|index| self.endpoints.get(index));
        endpoints.find(|endpoint| is_left(endpoint, tried))
    }

    /// The first endpoint from this index on, around the end, that was not tried.
    fn untried(&self, index: usize, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        let (before, from) = self.endpoints.split_at_checked(index)?;
        from.iter().chain(before).find(|endpoint| is_left(endpoint, tried))
    }
}

fn is_left(endpoint: &Endpoint, tried: &[SocketAddr]) -> bool {
    !endpoint.stats.is_out() && !tried.contains(&endpoint.address)
}

fn weighted(endpoints: &[Arc<Endpoint>]) -> Vec<(SocketAddr, u32)> {
    endpoints.iter().map(|endpoint| (endpoint.address, endpoint.weight.max(1))).collect()
}

#[cfg(test)]
mod tests;
