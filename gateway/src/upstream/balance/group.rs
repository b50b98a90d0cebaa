//! A choice among endpoints that are equally well, by the cluster's policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use eastgate_config::cluster::{Cluster, LeastRequest, Policy};

use super::super::endpoint::Endpoint;
use super::{Terms, hashing, round_robin, slow_start};

/// Endpoints of a priority, and of one locality where those have shares of their own.
#[derive(Debug)]
pub struct Group {
    /// Which priority they are of.
    pub priority: u32,
    /// They are the degraded ones.
    pub degraded: bool,
    /// They are all there are, well or not, because too few are well.
    pub panic: bool,
    /// How many of all connections they get, in proportion to the other groups' shares.
    pub share: u64,
    /// How many of those that come to its priority, in proportion to the other groups there.
    pub(super) part: u64,
    endpoints: Box<[Arc<Endpoint>]>,
    /// Running sums of the weights, where they differ: a draw below the total finds its endpoint by binary search.
    sums: Option<Box<[u64]>>,
    choice: Choice,
}

#[derive(Debug)]
enum Choice {
    LeastRequest(LeastRequest),
    PeakEwma,
    Random,
    RoundRobin {
        /// Indices in the order of smooth weighted round robin, where weights differ.
        order: Option<Box<[u32]>>,
        next: AtomicUsize,
    },
    RingHash(hashing::Ring),
    Maglev(hashing::Maglev),
}

/// What a connection asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// What it is hashed by.
    pub(super) key: u64,
    pub(super) now: Instant,
    /// It is its first attempt.
    pub(super) first: bool,
}

/// What a group is made of: its own fields, and its endpoints with what their weights are multiplied by.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) priority: u32,
    pub(super) degraded: bool,
    pub(super) panic: bool,
    pub(super) share: u64,
    pub(super) part: u64,
    pub(super) endpoints: Vec<(&'a Arc<Endpoint>, f64)>,
}

impl Draft<'_> {
    /// Lower is turned to first.
    pub(super) fn rank(&self) -> (bool, bool, u32) {
        (self.panic, self.degraded, self.priority)
    }
}

/// What a weight is multiplied by before it is made smaller, so that a part of a small weight is not lost.
const FINENESS: f64 = 65_536.0;
/// What an endpoint is taken to take that was asked and has not answered yet, in milliseconds.
const UNKNOWN: f64 = 1_000.0;

impl Group {
    pub(super) fn new(config: &Cluster, draft: &Draft<'_>, terms: Terms<'_>) -> Self {
        let weights = weights(config, draft, terms.now);
        let equal = config.policy == Policy::Random || weights.windows(2).all(|pair| pair[0] == pair[1]);
        let addresses = || draft.endpoints.iter().map(|(endpoint, _)| endpoint.address);
        let choice = match config.policy {
            Policy::LeastRequest if terms.process.peak_ewma => Choice::PeakEwma,
            Policy::LeastRequest => Choice::LeastRequest(config.least_request),
            Policy::Random => Choice::Random,
            Policy::RoundRobin => Choice::RoundRobin {
                order: (!equal).then(|| round_robin::smooth_order(&weights)),
                next: AtomicUsize::new(terms.turn),
            },
            Policy::RingHash(ring) => {
                let endpoints: Vec<_> = addresses().zip(weights.iter().copied()).collect();
                Choice::RingHash(hashing::Ring::new(&endpoints, ring))
            }
            Policy::Maglev { table_size } => {
                let endpoints: Vec<_> = addresses().zip(weights.iter().copied()).collect();
                Choice::Maglev(hashing::Maglev::new(&endpoints, table_size))
            }
        };
        let sums = weights.iter().scan(0, |sum: &mut u64, weight| {
            *sum = sum.saturating_add(*weight);
            Some(*sum)
        });
        Self {
            priority: draft.priority,
            degraded: draft.degraded,
            panic: draft.panic,
            share: draft.share,
            part: draft.part,
            sums: (!equal).then(|| sums.collect()),
            endpoints: draft.endpoints.iter().map(|(endpoint, _)| Arc::clone(endpoint)).collect(),
            choice,
        }
    }

    /// Those that may be chosen.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Groups of the same rank are equally good.
    pub(super) fn rank(&self) -> (bool, bool, u32) {
        (self.panic, self.degraded, self.priority)
    }

    /// Where round robin is.
    pub(super) fn turn(&self) -> usize {
        match &self.choice {
            Choice::RoundRobin { next, .. } => next.load(Relaxed),
            _ => 0,
        }
    }

    /// One of those that are left.
    pub(super) fn pick(
        &self,
        asked: Asked,
        draw: &mut impl FnMut(u64) -> u64,
        is_left: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let index = match &self.choice {
            Choice::RingHash(ring) => return self.first_left(ring.after(asked.key), is_left),
            Choice::Maglev(maglev) => return self.first_left(maglev.after(asked.key), is_left),
            Choice::LeastRequest(how) => return self.least_loaded(how, draw, is_left),
            Choice::PeakEwma => return self.fastest(asked.now, draw, is_left),
            Choice::Random => self.drawn(draw)?,
            Choice::RoundRobin { order, next } => {
                // A further attempt of the same connection takes nobody's turn.
                let turn = if asked.first { next.fetch_add(1, Relaxed) } else { next.load(Relaxed) };
                match order {
                    Some(order) => order[turn % order.len()] as usize,
                    None => turn.checked_rem(self.endpoints.len())?,
                }
            }
        };
        self.endpoints.get(self.left_from(index, &is_left)?)
    }

