//! What became of each attempt of a connection, for whoever is told of it.

use std::net::SocketAddr;
use std::time::Instant;

/// An attempt to connect to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// When it was begun.
    pub began: Instant,
    /// When it came to what it came to, if that is known.
    pub ended: Option<Instant>,
    /// What it came to.
    pub result: Result,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Result {
    /// Nothing, because nobody wants it any more.
    Abandoned,
    /// The endpoint has taken the connection.
    Connected,
    /// It has not, or has failed before it answered; this is why.
    Failed(String),
    /// Another one, begun beside it, was faster.
    Overtaken,
}

/// The attempts of a connection, if anybody wants to be told.
#[derive(Debug, Default)]
pub struct Told(Option<Vec<Attempt>>);

impl Told {
    /// None yet, and none ever where they are not wanted.
    pub fn new(wanted: bool) -> Self {
        Self(wanted.then(Vec::new))
    }

    /// One is begun.
    pub fn begin(&mut self, endpoint: SocketAddr, now: Instant) {
        if let Some(all) = &mut self.0 {
            all.push(Attempt { endpoint, began: now, ended: None, result: Result::Abandoned });
        }
    }

    /// One came to this; also one that was connected, and then failed all the same.
    pub fn end(&mut self, endpoint: SocketAddr, now: Instant, result: impl FnOnce() -> Result) {
        // Each endpoint is tried once.
        let found = self.0.iter_mut().flatten().find(|attempt| attempt.endpoint == endpoint);
        if let Some(attempt) = found {
            (attempt.ended, attempt.result) = (Some(now), result());
        }
    }

    /// All that are under way came to this.
    pub fn end_rest(&mut self, now: Instant, result: impl Fn() -> Result) {
        for attempt in self.0.iter_mut().flatten().filter(|attempt| attempt.ended.is_none()) {
            (attempt.ended, attempt.result) = (Some(now), result());
        }
    }

    /// All so far.
    pub fn all(&self) -> &[Attempt] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_attempt_ends_once_and_may_fail_after_it_was_connected() {
        let now = Instant::now();
        let at = |millis| now + Duration::from_millis(millis);
        let [slow, quick] = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let mut told = Told::new(true);
        told.begin(slow, now);
        told.begin(quick, at(5));
        told.end(quick, at(6), || Result::Connected);
        told.end_rest(at(6), || Result::Overtaken);
        told.end(quick, at(9), || Result::Failed("silent".into()));
        let ends: Vec<_> = told.all().iter().map(|one| (one.ended, one.result.clone())).collect();
        let failed = Result::Failed("silent".into());
        assert_eq!(ends, [(Some(at(6)), Result::Overtaken), (Some(at(9)), failed)]);
    }

    #[test]
    fn where_nobody_is_told_nothing_is_kept() {
        let mut told = Told::new(false);
        told.begin(([10, 0, 0, 1], 1).into(), Instant::now());
        assert!(told.all().is_empty());
    }
}
