//! The latest connections that failed, for operators: a few on each data thread, which keeps its own.

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
            here.pop_front();
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

/// Those of this thread.
pub fn here() -> Vec<Failure> {
    HERE.with_borrow(|here| here.iter().cloned().collect())
}
