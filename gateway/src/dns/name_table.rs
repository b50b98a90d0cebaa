//! The compiled form of a snapshot's names, which an answer is looked up in.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use eastgate_config::names::Names;
use eastgate_config::server_name::Pattern;

/// Every name that has an answer.
#[derive(Debug, Default)]
pub struct NameTable {
    exact: HashMap<Box<str>, Addresses>,
    /// By what follows the `*.`.
    wildcards: HashMap<Box<str>, Addresses>,
    /// Names that have none of their own and others below them.
    inner: HashSet<Box<str>>,
    hosts: HashMap<IpAddr, Vec<Box<str>>>,
    /// Changes with the names.
    pub serial: u32,
}

/// The addresses of a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For A.
    pub v4: Vec<Ipv4Addr>,
    /// For AAAA.
    pub v6: Vec<Ipv6Addr>,
}

impl NameTable {
    /// Compiles them.
    pub fn build(names: &Names, serial: u32) -> Self {
        let mut table = Self { serial, ..Self::default() };
        for (host, name) in names {
            let mut addresses = Addresses::default();
            for address in &name.addresses {
                match address {
                    IpAddr::V4(address) => addresses.v4.push(*address),
                    IpAddr::V6(address) => addresses.v6.push(*address),
                }
            }
            match host {
                Pattern::Exact(host) => {
                    table.add_inner(host.as_str());
                    for address in &name.addresses {
                        table.hosts.entry(*address).or_default().push(host.as_str().into());
                    }
                    table.exact.insert(host.as_str().into(), addresses);
                }
                Pattern::Suffix(suffix) => {
                    table.inner.insert(suffix.as_str().into());
                    table.add_inner(suffix.as_str());
                    table.wildcards.insert(suffix.as_str().into(), addresses);
                }
                // No source makes it: every name there is would be the mesh's.
                Pattern::Any => {}
            }
        }
        table
    }

    fn add_inner(&mut self, host: &str) {
        let above = parents(host).take_while(|parent| self.inner.insert((*parent).into()));
        above.for_each(drop);
    }

    /// The addresses of a name in lower case, and where they are from: the name itself, or the suffix of the longest
    /// wildcard above it. A wildcard's own suffix is not one of its names.
    pub fn find<'a>(&'a self, name: &'a str) -> Option<(&'a Addresses, &'a str)> {
        if let Some(addresses) = self.exact.get(name) {
            return Some((addresses, name));
        }
        parents(name).find_map(|suffix| Some((self.wildcards.get(suffix)?, suffix)))
    }

    /// Are there names below this one?
    pub fn has_below(&self, name: &str) -> bool {
        self.inner.contains(name)
    }

    /// The hosts that have this address, other than by a wildcard.
    pub fn hosts_of(&self, address: IpAddr) -> &[Box<str>] {
        self.hosts.get(&address).map_or(&[], Vec::as_slice)
    }

    /// How many names have an answer.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcards.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `b.c` and `c` for `a.b.c`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.')).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eastgate_config::names::Name;

    fn table(hosts: &[(&str, &str)]) -> NameTable {
        let name = |address: &str| Name { addresses: [address.parse().unwrap()].into(), automatic: false };
        let names = hosts.iter().map(|(host, address)| (host.parse().unwrap(), name(address))).collect();
        NameTable::build(&names, 1)
    }

    #[test]
    fn the_name_itself_comes_first_and_then_the_longest_wildcard() {
        let table = table(&[("a.b.c", "1.1.1.1"), ("*.b.c", "2.2.2.2"), ("*.c", "3.3.3.3")]);
        let found =
            |name: &str| table.find(name).map(|(addresses, of)| (addresses.v4[0].octets()[0], of.to_owned()));
        assert_eq!(found("a.b.c"), Some((1, "a.b.c".into())));
        assert_eq!(found("x.b.c"), Some((2, "b.c".into())));
        assert_eq!(found("x.y.b.c"), Some((2, "b.c".into())));
        // Names below an exact one are no names of it; the wildcard above takes them.
        assert_eq!(found("x.a.b.c"), Some((2, "b.c".into())));
        assert_eq!(found("b.c"), Some((3, "c".into())));
        assert_eq!([found("c"), found("xc"), found("")], [None, None, None]);
    }

    #[test]
    fn a_name_above_others_is_there_and_has_nothing() {
        let table = table(&[("a.b.c", "1.1.1.1"), ("*.d.e", "2.2.2.2"), ("f.b.c", "1.1.1.1")]);
        for (name, is_there) in
            [("b.c", true), ("c", true), ("d.e", true), ("e", true), ("a.b.c", false), ("x.c", false)]
        {
            assert_eq!(table.has_below(name), is_there, "{name}");
        }
    }

    #[test]
    fn an_address_leads_back_to_the_hosts_that_have_it_by_name() {
        let table = table(&[("a.b", "1.1.1.1"), ("c.d", "1.1.1.1"), ("*.e", "1.1.1.1")]);
        assert_eq!(table.hosts_of([1, 1, 1, 1].into()), ["a.b".into(), "c.d".into()]);
        assert!(table.hosts_of([1, 1, 1, 2].into()).is_empty());
    }
}
