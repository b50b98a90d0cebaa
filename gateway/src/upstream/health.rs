//! What endpoints are seen to do, and who is told when one of them looks ill.
//!
//! The data path [reports](report) what became of each use of an endpoint. That costs a few atomic additions; only the
//! first failure of a quiet cluster, and a row of failures that is as long as the cluster bears, wake somebody up. The
//! judging is done elsewhere, by one task, so that nothing here needs a lock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustix::io::Errno;

use super::cluster::Cluster;
use super::endpoint::{Endpoint, Stats};

pub mod active;
mod alarm;
pub mod outlier;
mod standing;

pub use alarm::Alarm;
pub use standing::{CheckCounts, Ejection, Ejections, Reason, reasons};

/// What became of the use of an endpoint. First of the connection, then, where it was established and a ClientHello was
/// sent, of the hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The connection was established.
    Connected,
    /// The network or the host said no.
    ConnectFailed,
    /// Nobody said anything for as long as an attempt may take.
    ConnectTimedOut,
    /// There was no attempt: something was missing here, such as a file descriptor or a free port. Not the endpoint's fault.
    NotTried,
    /// The first record is one of the handshake, as a rule a ServerHello.
    Answered,
    /// The first record is an alert with this description.
    Alert(u8),
    /// The first bytes are no TLS record.
    NotTls,
    /// It closed the connection (FIN) before it sent anything.
    ClosedBeforeAnswer,
    /// It reset the connection before it sent anything.
    ResetBeforeAnswer,
    /// It sent nothing for as long as an answer may take.
    SilentTooLong,
}

/// `internal_error`, <https://www.rfc-editor.org/rfc/rfc8446#section-6.2>. The other alerts that can come first complain
/// about the hello, or say goodbye.
const INTERNAL_ERROR: u8 = 80;

impl Outcome {
    /// Every kind, with the name that it has in metrics; alerts are one kind.
    pub const KINDS: [&'static str; 6] = ["answered", "alert", "not_tls", "closed", "reset", "silent"];

    /// What became of a connection attempt.
    pub fn of_attempt<T>(result: &io::Result<T>) -> Self {
        let Err(error) = result else { return Self::Connected };
        let missing_here = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::ADDRINUSE,
            Errno::ACCESS,
            Errno::PERM,
        ];
        match error.raw_os_error() {
            Some(code) if missing_here.iter().any(|errno| errno.raw_os_error() == code) => Self::NotTried,
            _ if error.kind() == io::ErrorKind::TimedOut => Self::ConnectTimedOut,
            _ => Self::ConnectFailed,
        }
    }

    /// Its place in [`Self::KINDS`], if it is of a hello.
    fn kind(self) -> Option<usize> {
        match self {
            Self::Connected | Self::ConnectFailed | Self::ConnectTimedOut | Self::NotTried => None,
            Self::Answered => Some(0),
            Self::Alert(_) => Some(1),
            Self::NotTls => Some(2),
            Self::ClosedBeforeAnswer => Some(3),
            Self::ResetBeforeAnswer => Some(4),
            Self::SilentTooLong => Some(5),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connected => "it took the connection",
            Self::ConnectFailed => "it did not take the connection",
            Self::ConnectTimedOut => "it said nothing to the connection",
            Self::NotTried => "it was not tried, for want of something here",
            Self::Answered => "it answered the ClientHello",
            Self::Alert(description) => {
                return write!(f, "it answered the ClientHello with alert {description}");
            }
            Self::NotTls => "what it answered the ClientHello with is no TLS",
            Self::ClosedBeforeAnswer => "it closed the connection before it answered the ClientHello",
            Self::ResetBeforeAnswer => "it reset the connection before it answered the ClientHello",
            Self::SilentTooLong => "it did not answer the ClientHello in time (upstream.answer_timeout)",
        })
    }
}

/// Hellos by what became of them, of an endpoint or of a cluster.
#[derive(Debug, Default)]
pub struct Hellos {
    counts: [AtomicU64; Outcome::KINDS.len()],
    answer_micros: AtomicU64,
}

