//! Many short rounds, so that what else the machine does meets both sides, and what is usual among them.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use eastgate_loadtest::scenario::{Options, mixed};
use eastgate_loadtest::stats::{Latencies, latencies, micros};

use super::{CONNECTIONS, get};
use crate::{RATE, plane};

/// How long connections through the gateway are made in one round of one side.
pub(super) const LENGTH: Duration = Duration::from_secs(2);
/// How long they are then made without it.
pub(super) const BARE: Duration = Duration::from_millis(800);
/// How long a change of the control plane's mind is given.
const SETTLE: Duration = Duration::from_millis(300);
const ROUNDS: usize = 40;
/// How many connections may wait for an answer at once.
const CONCURRENCY: usize = 64;
/// How often the rounds are drawn anew to see what chance makes of the difference.
const DRAWS: usize = 400;

/// What is measured, and who is asked about it.
pub(super) struct Rounds {
    pub(super) through: Options,
    /// The same load straight at the origin: what is different there is not the gateway's.
    pub(super) bare: Options,
    pub(super) admin: SocketAddr,
    /// How many updates went where they are not used.
    pub(super) thrown_away: Arc<AtomicU64>,
    /// The control plane's ear.
    pub(super) tell: ChildStdin,
}

/// Who gets the updates, and what the rounds were in which it did.
#[derive(Default)]
struct Side {
    who: &'static str,
    through: Vec<Latencies>,
    bare: Vec<Latencies>,
    shares: Vec<f64>,
    waits: Vec<f64>,
}

impl Rounds {
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        println!(
            "{CONNECTIONS} connections/s from when each is due, {ROUNDS} rounds of {LENGTH:?}; {RATE} EDS updates/s in turn \
             to a client that throws them away (quiet) and to the gateway (busy)"
        );
        let side = |who| Side { who, ..Side::default() };
        let (mut quiet, mut busy) = (side(plane::SINK), side(plane::GATEWAY));
        for round in 0..ROUNDS {
            // Each goes first as often as the other, so that what gets slower or faster by itself cancels out.
            let mut pair = [&mut quiet, &mut busy];
            if round % 2 == 1 {
                pair.reverse();
            }
            for side in pair {
                self.measure(side).await?;
            }
        }
        summary(&quiet, &busy);
        Ok(())
    }

    async fn measure(&mut self, side: &mut Side) -> anyhow::Result<()> {
        writeln!(self.tell, "{}", side.who)?;
        // What was under way is not what is asked about.
        mixed(&Options { length: SETTLE, ..self.through.clone() }, CONCURRENCY, 1.0).await?;
        let (before, waited) = (self.updates()?, self.waited()?);
        let outcome = mixed(&self.through, CONCURRENCY, 1.0).await?;
        let (after, waited) = (self.updates()?, self.waited()? - waited);
        let wait = waited.as_secs_f64() * 1e6 / outcome.counts.operations.max(1) as f64;
        let seconds = outcome.cost.elapsed.as_secs_f64();
        let rates = [0, 1].map(|at: usize| (after[at] - before[at]) / seconds);
        anyhow::ensure!(
            rates[0] + rates[1] > f64::from(RATE) / 2.0,
            "of {RATE} updates/s only {rates:.0?} came to the gateway and where they are thrown away"
        );
        let share = outcome.cost.proxy_cpu.unwrap_or_default().as_secs_f64() / seconds * 100.0;
        for (reason, count) in &outcome.counts.failures {
            println!("  {count} connections failed: {reason}");
        }
        let bare = mixed(&self.bare, CONCURRENCY, 1.0).await?.counts.latencies;
        let found = outcome.counts.latencies;
        println!(
            "  {:<7} p50 {:>5.0} µs  p99 {:>5.0} µs; without the gateway {:>5.0} and {:>5.0}; {:>4.0}+{:>4.0} updates/s, \
             gateway {share:>4.1} % of its core, its data thread waited {wait:>3.0} µs/connection",
            side.who,
            micros(&found, 50.0),
            micros(&found, 99.0),
            micros(&bare, 50.0),
            micros(&bare, 99.0),
            rates[0],
            rates[1],
        );
        side.through.push(found);
        side.bare.push(bare);
        side.shares.push(share);
        side.waits.push(wait);
        Ok(())
    }

    /// How long the gateway's data threads were ready to run and waited for their core.
    fn waited(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.through.proxy.unwrap_or_default()))? {
            let task = task?.path();
            // Other threads come and go.
            if fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("data-")) {
                let schedule = fs::read_to_string(task.join("schedstat"))?;
                total += schedule.split_whitespace().nth(1).context("schedstat is short")?.parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(total))
    }

    /// How many the gateway has taken, and how many were thrown away.
    fn updates(&self) -> anyhow::Result<[f64; 2]> {
        let metrics = get(self.admin, "/stats/prometheus")?;
        let line = metrics.lines().find(|line| line.contains("xds_pushes_total{type=\"endpoints\"}"));
        let value =
            line.and_then(|line| line.rsplit(' ').next()).context("no count of pushes in the metrics")?;
        Ok([value.parse()?, self.thrown_away.load(Relaxed) as f64])
    }
}