    /// Of a few that are drawn by weight, the one with the fewest open connections for its weight. Equal ones are left
    /// to the draw, so that shares follow the weights while nothing is open, and connections in the long run, too.
    fn least_loaded(
        &self,
        how: &LeastRequest,
        draw: &mut impl FnMut(u64) -> u64,
        is_left: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        if how.full_scan {
            return self.least_loaded_of_all(how, draw, is_left);
        }
        let choices = (how.choices as usize).clamp(1, self.endpoints.len().max(2));
        self.least_of(choices, |index| self.load(index, how.active_request_bias), draw, is_left)
    }

    /// Of two, the one whose open connections take less time, for its weight.
    fn fastest(
        &self,
        now: Instant,
        draw: &mut impl FnMut(u64) -> u64,
        is_left: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let cost = |index: usize| {
            let stats = &self.endpoints[index].stats;
            let active = f64::from(stats.active());
            // One that nobody has asked yet is to be asked, but not by all at once.
            let unknown = if active == 0.0 { 0.0 } else { UNKNOWN };
            let latency = stats.latency(now).map_or(unknown, f64::from);
            latency * (active + 1.0) / self.weight(index)
        };
        self.least_of(2, cost, draw, is_left)
    }

    /// The one of the least cost among so many that are drawn by weight; the first of equal ones.
    fn least_of(
        &self,
        choices: usize,
        cost: impl Fn(usize) -> f64,
        draw: &mut impl FnMut(u64) -> u64,
        is_left: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let mut least: Option<(f64, usize)> = None;
        for _ in 0..choices {
            let index = self.left_from(self.drawn(draw)?, &is_left)?;
            let cost = cost(index);
            if least.is_none_or(|(smallest, _)| cost < smallest) {
                least = Some((cost, index));
            }
        }
        self.endpoints.get(least?.1)
    }

    /// Of equal ones, each has the same chance.
    fn least_loaded_of_all(
        &self,
        how: &LeastRequest,
        draw: &mut impl FnMut(u64) -> u64,
        is_left: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let mut least: Option<(f64, usize)> = None;
        let mut equals = 1;
        for index in (0..self.endpoints.len()).filter(|index| is_left(&self.endpoints[*index])) {
            let load = self.load(index, how.active_request_bias);
            let smallest = least.map_or(f64::INFINITY, |(smallest, _)| smallest);
            equals = if load == smallest { equals + 1 } else { 1 };
            if load < smallest || (load == smallest && draw(equals) == 0) {
                least = Some((load, index));
            }
        }
        self.endpoints.get(least?.1)
    }

    fn load(&self, index: usize, bias: u32) -> f64 {
        let active = f64::from(self.endpoints[index].stats.active());
        match (&self.sums, bias) {
            // Envoy's, too, does not regard the bias while weights are equal.
            (None, _) | (_, 1000) => active / self.weight(index),
            (_, 0) => 0.0,
            (_, bias) => active.powf(f64::from(bias) / 1000.0) / self.weight(index),
        }
    }

    fn weight(&self, index: usize) -> f64 {
        let Some(sums) = &self.sums else { return 1.0 };
        let before = index.checked_sub(1).map_or(0, |before| sums[before]);
        (sums[index] - before) as f64
    }

    /// The index of an endpoint drawn by weight.
    fn drawn(&self, draw: &mut impl FnMut(u64) -> u64) -> Option<usize> {
        match &self.sums {
            None if self.endpoints.is_empty() => None,
            None => Some(draw(self.endpoints.len() as u64) as usize),
            Some(sums) => {
                let point = draw(*sums.last()?);
                Some(sums.partition_point(|sum| *sum <= point))
            }
        }
    }

    fn first_left(
        &self,
        indices: impl Iterator<Item = usize>,
        is_left: impl Fn(&Endpoint) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let mut endpoints = indices.filter_map(|index| self.endpoints.get(index));
        endpoints.find(|endpoint| is_left(endpoint))
    }

    /// The first from this index on, around the end, that is left.
    fn left_from(&self, index: usize, is_left: &impl Fn(&Endpoint) -> bool) -> Option<usize> {
        let count = self.endpoints.len();
        (index..count).chain(0..index.min(count)).find(|index| is_left(&self.endpoints[*index]))
    }
}

/// The part of its weight that an endpoint has, 1 where new ones are not slowly started.
pub fn warmth(config: &Cluster, endpoint: &Endpoint, now: Instant) -> f64 {
    let age = now.saturating_duration_since(endpoint.stats.first_seen());
    config.slow_start.as_ref().map_or(1.0, |how| slow_start::part(how, age))
}

/// The endpoints' weights as the policy sees them: those of new ones are smaller for a while.
fn weights(config: &Cluster, draft: &Draft<'_>, now: Instant) -> Vec<u64> {
    let new = |endpoint: &Endpoint| warmth(config, endpoint, now);
    let parts: Vec<f64> = draft.endpoints.iter().map(|(endpoint, part)| part * new(endpoint)).collect();
    let whole = parts.iter().all(|part| *part == 1.0);
    let weight = |(part, (endpoint, _)): (&f64, &(&Arc<Endpoint>, f64))| {
        let weight = u64::from(endpoint.weight.max(1));
        if whole { weight } else { ((weight as f64 * part * FINENESS) as u64).max(1) }
    };
    parts.iter().zip(&draft.endpoints).map(weight).collect()
}
