//! A listener in its compiled form: which filter chain takes a connection, and how many it may take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use eastgate_config::listener::{self as config, FilterChain};
use eastgate_config::rbac::{Peer, Rbac};
use eastgate_config::route::Rewrite;
use eastgate_config::server_name::Pattern;

use super::server_names::ServerNames;
use super::step::{Lookup, Step, Unfit};
use super::{Asked, Error};
use crate::gate::{Bucket, Gate};

/// A listener's names, chains and limits.
#[derive(Debug)]
pub struct Listener {
    /// What it was compiled from.
    pub config: Arc<config::Listener>,
    /// How fast it takes connections, whatever their name.
    pub rate: Option<Arc<Bucket>>,
    names: ServerNames,
    /// For each chain, and last the default one.
    limits: Vec<Option<Arc<Limits>>>,
}

/// A chain's limits, with what is counted towards them; carried over from table to table by the chain's name.
#[derive(Debug)]
pub struct Limits {
    /// How many connections it has at once, and how long one too many is left hanging.
    pub connections: Option<(Gate, Duration)>,
    /// How fast it takes them.
    pub rate: Option<Arc<Bucket>>,
}

/// The chain that takes a connection.
pub(super) struct Taken<'a> {
    pub(super) chain: &'a FilterChain,
    pub(super) limits: Option<Arc<Limits>>,
    pub(super) rewritten: Option<String>,
    /// It was found by the name.
    pub(super) listed: bool,
}

impl Listener {
    pub(super) fn build(config: &Arc<config::Listener>, old: Option<&Self>) -> Self {
        let mut known = HashMap::new();
        for (chain, limits) in old.into_iter().flat_map(|old| all_chains(&old.config).zip(&old.limits)) {
            known.extend(limits.as_ref().map(|limits| (&*chain.name, limits)));
        }
        let mut shared = HashMap::new();
        let limits =
            all_chains(config).map(|chain| limits(chain, known.get(&*chain.name).copied(), &mut shared));
        let old_rate = old.and_then(|old| old.rate.as_ref());
        Self {
            rate: config.options.rate_limit.as_ref().map(|limit| bucket(limit, old_rate)),
            names: ServerNames::new(&config.filter_chains),
            limits: limits.collect(),
            config: Arc::clone(config),
        }
    }

    /// The chain for a connection: by its name as sent, then as rewritten, then the chain for every name, then the
    /// listener's default. What is decided on the way is told.
    pub(super) fn chain<'p>(
        &self,
        asked: &Asked<'_>,
        protocols: impl Iterator<Item = &'p [u8]> + Clone,
        tell: &mut impl FnMut(Step<'_>),
    ) -> Result<Taken<'_>, Error> {
        let has_hello = asked.server_name.is_some();
        let unlike = |chain: &FilterChain| {
            chain.matches.connection.mismatch(&asked.ends, has_hello).map(Unfit::Connection)
        };
        let as_sent = |chain: &FilterChain| match chain.matches.sent_as.is_empty() {
            true => unlike(chain),
            false => Some(Unfit::OnlyRewritten),
        };
        let chains = &self.config.filter_chains;
        let mut rewritten = None;
        if let Some(name) = asked.server_name {
            tell(Step::LookedUp(Lookup::AsSent, name.as_str()));
            if let Some(found) = self.names.find(name.as_str(), chains, as_sent, protocols.clone(), tell) {
                return self.taken(found?, true, asked, tell);
            }
            let apply = |rewrite| Some((rewrite, Rewrite::apply(rewrite, name.as_str())?));
            if let Some((rewrite, other)) = self.config.rewrites.iter().find_map(apply) {
                let under = |pattern: &Pattern| pattern.matches(name.host());
                let rewritten_fits = |chain: &FilterChain| match &*chain.matches.sent_as {
                    sent_as if sent_as.is_empty() || sent_as.iter().any(under) => unlike(chain),
                    _ => Some(Unfit::SentAs),
                };
                tell(Step::LookedUp(Lookup::Rewritten(rewrite), &other));
                let found = self.names.find(&other, chains, rewritten_fits, protocols.clone(), tell);
                if let Some(found) = found {
                    let taken = self.taken(found?, true, asked, tell)?;
                    return Ok(Taken { rewritten: Some(other), ..taken });
                }
                rewritten = Some(other);
            }
        }
        tell(Step::LookedUp(Lookup::Any, ""));
        match self.names.any(chains, as_sent, protocols, tell) {
            Some(found) => self.taken(found?, false, asked, tell),
            None if self.config.options.default_filter_chain.is_some() => {
                self.taken(chains.len(), false, asked, tell)
            }
            None => Err(Error::NoChain { rewritten }),
        }
    }

    fn taken(
        &self,
        index: usize,
        listed: bool,
        asked: &Asked<'_>,
        tell: &mut impl FnMut(Step<'_>),
    ) -> Result<Taken<'_>, Error> {
        let default = self.config.options.default_filter_chain.as_deref();
        let chain = self.config.filter_chains.get(index).or(default).ok_or(Error::NoListener)?;
        let limits = self.limits.get(index).cloned().flatten();
        tell(Step::Taken { chain, limits: limits.as_deref() });
        let peer = Peer {
            destination: asked.ends.destination,
            direct_remote: asked.ends.direct_remote.ip(),
            remote: asked.ends.remote.ip(),
            server_name: asked.server_name.map_or("", |name| name.as_str()),
        };
        let refuses = |rules: &Arc<Rbac>| {
            let why = rules.refuses(&peer);
            tell(Step::Ruled { rules, peer: &peer, allowed: why.is_none() });
            why
        };
        if let Some(why) = chain.options.rbac.iter().find_map(refuses) {
            return Err(Error::Denied { chain: chain.name.to_string(), why: Box::new(why) });
        }
        Ok(Taken { chain, limits, rewritten: None, listed })
    }
}

fn all_chains(config: &config::Listener) -> impl Iterator<Item = &FilterChain> {
    config.filter_chains.iter().chain(config.options.default_filter_chain.as_deref())
}

type Shared<'a> = HashMap<(&'a str, u32, u32, Duration), Arc<Bucket>>;

fn limits<'a>(
    chain: &'a FilterChain,
    old: Option<&Arc<Limits>>,
    shared: &mut Shared<'a>,
) -> Option<Arc<Limits>> {
    let options = &chain.options;
    if options.connection_limit.is_none() && options.rate_limit.is_none() {
        return None;
    }
    let connections = options.connection_limit.map(|limit| {
        let most = usize::try_from(limit.max_connections).unwrap_or(usize::MAX);
        let gate = old.and_then(|old| old.connections.as_ref()).map(|(gate, _)| gate.with_limit(most));
        (gate.unwrap_or_else(|| Gate::new(most)), limit.delay)
    });
    let rate = options.rate_limit.as_ref().map(|limit| {
        let fresh = || bucket(limit, old.and_then(|old| old.rate.as_ref()));
        if limit.share_key.is_empty() {
            return fresh();
        }
        let key = (limit.share_key.as_str(), limit.max_tokens, limit.tokens_per_fill, limit.fill_interval);
        Arc::clone(shared.entry(key).or_insert_with(fresh))
    });
    Some(Arc::new(Limits { connections, rate }))
}

/// The old bucket where it has the same figures, so that a push does not fill it.
fn bucket(limit: &config::RateLimit, old: Option<&Arc<Bucket>>) -> Arc<Bucket> {
    match old {
        Some(old) if old.limit() == limit => Arc::clone(old),
        _ => Arc::new(Bucket::new(limit.clone())),
    }
}
