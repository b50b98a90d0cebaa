//! Consistent hashing: connections with the same key go to the same endpoint, and few change when endpoints do.
//!
//! Both structures are a list of places, each with the index of an endpoint; a key chooses a place. Places depend on
//! addresses and weights alone, so every replica of the gateway chooses alike.

//! They are Envoy's places, too, so that an Envoy beside it chooses alike.

use std::net::SocketAddr;

use eastgate_config::cluster::{HashFunction, RingHash};
use xxhash_rust::xxh64::xxh64;

/// The hash of a client's address, as a key.
pub fn key(client: SocketAddr) -> u64 {
    xxh64(client.ip().to_canonical().to_string().as_bytes(), 0)
}

/// The hash of a server name in its canonical form, as a key.
pub fn key_of_name(name: &str) -> u64 {
    xxh64(name.as_bytes(), 0)
}

/// Places on a ring, by their hash. Each endpoint has as many as its weight's share of the ring.
/// <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/load_balancers#ring-hash>
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// A ring of at least the minimum of places if every endpoint is to have its exact share, and of the maximum at most.
    pub(super) fn new(endpoints: &[(SocketAddr, u64)], ring: RingHash) -> Self {
        let total: f64 = endpoints.iter().map(|(_, weight)| *weight as f64).sum();
        let shares = || endpoints.iter().map(|(_, weight)| *weight as f64 / total);
        let least = shares().fold(f64::INFINITY, f64::min);
        // The least of them gets a whole number of places, so that all shares are as exact as they can be.
        let size = ((least * ring.minimum_size as f64).ceil() / least).min(ring.maximum_size as f64);
        let mut places = Vec::new();
        let mut wanted = 0.0;
        for (index, ((address, _), share)) in endpoints.iter().zip(shares()).enumerate() {
            wanted += share * size;
            for number in 0.. {
                if places.len() as f64 >= wanted {
                    break;
                }
                let name = format!("{address}_{number}");
                let hash = match ring.function {
                    HashFunction::XxHash => xxh64(name.as_bytes(), 0),
                    HashFunction::MurmurHash2 => murmur2(name.as_bytes(), STD_HASH_SEED),
                };
                places.push((hash, index as u32));
            }
        }
        places.sort_unstable();
        Self(places.into())
    }

    /// The endpoints by the order of their places from the key's on.
    pub(super) fn after(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(place, _)| *place < key);
        let (before, from) = self.0.split_at(start);
        from.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

/// The seed of `std::hash` in GNU's C++ library, which this function stands in for in Envoy.
const STD_HASH_SEED: u64 = 0xc70f_6907;

