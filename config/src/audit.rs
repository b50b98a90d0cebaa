//! Every name that can be reached from outside, and what makes it so. A pure view of a snapshot: nothing but what a filter
//! chain of a listener names is reachable, so the chains are the whole list.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::cidr::Cidr;
use crate::listener::{FilterChain, Listener, Role, Transport};
use crate::rbac::{Action, Rbac};
use crate::server_name::Pattern;
use crate::snapshot::Snapshot;

/// A way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// The listener.
    pub listener: String,
    /// Where it accepts.
    pub address: SocketAddr,
    /// What becomes of clients' TLS.
    pub role: Role,
    /// The name to ask for; `*` for any, and none where no TLS is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Pattern>,
    /// What it is rewritten to before it is looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<String>,
    /// A client must offer one of these (ALPN); none for any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub application_protocols: Vec<String>,
    /// The clients' addresses that it is for; none for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Cidr>,
    /// The clusters behind it, with how many endpoints each has.
    pub clusters: Vec<Behind>,
    /// The filter chain.
    pub chain: String,
    /// The resources that made the chain, where the source has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_by: Option<Arc<str>>,
    /// The policies that a connection must pass besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Guard>,
}

/// A cluster behind a way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Behind {
    /// Its name.
    pub cluster: String,
    /// How many endpoints are configured.
    pub endpoints: usize,
}

/// Policies that decide together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Guard {
    /// What a match means.
    pub action: Action,
    /// Their rules, by name. An `allow` without any lets nobody in.
    pub rules: Vec<String>,
}

/// Every way in, by listener and name.
pub fn audit(snapshot: &Snapshot) -> Vec<Exposure> {
    let mut found = Vec::new();
    for listener in snapshot.listeners.values() {
        let default = listener.options.default_filter_chain.as_deref();
        for chain in listener.filter_chains.iter().chain(default) {
            let is_default = default.is_some_and(|default| std::ptr::eq(default, chain));
            for (name, rewritten) in names(listener, chain, is_default) {
                found.push(exposure(snapshot, listener, chain, name, rewritten));
            }
        }
    }
    found
}

fn exposure(
    snapshot: &Snapshot,
    listener: &Listener,
    chain: &FilterChain,
    server_name: Option<Pattern>,
    rewritten: Option<String>,
) -> Exposure {
    let clusters = chain.route.clusters.iter().map(|to| {
        let endpoints =
            snapshot.clusters.get(to.name.as_str()).map_or(0, |cluster| cluster.endpoints().count());
        Behind { cluster: to.name.clone(), endpoints }
    });
    let guard = |rules: &Arc<Rbac>| Guard {
        action: rules.action,
        rules: rules.policies.iter().map(|policy| policy.name.clone()).collect(),
    };
    let matches = &chain.matches.connection;
    Exposure {
        listener: listener.name.clone(),
        address: listener.address,
        role: listener.options.role,
        server_name,
        rewritten,
        application_protocols: chain.matches.application_protocols.clone(),
        sources: [&matches.source_ranges[..], &matches.direct_source_ranges[..]].concat(),
        clusters: clusters.collect(),
        chain: chain.name.to_string(),
        exposed_by: chain.options.exposed_by.clone(),
        policies: chain.options.rbac.iter().map(guard).collect(),
    }
}

/// The names that lead to a chain, each with what it is rewritten to.
fn names(
    listener: &Listener,
    chain: &FilterChain,
    is_default: bool,
) -> Vec<(Option<Pattern>, Option<String>)> {
    let matches = &chain.matches;
    if is_default || listener.options.plain {
        return vec![(None, None)];
    }
    let mut found = Vec::new();
    if matches.connection.transport != Transport::Tls {
        found.push((None, None));
    }
    for name in &matches.server_names {
        if matches.sent_as.is_empty() {
            found.push((Some(name.clone()), None));
        }
        if let Pattern::Exact(name) = name {
            let alias = alias(listener, chain, name.as_str());
            found.extend(alias.map(|alias| (Some(alias), Some(name.to_string()))));
        }
    }
    found
}

