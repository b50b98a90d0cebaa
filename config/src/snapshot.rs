//! The desired state: what every source makes and the gateway compiles to its table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::listener::{ConnectionMatch, FilterChain, Listener};
use crate::names::Names;
use crate::rejection::{Notice, Place, Rejection, ResourceName};
use crate::secrets::Secrets;
use crate::server_name::{Pattern, ServerName};

/// The desired state, as plain values. What did not change between two snapshots may be the same `Arc`, which is how
/// the table's builder knows in one comparison that there is nothing to rebuild.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// By name.
    pub listeners: BTreeMap<String, Arc<Listener>>,
    /// By name. Copies of this map share what they have in common, and finding out where two of them differ takes no
    /// look at that: there are thousands of clusters, and a snapshot after every hundred changes. The names are shared
    /// even where the rest differs, and with the table that is compiled from it.
    pub clusters: OrdMap<Arc<str>, Arc<Cluster>>,
    /// What DNS says; `None` while the source has not said anything of names, which is not the same as none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Arc<Names>>,
    /// What the clusters' TLS names by Secret. It stands in no dump.
    #[serde(skip)]
    pub secrets: Arc<Secrets>,
    /// What was refused on the way here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<Rejection>,
    /// What was accepted and may surprise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
}

/// One name on one listener that clients of one protocol and kind ask for; the empty protocol stands for all.
type Claim<'a> = (&'a Pattern, &'a str, &'a ConnectionMatch);

impl Snapshot {
    /// What looks right in every part and is wrong in the whole: chains that lead nowhere, names that two chains of a
    /// listener take, and names that are taken as they were sent although the listener's rewrite would lead elsewhere.
    pub fn cross_check(&self) -> Vec<Notice> {
        let mut notices: Vec<Notice> =
            self.listeners.values().flat_map(|listener| self.cross_check_one(listener)).collect();
        notices.sort();
        notices.dedup();
        notices
    }

    fn cross_check_one(&self, listener: &Listener) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut say = |chain: &str, message: String| {
            let name = listener.name.clone();
            let resource = ResourceName { kind: "Listener".to_owned(), namespace: String::new(), name };
            let place = Place { resource, field: format!("filter_chains[{chain}]"), location: None };
            notices.push(Notice { place, message });
        };
        let mut claims: HashMap<Claim<'_>, &FilterChain> = HashMap::new();
        for chain in &listener.filter_chains {
            for cluster in &chain.route.clusters {
                if !self.clusters.contains_key(cluster.name.as_str()) {
                    let message =
                        format!("there is no cluster {}; its connections will be closed", cluster.name);
                    say(&chain.name, message);
                }
            }
            for claim in claims_of(chain) {
                if let Some(first) = claims.get(&claim).filter(|first| !std::ptr::eq(**first, chain)) {
                    let name = claim.0;
                    say(
                        &chain.name,
                        format!("{name} is also a name of chain {}, which comes first", first.name),
                    );
                } else {
                    claims.insert(claim, chain);
                }
            }
        }
        for (chain, pattern, alias) in swallowed_aliases(listener) {
            let message = format!(
                "{pattern} takes names under {alias} as they were sent, so the rewrite never leads to what is exposed \
                 under that; use another port or narrower names"
            );
            say(&chain.name, message);
        }
        let takers = takers(listener);
        for chain in listener.filter_chains.iter().filter(|chain| chain.matches.sent_as.is_empty()) {
            for name in chain.matches.server_names.iter().filter_map(exact) {
                if let Some((rewritten, other)) = reached_by_rewrite(listener, &takers, name) {
                    let message = format!(
                        "{name} is taken as it was sent, although the rewrite would make it {rewritten}, a name of chain {other}"
                    );
                    say(&chain.name, message);
                }
            }
        }
        notices
    }
}

fn exact(pattern: &Pattern) -> Option<&ServerName> {
    match pattern {
        Pattern::Exact(name) => Some(name),
        _ => None,
    }
}

fn claims_of(chain: &FilterChain) -> impl Iterator<Item = Claim<'_>> {
    let protocols = &chain.matches.application_protocols;
    let every = protocols.is_empty().then_some("");
    chain.matches.server_names.iter().flat_map(move |name| {
        protocols
            .iter()
            .map(String::as_str)
            .chain(every)
            .map(move |protocol| (name, protocol, &chain.matches.connection))
    })
}

/// Wildcards that take the names which some chain is to be reached by after a rewrite: a rewrite is tried only on names
/// that no chain takes as they were sent.
fn swallowed_aliases(listener: &Listener) -> Vec<(&FilterChain, &Pattern, &Pattern)> {
    let (rewritten, as_sent): (Vec<_>, Vec<_>) =
        listener.filter_chains.iter().partition(|chain| !chain.matches.sent_as.is_empty());
    let wildcards: Vec<_> = as_sent
        .into_iter()
        .flat_map(|chain| chain.matches.server_names.iter().map(move |name| (chain, name)))
        .filter(|(_, name)| exact(name).is_none())
        .collect();
    let mut swallowed = BTreeMap::new();
    for chain in rewritten {
        for alias in &chain.matches.sent_as {
            let protocols = &chain.matches.application_protocols;
            let takes = wildcards.iter().filter(|(wildcard, name)| {
                let asked = &wildcard.matches.application_protocols;
                name.covers(alias)
                    && (asked.is_empty() || asked.iter().any(|protocol| protocols.contains(protocol)))
            });
            swallowed.extend(takes.map(|(wildcard, name)| ((&*wildcard.name, *name, alias), *wildcard)));
        }
    }
    swallowed.into_iter().map(|((_, name, alias), wildcard)| (wildcard, name, alias)).collect()
}

