//! Listener: where connections are accepted, and what is done with them.

// Control planes still send what Envoy has deprecated.
#![allow(deprecated)]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use eastgate_proto::Message;
use eastgate_proto::envoy::config::listener::v3 as wire;
use eastgate_proto::envoy::extensions::filters::listener as inspectors;
use eastgate_proto::google::protobuf as pb;
use wire::listener_filter::ConfigType;

use super::values::{self, Address, duration};
use super::{Findings, Problem, chain_match, cluster, filters};
use crate::listener::{
    ChainMatch, ConnectionMatch, FilterChain, Listener, ListenerOptions, ProxyProtocol, Transport,
};
use crate::server_name::Pattern;

/// Decodes a listener. A bad chain is a finding; `previous` gives its last good version, where there is one.
pub(super) fn decode(
    message: wire::Listener,
    previous: Option<&Listener>,
) -> Result<(Listener, Findings), Vec<Problem>> {
    let one = |problem| vec![problem];
    refuse_what_is_unsafe(&message).map_err(one)?;
    let address = bound("address", message.address.as_ref()).map_err(one)?;
    let mut options = listener_options(&message).map_err(one)?;
    let mut findings = Findings::default();
    let mut chains = Chains::new(previous);
    for (index, chain) in message.filter_chains.iter().enumerate() {
        chains.add(&format!("filter_chains[{index}]"), chain, &mut findings);
    }
    chains.restore_last_good(&mut findings);
    if let Some(chain) = &message.default_filter_chain {
        match default_chain(chain) {
            Ok(chain) => options.default_filter_chain = Some(Box::new(chain)),
            Err(problem) => {
                let mut problem = problem.inside("default_filter_chain");
                let last = previous.and_then(|previous| previous.options.default_filter_chain.clone());
                problem.last_good_kept = last.is_some();
                options.default_filter_chain = last;
                findings.partial.push(problem);
            }
        }
    }
    let filter_chains = chains.good;
    if filter_chains.is_empty() && options.default_filter_chain.is_none() {
        return Err(match findings.partial.is_empty() {
            true => one(Problem::at("filter_chains", "there are none")),
            // Nothing of it is left to serve, so that the whole last good version stays instead of none.
            false => findings.partial,
        });
    }
    let all = filter_chains.iter().chain(options.default_filter_chain.as_deref());
    options.plain = !inspects(&message) && all.clone().all(|chain| !needs_hello(&chain.matches));
    Ok((Listener { name: message.name, address, rewrites: Vec::new(), filter_chains, options }, findings))
}

/// The chains so far, and what they take.
struct Chains<'a> {
    previous: HashMap<&'a str, &'a FilterChain>,
    good: Vec<FilterChain>,
    names: HashSet<String>,
    /// How many chains would have the same name.
    alike: HashMap<String, usize>,
    /// Which of the good chains takes what.
    taken: HashMap<Key, usize>,
    connections: HashMap<ConnectionMatch, usize>,
    protocols: HashMap<String, usize>,
    /// Names of chains that were refused, and where their finding is.
    refused: Vec<(String, usize)>,
}

/// A name, and numbers for what else a match is about: written out, a few megabytes of a match could become as many
/// gigabytes of keys.
type Key = (usize, Pattern, Option<usize>);

/// The most names times protocols of one chain; istiod's have one name and five protocols.
const MAX_KEYS: usize = 65_536;

impl<'a> Chains<'a> {
    fn new(previous: Option<&'a Listener>) -> Self {
        let chains = previous.into_iter().flat_map(|listener| &listener.filter_chains);
        Self {
            previous: chains.map(|chain| (&*chain.name, chain)).collect(),
            good: Vec::new(),
            names: HashSet::new(),
            alike: HashMap::new(),
            taken: HashMap::new(),
            connections: HashMap::new(),
            protocols: HashMap::new(),
            refused: Vec::new(),
        }
    }

    fn add(&mut self, at: &str, message: &wire::FilterChain, findings: &mut Findings) {
        let name = self.name(message);
        match chain(name.clone(), message).and_then(|chain| self.claim(&chain).map(|()| chain)) {
            Ok(chain) => self.good.push(chain),
            Err(problem) => {
                self.refused.push((name.clone(), findings.partial.len()));
                findings.partial.push(problem.inside(&format!("{at} ({name})")));
            }
        }
    }