impl Hellos {
    /// In the order of [`Outcome::KINDS`].
    pub fn counts(&self) -> [u64; Outcome::KINDS.len()] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }

    /// Those that were answered.
    pub fn answered(&self) -> u64 {
        self.counts[0].load(Relaxed)
    }

    /// From the hello to its answer, over all that were answered.
    pub fn answer_time(&self) -> Duration {
        Duration::from_micros(self.answer_micros.load(Relaxed))
    }

    fn count(&self, outcome: Outcome, elapsed: Duration) {
        let Some(kind) = outcome.kind() else { return };
        self.counts[kind].fetch_add(1, Relaxed);
        if outcome == Outcome::Answered {
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
            self.answer_micros.fetch_add(micros, Relaxed);
        }
    }
}

/// What has been counted of an endpoint's health. Carried over with its other counters.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that failed since one was last established.
    failed_in_row: AtomicU32,
    /// Hellos that were not answered as they should be since one last was.
    unanswered_in_row: AtomicU32,
    /// What became of its hellos.
    pub hellos: Hellos,
    last_alert: AtomicU8,
    ejection: ArcSwapOption<Ejection>,
    failed_check: ArcSwapOption<String>,
}

impl Counts {
    /// The description of the last alert that came in place of an answer.
    pub fn last_alert(&self) -> Option<u8> {
        (self.hellos.counts()[1] > 0).then(|| self.last_alert.load(Relaxed))
    }

    /// Connections that failed since one was last established.
    pub fn failed_in_row(&self) -> u32 {
        self.failed_in_row.load(Relaxed)
    }

    /// Hellos in a row that were not answered, and would have been by a sound endpoint.
    pub fn unanswered_in_row(&self) -> u32 {
        self.unanswered_in_row.load(Relaxed)
    }

    /// Its time out, while it is ejected.
    pub fn ejection(&self) -> Option<Ejection> {
        self.ejection.load().as_deref().copied()
    }

    /// Notes an ejection, or that it is over.
    pub fn set_ejection(&self, ejection: Option<Ejection>) {
        self.ejection.store(ejection.map(Arc::new));
    }

    /// What was wrong when it was last checked, if anything was.
    pub fn failed_check(&self) -> Option<Arc<String>> {
        self.failed_check.load_full()
    }

    /// Notes what was wrong, or that all was well.
    pub fn set_failed_check(&self, failure: Option<String>) {
        self.failed_check.store(failure.map(Arc::new));
    }

    /// Begins both rows anew, when something was done about them.
    pub fn forget_rows(&self) {
        self.failed_in_row.store(0, Relaxed);
        self.unanswered_in_row.store(0, Relaxed);
    }

    /// Takes notice of a hello's outcome and gives the row of unanswered ones that it makes longer, if it does.
    fn note_hello(&self, outcome: Outcome) -> Option<u32> {
        match outcome {
            Outcome::Answered => {
                forget(&self.unanswered_in_row);
                None
            }
            Outcome::Alert(description) => {
                self.last_alert.store(description, Relaxed);
                // Whoever complains about the hello has read it: that speaks neither for the endpoint nor against it.
                if description != INTERNAL_ERROR {
                    return None;
                }
                Some(self.unanswered_in_row.fetch_add(1, Relaxed).saturating_add(1))
            }
            _ => Some(self.unanswered_in_row.fetch_add(1, Relaxed).saturating_add(1)),
        }
    }
}

/// Ends a row. Most are empty, and reading costs less than writing what other threads read.
fn forget(row: &AtomicU32) {
    if row.load(Relaxed) != 0 {
        row.store(0, Relaxed);
    }
}

/// What outliers are found by.
pub fn read(stats: &Stats) -> outlier::Reading {
    let Some(counts) = stats.known_health() else { return outlier::Reading::default() };
    outlier::Reading {
        connected: stats.connected(),
        failed: stats.refused().saturating_add(stats.timed_out()),
        failed_in_row: counts.failed_in_row(),
        answered: counts.hellos.answered(),
        unanswered_in_row: counts.unanswered_in_row(),
    }
}