/// The chains of a listener by each name that they give in full.
type Takers<'a> = BTreeMap<&'a str, Vec<&'a FilterChain>>;

fn takers(listener: &Listener) -> Takers<'_> {
    let mut takers = Takers::new();
    for chain in &listener.filter_chains {
        for name in chain.matches.server_names.iter().filter_map(exact) {
            takers.entry(name.as_str()).or_default().push(chain);
        }
    }
    takers
}

/// The name that the listener's rewrite makes of this one, and the chain that would take it.
fn reached_by_rewrite<'a>(
    listener: &Listener,
    takers: &Takers<'a>,
    name: &ServerName,
) -> Option<(String, &'a str)> {
    let rewritten = listener.rewrites.iter().find_map(|rewrite| rewrite.apply(name.as_str()))?;
    let takes = |chain: &&&FilterChain| {
        let aliases = &chain.matches.sent_as;
        aliases.is_empty() || aliases.iter().any(|alias| alias.matches(name.host()))
    };
    let other = &*takers.get(rewritten.as_str())?.iter().find(takes)?.name;
    (rewritten != name.as_str()).then_some((rewritten, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::ChainMatch;
    use crate::route::{Rewrite, Route};

    fn chain(name: &str, server_names: &[&str], protocols: &[&str], sent_as: &[&str]) -> FilterChain {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        FilterChain {
            name: name.into(),
            matches: ChainMatch {
                server_names: patterns(server_names),
                application_protocols: protocols.iter().map(|protocol| (*protocol).into()).collect(),
                sent_as: patterns(sent_as),
                ..ChainMatch::default()
            },
            route: Route::to("known"),
            idle_timeout: None,
            options: Default::default(),
        }
    }

    fn messages(filter_chains: Vec<FilterChain>) -> Vec<String> {
        let listener = Listener {
            name: "l".into(),
            address: ([127, 0, 0, 1], 0).into(),
            rewrites: vec![Rewrite::global_to("cluster.local")],
            filter_chains,
            options: Default::default(),
        };
        let snapshot = Snapshot {
            listeners: BTreeMap::from([("l".into(), Arc::new(listener))]),
            clusters: OrdMap::unit("known".into(), Arc::new(Cluster::new("known", Vec::new()))),
            ..Snapshot::default()
        };
        snapshot.cross_check().into_iter().map(|notice| notice.to_string()).collect()
    }

    #[test]
    fn a_chain_that_leads_nowhere_is_told() {
        let lost = FilterChain { route: Route::to("unknown"), ..chain("a", &["x.y"], &[], &[]) };
        let said = messages(vec![lost]);
        assert!(said.len() == 1 && said[0].contains("no cluster unknown"), "{said:?}");
    }

    #[test]
    fn one_name_for_two_chains_is_told_unless_their_clients_differ() {
        let said = messages(vec![chain("a", &["x.y"], &["h", "i"], &[]), chain("b", &["x.y"], &["i"], &[])]);
        assert!(said.len() == 1 && said[0].contains("chain a"), "{said:?}");
        assert!(messages(vec![chain("a", &["x.y"], &["i"], &[]), chain("b", &["x.y"], &[], &[])]).is_empty());
    }

    #[test]
    fn a_wildcard_that_takes_aliases_as_they_were_sent_is_told_once() {
        let aliased = |name: &str| {
            chain(name, &[&format!("outbound_.80_._.{name}.svc.cluster.local")], &[], &["*.global"])
        };
        let with = |wildcard: &str| {
            messages(vec![aliased("a.b"), aliased("c.d"), chain("w", &[wildcard], &[], &[])])
        };
        assert!(
            with("*").len() == 1 && with("*")[0].contains("* takes names under *.global"),
            "{:?}",
            with("*")
        );
        assert_eq!((with("*.global").len(), with("*.b.global").len(), with("*.test").len()), (1, 0, 0));
    }

    #[test]
    fn a_name_that_hides_a_rewrite_is_told_only_where_the_rewrite_leads_somewhere() {
        let (sent, meant) = ("outbound_.80_._.a.b.global", "outbound_.80_._.a.b.svc.cluster.local");
        let told = |aliases: &[&str]| {
            messages(vec![chain("a", &[sent], &[], &[]), chain("b", &[meant], &[], aliases)])
        };
        assert_eq!((told(&[]).len(), told(&["*.global"]).len(), told(&["*.other"]).len()), (1, 1, 0));
        assert!(messages(vec![chain("a", &[sent], &[], &[])]).is_empty());
    }
}
