//! The names that DNS answers for, and their addresses.
//!
//! An entry that is given no address gets one of its own, out of the ranges that Istio takes for this. It is computed
//! from the entry's namespace and host, so that it is the same after a restart, in every replica, and whatever the
//! order in which the entries came.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use xxhash_rust::xxh64::xxh64;

use crate::cidr::Cidr;
use crate::server_name::Pattern;

/// By host; `*.suffix` stands for every name below the suffix that no longer one takes.
pub type Names = BTreeMap<Pattern, Name>;

/// What DNS says of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Name {
    /// Of both families.
    pub addresses: BTreeSet<IpAddr>,
    /// They are not from the source but out of the automatic ranges.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

/// The automatic IPv4 addresses, 240.240.0.0/16: class E, which nothing on any network has.
pub const AUTOMATIC_V4: Cidr = Cidr::of_v4(Ipv4Addr::new(240, 240, 0, 0), 16);
/// The automatic IPv6 addresses, 2001:2::/48: the benchmarking range of [RFC 5180](https://www.rfc-editor.org/rfc/rfc5180).
pub const AUTOMATIC_V6: Cidr = Cidr::of_v6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48);

/// How many IPv4 addresses there are: not those that end in 0 or 255, which many a system takes for a network's own.
const V4_COUNT: u32 = 256 * 254;

/// Addresses that are not to be given out.
#[derive(Debug, Default)]
pub struct Taken {
    single: BTreeSet<IpAddr>,
    ranges: BTreeSet<Cidr>,
}

impl Taken {
    /// Keeps a range out, where it meets the automatic ones at all.
    pub fn add(&mut self, range: Cidr) {
        if [AUTOMATIC_V4, AUTOMATIC_V6].iter().any(|automatic| automatic.overlaps(&range)) {
            match range.single() {
                Some(address) => self.single.insert(address),
                None => self.ranges.insert(range),
            };
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.single.contains(&address) || self.ranges.iter().any(|range| range.contains(address))
    }

    fn take(&mut self, address: IpAddr) -> Option<IpAddr> {
        (!self.contains(address) && self.single.insert(address)).then_some(address)
    }
}

/// An address of each family for each key, where there is one left.
///
/// Each key has a place that its hash says; where that is taken, the next free one behind it counts. Keys come in
/// their own order, so an address depends on the set of keys and not on its history: a new key moves another only where
/// the two meet and the new one comes first.
pub fn automatic(keys: BTreeSet<String>, mut taken: Taken) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut given = BTreeMap::new();
    for key in keys {
        let hash = xxh64(key.as_bytes(), 0);
        let v4 = (0..V4_COUNT).find_map(|step| taken.take(v4(hash, step)));
        // As many steps are enough where a whole range in the way is not the whole of ours.
        let v6 = (0..V4_COUNT).find_map(|step| taken.take(v6(hash, step)));
        given.insert(key, v4.into_iter().chain(v6).collect());
    }
    given
}

fn v4(hash: u64, step: u32) -> IpAddr {
    let count = u64::from(V4_COUNT);
    let place = (hash % count + u64::from(step)) % count;
    let [.., third] = (place / 254).to_be_bytes();
    let [.., fourth] = (place % 254 + 1).to_be_bytes();
    Ipv4Addr::new(240, 240, third, fourth).into()
}

/// The hash is the interface identifier.
fn v6(hash: u64, step: u32) -> IpAddr {
    let identifier = hash.wrapping_add(u64::from(step)).max(1);
    Ipv6Addr::from(0x2001_0002_u128 << 96 | u128::from(identifier)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("bar/service-{number}.bar.global")).collect()
    }

    #[test]
    fn an_address_is_known_before_and_after() {
        // Changing these moves the addresses of every user's services.
        let given = automatic(BTreeSet::from(["bar/httpbin.bar.global".to_owned()]), Taken::default());
        let addresses = &given["bar/httpbin.bar.global"];
        let expected: BTreeSet<IpAddr> =
            ["240.240.246.192", "2001:2::983a:3a31:3e46:a0d3"].map(|text| text.parse().unwrap()).into();
        assert_eq!(addresses, &expected);
    }

    #[test]
    fn no_two_have_the_same_and_all_are_in_the_ranges() {
        let given = automatic(keys(10_000), Taken::default());
        let all: Vec<IpAddr> = given.values().flatten().copied().collect();
        assert_eq!(all.len(), 20_000);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        let ends = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255));
        assert!(!all.iter().any(ends));
        assert!(all.iter().all(|one| AUTOMATIC_V4.contains(*one) || AUTOMATIC_V6.contains(*one)));
    }

    #[test]
    fn a_full_range_leaves_the_other_family() {
        let mut taken = Taken::default();
        taken.add(Cidr::new(Ipv4Addr::new(240, 0, 0, 0).into(), 4).unwrap());
        let given = automatic(keys(3), taken);
        assert!(given.values().all(|addresses| addresses.len() == 1 && addresses.first().unwrap().is_ipv6()));
    }

    proptest! {
        #[test]
        fn explicit_addresses_are_never_given_out(
            count in 1..60_usize, lows in prop::collection::vec(any::<(u8, u8)>(), 0..200), range in 17..=32_u32
        ) {
            let mut taken = Taken::default();
            let explicit = lows.iter().map(|(high, low)| Cidr::new(Ipv4Addr::new(240, 240, *high, *low).into(), range.max(24)).unwrap());
            let explicit: Vec<Cidr> = explicit.collect();
            explicit.iter().for_each(|range| taken.add(*range));
            for address in automatic(keys(count), taken).values().flatten() {
                prop_assert!(!explicit.iter().any(|range| range.contains(*address)));
            }
        }

        #[test]
        fn a_key_keeps_its_address_when_others_come_unless_they_meet(count in 1..200_usize, more in 1..200_usize) {
            let few = automatic(keys(count), Taken::default());
            let many = automatic(keys(count + more), Taken::default());
            let home = |key: &str| v4(xxh64(key.as_bytes(), 0), 0);
            for (key, addresses) in &few {
                let alone = keys(count + more).iter().filter(|other| home(other) == home(key)).count() == 1;
                let at_home = addresses.contains(&home(key)) && many[key].contains(&home(key));
                prop_assert!(!alone || !at_home || *addresses == many[key]);
            }
        }
    }
}
