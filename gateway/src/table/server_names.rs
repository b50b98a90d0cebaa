//! From a name to the filter chains of one listener: exact names, then the longest wildcard suffix, then the default.

use std::collections::HashMap;

use eastgate_config::listener::FilterChain;
use eastgate_config::server_name::Pattern;

use super::Error;
use super::step::{Step, Unfit};

/// Indices into the listener's chains, in the order in which they are asked. The maps hash with a random key, so that
/// nobody can choose names that collide.
#[derive(Debug, Default)]
pub(super) struct ServerNames {
    exact: HashMap<String, Vec<usize>>,
    /// By the name after `*.`.
    suffix: HashMap<String, Vec<usize>>,
    any: Vec<usize>,
}

impl ServerNames {
    pub(super) fn new(chains: &[FilterChain]) -> Self {
        let mut names = Self::default();
        for (index, chain) in chains.iter().enumerate() {
            for pattern in &chain.matches.server_names {
                let indices = match pattern {
                    Pattern::Exact(name) => names.exact.entry(name.to_string()).or_default(),
                    Pattern::Suffix(name) => names.suffix.entry(name.to_string()).or_default(),
                    Pattern::Any => &mut names.any,
                };
                if !indices.contains(&index) {
                    indices.push(index);
                }
            }
        }
        // A chain that asks for a protocol goes before one of the same name that takes whoever is left.
        let asks_nothing = |index: &usize| {
            chains.get(*index).is_none_or(|chain| chain.matches.application_protocols.is_empty())
        };
        let lists = names.exact.values_mut().chain(names.suffix.values_mut()).chain([&mut names.any]);
        lists.for_each(|indices| indices.sort_by_key(asks_nothing));
        names
    }

    /// The chain for a name, or `None` where no allowed chain has it. Once a chain has the name, a less specific one
    /// is not asked, even if the protocols do not fit: as in Envoy, there is no way back.
    pub(super) fn find<'p>(
        &self,
        name: &str,
        chains: &[FilterChain],
        unfit: impl Fn(&FilterChain) -> Option<Unfit>,
        protocols: impl Iterator<Item = &'p [u8]> + Clone,
        tell: &mut impl FnMut(Step<'_>),
    ) -> Option<Result<usize, Error>> {
        let mut chosen = |indices: &Vec<usize>| choose(indices, chains, &unfit, protocols.clone(), tell);
        if let Some(found) = self.exact.get(name).and_then(&mut chosen) {
            return Some(found);
        }
        if self.suffix.is_empty() {
            return None;
        }
        let suffixes = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        suffixes.filter_map(|suffix| self.suffix.get(suffix)).find_map(chosen)
    }

    /// The chain that takes every name.
    pub(super) fn any<'p>(
        &self,
        chains: &[FilterChain],
        unfit: impl Fn(&FilterChain) -> Option<Unfit>,
        protocols: impl Iterator<Item = &'p [u8]> + Clone,
        tell: &mut impl FnMut(Step<'_>),
    ) -> Option<Result<usize, Error>> {
        choose(&self.any, chains, &unfit, protocols, tell)
    }
}

/// The first chain that fits and whose protocols the client speaks; an error where chains fit and it speaks none's.
fn choose<'p>(
    indices: &[usize],
    chains: &[FilterChain],
    unfit: &impl Fn(&FilterChain) -> Option<Unfit>,
    protocols: impl Iterator<Item = &'p [u8]> + Clone,
    tell: &mut impl FnMut(Step<'_>),
) -> Option<Result<usize, Error>> {
    let mut refused = None;
    for &index in indices {
        let Some(chain) = chains.get(index) else { continue };
        if let Some(why) = unfit(chain) {
            tell(Step::Asked { chain, unfit: Some(why) });
            continue;
        }
        let wanted = &chain.matches.application_protocols;
        let offered = |wanted: &String| protocols.clone().any(|offer| offer == wanted.as_bytes());
        if wanted.is_empty() || wanted.iter().any(offered) {
            tell(Step::Asked { chain, unfit: None });
            return Some(Ok(index));
        }
        tell(Step::Asked { chain, unfit: Some(Unfit::Protocols) });
        refused.get_or_insert(chain);
    }
    refused.map(|chain| Err(Error::NoProtocol { chain: chain.name.to_string() }))
}