    /// The chain's own name, or one made of what it matches, so that it means the same chain in the next push.
    fn name(&mut self, message: &wire::FilterChain) -> String {
        let matches = message.filter_chain_match.as_ref();
        let first = matches.and_then(|matches| matches.server_names.first());
        let base = match (message.name.as_str(), first) {
            ("", Some(server_name)) => server_name.clone(),
            ("", None) => "unnamed".into(),
            (name, _) => name.to_owned(),
        };
        let number = self.alike.entry(base.clone()).or_default();
        loop {
            *number += 1;
            let name = if *number == 1 { base.clone() } else { format!("{base}#{number}") };
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Two chains that take the same connections make Envoy refuse the listener; here the first of them keeps what
    /// it has and the second is refused.
    fn claim(&mut self, chain: &FilterChain) -> Result<(), Problem> {
        let keys = self.keys(&chain.matches)?;
        let other = keys.iter().find_map(|key| self.taken.get(key));
        if let Some(other) = other.and_then(|index| self.good.get(*index)) {
            let reason = format!("the chain {:?} takes the same connections", other.name);
            return Err(Problem::at("filter_chain_match", reason));
        }
        let index = self.good.len();
        self.taken.extend(keys.into_iter().map(|key| (key, index)));
        Ok(())
    }

    /// One key for each name and protocol that a match takes.
    fn keys(&mut self, matches: &ChainMatch) -> Result<Vec<Key>, Problem> {
        let connection = number(&mut self.connections, &matches.connection);
        let protocols: Vec<Option<usize>> = match matches.application_protocols.as_slice() {
            [] => vec![None],
            some => some.iter().map(|one| Some(number(&mut self.protocols, one))).collect(),
        };
        if matches.server_names.len().saturating_mul(protocols.len()) > MAX_KEYS {
            let reason = format!("its names times its protocols are more than {MAX_KEYS}");
            return Err(Problem::at("filter_chain_match", reason));
        }
        let names = matches.server_names.iter();
        let keys = names.flat_map(|name| protocols.iter().map(move |one| (connection, name.clone(), *one)));
        Ok(keys.collect())
    }

    /// A refused chain keeps its last good version, unless a good chain has taken its connections meanwhile.
    fn restore_last_good(&mut self, findings: &mut Findings) {
        for (name, finding) in std::mem::take(&mut self.refused) {
            let Some(last) = self.previous.get(name.as_str()).copied() else { continue };
            if self.claim(last).is_ok() {
                self.good.push(last.clone());
                if let Some(finding) = findings.partial.get_mut(finding) {
                    finding.last_good_kept = true;
                }
            }
        }
    }
}

fn number<T: Clone + Eq + std::hash::Hash>(known: &mut HashMap<T, usize>, value: &T) -> usize {
    let next = known.len();
    match known.get(value) {
        Some(number) => *number,
        None => *known.entry(value.clone()).or_insert(next),
    }
}

fn chain(name: String, message: &wire::FilterChain) -> Result<FilterChain, Problem> {
    if !message.transport_socket.as_ref().is_none_or(cluster::is_raw) {
        let reason =
            "TLS is passed through here and not terminated (use tls.mode AUTO_PASSTHROUGH or PASSTHROUGH)";
        return Err(Problem::at("transport_socket", reason));
    }
    let matches = chain_match::decode(message.filter_chain_match.as_ref())
        .map_err(|problem| problem.inside("filter_chain_match"))?;
    let filters::Filters { route, idle_timeout, options } = filters::decode(&message.filters)?;
    if route.by_server_name.is_some() && matches.server_names.contains(&Pattern::Any) {
        let reason = "sni_cluster without server_names would let any client reach any cluster by its name \
                      (CVE-2021-31921); list the names that may be asked for";
        return Err(Problem::at("filter_chain_match.server_names", reason));
    }
    Ok(FilterChain { name: name.into(), matches, route, idle_timeout, options })
}

fn default_chain(message: &wire::FilterChain) -> Result<FilterChain, Problem> {
    let name = if message.name.is_empty() { "default" } else { message.name.as_str() };
    // Envoy does not look at the match of a default chain.
    let message = wire::FilterChain { filter_chain_match: None, ..message.clone() };
    chain(name.into(), &message)
}

fn needs_hello(matches: &ChainMatch) -> bool {
    matches.connection.transport != Transport::Any
}

fn refuse_what_is_unsafe(message: &wire::Listener) -> Result<(), Problem> {
    let set = |flag: Option<pb::BoolValue>| flag.is_some_and(|flag| flag.value);
    let unset = |flag: Option<pb::BoolValue>| flag.is_some_and(|flag| !flag.value);
    let unsafe_fields = [
        (message.listener_specifier.is_some(), "internal_listener", "a listener has an address here"),
        (message.api_listener.is_some(), "api_listener", "a listener has an address here"),
        (message.udp_listener_config.is_some(), "udp_listener_config", "only TCP is relayed"),
        (
            message.filter_chain_matcher.is_some(),
            "filter_chain_matcher",
            "matching trees are not evaluated here",
        ),
        (message.fcds_config.is_some(), "fcds_config", "filter chains are not discovered on their own"),
        (set(message.use_original_dst), "use_original_dst", "connections are not redirected here"),
        (set(message.transparent), "transparent", "connections are not redirected here"),
        (unset(message.bind_to_port), "bind_to_port", "a listener that does not listen needs redirection"),
    ];
    match unsafe_fields.into_iter().find(|(present, ..)| *present) {
        Some((_, field, reason)) => Err(Problem::at(field, reason)),
        None => Ok(()),
    }
}

fn bound(
    field: &str,
    address: Option<&eastgate_proto::envoy::config::core::v3::Address>,
) -> Result<SocketAddr, Problem> {
    match values::address(field, address)? {
        Address::Ip(address) => Ok(address),
        Address::Name(..) | Address::Internal => Err(Problem::at(field, "a listener binds an IP address")),
    }
}

fn listener_options(message: &wire::Listener) -> Result<ListenerOptions, Problem> {
    let timeout = duration("listener_filters_timeout", message.listener_filters_timeout)?;
    let mut options = ListenerOptions {
        inspect_timeout: timeout,
        keepalive: message.tcp_keepalive.map(values::keepalive),
        backlog: message.tcp_backlog_size.map(|size| size.value),
        access_log: !message.access_log.is_empty(),
        ..ListenerOptions::default()
    };
    for (index, other) in message.additional_addresses.iter().enumerate() {
        let address = bound(&format!("additional_addresses[{index}].address"), other.address.as_ref())?;
        options.additional_addresses.push(address);
    }
    for (index, filter) in message.listener_filters.iter().enumerate() {
        listener_filter(filter, &mut options)
            .map_err(|problem| problem.inside(&format!("listener_filters[{index}]")))?;
    }
    let flag = |chain: &wire::FilterChain| chain.use_proxy_proto.is_some_and(|flag| flag.value);
    if options.proxy_protocol.is_none() && message.filter_chains.iter().any(flag) {
        options.proxy_protocol = Some(ProxyProtocol::default());
    }
    Ok(options)
}

/// The short and the long name of each listener filter are the same word here.
fn listener_filter(filter: &wire::ListenerFilter, options: &mut ListenerOptions) -> Result<(), Problem> {
    if filter.filter_disabled.is_some() {
        return Err(Problem::at(
            "filter_disabled",
            "a listener filter is on for every connection or not there",
        ));
    }
    let empty = pb::Any::default();
    let any = match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(Problem::at("config_discovery", "filters are not discovered on their own"));
        }
        None => &empty,
    };
    let kind = if any.type_url.is_empty() { filter.name.as_str() } else { values::kind(any) };
    match kind {
        "envoy.filters.listener.tls_inspector"
        | "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
            let inspector: inspectors::tls_inspector::v3::TlsInspector = read(any)?;
            options.max_client_hello = inspector.max_client_hello_size.map(|size| size.value);
            Ok(())
        }
        "envoy.filters.listener.proxy_protocol"
        | "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
            let header: inspectors::proxy_protocol::v3::ProxyProtocol = read(any)?;
            options.proxy_protocol =
                Some(ProxyProtocol { optional: header.allow_requests_without_proxy_protocol });
            Ok(())
        }
        "envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit" => {
            let limit: inspectors::local_ratelimit::v3::LocalRateLimit = read(any)?;
            if !filters::is_off(limit.runtime_enabled.as_ref()) {
                options.rate_limit = Some(filters::bucket(limit.token_bucket)?);
            }
            Ok(())
        }
        // It only tells HTTP/1 from HTTP/2, which is for filters that are refused themselves.
        "envoy.filters.listener.http_inspector"
        | "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => Ok(()),
        kind => Err(Problem::at("typed_config", format!("the listener filter {kind:?} is not known here"))),
    }
}

fn inspects(message: &wire::Listener) -> bool {
    let is_inspector = |filter: &wire::ListenerFilter| match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => values::kind(any).ends_with(".TlsInspector"),
        _ => filter.name == "envoy.filters.listener.tls_inspector",
    };
    message.listener_filters.iter().any(is_inspector)
}

fn read<M: Message + Default>(any: &pb::Any) -> Result<M, Problem> {
    M::decode(any.value.as_slice()).map_err(|error| Problem::at("typed_config", error.to_string()))
}