/// MurmurHash2 for 64-bit machines (<https://github.com/aappleby/smhasher/blob/master/src/MurmurHash2.cpp>, 64A).
fn murmur2(bytes: &[u8], seed: u64) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let mix = |hash: u64| hash ^ (hash >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for bytes in words {
        let mixed = mix(word(bytes).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ mixed).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        hash = (hash ^ word(rest)).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

/// Maglev's table: every endpoint takes places in its own order of preference, in turns by weight, until all are taken
/// (<https://research.google/pubs/maglev-a-fast-and-reliable-software-network-load-balancer/>, section 3.4).
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

impl Maglev {
    /// A table of `size` places, which must be a prime for every preference to reach every place.
    pub(super) fn new(endpoints: &[(SocketAddr, u64)], size: u64) -> Self {
        const NOBODY: u32 = u32::MAX;
        let total: f64 = endpoints.iter().map(|(_, weight)| *weight as f64).sum();
        let shares: Vec<f64> = endpoints.iter().map(|(_, weight)| *weight as f64 / total).collect();
        let largest = shares.iter().copied().fold(0.0, f64::max);
        let mut places = vec![NOBODY; size as usize];
        let mut preferences: Vec<_> = endpoints
            .iter()
            .map(|(address, _)| {
                let name = address.to_string();
                let offset = xxh64(name.as_bytes(), 0) % size;
                (offset, xxh64(name.as_bytes(), 1) % (size - 1) + 1)
            })
            .collect();
        let mut free = if endpoints.is_empty() { 0 } else { size };
        // What has to be reached for the next turn.
        let mut targets = vec![0.0; endpoints.len()];
        let mut round = 0.0;
        while free > 0 {
            round += 1.0;
            for (index, (at, skip)) in preferences.iter_mut().enumerate() {
                // The heaviest has a turn in every round, the others in the first and then as often as their share of
                // it says. Rounding decides some of these; it is the same as Envoy's.
                if round * shares[index] < targets[index] || free == 0 {
                    continue;
                }
                targets[index] += largest;
                while places[*at as usize] != NOBODY {
                    *at = (*at + *skip) % size;
                }
                places[*at as usize] = index as u32;
                free -= 1;
            }
        }
        Self(places.into())
    }

    /// The endpoints by the order of the places from the key's on.
    pub(super) fn after(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = (key % (self.0.len().max(1) as u64)) as usize;
        let (before, from) = self.0.split_at(start.min(self.0.len()));
        from.iter().chain(before).map(|index| *index as usize).filter(|index| *index != u32::MAX as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoints(weights: &[u64]) -> Vec<(SocketAddr, u64)> {
        weights.iter().zip(1..).map(|(weight, last)| (([10, 0, 0, last], 80).into(), *weight)).collect()
    }

    const RING: RingHash =
        RingHash { minimum_size: 1024, maximum_size: 8 << 20, function: HashFunction::XxHash };

    fn counts(places: impl Iterator<Item = usize>, endpoints: usize) -> Vec<usize> {
        let mut counts = vec![0; endpoints];
        places.for_each(|index| counts[index] += 1);
        counts
    }

    /// The paper promises it for a table of more than a hundred places an endpoint.
    #[test]
    fn maglevs_table_is_even_within_one_percent() {
        let maglev = Maglev::new(&endpoints(&[1; 100]), 65_537);
        let counts = counts(maglev.0.iter().map(|index| *index as usize), 100);
        assert!(counts.iter().all(|count| (649..=662).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_are_shares_of_the_places() {
        let maglev = Maglev::new(&endpoints(&[3, 1]), 65_537);
        let of_maglev = counts(maglev.0.iter().map(|index| *index as usize), 2);
        assert!(of_maglev[0].abs_diff(49_152) <= 2, "{of_maglev:?}");
        let ring = Ring::new(&endpoints(&[3, 1]), RING);
        assert_eq!(counts(ring.0.iter().map(|(_, index)| *index as usize), 2), [768, 256]);
    }

    /// How many of 10,000 keys leave an endpoint that has not gone, when the tenth of ten goes.
    fn moved(before: impl Fn(u64) -> usize, after: impl Fn(u64) -> usize) -> usize {
        let keys = (0..10_000u64).map(|n| xxh64(&n.to_le_bytes(), 7));
        keys.filter(|key| before(*key) != 9 && before(*key) != after(*key)).count()
    }

    #[test]
    fn few_keys_move_when_an_endpoint_goes() {
        let all = endpoints(&[1; 10]);
        let rings = [&all[..], &all[..9]].map(|endpoints| Ring::new(endpoints, RING));
        let first = |ring: &Ring, key| ring.after(key).next().unwrap();
        // The two rings have other numbers of places for each endpoint, and so some of their own.
        let by_ring = moved(|key| first(&rings[0], key), |key| first(&rings[1], key));
        assert!(by_ring < 1_500, "{by_ring} of 10,000 moved on the ring");

        let tables = [&all[..], &all[..9]].map(|endpoints| Maglev::new(endpoints, 65_537));
        let first = |table: &Maglev, key| table.after(key).next().unwrap();
        let by_table = moved(|key| first(&tables[0], key), |key| first(&tables[1], key));
        assert!(by_table < 1_500, "{by_table} of 10,000 moved in Maglev's table");
    }

    /// How many places of the others change hands, in percent, when one of so many equal endpoints goes.
    fn disrupted(count: u8, gone: usize, table: u64) -> f64 {
        let before = endpoints(&vec![1; count.into()]);
        let mut after = before.clone();
        after.remove(gone);
        let [old, new] = [&before, &after].map(|endpoints| Maglev::new(endpoints, table));
        let places = old.0.iter().zip(&new.0).filter(|(old, _)| **old as usize != gone);
        let owner = |index: u32| if (index as usize) < gone { index } else { index + 1 };
        let (kept, moved) = places.fold((0, 0), |(kept, moved), (old, new)| match *old == owner(*new) {
            true => (kept + 1, moved),
            false => (kept, moved + 1),
        });
        f64::from(moved) * 100.0 / f64::from(kept + moved)
    }

    /// The paper's figure 12 has about 1 to 2 % for a table of 65,537, and less for a larger one.
    #[test]
    fn maglevs_table_changes_little_where_nobody_has_gone() {
        for count in [2, 3, 10, 50, 100, 200] {
            let (usual, larger) = (disrupted(count, 1, 65_537), disrupted(count, 1, 655_373));
            println!(
                "Maglev: one of {count} goes: {usual:.2} % of the others' places move, {larger:.2} % of 655,373"
            );
            assert!(usual < 2.0 && larger < 2.0, "{count}: {usual} {larger}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn whoever_goes_from_maglevs_table_takes_few_places_of_others_along(count in 2u8..200, gone: prop::sample::Index) {
            let moved = disrupted(count, gone.index(count.into()), 65_537);
            prop_assert!(moved < 2.0, "{} %", moved);
        }

        /// A ring whose size does not follow from the number of endpoints: only what was at the one that went moves.
        #[test]
        fn who_goes_from_a_ring_moves_nobody_else(count in 2u8..60, gone: prop::sample::Index, seed: u64) {
            let gone = gone.index(count.into());
            let before = endpoints(&vec![1; count.into()]);
            let mut after = before.clone();
            after.remove(gone);
            // 100 places each, before and after.
            let ring = |endpoints: &[_]| {
                let size = 100 * endpoints.len() as u64;
                Ring::new(endpoints, RingHash { minimum_size: size, maximum_size: size, ..RING })
            };
            let (old, new) = (ring(&before), ring(&after));
            for key in (0..300_u64).map(|number| xxh64(&number.to_le_bytes(), seed)) {
                let [was, is] = [(&old, &before), (&new, &after)]
                    .map(|(ring, endpoints)| endpoints[ring.after(key).next().unwrap()].0);
                prop_assert!(was == is || was == before[gone].0);
            }
        }
    }

    #[test]
    fn a_ring_has_no_more_places_than_it_may_and_is_another_by_another_function() {
        let small = RingHash { minimum_size: 1, maximum_size: 16, ..RING };
        assert_eq!(Ring::new(&endpoints(&[1_000, 1, 1]), small).0.len(), 16);
        let murmur = Ring::new(&endpoints(&[1; 4]), RingHash { function: HashFunction::MurmurHash2, ..RING });
        assert_eq!(counts(murmur.0.iter().map(|(_, index)| *index as usize), 4), [256; 4]);
        assert_ne!(murmur.0, Ring::new(&endpoints(&[1; 4]), RING).0);
    }

    /// What `std::hash<std::string>` of libstdc++ gives.
    const HASHES: [(&str, u64); 5] = [
        ("", 0x553e_9390_1e46_2a6e),
        ("a", 0x454d_dee4_88c1_ed6b),
        ("12345678", 0x8c5b_90a3_3a04_dca5),
        ("127.0.0.1:80_0", 0xf46e_f02b_be93_9e15),
        ("gateway", 0x8966_d2e4_d1fe_743a),
    ];

    #[test]
    fn murmur2_is_the_one_of_the_standard_library() {
        for (text, hash) in HASHES {
            assert_eq!(murmur2(text.as_bytes(), STD_HASH_SEED), hash, "{text:?}");
        }
    }

    #[test]
    fn nobody_is_chosen_among_nobody() {
        assert!(Ring::new(&[], RING).after(1).next().is_none());
        assert!(Maglev::new(&[], 65_537).after(1).next().is_none());
    }

    #[test]
    fn an_ipv4_client_has_one_key_however_its_address_is_written() {
        assert_eq!(key("[::ffff:192.0.2.1]:1".parse().unwrap()), key("192.0.2.1:2".parse().unwrap()));
    }
}
