//! Which names are looked up when, and what each stands for. Pure: time and chance are arguments.
//!
//! An answer with addresses replaces what was known. Whatever else comes (no such name, no address, no answer) changes
//! nothing: an address that is not right any more costs a failed attempt, and none costs every connection. So the last
//! good answer is kept for as long as its name is wanted, whatever its time to live was.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use eastgate_config::bootstrap::UpstreamDns;
use eastgate_config::cluster::{self, Resolutions};

/// No refresh rate of a cluster is taken for less than this.
const MOST_OFTEN: Duration = Duration::from_secs(1);
/// Up to this part of a wait is added to it, so that names that came together are not looked up together for ever.
const JITTER: f64 = 0.1;

/// How clusters want a name to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// When its time to live is over.
    by_ttl: bool,
    /// This long after the answer, whatever its time to live.
    every: Option<Duration>,
    /// The order of the answer counts (`LOGICAL_DNS` uses the first); otherwise a rotated answer is no change.
    in_order: bool,
}

impl Wanted {
    /// As a cluster wants it.
    pub fn new(dns: Option<&cluster::Dns>) -> Self {
        match dns {
            None => Self { by_ttl: true, every: None, in_order: false },
            Some(dns) => Self {
                by_ttl: dns.respect_ttl,
                every: (!dns.respect_ttl).then_some(dns.refresh),
                in_order: dns.logical,
            },
        }
    }

    /// As two clusters want it: as often as the one that wants it more often.
    pub fn and(self, other: Self) -> Self {
        Self {
            by_ttl: self.by_ttl || other.by_ttl,
            every: self.every.into_iter().chain(other.every).min(),
            in_order: self.in_order || other.in_order,
        }
    }

    fn wait(self, ttl: Duration, settings: &UpstreamDns) -> Duration {
        let by_ttl = self.by_ttl.then(|| ttl.clamp(settings.min_ttl, settings.max_ttl));
        let every = self.every.map(|every| every.max(MOST_OFTEN));
        by_ttl.into_iter().chain(every).min().unwrap_or(settings.max_ttl)
    }
}

/// What came of asking for a name's addresses of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Addresses, and how long they hold.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none, and how long that holds, where it was said.
    None(Option<Duration>),
    /// No answer; why.
    Failed(String),
}

/// A look-up as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Result {
    /// It gave addresses.
    Answered,
    /// The name does not exist, or has no address.
    Negative,
    /// Nobody answered as they should.
    Failed,
}

/// What a look-up changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// How it went.
    pub(super) result: Result,
    /// The name stands for something else now.
    pub(super) changed: bool,
    /// It is the first without addresses after one with some, or at all: the reason, and how many addresses are kept.
    pub(super) began_to_fail: Option<(String, usize)>,
    /// It is the first with addresses after one without.
    pub(super) recovered: bool,
}

/// The names that are wanted.
#[derive(Debug)]
pub(super) struct Names {
    settings: UpstreamDns,
    known: BTreeMap<String, Known>,
    looking: usize,
}

#[derive(Debug)]
struct Known {
    wanted: Wanted,
    addresses: Vec<IpAddr>,
    due: Instant,
    looking: bool,
    /// Look-ups without addresses in a row.
    failures: u32,
}

/// How many names are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// The last look-up gave their addresses.
    pub(super) fresh: usize,
    /// It did not, and addresses of an earlier one are in use.
    pub(super) stale: usize,
    /// They stand for nothing.
    pub(super) unknown: usize,
}

impl Names {
    /// With none wanted.
    pub(super) fn new(settings: UpstreamDns) -> Self {
        Self { settings, known: BTreeMap::new(), looking: 0 }
    }

    /// These are wanted from now on, and no others; true where a name that stood for something is not any more.
    pub(super) fn want(&mut self, wanted: &BTreeMap<String, Wanted>, now: Instant) -> bool {
        let mut changed = false;
        let looking = &mut self.looking;
        self.known.retain(|name, known| {
            let keep = wanted.contains_key(name);
            changed |= !keep && !known.addresses.is_empty();
            *looking -= usize::from(!keep && known.looking);
            keep
        });
        for (name, wanted) in wanted {
            let fresh =
                || Known { wanted: *wanted, addresses: Vec::new(), due: now, looking: false, failures: 0 };
            let known = self.known.entry(name.clone()).or_insert_with(fresh);
            if known.wanted != *wanted {
                (known.wanted, known.due) = (*wanted, now);
            }
        }
        changed
    }

