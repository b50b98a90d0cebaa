//! Which endpoints of a cluster are left out for what happened to connections, and for how long. Pure: it is shown what
//! was counted, told the time and given chance, and says whom to eject and whom to let in again.
//!
//! The rules and their defaults are Envoy's
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>); docs/health.md says what is
//! added for tunnels: hellos that were not answered, and gateways that stand for a whole cluster.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use eastgate_config::cluster::{FailurePercentage, OutlierDetection, SuccessRate};

/// What has been counted of an endpoint, since it came into its cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Connections established.
    pub connected: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Those that failed since one was last established.
    pub failed_in_row: u32,
    /// Hellos that were answered.
    pub answered: u64,
    /// Hellos in a row that were not, where a sound endpoint would have.
    pub unanswered_in_row: u32,
}

/// An endpoint as it is seen at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Which.
    pub address: SocketAddr,
    /// The network that it is the way into, if it is a gateway and stands for more than itself.
    pub gateway: Option<&'a str>,
    /// It is out for being an outlier.
    pub ejected: bool,
    /// What has been counted.
    pub reading: Reading,
}

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// Too many connections in a row failed.
    Consecutive,
    /// Too many hellos in a row were not answered, while other endpoints answer.
    Handshakes,
    /// Far fewer connections succeed than with the others.
    SuccessRate,
    /// Too large a share of connections fails.
    FailurePercentage,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 4] =
        [Self::Consecutive, Self::Handshakes, Self::SuccessRate, Self::FailurePercentage];

    /// As Envoy calls it in metrics, where Envoy has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_local_origin_failure",
            Self::Handshakes => "consecutive_handshake_failure",
            Self::SuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage_local_origin",
        }
    }

    /// For people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Consecutive => "too many connections in a row failed",
            Self::Handshakes => {
                "it left too many ClientHellos in a row unanswered, which other endpoints answer"
            }
            Self::SuccessRate => "far fewer connections succeeded than with the others",
            Self::FailurePercentage => "too large a share of connections failed",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it out.
    Eject {
        /// Whom.
        address: SocketAddr,
        /// Why.
        cause: Cause,
        /// For how long.
        time: Duration,
    },
    /// It is an outlier, and stays: as many are out as may be.
    Spare {
        /// Whom.
        address: SocketAddr,
        /// Why it would have been ejected.
        cause: Cause,
    },
    /// It is an outlier, and stays by chance: the rule is enforced in so many of a hundred cases only.
    LetOff {
        /// Whom.
        address: SocketAddr,
        /// Why it would have been ejected.
        cause: Cause,
    },
    /// Its time is over.
    Return(SocketAddr),
}

/// What is remembered of the endpoints of one cluster.
#[derive(Debug)]
pub struct Detector {
    endpoints: HashMap<SocketAddr, Known>,
    next_sweep: Duration,
}

#[derive(Debug, Default)]
struct Known {
    ejected_until: Option<Duration>,
    /// How many times the base time it will be out the next time, less one; it grows with each time that it is ejected, and shrinks with
    /// each sweep that finds it in.
    times: u32,
    /// At the last sweep, or when it was first seen.
    before: Reading,
}

impl Known {
    /// Established and failed since the last sweep.
    fn volume(&self, now: &Reading) -> (u64, u64) {
        (now.connected.saturating_sub(self.before.connected), now.failed.saturating_sub(self.before.failed))
    }
}