fn summary(quiet: &Side, busy: &Side) {
    for (what, quiet, busy) in
        [("connections", &quiet.through, &busy.through), ("without gateway", &quiet.bare, &busy.bare)]
    {
        for percentile in [50.0, 99.0] {
            let (from, to) = chance(quiet, busy, percentile);
            println!(
                "{what:<15} p{percentile}: {} quiet, {} busy: {:+.1} % ({from:+.1} to {to:+.1} %)",
                spread(quiet, percentile),
                spread(busy, percentile),
                difference(quiet.iter().zip(busy), percentile),
            );
        }
    }
    println!(
        "the first of them is all rounds together, and behind it are the quartiles of the rounds' own; the difference is the \
         median of those of two rounds one after the other, and then what 95 of 100 other draws from the same rounds come to \
         (target for p99: under +10 %)"
    );
    println!(
        "waiting         {:.0} µs quiet, {:.0} µs busy: what a connection waited for the data thread to get its core",
        median(quiet.waits.clone()),
        median(busy.waits.clone())
    );
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len().max(1) as f64;
    println!(
        "updates cost    {:.1} % of a core in the running gateway (target: under 30 %)",
        mean(&busy.shares) - mean(&quiet.shares)
    );
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// By how many percent the percentile of a busy round is above that of the quiet one beside it: the median, since on a
/// machine that is not ours alone some rounds are disturbed by far more than what is asked about.
fn difference<'a>(rounds: impl Iterator<Item = (&'a Latencies, &'a Latencies)>, percentile: f64) -> f64 {
    let times = |(quiet, busy)| micros(busy, percentile) / micros(quiet, percentile);
    (median(rounds.map(times).collect()) - 1.0) * 100.0
}

/// Between what the difference is for 95 of 100 draws (with putting back) of as many pairs of rounds.
fn chance(quiet: &[Latencies], busy: &[Latencies], percentile: f64) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut draw = || {
        let drawn = std::iter::repeat_with(|| random.usize(..quiet.len())).take(quiet.len());
        let pairs: Vec<_> = drawn.map(|at| (&quiet[at], &busy[at])).collect();
        difference(pairs.into_iter(), percentile)
    };
    let mut differences: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    differences.sort_by(f64::total_cmp);
    (differences[DRAWS / 40], differences[DRAWS - 1 - DRAWS / 40])
}

/// The percentile of all rounds, and the quartiles of that of each.
fn spread(rounds: &[Latencies], percentile: f64) -> String {
    let mut all = latencies();
    rounds.iter().for_each(|round| _ = all.add(round));
    let mut each: Vec<f64> = rounds.iter().map(|round| micros(round, percentile)).collect();
    each.sort_by(f64::total_cmp);
    let at = |part: usize| each[(each.len() - 1) * part / 4];
    format!("{:.0} µs ({:.0}, {:.0}, {:.0})", micros(&all, percentile), at(1), at(2), at(3))
}