/// Counts what became of the use of this endpoint of the cluster, `elapsed` after the attempt began or the hello was
/// sent, and wakes up the cluster's watcher if that is needed.
pub fn report(cluster: &Cluster, endpoint: &Endpoint, outcome: Outcome, elapsed: Duration) {
    let (of_cluster, of_endpoint) = (&cluster.stats, &endpoint.stats);
    let counts = of_endpoint.health();
    let row = match outcome {
        Outcome::Connected => {
            of_cluster.connected.fetch_add(1, Relaxed);
            of_cluster.usage().connect.observe(elapsed);
            of_endpoint.count_connected();
            forget(&counts.failed_in_row);
            None
        }
        Outcome::ConnectTimedOut => {
            of_cluster.timed_out.fetch_add(1, Relaxed);
            of_cluster.usage().length.observe(elapsed);
            of_endpoint.count_timed_out();
            Some(counts.failed_in_row.fetch_add(1, Relaxed).saturating_add(1))
        }
        Outcome::ConnectFailed => {
            of_cluster.refused.fetch_add(1, Relaxed);
            of_cluster.usage().length.observe(elapsed);
            of_endpoint.count_refused();
            Some(counts.failed_in_row.fetch_add(1, Relaxed).saturating_add(1))
        }
        Outcome::NotTried => {
            of_cluster.refused.fetch_add(1, Relaxed);
            of_cluster.usage().length.observe(elapsed);
            None
        }
        _ => {
            of_cluster.hellos.count(outcome, elapsed);
            counts.hellos.count(outcome, elapsed);
            counts.note_hello(outcome)
        }
    };
    if cluster.peak_ewma()
        && let Some(took) = time_of(outcome, elapsed, cluster.config.connect_timeout)
    {
        of_endpoint.took(took, Instant::now());
    }
    let (Some(row), Some(rules)) = (row, &cluster.config.outlier_detection) else { return };
    let as_long_as_borne = rules.consecutive_failures.is_some_and(|bearable| row % bearable.max(1) == 0);
    of_cluster.alarm.raise(&cluster.config.name, as_long_as_borne);
}

/// What this says of how long the endpoint takes. One that fails at once must not look fast.
fn time_of(outcome: Outcome, elapsed: Duration, of_failure: Duration) -> Option<Duration> {
    match outcome {
        Outcome::Connected | Outcome::Answered => Some(elapsed),
        Outcome::NotTried | Outcome::Alert(_) => None,
        _ => Some(elapsed.max(of_failure)),
    }
}

#[cfg(test)]
mod tests {
    use eastgate_config::cluster::{self as config, OutlierDetection, Resolutions};
    use eastgate_config::endpoint::{Address, Endpoint as Configured};
    use tokio::sync::mpsc;

    use super::*;

    fn cluster(consecutive_failures: u32) -> Arc<Cluster> {
        let endpoint = Configured::new(Address::Socket(([10, 0, 0, 1], 1).into()));
        let mut config = config::Cluster::new("c", vec![endpoint]);
        config.outlier_detection = Some(OutlierDetection {
            consecutive_failures: Some(consecutive_failures),
            consecutive_enforcing: 100,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_jitter: Duration::ZERO,
            max_ejection_percent: 100,
            always_eject_one: false,
            success_rate: None,
            failure_percentage: None,
        });
        Cluster::build(&Arc::new(config), &Resolutions::new(), None, Instant::now(), &Arc::default())
    }

    fn tell(cluster: &Cluster, outcome: Outcome) {
        report(cluster, &cluster.endpoints[0], outcome, Duration::from_micros(7));
    }

