//! How endpoints stand, for people and for metrics: why one is out, when it comes back, what was decided how often.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use eastgate_config::endpoint::Health;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::Counts;
use super::outlier::Cause;
use crate::upstream::endpoint::{Endpoint, Out};

/// An endpoint's time out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Why.
    pub cause: Cause,
    /// When it comes back.
    pub until: SystemTime,
}

/// Why an endpoint takes no new connections, or takes them as the last resort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The source says so.
    Source(Health),
    /// It is an outlier.
    Ejected(Ejection),
    /// It was not checked yet.
    NotChecked,
    /// It failed its health check, and this is what was wrong.
    FailedCheck(Arc<String>),
    /// Nothing is wrong with it, but it is not its turn.
    OthersGoFirst,
}

impl Reason {
    /// In Envoy's words, as they stand in `health_flags`; empty for what Envoy has no word for.
    pub fn flag(&self) -> &'static str {
        match self {
            Self::Source(Health::Draining) => "/eds_status_draining",
            Self::Source(Health::Degraded) => "/degraded_eds_health",
            Self::Source(_) => "/failed_eds_health",
            Self::Ejected(_) => "/failed_outlier_check",
            Self::NotChecked | Self::FailedCheck(_) => "/failed_active_hc",
            Self::OthersGoFirst => "",
        }
    }

    /// When it ends by itself, if that is known.
    pub fn until(&self) -> Option<SystemTime> {
        match self {
            Self::Ejected(ejection) => Some(ejection.until),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Ejected(_) => "ejected",
            Self::NotChecked => "not_checked",
            Self::FailedCheck(_) => "failed_check",
            Self::OthersGoFirst => "others_go_first",
        }
    }
}

/// `{"reason": KIND, "until": TIME, "text": FOR PEOPLE}`
impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Told {
            reason: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            until: Option<Timestamp>,
            text: String,
        }
        let until = self.until().and_then(|until| Timestamp::try_from(until).ok());
        Told { reason: self.kind(), until, text: self.to_string() }.serialize(serializer)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(health) => {
                write!(f, "the source says that it is {}", format!("{health:?}").to_lowercase())
            }
            Self::Ejected(Ejection { cause, until }) => {
                let left = until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
                write!(f, "ejected for another {} s: {}", left.as_secs(), cause.meaning())
            }
            Self::NotChecked => f.write_str("its first health check is not done yet"),
            Self::FailedCheck(why) => write!(f, "its health check fails: {why}"),
            Self::OthersGoFirst => {
                f.write_str("others go before it: those of a lower priority, or healthy ones")
            }
        }
    }
}

/// Everything that keeps an endpoint from taking new connections; empty for one that is well.
pub fn reasons(endpoint: &Endpoint) -> Vec<Reason> {
    let counts = endpoint.stats.known_health();
    let by_source = (endpoint.health != Health::Healthy).then_some(Reason::Source(endpoint.health));
    let found = endpoint.stats.out().filter_map(|out| match out {
        Out::Outlier => counts.and_then(Counts::ejection).map(Reason::Ejected),
        Out::FailedCheck => {
            let failure = counts.and_then(Counts::failed_check);
            Some(failure.map_or(Reason::NotChecked, Reason::FailedCheck))
        }
    });
    by_source.into_iter().chain(found).collect()
}

/// How often a cluster's endpoints were ejected, or would have been.
#[derive(Debug, Default)]
pub struct Ejections {
    done: [AtomicU64; Cause::ALL.len()],
    spared: [AtomicU64; Cause::ALL.len()],
    let_off: [AtomicU64; Cause::ALL.len()],
}

impl Ejections {
    /// Counts one.
    pub fn count(&self, cause: Cause) {
        self.done[cause as usize].fetch_add(1, Relaxed);
    }

    /// Counts one that there was no room for.
    pub fn count_spared(&self, cause: Cause) {
        self.spared[cause as usize].fetch_add(1, Relaxed);
    }

    /// Counts one that was not done by chance.
    pub fn count_let_off(&self, cause: Cause) {
        self.let_off[cause as usize].fetch_add(1, Relaxed);
    }

    /// By cause: how many were ejected, and how many were not for lack of room.
    pub fn counts(&self) -> impl Iterator<Item = (Cause, u64, u64)> {
        Cause::ALL.into_iter().map(|cause| {
            let index = cause as usize;
            (cause, self.done[index].load(Relaxed), self.spared[index].load(Relaxed))
        })
    }

    /// By cause: how many outliers there were, ejected or not.
    pub fn detected(&self) -> impl Iterator<Item = (Cause, u64)> {
        self.counts()
            .zip(&self.let_off)
            .map(|((cause, done, spared), let_off)| (cause, done + spared + let_off.load(Relaxed)))
    }
}

/// How often a cluster's endpoints were checked.
#[derive(Debug, Default)]
pub struct CheckCounts {
    /// Begun.
    pub attempts: AtomicU64,
    /// Passed.
    pub passes: AtomicU64,
    /// Failed.
    pub failures: AtomicU64,
}
