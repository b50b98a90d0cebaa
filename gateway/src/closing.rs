//! Connections that should go: which of them are closed, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use eastgate_config::bootstrap::{Drain, Removal};
use eastgate_config::endpoint::Health;
use tokio::time::Instant;

use crate::open::{self, Ask, Connection, End, Registry};
use crate::table::Table;
use crate::upstream::endpoint::Out;

/// How often connections are looked at while some should go.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked for connections whose endpoint is gone.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// When connections that should go are closed: idle ones first, the rest at a deadline, and each at a moment of its own,
/// so that their clients do not all come back elsewhere at once.
#[derive(Debug, Clone, Copy)]
pub struct Closing {
    /// The silence after which a connection is idle; `None` lets idle ones go on, too.
    pub idle: Option<Duration>,
    /// When the rest is closed.
    pub deadline: Duration,
    /// What closing is spread over, each time.
    pub spread: Duration,
}

/// Why a connection is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It is idle.
    Idle,
    /// The deadline has passed.
    Deadline,
}

impl Closing {
    /// Is a connection due that nothing has moved on for `quiet`? Closing began `since` ago, and `place`, from 0 to
    /// below 1, is the connection's place among the others.
    pub fn due(&self, since: Duration, quiet: Duration, place: f64) -> Option<Due> {
        let after = self.spread.mul_f64(place);
        if since >= self.deadline.saturating_add(after) {
            return Some(Due::Deadline);
        }
        self.idle.filter(|idle| quiet >= *idle && since >= after).map(|_| Due::Idle)
    }

    /// When nobody is left who is not due.
    pub fn end(&self) -> Duration {
        self.deadline.saturating_add(self.spread)
    }
}

/// Connections that were closed.
#[derive(Debug, Default)]
pub struct Closed {
    /// Because they were idle.
    pub idle: AtomicUsize,
    /// At the deadline.
    pub late: AtomicUsize,
}

/// Closes the connections of a gateway that leaves as they become due, for as long as it is polled. They are counted where
/// they are closed, because with the last of them nobody may wait for an answer any more.
pub async fn leave(open: &Registry, closing: Closing, closed: &Arc<Closed>) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let closed = Arc::clone(closed);
        let look = move || {
            let now = Instant::now();
            open::each(|connection| {
                let due = closing.due(now.duration_since(began), connection.quiet(now), connection.place());
                let (end, count) = match due {
                    None => return,
                    Some(Due::Idle) => (End::Idle, &closed.idle),
                    Some(Due::Deadline) => (End::Late, &closed.late),
                };
                count.fetch_add(connection.ask(Ask::End(end)).into(), Relaxed);
            });
        };
        open.ask(look).await;
    }
}

/// Closes connections whose endpoint is taken away or becomes unhealthy, as the settings say, for as long as it is
/// polled.
pub async fn follow(open: &Registry, table: &ArcSwap<Table>, drain: &Drain) {
    let closing = match drain.removed_endpoints {
        Removal::Keep => return std::future::pending().await,
        Removal::CloseIdle => {
            Closing { idle: Some(FOLLOW_EVERY), deadline: Duration::MAX, spread: drain.spread }
        }
        Removal::CloseWithin(spread) => Closing { idle: None, deadline: Duration::ZERO, spread },
    };
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    loop {
        ticks.tick().await;
        let table = table.load_full();
        let look = move || {
            let now = Instant::now();
            open::each(|connection| {
                // Looked at in any case, so that it is known how long one was idle when its endpoint goes.
                let quiet = connection.quiet(now);
                if !is_gone(&table, connection) {
                    return connection.endpoint_gone.set(None);
                }
                let since = connection.endpoint_gone.get().unwrap_or(now);
                connection.endpoint_gone.set(Some(since));
                if closing.due(now.duration_since(since), quiet, connection.place()).is_some() {
                    connection.ask(Ask::End(End::Endpoint));
                }
            });
        };
        open.ask(look).await;
    }
}

/// Does the table say that nobody should be connected to its endpoint? One that is draining keeps what it has.
fn is_gone(table: &Table, connection: &Connection) -> bool {
    let address = connection.upstream.endpoint.endpoint().address;
    let cluster = table.cluster_of_name(&connection.cluster.config.name);
    let endpoint =
        cluster.and_then(|cluster| cluster.endpoints.iter().find(|known| known.address == address));
    endpoint.is_none_or(|endpoint| {
        endpoint.health == Health::Unhealthy || endpoint.stats.out().any(|out| out == Out::FailedCheck)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CLOSING: Closing = Closing {
        idle: Some(Duration::from_secs(2)),
        deadline: Duration::from_secs(45),
        spread: Duration::from_secs(10),
    };

    #[test]
    fn idle_connections_go_first_and_the_rest_at_the_deadline() {
        let due = |since, quiet, place| CLOSING.due(SECOND * since, SECOND * quiet, place);
        assert_eq!(due(1, 1, 0.0), None, "it was heard of a second ago");
        assert_eq!(due(2, 2, 0.0), Some(Due::Idle));
        assert_eq!(due(2, 2, 0.5), None, "its turn is 5 s after the beginning");
        assert_eq!(due(5, 2, 0.5), Some(Due::Idle));
        assert_eq!(due(44, 0, 0.0), None, "a long one is not cut before the deadline");
        assert_eq!(due(45, 0, 0.0), Some(Due::Deadline));
        assert_eq!(due(45, 0, 0.9), None);
        assert_eq!(due(54, 0, 0.9), Some(Due::Deadline));
    }

    #[test]
    fn idle_connections_go_on_where_nobody_asked_for_their_end() {
        let closing = Closing { idle: None, ..CLOSING };
        assert_eq!(closing.due(SECOND * 44, SECOND * 44, 0.0), None);
    }

    proptest! {
        #[test]
        fn busy_ones_have_until_the_deadline_and_nobody_longer_than_the_end(
            since in 0u64..200, quiet in 0u64..200, place in 0.0f64..1.0,
        ) {
            let due = CLOSING.due(SECOND * since as u32, SECOND * quiet as u32, place);
            prop_assert!(due.is_some() || SECOND * (since as u32) < CLOSING.end());
            prop_assert!(due != Some(Due::Deadline) || SECOND * (since as u32) >= CLOSING.deadline);
            prop_assert!(due != Some(Due::Idle) || quiet >= 2);
        }

        #[test]
        fn what_is_due_stays_due(since in 0u64..100, place in 0.0f64..1.0) {
            let due = |since| CLOSING.due(SECOND * since as u32, SECOND * 3, place).is_some();
            prop_assert!(!due(since) || due(since + 1));
        }
    }
}