/// The `.global` name that is rewritten to this one. A rewrite cannot be turned round in general; this is the one that
/// Istio's gateways have.
fn alias(listener: &Listener, chain: &FilterChain, name: &str) -> Option<Pattern> {
    let (before, _) = name.split_once(".svc.")?;
    let candidate = format!("{before}.global");
    let rewritten = listener.rewrites.iter().find_map(|rewrite| rewrite.apply(&candidate))?;
    let alias: crate::server_name::ServerName = candidate.parse().ok().filter(|_| rewritten == name)?;
    let sent_as = &chain.matches.sent_as;
    let may_be = sent_as.is_empty() || sent_as.iter().any(|pattern| pattern.matches(alias.host()));
    may_be.then_some(Pattern::Exact(alias))
}

impl fmt::Display for Exposure {
    /// One line: where, what, for whom, to what, and because of what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match &self.server_name {
            Some(name) => write!(f, " {name}")?,
            None => f.write_str(" (any connection)")?,
        }
        if let Some(rewritten) = &self.rewritten {
            write!(f, " as {rewritten}")?;
        }
        if !self.application_protocols.is_empty() {
            write!(f, " alpn {}", self.application_protocols.join(","))?;
        }
        match self.role {
            Role::Passthrough => {}
            Role::Originate => f.write_str(" (TLS is begun here)")?,
            Role::Terminate => f.write_str(" (TLS ends here)")?,
        }
        if !self.sources.is_empty() {
            let sources: Vec<_> = self.sources.iter().map(ToString::to_string).collect();
            write!(f, " from {}", sources.join(","))?;
        }
        let clusters = self.clusters.iter().map(|to| format!("{} ({} endpoints)", to.cluster, to.endpoints));
        write!(f, " -> {}", clusters.collect::<Vec<_>>().join(", "))?;
        match &self.exposed_by {
            Some(resources) => write!(f, "; by {resources}")?,
            None => write!(f, "; by filter chain {}", self.chain)?,
        }
        for guard in &self.policies {
            let rules = if guard.rules.is_empty() { "nothing".to_owned() } else { guard.rules.join(", ") };
            let what = match guard.action {
                Action::Allow => "only what is allowed by",
                Action::Deny => "but what is denied by",
            };
            write!(f, "; {what} {rules}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::{File, Index, Options};

    fn lines(text: &str) -> Vec<String> {
        let mut index = Index::default();
        index.load(&[File { path: "a.yaml", text }]);
        let snapshot = index.snapshot(&Options::default());
        assert!(snapshot.rejections.is_empty(), "{:?}", snapshot.rejections);
        audit(&snapshot).iter().map(ToString::to_string).collect()
    }

    const MESH: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: istio-system}\n\
        spec: {servers: [{port: {number: 15443, name: t, protocol: TLS}, tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*.global']}]}\n\
        ---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: bar}\nspec: {ports: [{port: 80, name: http}]}\n---\n";

    #[test]
    fn an_alias_is_the_name_that_is_reachable() {
        let found = lines(MESH);
        let [line] = found.as_slice() else { panic!("{found:#?}") };
        assert!(
            line.starts_with("0.0.0.0:15443 outbound_.80_._.a.bar.global as outbound_.80_._.a.bar.svc.cluster.local alpn istio"),
            "{line}"
        );
        assert!(
            line.contains("(0 endpoints)") && line.ends_with("; by Gateway istio-system/g spec.servers[0]"),
            "{line}"
        );
    }

    #[test]
    fn policies_stand_beside_what_they_guard() {
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
            metadata: {name: p, namespace: istio-system}\n\
            spec: {action: DENY, rules: [{from: [{source: {ipBlocks: ['10.0.0.0/8']}}]}]}\n---\n";
        let found = lines(&(MESH.to_owned() + policy));
        assert!(found[0].ends_with("; but what is denied by istio-system/p rule 1"), "{found:?}");
        let nobody =
            policy.replace("action: DENY, rules: [{from: [{source: {ipBlocks: ['10.0.0.0/8']}}]}]", "");
        let found = lines(&(MESH.to_owned() + &nobody));
        assert!(found[0].ends_with("; only what is allowed by nothing"), "{found:?}");
    }
}