    #[test]
    fn a_row_of_failures_ends_with_a_success_of_its_own_kind() {
        let cluster = cluster(5);
        let counts = cluster.endpoints[0].stats.health();
        for outcome in [Outcome::ConnectFailed, Outcome::ConnectTimedOut, Outcome::ClosedBeforeAnswer] {
            tell(&cluster, outcome);
        }
        assert_eq!((counts.failed_in_row(), counts.unanswered_in_row()), (2, 1));
        tell(&cluster, Outcome::Connected);
        assert_eq!((counts.failed_in_row(), counts.unanswered_in_row()), (0, 1));
        tell(&cluster, Outcome::Answered);
        assert_eq!((counts.failed_in_row(), counts.unanswered_in_row()), (0, 0));
        assert_eq!(counts.hellos.answer_time(), Duration::from_micros(7));
        assert_eq!(cluster.stats.hellos.counts(), [1, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn one_that_fails_at_once_does_not_look_fast() {
        let timeout = Duration::from_secs(10);
        let of = |outcome| time_of(outcome, Duration::from_millis(1), timeout);
        assert_eq!(of(Outcome::Connected), Some(Duration::from_millis(1)));
        assert_eq!(of(Outcome::ConnectFailed), Some(timeout));
        assert_eq!(of(Outcome::ResetBeforeAnswer), Some(timeout));
        assert_eq!(of(Outcome::Alert(40)), None);
    }

    #[test]
    fn what_is_missing_here_is_not_held_against_the_endpoint() {
        let cluster = cluster(5);
        let of = |error: io::Error| Outcome::of_attempt::<()>(&Err(error));
        tell(&cluster, of(Errno::MFILE.into()));
        tell(&cluster, of(Errno::ADDRNOTAVAIL.into()));
        assert_eq!(cluster.endpoints[0].stats.health().failed_in_row(), 0);
        assert_eq!(cluster.stats.refused.load(Relaxed), 2);
        let outcomes =
            [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::TIMEDOUT].map(|errno| of(errno.into()));
        assert_eq!(outcomes, [Outcome::ConnectFailed, Outcome::ConnectFailed, Outcome::ConnectTimedOut]);
        assert_eq!(Outcome::of_attempt(&Ok(())), Outcome::Connected);
    }

    #[test]
    fn an_alert_about_the_hello_is_not_held_against_the_endpoint() {
        let cluster = cluster(5);
        let counts = cluster.endpoints[0].stats.health();
        // handshake_failure, protocol_version, unrecognized_name, no_application_protocol
        [40, 70, 112, 120].into_iter().for_each(|alert| tell(&cluster, Outcome::Alert(alert)));
        assert_eq!((counts.unanswered_in_row(), counts.hellos.counts()[1]), (0, 4));
        tell(&cluster, Outcome::Alert(INTERNAL_ERROR));
        assert_eq!((counts.unanswered_in_row(), counts.last_alert()), (1, Some(INTERNAL_ERROR)));
    }

    #[test]
    fn the_watcher_is_woken_by_the_first_failure_and_by_each_full_row_and_once_until_it_has_answered() {
        let cluster = cluster(3);
        let (sender, mut calls) = mpsc::unbounded_channel();
        let alarm = &cluster.stats.alarm;
        alarm.set(&sender);
        tell(&cluster, Outcome::Connected);
        assert!(calls.try_recv().is_err());
        tell(&cluster, Outcome::ConnectFailed);
        assert_eq!(calls.try_recv().as_deref(), Ok("c"));
        tell(&cluster, Outcome::ConnectFailed);
        assert!(calls.try_recv().is_err(), "the first call is not answered yet");
        alarm.answer();
        tell(&cluster, Outcome::ConnectFailed);
        assert!(calls.try_recv().is_ok(), "a row of three");
        alarm.answer();
        (0..2).for_each(|_| tell(&cluster, Outcome::ConnectFailed));
        assert!(calls.try_recv().is_err(), "four and five can wait for the watcher's next look");
        tell(&cluster, Outcome::ConnectFailed);
        assert!(calls.try_recv().is_ok(), "a row of six");
    }
}
