//! What we want of one type, what the control plane knows of that on this stream, and which answers we owe.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use eastgate_proto::google::rpc;

use super::pace::{Content, Pace};

/// `INVALID_ARGUMENT`: what a NACK's `error_detail` carries.
const INVALID_ARGUMENT: i32 = 3;
/// The longest error text of a NACK. A control plane logs it; ten thousand reasons belong in our own log.
const MAX_ERROR: usize = 4096;

/// An owed ACK or, with an error, NACK.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) error: Option<String>,
}

impl Answer {
    /// The first request of a stream answers nothing.
    pub(super) fn first(version: &str) -> Self {
        Self { version: version.into(), ..Self::default() }
    }
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) type_url: String,
    /// Everything is wanted, and `wanted` stays empty.
    wildcard: bool,
    wanted: BTreeSet<String>,
    /// Of the last response that was accepted as a whole, on whatever stream.
    pub(super) version: String,
    /// That version was read from disk, and no response of this type has come since.
    restored: bool,
    stream: Stream,
}

/// What one stream knows; a new stream starts with none of it.
#[derive(Debug, Default)]
struct Stream {
    open: bool,
    nonce: String,
    owed: VecDeque<Answer>,
    /// NACKs that wait because they repeat one that was given. All of them are newer than what is owed.
    held: VecDeque<Answer>,
    pace: Pace,
    /// Names were changed in a message that answers nothing. If a response was under way then, the control plane may
    /// have dropped it, and the next answer says it again.
    unconfirmed: bool,
    sent: BTreeSet<String>,
    dirty: bool,
}

impl Subscription {
    pub(super) fn new(type_url: &str, wildcard: bool) -> Self {
        Self {
            type_url: type_url.into(),
            wildcard,
            wanted: BTreeSet::new(),
            version: String::new(),
            restored: false,
            stream: Stream::default(),
        }
    }

    /// What was accepted before this process began.
    pub(super) fn restore(&mut self, version: &str) {
        self.version = version.into();
        self.restored = true;
    }

    /// The version to begin a stream with. A server that finds its own there says nothing until something changes, so
    /// a restored one is kept back: what was saved has to be confirmed, or it would count as stale for ever.
    pub(super) fn resumed_version(&self) -> &str {
        if self.restored { "" } else { &self.version }
    }

    pub(super) fn want(&mut self, name: &str) {
        if self.wanted.insert(name.into()) {
            self.stream.dirty = true;
        }
    }

    pub(super) fn unwant(&mut self, name: &str) -> bool {
        let removed = self.wanted.remove(name);
        self.stream.dirty |= removed;
        removed
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.wanted.contains(name)
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn wanted(&self) -> &BTreeSet<String> {
        &self.wanted
    }

    pub(super) fn sent(&self) -> &BTreeSet<String> {
        &self.stream.sent
    }

    /// Forgets the stream and nothing else.
    pub(super) fn reset_stream(&mut self) {
        self.stream = Stream::default();
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.open
    }

    /// A first request without names would ask for everything, or for nothing; either is wrong for a named type.
    pub(super) fn may_open(&self) -> bool {
        self.wildcard || !self.wanted.is_empty()
    }

    /// Is something else wanted than the control plane was told?
    pub(super) fn is_dirty(&mut self) -> bool {
        // A name that went and came back leaves nothing to say.
        self.stream.dirty = self.stream.dirty && self.stream.sent != self.wanted;
        self.stream.dirty
    }

    /// The wanted set goes out with the request that is being made.
    pub(super) fn sent_wanted(&mut self) {
        self.stream.open = true;
        if self.stream.dirty || self.stream.sent.is_empty() {
            self.stream.sent.clone_from(&self.wanted);
            self.stream.dirty = false;
        }
    }

    /// A response has come and was dealt with; `error` makes the answer a NACK. If that has to wait, gives for how long
    /// from now: [`Self::release`] is to be called then.
    pub(super) fn received(
        &mut self,
        version: &str,
        nonce: &str,
        content: Content,
        error: Option<String>,
    ) -> Option<Duration> {
        self.restored = false;
        self.stream.nonce = nonce.into();
        let pause = if error.is_some() {
            self.stream.pace.refused(content)
        } else {
            self.version = version.into();
            self.stream.pace = Pace::default();
            None
        };
        let answer = Answer { version: self.version.clone(), nonce: nonce.into(), error };
        if let Some(pause) = pause.filter(|_| !self.stream.unconfirmed) {
            self.stream.held.push_back(answer);
            return (self.stream.held.len() == 1).then_some(pause);
        }
        self.release();
        self.stream.owed.push_back(answer);
        None
    }

    /// What was held back is owed now.
    pub(super) fn release(&mut self) {
        self.stream.owed.append(&mut self.stream.held);
    }

    pub(super) fn next_answer(&mut self) -> Option<Answer> {
        let answer = self.stream.owed.pop_front()?;
        self.stream.unconfirmed = false;
        Some(answer)
    }

    /// A change of names that answers nothing, under the newest nonce we know.
    pub(super) fn newest(&mut self) -> Answer {
        self.stream.unconfirmed = true;
        Answer { version: self.version.clone(), nonce: self.stream.nonce.clone(), error: None }
    }

    pub(super) fn nonce(&self) -> &str {
        &self.stream.nonce
    }
}

pub(super) fn status(mut message: String) -> rpc::Status {
    if message.len() > MAX_ERROR {
        let end = (0..=MAX_ERROR).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    rpc::Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}
