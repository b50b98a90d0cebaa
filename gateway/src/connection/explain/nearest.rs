//! The names that somebody may have meant.

use eastgate_config::listener::Listener;
use eastgate_config::server_name::{Pattern, SubsetKey};
use serde::Serialize;

/// How many are given.
const MOST: usize = 3;
/// Below this share of equal characters a name is another one altogether.
const ALIKE: f64 = 0.6;

/// A name that a filter chain takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Near {
    /// The name, or a pattern of names.
    pub name: String,
    /// The filter chain that has it.
    pub chain: String,
    /// Where it is reached by a rewritten name only: the names that a client may send.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sent_as: Vec<Pattern>,
}

/// Those of the listener's names that look most like one of these.
pub(super) fn nearest(listener: &Listener, names: &[&str]) -> Vec<Near> {
    let mut found: Vec<(f64, Near)> = Vec::new();
    for chain in &listener.filter_chains {
        for pattern in chain.matches.server_names.iter().filter(|pattern| **pattern != Pattern::Any) {
            let text = pattern.to_string();
            let likeness = names.iter().map(|name| alike(name, &text)).fold(0.0, f64::max);
            // What a chain has and did not take has its reason elsewhere.
            if likeness >= ALIKE && !names.contains(&text.as_str()) {
                let sent_as = chain.matches.sent_as.clone();
                found.push((likeness, Near { name: text, chain: chain.name.to_string(), sent_as }));
            }
        }
    }
    found.sort_by(|(a, one), (b, other)| b.total_cmp(a).then_with(|| one.name.cmp(&other.name)));
    found.dedup_by(|(_, one), (_, other)| one.name == other.name);
    found.into_iter().take(MOST).map(|(_, near)| near).collect()
}

/// From 0 to 1: how much of the hosts in two names is alike, with a little more for the same port and subset.
fn alike(name: &str, other: &str) -> f64 {
    let host = |name: &'_ str| SubsetKey::parse(name).map_or(name.to_owned(), |key| key.host.to_owned());
    let head = |name: &str| SubsetKey::parse(name).map(|key| (key.port, key.subset.to_owned()));
    let same = if head(name) == head(other) { 0.05 } else { 0.0 };
    strsim::normalized_levenshtein(&host(name), &host(other)) * 0.95 + same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_in_the_host_is_nearer_than_another_service_and_the_port_breaks_ties() {
        let meant = "outbound_.8000_._.httpbin.bar.svc.cluster.local";
        let slip = alike("outbound_.8000_._.htpbin.bar.svc.cluster.local", meant);
        let port = alike("outbound_.80_._.htpbin.bar.svc.cluster.local", meant);
        let other = alike("outbound_.8000_._.x.y", meant);
        assert!(slip > port && port > ALIKE && other < ALIKE, "{slip} {port} {other}");
        // Whoever leaves the mesh's form out means the host.
        assert!(alike("httpbin.bar.svc.cluster.local", meant) > ALIKE);
    }
}
