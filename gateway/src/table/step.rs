//! What is decided on the way from a name to a cluster, told as it is decided.
//!
//! A connection's own way listens to nothing, so that the compiler takes the telling out of it.

use eastgate_config::listener::{FilterChain, Mismatch};
use eastgate_config::rbac::{Peer, Rbac};
use eastgate_config::route::Rewrite;

use super::Limits;

/// A decision.
#[derive(Debug)]
pub enum Step<'a> {
    /// A name is looked up; the chains that are asked next have it. Empty for [`Lookup::Any`].
    LookedUp(Lookup<'a>, &'a str),
    /// A chain of the name was asked, and took the connection or said why not.
    Asked {
        /// The chain.
        chain: &'a FilterChain,
        /// Why it did not.
        unfit: Option<Unfit>,
    },
    /// The chain that has the connection from here on: there is no way back.
    Taken {
        /// The chain; the listener's default one was not asked before.
        chain: &'a FilterChain,
        /// What is counted towards its limits.
        limits: Option<&'a Limits>,
    },
    /// One of its rules was asked.
    Ruled {
        /// The rules.
        rules: &'a Rbac,
        /// Who was judged.
        peer: &'a Peer<'a>,
        /// Whether they let it go on.
        allowed: bool,
    },
    /// The name chose the cluster, where the chain has it do so.
    Named {
        /// The cluster that it stands for; none where its form is not of a cluster's name.
        cluster: Option<&'a str>,
        /// Whether there is such a cluster; otherwise the chain's own counts.
        found: bool,
    },
}

/// Which name is looked up.
#[derive(Debug, Clone, Copy)]
pub enum Lookup<'a> {
    /// The one that was sent.
    AsSent,
    /// What this rewrite made of it.
    Rewritten(&'a Rewrite),
    /// Chains that take every name.
    Any,
}

/// Why a chain that has the name does not take a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It takes rewritten names only, and this one is as it was sent.
    OnlyRewritten,
    /// It takes rewritten names only, of hosts that the name that was sent is none of.
    SentAs,
    /// By its addresses, ports or transport.
    Connection(Mismatch),
    /// The client offers none of its protocols.
    Protocols,
}
