//! The latest connections that failed, for operators: a few on each data thread, which keeps its own. Where they fail for
//! several reasons, each keeps a share: clients that break off by the thousand must not push out the one that says why.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::access_log::Record;
use crate::client_hello::RandomPrefix;
use crate::metrics::Flag;

/// How many each thread keeps.
const KEPT: usize = 32;
/// No more than one in this time: where every connection fails, they fail alike, and telling must not cost more than
/// failing.
const APART: Duration = Duration::from_millis(5);

thread_local! {
    static HERE: RefCell<VecDeque<Failure>> = const { RefCell::new(VecDeque::new()) };
}

/// A connection that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When.
    pub at: Instant,
    /// The listener's name.
    pub listener: String,
    /// Who connected.
    pub client: SocketAddr,
    /// The name that was sent.
    pub server_name: Option<String>,
    /// The beginning of its ClientHello's random bytes.
    pub client_random: Option<RandomPrefix>,
    /// The endpoint that was tried last.
    pub endpoint: Option<SocketAddr>,
    /// Envoy's response flag.
    pub flag: Flag,
    /// Why.
    pub error: String,
}

/// Keeps a failure, unless one was kept a moment ago.
pub fn note(record: &Record, flag: Flag, explain: impl FnOnce() -> String) {
    let now = Instant::now();
    HERE.with_borrow_mut(|here| {
        if here.back().is_some_and(|last| now.duration_since(last.at) < APART) {
            return;
        }
        if here.len() == KEPT {
            make_room(here);
        }
        here.push_back(Failure {
            at: now,
            listener: record.listener.to_string(),
            client: record.client_addr,
            server_name: record.server_name.as_ref().map(ToString::to_string),
            client_random: record.client_random,
            endpoint: record.endpoint,
            flag,
            error: explain(),
        });
    });
}

/// Drops the oldest of those that ended in the way that most did.
fn make_room(here: &mut VecDeque<Failure>) {
    let alike = |flag| here.iter().filter(|failure| failure.flag == flag).count();
    let crowd = here.iter().map(|failure| failure.flag).max_by_key(|flag| alike(*flag));
    if let Some(oldest) = here.iter().position(|failure| Some(failure.flag) == crowd) {
        here.remove(oldest);
    }
}

/// Those of this thread.
pub fn here() -> Vec<Failure> {
    HERE.with_borrow(|here| here.iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(flag: Flag, port: u16) -> Failure {
        Failure {
            at: Instant::now(),
            listener: String::new(),
            client: ([10, 0, 0, 1], port).into(),
            server_name: None,
            client_random: None,
            endpoint: None,
            flag,
            error: String::new(),
        }
    }

    #[test]
    fn what_is_frequent_does_not_push_out_what_is_rare() {
        let mut here: VecDeque<_> = [Flag::NoRoute, Flag::ClientLeft, Flag::UpstreamFailed, Flag::ClientLeft]
            .into_iter()
            .zip(1..)
            .map(|(flag, port)| failure(flag, port))
            .collect();
        for port in 5..100 {
            make_room(&mut here);
            here.push_back(failure(Flag::ClientLeft, port));
        }
        let left: Vec<_> = here.iter().map(|failure| (failure.flag, failure.client.port())).collect();
        assert_eq!(
            left,
            [(Flag::NoRoute, 1), (Flag::UpstreamFailed, 3), (Flag::ClientLeft, 98), (Flag::ClientLeft, 99)]
        );
    }
}
