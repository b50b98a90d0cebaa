//! What would become of a connection, step by step: where it goes and why, or why it is refused.
//!
//! Nothing is decided here. The way is gone by [`Table::route_telling`], which is what connections go, and what it tells
//! is written down. Everything else is looked up where connections would look.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use eastgate_config::listener::{Ends, Role};
use eastgate_config::server_name::ServerName;
use serde::Serialize;

use super::Error;
use crate::table::{Asked, Listener, Routed, Table};
use crate::upstream;
use crate::upstream::cluster::Limit;
use crate::upstream::state::ClusterState;

mod nearest;
mod steps;
mod text;

pub use nearest::Near;
pub use steps::Told;

/// A connection that somebody wonders about.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The name in its ClientHello, as it would be typed.
    pub server_name: String,
    /// The protocols that it offers.
    pub alpn: Vec<Vec<u8>>,
    /// Where it comes from, where that matters.
    pub source: Option<IpAddr>,
    /// The port that it goes to; without one, every listener that reads ClientHellos is asked.
    pub port: Option<u16>,
    /// The names of endpoints have not been looked up here.
    pub offline: bool,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The name in canonical form, or as it was asked where it is none.
    pub server_name: String,
    /// The protocols.
    pub alpn: Vec<String>,
    /// Where it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The table that was asked.
    pub table: u64,
    /// The listeners that it may have come to.
    pub listeners: Vec<OnListener>,
    /// What may surprise.
    pub notes: Vec<String>,
}

/// What a listener makes of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnListener {
    /// Its name.
    pub listener: String,
    /// Where it is bound.
    pub address: SocketAddr,
    /// How many filter chains it has.
    pub chains: usize,
    /// What is decided on the way.
    pub steps: Vec<Told>,
    /// Where it ends.
    pub verdict: Verdict,
    /// The clusters that the chain leads to; the verdict's first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Led>,
    /// Names that may have been meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<Near>,
}

/// A cluster that a chain leads to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Led {
    /// Its part of the chain's connections, in percent.
    pub percent: f64,
    /// The cluster; none where there is none of the name.
    #[serde(flatten)]
    pub cluster: Option<ClusterState>,
    /// Its name.
    #[serde(rename = "cluster")]
    pub named: String,
}

/// Where a connection ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The chain that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The name that it is routed by, where that is not the one that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<String>,
    /// The cluster that it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Why it is refused, if it is.
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub refused: Option<Refused>,
}

/// How a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The flag in the access log.
    pub flag: &'static str,
    /// The reason.
    pub error: String,
    /// The alert that a TLS client is sent, by number.
    pub alert: Option<u8>,
    /// And by name.
    pub alert_name: Option<&'static str>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let alert = error.alert();
        Self {
            flag: error.flag().name(),
            error: error.explain(),
            alert: alert.map(|alert| alert.code()),
            alert_name: alert.map(|alert| alert.name()),
        }
    }
}

impl Explanation {
    /// Does every listener that was asked refuse the connection?
    pub fn is_refusal(&self) -> bool {
        self.listeners.iter().all(|listener| listener.verdict.refused.is_some())
    }
}

/// Explains what becomes of a connection with this table; `bound` is where its listeners are bound, where that is not as
/// they are configured.
pub fn explain(table: &Table, question: &Question, bound: &BTreeMap<String, SocketAddr>) -> Explanation {
    let name = ServerName::from_sni(question.server_name.as_bytes());
    let mut notes = Vec::new();
    let mut listeners: Vec<_> = table.listeners().collect();
    listeners.sort_by(|one, other| one.config.name.cmp(&other.config.name));
    listeners.retain(|listener| is_asked(listener, question, bound));
    if let Err(error) = &name {
        notes.push(format!("{error}: a ClientHello with this name is refused before any listener's chains"));
        listeners.clear();
    } else if listeners.is_empty() {
        notes.push(match (question.port, table.listeners().next()) {
            (_, None) => "there is no listener: no Gateway applies, or no source has answered yet".into(),
            (Some(port), _) => format!("no listener has port {port}"),
            (None, _) => "no listener reads ClientHellos; give the port to ask another".into(),
        });
    }
    let judged = |listener: &Listener| looks_at_source(listener) && question.source.is_none();
    if listeners.iter().any(|listener| judged(listener)) {
        notes.push(
            "filter chains look at where a client comes from; give the source, here it is 0.0.0.0".into(),
        );
    }
    let on_listener = |listener: &Listener| {
        let address = bound.get(&listener.config.name).copied().unwrap_or(listener.config.address);
        on_listener(table, listener, address, name.as_ref().ok(), question)
    };
    Explanation {
        server_name: name
            .as_ref()
            .map_or(question.server_name.escape_default().to_string(), ToString::to_string),
        alpn: question.alpn.iter().map(|protocol| protocol.escape_ascii().to_string()).collect(),
        source: question.source,
        table: table.version,
        listeners: listeners.into_iter().map(|listener| on_listener(listener)).collect(),
        notes,
    }
}

