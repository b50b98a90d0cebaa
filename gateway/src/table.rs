//! The compiled form of a snapshot, which the hot path reads.
//!
//! A table is never changed: the one writer builds the next and swaps it in whole, so a connection sees one push or
//! the other and never a part of each. What did not change is the same `Arc` in both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eastgate_config::listener::{Ends, HashPolicy, Peers};
use eastgate_config::rbac::Refusal;
use eastgate_config::route::Route;
use eastgate_config::server_name::ServerName;
use eastgate_config::snapshot::Snapshot;
use imbl::ordmap::DiffItem;

use crate::tls::client;
use crate::upstream::Cluster;
use crate::upstream::balance::Process;
use crate::upstream::cluster::Resolutions;
use crate::upstream::resolve::Wanted;

mod listener;
mod server_names;
mod step;

pub use listener::{Limits, Listener};
pub use step::{Lookup, Step, Unfit};

/// What the gateway does at present.
#[derive(Debug, Default)]
pub struct Table {
    /// Counts the tables of this process; 0 is the empty one before the first snapshot.
    pub version: u64,
    /// What it was compiled from.
    pub snapshot: Arc<Snapshot>,
    /// What the DNS names of its endpoints stood for then.
    pub resolved: Resolutions,
    /// What choices have to know of the process; handed on from table to table.
    pub process: Arc<Process>,
    listeners: HashMap<String, Arc<Listener>>,
    /// Those of the snapshot, in a map that shares with the table before what is the same there.
    clusters: imbl::HashMap<Arc<str>, Arc<Cluster>>,
    /// The clusters whose endpoints are given by DNS names, so that they may change while the snapshot does not.
    by_dns: BTreeSet<Arc<str>>,
    /// The clusters to whose endpoints the gateway itself speaks TLS.
    by_tls: BTreeSet<Arc<str>>,
    /// The clusters whose new endpoints are slowly started, so that their balancers change while nothing else does.
    slow: BTreeSet<Arc<str>>,
    /// The clusters that keep to the gateway's own zone, which depends on where its replicas are.
    zoned: BTreeSet<Arc<str>>,
}

/// What is known of a connection that asks for its way.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The server name, where there was a ClientHello.
    pub server_name: Option<&'a ServerName>,
    /// Where it comes from and came to.
    pub ends: Ends,
}

/// Where a connection goes.
#[derive(Debug)]
pub struct Routed {
    /// The version of the table that says so.
    pub table: u64,
    /// The cluster to connect through.
    pub cluster: Arc<Cluster>,
    /// The filter chain that took the connection.
    pub chain: Arc<str>,
    /// A chain lists the name, as it was sent or rewritten, or a wildcard that it falls under.
    pub listed: bool,
    /// The name it was routed by, where that is not the name that was sent.
    pub rewritten: Option<String>,
    /// How long the connection may be silent, where the chain says.
    pub idle_timeout: Option<Duration>,
    /// How old it may become, where the chain says.
    pub max_duration: Option<Duration>,
    /// And up to so many percent older, where the chain says.
    pub max_duration_jitter: Option<u32>,
    /// How many endpoints may be tried, where the chain says.
    pub connect_attempts: Option<u32>,
    /// What is hashed where the cluster's policy hashes.
    pub hash_policy: Option<HashPolicy>,
    /// The chain's limits, where it has any.
    pub limits: Option<Arc<Limits>>,
    /// Who must be at the other end of the gateway's own TLS session, where it has one.
    pub peers: Option<Arc<Peers>>,
}

/// Why a connection goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The listener is not in the table any more.
    #[error("the listener was removed")]
    NoListener,
    /// No filter chain takes the name, as it was sent or rewritten.
    #[error("no filter chain of the listener takes the name{}", rewritten_too(.rewritten))]
    NoChain {
        /// What the name was rewritten to, if it was.
        rewritten: Option<String>,
    },
    /// The chain wants a protocol that the client did not offer.
    #[error("filter chain {chain} takes only clients that offer one of its protocols (ALPN)")]
    NoProtocol {
        /// Its name.
        chain: String,
    },
    /// The chain's rules (RBAC) do not let this client in.
    #[error("filter chain {chain} does not allow it: {why} (AuthorizationPolicy, RBAC)")]
    Denied {
        /// Its name.
        chain: String,
        /// By which rule.
        why: Box<Refusal>,
    },
    /// The chain names a cluster that no source has given.
    #[error("filter chain {chain} leads to cluster {cluster}, which does not exist")]
    NoCluster {
        /// Its name.
        chain: String,
        /// The cluster's.
        cluster: String,
    },
}

fn rewritten_too(rewritten: &Option<String>) -> String {
    rewritten.as_ref().map(|name| format!(", nor rewritten to {name}")).unwrap_or_default()
}

impl Table {
    /// The one before the first snapshot, in a process with these settings.
    pub fn empty(process: Process) -> Self {
        Self { process: Arc::new(process), ..Self::default() }
    }