    /// Those to be looked up now; each is looked up until it is [settled](Self::settle).
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let room = self.settings.max_lookups.saturating_sub(self.looking);
        let due = self.known.iter_mut().filter(|(_, known)| !known.looking && known.due <= now).take(room);
        let due: Vec<_> = due
            .map(|(name, known)| {
                known.looking = true;
                name.clone()
            })
            .collect();
        self.looking += due.len();
        due
    }

    /// When there is something to be looked up next, if nothing else happens.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.looking >= self.settings.max_lookups {
            return None;
        }
        self.known.values().filter(|known| !known.looking).map(|known| known.due).min()
    }

    /// Takes in what a look-up gave, by family; `None` where the name is not wanted any more. `chance` is from 0 to 1.
    pub(super) fn settle(
        &mut self,
        name: &str,
        found: [Found; 2],
        now: Instant,
        chance: f64,
    ) -> Option<Settled> {
        let known = self.known.get_mut(name).filter(|known| known.looking)?;
        known.looking = false;
        self.looking -= 1;
        let [v4, v6] = &found;
        let ttls = found.iter().filter_map(|found| match found {
            Found::Addresses(_, ttl) => Some(*ttl),
            _ => None,
        });
        let Some(ttl) = ttls.min() else {
            known.failures = known.failures.saturating_add(1);
            let (result, wait) = without(&found, known.failures, &self.settings, chance);
            known.due = now + wait;
            let first = known.failures == 1;
            return Some(Settled {
                result,
                changed: false,
                began_to_fail: first.then(|| (reason(&found), known.addresses.len())),
                recovered: false,
            });
        };
        // A family that did not answer keeps what it had.
        let mut addresses = known.family(v4, true);
        addresses.extend(known.family(v6, false));
        if !known.wanted.in_order {
            addresses.sort();
        }
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(*address));
        let changed = known.addresses != addresses;
        let recovered = known.failures > 0;
        (known.addresses, known.failures) = (addresses, 0);
        known.due = now + known.wanted.wait(ttl, &self.settings).mul_f64(1.0 + JITTER * chance);
        Some(Settled { result: Result::Answered, changed, began_to_fail: None, recovered })
    }

    /// What each name stands for.
    pub(super) fn resolutions(&self) -> Resolutions {
        let known = self.known.iter().filter(|(_, known)| !known.addresses.is_empty());
        known.map(|(name, known)| (name.clone(), known.addresses.clone())).collect()
    }

    /// How many are in which state.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for known in self.known.values() {
            match (known.addresses.is_empty(), known.failures) {
                (true, _) => counts.unknown += 1,
                (false, 0) => counts.fresh += 1,
                (false, _) => counts.stale += 1,
            }
        }
        counts
    }
}

impl Known {
    fn family(&self, found: &Found, v4: bool) -> Vec<IpAddr> {
        match found {
            Found::Addresses(addresses, _) => addresses.clone(),
            Found::None(_) => Vec::new(),
            Found::Failed(_) => {
                self.addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect()
            }
        }
    }
}

/// What a look-up without addresses was, and how long it is to be waited after it: twice as long each time. That a name
/// does not exist is believed as long as its zone says, up to the longest wait: a new service should not have to wait
/// for hours.
fn without(found: &[Found; 2], failures: u32, settings: &UpstreamDns, chance: f64) -> (Result, Duration) {
    let doubled = settings.retry.saturating_mul(1 << (failures - 1).min(16)).min(settings.max_retry);
    let ttls = found.iter().map(|found| match found {
        Found::None(ttl) => Some(ttl.unwrap_or_default()),
        _ => None,
    });
    match ttls.collect::<Option<Vec<_>>>() {
        Some(ttls) => {
            let ttl = ttls.into_iter().max().unwrap_or_default();
            let wait = doubled.max(ttl).min(settings.max_retry.max(settings.retry));
            (Result::Negative, wait.mul_f64(1.0 + JITTER * chance))
        }
        // Many gateways wait for the same server to come back: they are spread over half of the wait.
        None => (Result::Failed, doubled.mul_f64(0.5 + 0.5 * chance)),
    }
}

fn reason(found: &[Found; 2]) -> String {
    let failed = found.iter().find_map(|found| match found {
        Found::Failed(error) => Some(error.clone()),
        _ => None,
    });
    failed.unwrap_or_else(|| "it does not exist, or has no address".into())
}

#[cfg(test)]
mod tests;
