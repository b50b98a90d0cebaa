//! What the rest of the process may ask of the xDS source, and have it do. It stands below both the source and the
//! admin port, because neither imports the other.
//!
//! A question is answered by the source itself between two messages, so that a push costs nothing for views that
//! nobody looks at.

use std::time::Duration;

use eastgate_config::xds::journal::Push;
use eastgate_config::xds::{Refused, Saved, TypeStatus};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait for the source.
const QUEUE: usize = 16;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Command {
    View(oneshot::Sender<View>),
    Holdings(oneshot::Sender<Holdings>),
    Release(oneshot::Sender<bool>),
    Save(oneshot::Sender<()>),
}

/// Speaks to the source; clones speak to the same.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// The other end of a [`Handle`].
#[derive(Debug)]
pub struct Commands(pub(crate) mpsc::Receiver<Command>);

/// A handle and what the source is to be given for it.
pub fn handle() -> (Handle, Commands) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Handle { commands: sender }, Commands(receiver))
}

impl Handle {
    /// Where the conversation stands; none when there is no source any more.
    pub async fn view(&self) -> Option<View> {
        self.ask(Command::View).await
    }

    /// All resources, as they came.
    pub async fn holdings(&self) -> Option<Holdings> {
        self.ask(Command::Holdings).await
    }

    /// Lets go of what the guard keeps back; says whether there was anything.
    pub async fn release(&self) -> Option<bool> {
        self.ask(Command::Release).await
    }

    /// Has what is not in the state directory yet written there, and waits for that no longer than this. Says whether the
    /// source has done what it could; why a write failed is in its log.
    pub async fn save(&self, patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, self.ask(Command::Save)).await, Ok(Some(())))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(command(sender)).await.ok()?;
        answer.await.ok()
    }
}

/// All resources, as they came.
#[derive(Debug, Clone, PartialEq)]
pub struct Holdings {
    /// By type.
    pub accepted: Vec<Saved>,
    /// Those whose newest version is refused.
    pub refused: Vec<Refused>,
}

/// Where the conversation stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// What moments in this view count from, as the time since the Unix epoch.
    pub began: Duration,
    /// Now, on that clock.
    pub now: Duration,
    /// The id we gave.
    pub node: String,
    /// `delta` or `sotw`.
    pub variant: &'static str,
    /// The way to the control plane.
    pub link: Link,
    /// Everything was heard of at least once in this process.
    pub settled: bool,
    /// Saved state is served that no control plane has confirmed.
    pub saved_state: bool,
    /// The guard keeps something back.
    pub keeping_back: bool,
    /// Each type.
    pub types: Vec<TypeStatus>,
    /// Clusters that wait for endpoints.
    pub warming: Vec<String>,
    /// Clusters that chains name and that are not there.
    pub missing: Vec<String>,
    /// The last pushes, oldest first.
    pub journal: Vec<Push>,
}

/// The way to the control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The control plane of the current stream, if there is one.
    pub address: Option<String>,
    /// Since when that stream is open.
    pub since: Option<Duration>,
    /// It has sent something.
    pub answered: bool,
    /// Streams that ended and attempts that failed, so far.
    pub ended: u64,
    /// Why the last one did.
    pub last_end: Option<String>,
    /// When the control plane was last heard.
    pub last_response: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn saving_does_not_wait_for_a_source_that_is_busy_or_gone() {
        let (handle, commands) = handle();
        assert!(!handle.save(Duration::from_millis(1)).await);
        drop(commands);
        assert!(!handle.save(Duration::from_secs(3600)).await);
    }
}