    /// Compiles the next table. Takes over from the old one whatever did not change, and looks at little else: ten
    /// thousand clusters looked at for the sake of one would cost milliseconds.
    pub fn build(snapshot: Arc<Snapshot>, resolved: &Resolutions, old: &Self) -> Self {
        Self::succeed(snapshot, resolved, old).0
    }

    /// The same, with the clusters of the old one that the next has not: whoever lets go of the old one last frees them
    /// with it, at a stretch, unless somebody keeps them until then.
    pub fn succeed(snapshot: Arc<Snapshot>, resolved: &Resolutions, old: &Self) -> (Self, Vec<Arc<Cluster>>) {
        let now = Instant::now();
        let mut replaced = Vec::new();
        let mut next = Self {
            version: old.version + 1,
            process: Arc::clone(&old.process),
            listeners: HashMap::new(),
            clusters: old.clusters.clone(),
            by_dns: old.by_dns.clone(),
            by_tls: old.by_tls.clone(),
            slow: old.slow.clone(),
            zoned: old.zoned.clone(),
            resolved: resolved.clone(),
            snapshot: Arc::clone(&snapshot),
        };
        for difference in old.snapshot.clusters.diff(&snapshot.clusters) {
            // A data thread on the same core waits for a cluster then, and not for the table.
            std::thread::yield_now();
            replaced.extend(match difference {
                DiffItem::Remove(name, _) => next.remove(name),
                DiffItem::Add(name, config) | DiffItem::Update { new: (name, config), .. } => {
                    let old = next.clusters.get(name);
                    let cluster = Cluster::build(config, resolved, old, now, &next.process);
                    next.insert(name, cluster)
                }
            });
        }
        for name in &next.by_dns {
            std::thread::yield_now();
            let Some(old) = next.clusters.get(name) else { continue };
            let cluster = Cluster::build(&old.config, resolved, Some(old), now, &next.process);
            if !Arc::ptr_eq(old, &cluster) {
                replaced.extend(next.clusters.insert(Arc::clone(name), cluster));
            }
        }
        replaced.extend(next.count_replicas(now));
        let listeners = snapshot.listeners.iter().map(|(name, config)| {
            let listener = match old.listeners.get(name) {
                Some(old) if Arc::ptr_eq(&old.config, config) || old.config == *config => Arc::clone(old),
                old => Arc::new(Listener::build(config, old.map(|old| &**old))),
            };
            (name.clone(), listener)
        });
        next.listeners = listeners.collect();
        (next, replaced)
    }

    fn insert(&mut self, name: &Arc<str>, cluster: Arc<Cluster>) -> Option<Arc<Cluster>> {
        for (names, has) in [
            (&mut self.by_dns, cluster.has_names()),
            (&mut self.by_tls, cluster.config.tls.is_some()),
            (&mut self.slow, cluster.config.slow_start.is_some()),
            (&mut self.zoned, cluster.config.zone_aware.is_some()),
        ] {
            match has {
                true => names.insert(Arc::clone(name)),
                false => names.remove(name),
            };
        }
        self.clusters.insert(Arc::clone(name), cluster)
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Cluster>> {
        for names in [&mut self.by_dns, &mut self.by_tls, &mut self.slow, &mut self.zoned] {
            names.remove(name);
        }
        self.clusters.remove(name)
    }

    /// Looks where the gateway's replicas are. Clusters that keep to its zone follow; gives what they replace.
    fn count_replicas(&mut self, now: Instant) -> Vec<Arc<Cluster>> {
        let mut replicas = BTreeMap::new();
        let local = self.clusters.get(self.process.local_cluster.as_str()).map(|local| &local.endpoints);
        for replica in local.into_iter().flatten().filter(|endpoint| endpoint.takes_connections()) {
            *replicas.entry((*replica.locality).clone()).or_default() += 1;
        }
        let mut replaced = Vec::new();
        if replicas == self.process.replicas {
            return replaced;
        }
        self.process = Arc::new(Process { replicas, ..(*self.process).clone() });
        for name in &self.zoned {
            if let Some(cluster) = self.clusters.get(name) {
                let cluster = Arc::new(cluster.in_process(&self.process, now));
                replaced.extend(self.clusters.insert(Arc::clone(name), cluster));
            }
        }
        replaced
    }

    /// The listeners, in no order.
    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values()
    }

    /// The clusters, in no order.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// The cluster of this name; not the way from a client's name to one, which is [`Self::route`].
    pub fn cluster_of_name(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.get(name)
    }

    /// The names of the clusters whose endpoints are given by DNS names.
    pub fn named_by_dns(&self) -> impl Iterator<Item = &str> {
        self.by_dns.iter().map(|name| &**name)
    }

