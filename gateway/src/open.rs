//! The open connections of a data thread: who is there, and a way to ask one of them for something.
//!
//! Each thread keeps its own and nothing is locked. Whoever is on another thread has a question run where the
//! connections are ([`Registry::ask`]). A connection is here from the moment that bytes are relayed, for all that comes
//! before is over within a few timeouts.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::access_log;
use crate::relay::Moved;
use crate::restart;
use crate::upstream::{Cluster, Upstream};

thread_local! {
    static HERE: RefCell<Slab<Rc<Connection>>> = const { RefCell::new(Slab::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// A connection whose bytes are relayed, as others on its thread see it.
#[derive(Debug)]
pub struct Connection {
    /// How many the thread had before it. With the thread's place in [`Registry::ask`]'s answers it names the connection.
    pub number: u64,
    /// Its record, as far as it goes: what was moved, and how it ended, are not in it yet.
    pub record: access_log::Open,
    /// What was moved so far.
    pub moved: Moved,
    /// The way to its endpoint.
    pub upstream: Upstream,
    /// The endpoint's cluster, as it was when the connection was routed.
    pub cluster: Arc<Cluster>,
    asked: RefCell<Option<Ask>>,
    /// It was asked to end, and that is not taken back.
    ending: Cell<bool>,
    /// It cannot be handed over.
    stays: Cell<bool>,
    /// What was moved when that was last looked at and had changed, and when that was.
    seen: Cell<Option<(u64, Instant)>>,
    /// Since when its endpoint is gone, for whoever looks after that.
    pub endpoint_gone: Cell<Option<Instant>>,
    /// Of the task that serves it.
    task: Waker,
}

/// What a connection can be asked for.
#[derive(Debug)]
pub enum Ask {
    /// To end, for this reason.
    End(End),
    /// To be handed to the process that takes over; to stay as it is, if it cannot be.
    Pass(Hand),
}

/// Where connections are handed in that pass to another process.
pub type Hand = mpsc::UnboundedSender<Passing>;

/// A connection that nobody touches until it is known who has it.
#[derive(Debug)]
pub struct Passing {
    /// What passes.
    pub passed: restart::Passed,
    /// To be told when the other process has it; dropped, this one goes on.
    pub taken: oneshot::Sender<()>,
}

/// Why a connection was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The gateway leaves, and nothing was moved for a while.
    #[error("the gateway leaves, and the connection was idle (drain.close_idle)")]
    Idle,
    /// The gateway leaves, and has waited for as long as it may.
    #[error("the gateway leaves, and the connection did not end in time (drain.timeout)")]
    Late,
    /// Memory is very short.
    #[error("memory is very short, and the connection was idle (limits.memory_shed_percent)")]
    Memory,
    /// Its endpoint is gone.
    #[error("the endpoint was taken away or is unhealthy (drain.removed_endpoints)")]
    Endpoint,
    /// Its endpoint has more than its share, and nothing was moved for a while.
    #[error("its endpoint has more connections than its share, and the connection was idle (relay.shed)")]
    Surplus,
    /// An operator wanted it.
    #[error("an operator closed the connection")]
    Operator,
}

impl Connection {
    /// Asks it for something; it complies when its task comes to it. False when it is to end already, or will not.
    pub fn ask(&self, ask: Ask) -> bool {
        if self.ending.get() || (self.stays.get() && matches!(ask, Ask::Pass(_))) {
            return false;
        }
        self.ending.set(matches!(ask, Ask::End(_)));
        self.asked.replace(Some(ask));
        self.task.wake_by_ref();
        true
    }

    /// It could not be handed over, and is not to be asked for that again.
    pub fn stay(&self) {
        self.stays.set(true);
    }

    /// For how long nothing was moved, as far as those know who have asked before: the first is told that it is no time.
    pub fn quiet(&self, now: Instant) -> Duration {
        let moved = self.moved.to_upstream.get() + self.moved.to_client.get();
        match self.seen.get() {
            Some((before, since)) if before == moved => now.duration_since(since),
            _ => {
                self.seen.set(Some((moved, now)));
                Duration::ZERO
            }
        }
    }

    /// Its place among the others of its thread, from 0 to below 1: the golden ratio's multiples are evenly spread,
    /// however many there are.
    pub fn place(&self) -> f64 {
        (self.number as f64 * 0.618_033_988_749_895).fract()
    }

    /// Returns what it is asked for, once it is. Must be awaited by the task that entered it, whose waker is known.
    pub async fn asked(&self) -> Ask {
        poll_fn(|_| self.asked.take().map_or(Poll::Pending, Poll::Ready)).await
    }
}

/// A connection's place among those of its thread, which it has until this is dropped.
#[derive(Debug)]
pub struct Entered {
    connection: Rc<Connection>,
    key: usize,
}

/// Enters a connection among those of this thread.
pub async fn enter(record: access_log::Open, upstream: Upstream, cluster: Arc<Cluster>) -> Entered {
    let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let number = NEXT.get();
    NEXT.set(number + 1);
    let connection = Rc::new(Connection {
        number,
        record,
        moved: Moved::default(),
        upstream,
        cluster,
        asked: RefCell::default(),
        ending: Cell::default(),
        stays: Cell::default(),
        seen: Cell::default(),
        endpoint_gone: Cell::default(),
        task,
    });
    let key = HERE.with_borrow_mut(|here| here.insert(Rc::clone(&connection)));
    Entered { connection, key }
}

impl Entered {
    /// Takes the connection out and gives its record back, with what was moved in it.
    #[allow(clippy::expect_used, reason = "questions are lent connections, and none keeps one")]
    pub fn leave(self) -> access_log::Open {
        let connection = Rc::clone(&self.connection);
        drop(self);
        let Connection { mut record, moved, .. } = Rc::into_inner(connection).expect("only its place had it");
        (record.to_upstream_bytes, record.to_client_bytes) = (moved.to_upstream.get(), moved.to_client.get());
        record.engine = moved.engine();
        record
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // After the thread's end there is nothing to be taken out of.
        let _ = HERE.try_with(|here| here.borrow_mut().try_remove(self.key));
    }
}

impl Deref for Entered {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// Looks at each connection of this thread.
pub fn each(look: impl FnMut(&Connection)) {
    HERE.with_borrow(|here| here.iter().map(|(_, connection)| connection.as_ref()).for_each(look));
}

type Question = Box<dyn FnOnce() + Send>;

/// Questions for the connections of one thread, which [`answer`] answers there.
#[derive(Debug)]
pub struct Questions(mpsc::UnboundedReceiver<Question>);

/// A way to ask about the connections of all data threads.
#[derive(Debug, Clone)]
pub struct Registry(Arc<[mpsc::UnboundedSender<Question>]>);

impl Registry {
    /// For so many threads; each has to answer one of the questions' ends.
    pub fn new(threads: usize) -> (Self, Vec<Questions>) {
        let ends = (0..threads).map(|_| mpsc::unbounded_channel());
        let (senders, receivers): (Vec<_>, Vec<_>) = ends.unzip();
        (Self(senders.into()), receivers.into_iter().map(Questions).collect())
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.len()
    }

    /// Has each thread answer, typically by [`each`], and gives the answers in the threads' order; `None` is one that has ended.
    pub async fn ask<T, F>(&self, question: F) -> Vec<Option<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Clone + Send + 'static,
    {
        let ask = |thread: &mpsc::UnboundedSender<Question>| {
            let (reply, answer) = oneshot::channel();
            let question = question.clone();
            // A thread that has ended drops the question, and whoever asks may be gone before the answer.
            let _ = thread.send(Box::new(move || drop(reply.send(question()))));
            answer
        };
        // All are asked before the first answers.
        let asked: Vec<_> = self.0.iter().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(answer.await.ok());
        }
        answers
    }
}

/// Answers questions about the connections of this thread, until nobody can ask any more.
pub async fn answer(mut questions: Questions) {
    while let Some(question) = questions.0.recv().await {
        question();
    }
}