/// Could the connection have come to this listener?
fn is_asked(listener: &Listener, question: &Question, bound: &BTreeMap<String, SocketAddr>) -> bool {
    let options = &listener.config.options;
    let Some(port) = question.port else {
        return !options.plain && options.role == Role::Passthrough;
    };
    let mut addresses = [listener.config.address].into_iter().chain(options.additional_addresses.clone());
    let bound_there = bound.get(&listener.config.name).is_some_and(|address| address.port() == port);
    options.original_destination || bound_there || addresses.any(|address| address.port() == port)
}

fn looks_at_source(listener: &Listener) -> bool {
    listener.config.filter_chains.iter().any(|chain| {
        let connection = &chain.matches.connection;
        !chain.options.rbac.is_empty()
            || !connection.source_ranges.is_empty()
            || !connection.direct_source_ranges.is_empty()
            || connection.source.is_some()
    })
}

fn on_listener(
    table: &Table,
    listener: &Listener,
    address: SocketAddr,
    name: Option<&ServerName>,
    question: &Question,
) -> OnListener {
    let config = &listener.config;
    let mut destination = address;
    if let Some(port) = question.port.filter(|_| config.options.original_destination) {
        destination.set_port(port);
    }
    let remote = SocketAddr::from((question.source.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0));
    let name = name.filter(|_| !config.options.plain);
    let asked = Asked { server_name: name, ends: Ends { destination, direct_remote: remote, remote } };
    let protocols = question.alpn.iter().map(Vec::as_slice);

    let mut steps = Vec::new();
    steps.extend(listener.rate.as_ref().map(|rate| Told::limit_of_rate("the listener", rate.limit())));
    let offered = protocols.clone();
    let tell = |step: crate::table::Step<'_>| steps::write(&mut steps, step, &asked, offered.clone());
    let routed = table.route_telling(&config.name, &asked, protocols, |_| 0, tell);
    let clusters = match &routed {
        Ok(routed) => led(table, listener, routed),
        Err(_) => Vec::new(),
    };
    let nearest = match (&routed, name) {
        (Err(crate::table::Error::NoChain { rewritten }), Some(name)) => {
            let names: Vec<_> = [name.as_str()].into_iter().chain(rewritten.as_deref()).collect();
            nearest::nearest(config, &names)
        }
        _ => Vec::new(),
    };
    OnListener {
        listener: config.name.clone(),
        address,
        chains: config.filter_chains.len() + usize::from(config.options.default_filter_chain.is_some()),
        steps,
        verdict: verdict(routed, question.offline),
        clusters,
        nearest,
    }
}

/// The clusters of the route, that of the verdict first.
fn led(table: &Table, listener: &Listener, routed: &Routed) -> Vec<Led> {
    let default = listener.config.options.default_filter_chain.as_deref();
    let mut chains = listener.config.filter_chains.iter().chain(default);
    let Some(chain) = chains.find(|chain| chain.name == routed.chain) else { return Vec::new() };
    let state = |named: &str, percent| Led {
        percent,
        cluster: table.cluster_of_name(named).map(|cluster| ClusterState::new(cluster)),
        named: named.to_owned(),
    };
    let chosen = &routed.cluster.config.name;
    let total: u32 = chain.route.clusters.iter().map(|cluster| cluster.weight).sum();
    if chain.route.clusters.len() < 2 || !chain.route.clusters.iter().any(|cluster| cluster.name == *chosen) {
        return vec![state(chosen, 100.0)];
    }
    let mut led: Vec<_> = chain
        .route
        .clusters
        .iter()
        .map(|cluster| state(&cluster.name, f64::from(cluster.weight) * 100.0 / f64::from(total.max(1))))
        .collect();
    led.sort_by_key(|led| led.named != *chosen);
    led
}

/// What the way ended with, and whether an endpoint would take the connection at this moment.
fn verdict(routed: Result<Routed, crate::table::Error>, offline: bool) -> Verdict {
    let routed = match routed {
        Err(error) => return Verdict { refused: Some(Error::from(error).into()), ..Verdict::default() },
        Ok(routed) => routed,
    };
    let cluster = &routed.cluster;
    let name = &cluster.config.name;
    let limits = routed.limits.as_ref().and_then(|limits| limits.connections.as_ref());
    let overflow = cluster.config.max_connections.filter(|most| cluster.stats.active() >= *most as usize);
    let error = if let Some((gate, _)) = limits.filter(|(gate, _)| gate.inside() >= gate.limit()) {
        Some(Error::TooMany { chain: routed.chain.to_string(), limit: gate.limit() })
    } else if let Some(most) = overflow {
        let (cluster, most) = (name.clone(), most as usize);
        Some(upstream::Error::Overflow { cluster, limit: Limit::Connections, most }.into())
    } else if cluster.balancer().endpoints().next().is_none() && !(offline && cluster.has_names()) {
        Some(upstream::Error::NoEndpoint(name.clone()).into())
    } else {
        None
    };
    Verdict {
        cluster: Some(name.clone()),
        refused: error.map(Refused::from),
        chain: Some(routed.chain.to_string()),
        rewritten: routed.rewritten,
    }
}

#[cfg(test)]
mod tests;
