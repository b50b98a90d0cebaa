//! What is decided on the way, written down for people and programs.

use eastgate_config::listener::{FilterChain, Mismatch, RateLimit};
use eastgate_config::rbac::Action;
use serde::Serialize;

use crate::table::{Asked, Limits, Lookup, Step, Unfit};

/// A decision on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Told {
    /// A name was looked up, and these chains have it.
    LookedUp {
        /// `as_sent`, `rewritten` or `any`.
        lookup: &'static str,
        /// The name; empty for `any`.
        name: String,
        /// The rewrite that made it.
        #[serde(skip_serializing_if = "Option::is_none")]
        rewrite: Option<String>,
        /// The chains, in the order that they were asked in, and why each did not take the connection.
        chains: Vec<Candidate>,
    },
    /// The listener's default chain has it, because no other did.
    Default {
        /// Its name.
        chain: String,
    },
    /// A limit that the connection counts towards.
    Limit {
        /// In words.
        text: String,
    },
    /// A rule about who may connect.
    Rules {
        /// What a match means.
        action: Action,
        /// The policy that the connection matches.
        matched: Option<String>,
        /// May it go on?
        allowed: bool,
    },
    /// The name itself chooses the cluster.
    Named {
        /// The cluster that it stands for, if it has the form of a cluster's name.
        cluster: Option<String>,
        /// Is there one?
        found: bool,
    },
}

/// A chain that has the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub chain: String,
    /// Why it does not take the connection; none where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
}

impl Told {
    /// How fast somebody takes connections.
    pub(super) fn limit_of_rate(of: &str, rate: &RateLimit) -> Self {
        let RateLimit { max_tokens, tokens_per_fill, fill_interval, .. } = rate;
        let text = format!(
            "{of} takes {tokens_per_fill} connections each {fill_interval:?}, and {max_tokens} at once"
        );
        Self::Limit { text }
    }
}

/// Adds a step to those before it.
pub(super) fn write<'p>(
    steps: &mut Vec<Told>,
    step: Step<'_>,
    asked: &Asked<'_>,
    offered: impl Iterator<Item = &'p [u8]>,
) {
    match step {
        Step::LookedUp(lookup, name) => {
            let (lookup, rewrite) = match lookup {
                Lookup::AsSent => ("as_sent", None),
                Lookup::Rewritten(rewrite) => {
                    ("rewritten", Some(format!("{} -> {}", rewrite.pattern(), rewrite.replacement())))
                }
                Lookup::Any => ("any", None),
            };
            steps.push(Told::LookedUp { lookup, name: name.to_owned(), rewrite, chains: Vec::new() });
        }
        Step::Asked { chain, unfit } => {
            let unfit = unfit.map(|unfit| why(chain, unfit, asked, offered));
            if let Some(Told::LookedUp { chains, .. }) = steps.last_mut() {
                chains.push(Candidate { chain: chain.name.to_string(), unfit });
            }
        }
        Step::Taken { chain, limits } => {
            let took = matches!(steps.last(), Some(Told::LookedUp { chains, .. })
                if chains.last().is_some_and(|last| last.unfit.is_none()));
            if !took {
                steps.push(Told::Default { chain: chain.name.to_string() });
            }
            steps.extend(limits.into_iter().flat_map(|limits| limits_of(chain, limits)));
        }
        Step::Ruled { rules, peer, allowed } => {
            let matched = rules.matched(peer).map(|policy| policy.name.clone());
            steps.push(Told::Rules { action: rules.action, matched, allowed });
        }
        Step::Named { cluster, found } => {
            steps.push(Told::Named { cluster: cluster.map(str::to_owned), found });
        }
    }
}

fn limits_of(chain: &FilterChain, limits: &Limits) -> Vec<Told> {
    let connections = limits.connections.as_ref().map(|(gate, _)| Told::Limit {
        text: format!("chain {} has {} of at most {} connections", chain.name, gate.inside(), gate.limit()),
    });
    let rate =
        limits.rate.as_ref().map(|rate| Told::limit_of_rate(&format!("chain {}", chain.name), rate.limit()));
    connections.into_iter().chain(rate).collect()
}

fn why<'p>(
    chain: &FilterChain,
    unfit: Unfit,
    asked: &Asked<'_>,
    offered: impl Iterator<Item = &'p [u8]>,
) -> String {
    let matches = &chain.matches;
    let connection = &matches.connection;
    let ends = &asked.ends;
    match unfit {
        Unfit::OnlyRewritten => {
            format!("takes rewritten names only, of hosts {}", list(&matches.sent_as))
        }
        Unfit::SentAs => format!("the name as sent is none of {}", list(&matches.sent_as)),
        Unfit::Protocols => {
            let offered = list(offered.map(|protocol| protocol.escape_ascii().to_string()));
            let offered = if offered.is_empty() { "no protocol".into() } else { offered };
            format!("wants one of {} (ALPN); offered: {offered}", list(&matches.application_protocols))
        }
        Unfit::Connection(Mismatch::Transport) => match asked.server_name {
            Some(_) => "takes what is not TLS".into(),
            None => "takes TLS only".into(),
        },
        Unfit::Connection(Mismatch::DestinationPort) => {
            let port = connection.destination_port.unwrap_or_default();
            format!("takes port {port} only; this is {}", ends.destination.port())
        }
        Unfit::Connection(Mismatch::Destination) => {
            format!("takes destinations {} only", list(&connection.destination_ranges))
        }
        Unfit::Connection(Mismatch::Source) => {
            format!("takes clients of {} only; this is {}", list(&connection.source_ranges), ends.remote.ip())
        }
        Unfit::Connection(Mismatch::DirectSource) => {
            format!(
                "takes peers of {} only; this is {}",
                list(&connection.direct_source_ranges),
                ends.direct_remote.ip()
            )
        }
        Unfit::Connection(Mismatch::SourcePort) => {
            format!("takes source ports {} only", list(&connection.source_ports))
        }
        Unfit::Connection(Mismatch::SourceKind) => match connection.source {
            Some(eastgate_config::listener::Source::Local) => "takes clients on this machine only".into(),
            _ => "takes no clients on this machine".into(),
        },
    }
}

pub(super) fn list<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}