    /// Makes the balancers anew in which a new endpoint's share has grown; tells whether there is any. To be called again
    /// after `pause` then.
    pub fn warm(&self, now: Instant, pause: Duration) -> bool {
        let slow = self.slow.iter().filter_map(|name| self.clusters.get(name));
        let mut warming = slow.filter(|cluster| cluster.warms(now, pause)).peekable();
        let any = warming.peek().is_some();
        warming.for_each(|cluster| cluster.rebalance(now));
        any
    }

    /// Every DNS name that an endpoint is given by, and how it is to be looked up.
    pub fn dns_names(&self) -> BTreeMap<String, Wanted> {
        let mut names: BTreeMap<String, Wanted> = BTreeMap::new();
        let clusters = self.by_dns.iter().filter_map(|name| self.clusters.get(name));
        for (name, wanted) in clusters.flat_map(|cluster| cluster.names()) {
            let known = names.get(name).map_or(wanted, |known| known.and(wanted));
            names.insert(name.to_owned(), known);
        }
        names
    }

    /// Every kind of TLS that the gateway itself speaks to endpoints.
    pub fn upstream_tls(&self) -> client::Wanted {
        let clusters = self.by_tls.iter().filter_map(|name| self.clusters.get(name));
        let kinds = clusters.filter_map(|cluster| cluster.config.tls.clone()).collect();
        client::Wanted { kinds, secrets: Arc::clone(&self.snapshot.secrets) }
    }

    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(name)
    }

    /// Finds the way for a connection to this listener that offers these protocols. `draw(n)` gives a number below `n`
    /// by chance, for a chain that spreads over several clusters.
    ///
    /// The name is looked up as it was sent; if no chain takes it, as it is rewritten; then the default chain counts.
    ///
    /// # Errors
    /// No chain of this listener takes the connection. There is no other way in: that a cluster of the name exists
    /// is not enough (CVE-2021-31921).
    pub fn route<'p>(
        &self,
        listener: &str,
        asked: &Asked<'_>,
        protocols: impl Iterator<Item = &'p [u8]> + Clone,
        draw: impl FnOnce(u64) -> u64,
    ) -> Result<Routed, Error> {
        self.route_telling(listener, asked, protocols, draw, |_| {})
    }

    /// The same, telling each step on the way: to explain a way is to go it.
    ///
    /// # Errors
    /// As for [`route`](Self::route).
    pub fn route_telling<'p>(
        &self,
        listener: &str,
        asked: &Asked<'_>,
        protocols: impl Iterator<Item = &'p [u8]> + Clone,
        draw: impl FnOnce(u64) -> u64,
        mut tell: impl FnMut(Step<'_>),
    ) -> Result<Routed, Error> {
        let listener = self.listeners.get(listener).ok_or(Error::NoListener)?;
        let taken = listener.chain(asked, protocols, &mut tell)?;
        let chain = taken.chain;
        let Some(cluster) = self.cluster(&chain.route, asked.server_name, draw, &mut tell) else {
            let cluster =
                chain.route.clusters.first().map(|cluster| cluster.name.clone()).unwrap_or_default();
            return Err(Error::NoCluster { chain: chain.name.to_string(), cluster });
        };
        Ok(Routed {
            table: self.version,
            cluster: Arc::clone(cluster),
            chain: chain.name.clone(),
            listed: taken.listed,
            rewritten: taken.rewritten,
            idle_timeout: chain.idle_timeout,
            max_duration: chain.options.max_connection_duration,
            max_duration_jitter: chain.options.max_duration_jitter_percent,
            connect_attempts: chain.options.max_connect_attempts,
            hash_policy: chain.options.hash_policy,
            limits: taken.limits,
            peers: chain.options.peers.clone(),
        })
    }

    fn cluster(
        &self,
        route: &Route,
        name: Option<&ServerName>,
        draw: impl FnOnce(u64) -> u64,
        tell: &mut impl FnMut(Step<'_>),
    ) -> Option<&Arc<Cluster>> {
        let by_name = route.by_server_name.as_ref().zip(name);
        let named = by_name.and_then(|(by_name, name)| {
            let wanted = by_name.cluster_for(name.as_str());
            let cluster = wanted.as_ref().and_then(|wanted| self.clusters.get(wanted.as_str()));
            tell(Step::Named { cluster: wanted.as_deref(), found: cluster.is_some() });
            cluster
        });
        named.or_else(|| self.clusters.get(drawn(route, draw)))
    }
}

/// One of a route's clusters, by weight.
fn drawn(route: &Route, draw: impl FnOnce(u64) -> u64) -> &str {
    let [first, rest @ ..] = route.clusters.as_slice() else { return "" };
    if rest.is_empty() {
        return &first.name;
    }
    let total: u64 = route.clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let mut point = if total == 0 { 0 } else { draw(total) };
    for cluster in &route.clusters {
        match point.checked_sub(u64::from(cluster.weight)) {
            Some(left) => point = left,
            None => return &cluster.name,
        }
    }
    &first.name
}

#[cfg(test)]
mod tests;
