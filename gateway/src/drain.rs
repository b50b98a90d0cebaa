//! Finishing without accepting: who is still there, and when the last one has gone.

use tokio::sync::watch;

/// Held by whatever must end before the process may.
#[derive(Debug, Clone)]
pub struct Token(#[allow(dead_code, reason = "its drop is the signal")] watch::Receiver<()>);

/// Waits for tokens.
#[derive(Debug)]
pub struct Drain {
    tokens: watch::Sender<()>,
}

impl Drain {
    /// With no token out.
    pub fn new() -> Self {
        Self { tokens: watch::Sender::new(()) }
    }

    /// One more that must end first.
    pub fn token(&self) -> Token {
        Token(self.tokens.subscribe())
    }

    /// How many have not ended.
    pub fn open(&self) -> usize {
        self.tokens.receiver_count()
    }

    /// Returns when every token is gone.
    pub async fn wait(&self) {
        self.tokens.closed().await;
    }
}

/// Where a gateway is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has its sockets, from which another process accepts yet.
    Waiting,
    /// It accepts.
    Accepting,
    /// Its listeners are closed in good order, and open connections go on.
    Leaving,
    /// Another process accepts from the same sockets, and open connections go on.
    Succeeded,
}

/// What a gateway that leaves waits for, in this order.
#[derive(Debug, Default)]
pub struct Leaving {
    /// The tasks that accept.
    pub accepting: Drain,
    /// Open connections.
    pub connections: Drain,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_last_token() {
        let drain = Drain::new();
        let tokens = [drain.token(), drain.token()];
        assert_eq!(drain.open(), 2);
        let (waited, ()) = tokio::join!(drain.wait(), async move { drop(tokens) });
        assert_eq!(waited, ());
        drain.wait().await;
    }
}