impl Detector {
    /// Begins to watch.
    pub fn new(rules: &OutlierDetection, seen: &[Seen<'_>], now: Duration) -> Self {
        let mut detector = Self { endpoints: HashMap::new(), next_sweep: now + rules.interval };
        detector.learn(seen);
        detector
    }

    /// Forgets endpoints that are gone, and takes notice of those that came or that somebody else let in.
    fn learn(&mut self, seen: &[Seen<'_>]) {
        if self.endpoints.len() != seen.len()
            || seen.iter().any(|one| !self.endpoints.contains_key(&one.address))
        {
            let mut before = std::mem::take(&mut self.endpoints);
            self.endpoints = seen
                .iter()
                .map(|one| {
                    let new = || Known { before: one.reading, ..Known::default() };
                    (one.address, before.remove(&one.address).unwrap_or_else(new))
                })
                .collect();
        }
        for one in seen.iter().filter(|one| !one.ejected) {
            if let Some(known) = self.endpoints.get_mut(&one.address) {
                known.ejected_until = None;
            }
        }
    }

    /// When it has to look again, whatever is counted until then.
    pub fn due(&self) -> Duration {
        let returns = self.endpoints.values().filter_map(|known| known.ejected_until);
        returns.min().unwrap_or(self.next_sweep).min(self.next_sweep)
    }

    /// Is there nothing to remember, so that it can be forgotten until something fails?
    pub fn is_quiet(&self, seen: &[Seen<'_>]) -> bool {
        seen.iter().all(|one| {
            one.reading.failed_in_row == 0
                && one.reading.unanswered_in_row == 0
                && self.endpoints.get(&one.address).is_none_or(|known| {
                    known.ejected_until.is_none() && known.times == 0 && known.volume(&one.reading).1 == 0
                })
        })
    }

    /// Judges. Rows of failures count at once, shares when the interval is over. `draw(n)` gives a number below `n` by chance.
    pub fn look(
        &mut self,
        rules: &OutlierDetection,
        seen: &[Seen<'_>],
        now: Duration,
        mut draw: impl FnMut(u64) -> u64,
    ) -> Vec<Verdict> {
        self.learn(seen);
        let mut verdicts = Vec::new();
        let mut judge = |this: &mut Self, outliers: Vec<(&Seen<'_>, Cause)>| {
            for (one, cause) in outliers {
                verdicts.push(this.judge(rules, seen, one, cause, now, &mut draw));
            }
        };
        let in_row = self.in_row(rules, seen);
        judge(self, in_row);
        if now >= self.next_sweep {
            // Whom a row or a rate has put out is not judged by a share as well.
            let by_rate = rules.success_rate.map(|rate| self.by_success_rate(rate, seen));
            judge(self, by_rate.unwrap_or_default());
            let by_share = rules.failure_percentage.map(|share| self.by_failures(share, seen));
            judge(self, by_share.unwrap_or_default());
            self.sweep(rules, seen, now);
        }
        // What was still under way to it when it was ejected is not held against it when it comes back.
        self.let_in(now, &mut verdicts);
        verdicts
    }

    fn let_in(&mut self, now: Duration, verdicts: &mut Vec<Verdict>) {
        for (address, known) in &mut self.endpoints {
            if known.ejected_until.is_some_and(|until| until <= now) {
                known.ejected_until = None;
                verdicts.push(Verdict::Return(*address));
            }
        }
    }

    /// The interval is over: the next one counts from here, and whoever was in for it has served a part of its time.
    fn sweep(&mut self, rules: &OutlierDetection, seen: &[Seen<'_>], now: Duration) {
        for one in seen {
            let Some(known) = self.endpoints.get_mut(&one.address) else { continue };
            known.before = one.reading;
            if known.ejected_until.is_none() {
                known.times = known.times.saturating_sub(1);
            }
        }
        self.next_sweep = now + rules.interval;
    }

    fn is_in(&self, one: &Seen<'_>) -> bool {
        self.endpoints.get(&one.address).is_some_and(|known| known.ejected_until.is_none())
    }

    /// Those with as many failures in a row as are borne.
    fn in_row<'a>(&self, rules: &OutlierDetection, seen: &'a [Seen<'a>]) -> Vec<(&'a Seen<'a>, Cause)> {
        let Some(bearable) = rules.consecutive_failures else { return Vec::new() };
        let judged = seen.iter().filter(|one| self.is_in(one));
        judged
            .filter_map(|one| {
                if one.reading.failed_in_row >= bearable {
                    return Some((one, Cause::Consecutive));
                }
                let unanswered = one.reading.unanswered_in_row >= bearable;
                // What is behind a gateway fails behind it: that says nothing of the gateway, nor of the other services there.
                (unanswered && one.gateway.is_none() && self.others_answer(seen, one))
                    .then_some((one, Cause::Handshakes))
            })
            .collect()
    }

    /// Did most of the others that were asked answer the last hello that they got? If they do not either, it is the
    /// hellos: whoever sends bad ones must not be able to have endpoints ejected.
    fn others_answer(&self, seen: &[Seen<'_>], but: &Seen<'_>) -> bool {
        let others = seen.iter().filter(|one| one.address != but.address && self.is_in(one));
        let (mut answer, mut do_not) = (0_usize, 0_usize);
        for other in others {
            match (other.reading.unanswered_in_row, other.reading.answered) {
                (0, 0) => {}
                (0, _) => answer += 1,
                _ => do_not += 1,
            }
        }
        answer > do_not
    }

    /// Endpoints that are in and had enough connections in this interval, with the share of these that were established.
    fn shares<'a>(&self, seen: &'a [Seen<'a>], volume: u32) -> Vec<(&'a Seen<'a>, f64)> {
        let judged = seen.iter().filter(|one| self.is_in(one));
        judged
            .filter_map(|one| {
                let (connected, failed) = self.endpoints.get(&one.address)?.volume(&one.reading);
                let all = connected + failed;
                (all > 0 && all >= u64::from(volume)).then(|| (one, connected as f64 / all as f64))
            })
            .collect()
    }

    /// Those whose share of successes is less than the mean by more than the factor times the standard deviation.
    fn by_success_rate<'a>(&self, rate: SuccessRate, seen: &'a [Seen<'a>]) -> Vec<(&'a Seen<'a>, Cause)> {
        let shares = self.shares(seen, rate.request_volume);
        if shares.is_empty() || shares.len() < rate.minimum_hosts as usize {
            return Vec::new();
        }
        let count = shares.len() as f64;
        let mean = shares.iter().map(|(_, share)| share).sum::<f64>() / count;
        let variance = shares.iter().map(|(_, share)| (share - mean).powi(2)).sum::<f64>() / count;
        let least = mean - variance.sqrt() * f64::from(rate.stdev_factor) / 1000.0;
        let outliers = shares.into_iter().filter(|(_, share)| *share < least);
        outliers.map(|(one, _)| (one, Cause::SuccessRate)).collect()
    }

    /// Those whose share of failures is as large as is too much.
    fn by_failures<'a>(&self, rule: FailurePercentage, seen: &'a [Seen<'a>]) -> Vec<(&'a Seen<'a>, Cause)> {
        let shares = self.shares(seen, rule.request_volume);
        if shares.len() < rule.minimum_hosts as usize {
            return Vec::new();
        }
        let too_much = f64::from(rule.threshold) / 100.0;
        let outliers = shares.into_iter().filter(|(_, share)| 1.0 - share >= too_much);
        outliers.map(|(one, _)| (one, Cause::FailurePercentage)).collect()
    }

    fn judge(
        &mut self,
        rules: &OutlierDetection,
        seen: &[Seen<'_>],
        one: &Seen<'_>,
        cause: Cause,
        now: Duration,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> Verdict {
        let address = one.address;
        if !self.may_eject(rules, seen, one) {
            return Verdict::Spare { address, cause };
        }
        let enforcing = enforcing(rules, cause);
        if enforcing < 100 && draw(100) >= u64::from(enforcing) {
            return Verdict::LetOff { address, cause };
        }
        let known = self.endpoints.entry(address).or_default();
        let longest = rules.max_ejection_time.max(rules.base_ejection_time);
        if rules.base_ejection_time.saturating_mul(known.times) < longest + rules.base_ejection_time {
            known.times = known.times.saturating_add(1);
        }
        let jitter = u64::try_from(rules.max_ejection_jitter.as_millis()).unwrap_or(u64::MAX);
        let jitter = if jitter == 0 { 0 } else { draw(jitter.saturating_add(1)) };
        let time =
            rules.base_ejection_time.saturating_mul(known.times).min(longest) + Duration::from_millis(jitter);
        known.ejected_until = Some(now + time);
        Verdict::Eject { address, cause, time }
    }

    /// Would the share that is out stay within the limit, and another gateway of the same kind be left?
    fn may_eject(&self, rules: &OutlierDetection, seen: &[Seen<'_>], one: &Seen<'_>) -> bool {
        let out = seen.iter().filter(|other| !self.is_in(other)).count();
        // One of a hundred endpoints is 1 %, and 1 % of 99 is none.
        let fits = (out + 1) * 100 <= seen.len() * rules.max_ejection_percent as usize;
        let is_first = rules.always_eject_one && out == 0;
        if !(fits || is_first) {
            return false;
        }
        let is_left = |other: &Seen<'_>| {
            other.gateway == one.gateway && other.address != one.address && self.is_in(other)
        };
        one.gateway.is_none() || seen.iter().any(is_left)
    }
}

/// How often this ejects, in percent.
fn enforcing(rules: &OutlierDetection, cause: Cause) -> u32 {
    match cause {
        Cause::Consecutive | Cause::Handshakes => rules.consecutive_enforcing,
        Cause::SuccessRate => rules.success_rate.map_or(0, |rate| rate.enforcing),
        Cause::FailurePercentage => rules.failure_percentage.map_or(0, |share| share.enforcing),
    }
}

#[cfg(test)]
mod tests;
