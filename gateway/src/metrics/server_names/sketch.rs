//! The names that count most, among however many there are, in a few places: pure.
//!
//! It is what the literature calls *frequent items* (Misra and Gries, <https://doi.org/10.1016/0167-6423(82)90012-0>), with room made for
//! many names at once, so that a flood of them costs no more by the name than the names that are known.

use std::collections::HashMap;

use eastgate_config::server_name::ServerName;

/// What names have counted, for as many of them as there is room for.
#[derive(Debug, Default)]
pub(super) struct Sketch {
    counts: HashMap<ServerName, Count>,
    missed: u64,
}

#[derive(Debug)]
struct Count {
    /// What the name has counted is not more than this ...
    most: u64,
    /// ... and at most so much less: it was counted before the name had its place, if it was.
    unseen: u64,
}

impl Sketch {
    /// Counts for a name, in a sketch with room for so many.
    pub(super) fn add(&mut self, name: &ServerName, count: u64, room: usize) {
        if count == 0 || room == 0 {
            return;
        }
        if let Some(known) = self.counts.get_mut(name) {
            known.most = known.most.saturating_add(count);
        } else {
            if self.counts.len() >= room {
                self.make_room();
            }
            let most = self.missed.saturating_add(count);
            self.counts.insert(name.clone(), Count { most, unseen: self.missed });
        }
    }

    /// Forgets the half that has least.
    fn make_room(&mut self) {
        let mut counts: Vec<_> = self.counts.values().map(|count| count.most).collect();
        let middle = counts.len() / 2;
        self.missed = *counts.select_nth_unstable(middle).1;
        self.counts.retain(|_, count| count.most > self.missed);
    }

    /// A name without a place has counted no more than this, which is at most two parts of as many as there is room for of
    /// all that was counted: `2 * all / room`.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// The names that certainly have counted more than any without a place, with what they have counted since they have
    /// theirs. Names that are made up, each for a few connections, are not among them.
    pub(super) fn certain(&self) -> impl Iterator<Item = (&ServerName, u64)> {
        let counted = self.counts.iter().map(|(name, count)| (name, count.most - count.unseen));
        counted.filter(|(_, count)| *count > self.missed)
    }

    /// So many of them, those that have most first.
    pub(super) fn top(&self, limit: usize) -> Vec<(&ServerName, u64)> {
        let mut all: Vec<_> = self.certain().collect();
        all.sort_unstable_by(|(one, some), (other, more)| more.cmp(some).then(one.cmp(other)));
        all.truncate(limit);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: u64) -> ServerName {
        ServerName::from_sni(format!("n{number}.example").as_bytes()).unwrap()
    }

    /// What the name has counted since it has its place.
    fn since(sketch: &Sketch, name: &ServerName) -> Option<u64> {
        sketch.counts.get(name).map(|count| count.most - count.unseen)
    }

    proptest! {
        #[test]
        fn whatever_is_counted_the_error_is_bounded_and_so_are_the_names(
            counted in prop::collection::vec((0_u64..60, 1_u64..1_000), 0..600),
            room in 1_usize..40,
        ) {
            let mut sketch = Sketch::default();
            let mut exactly: HashMap<ServerName, u64> = HashMap::new();
            let mut all = 0;
            for (number, count) in counted {
                // Some names are far more frequent than others.
                let name = name(number * number / 60);
                let before = since(&sketch, &name);
                sketch.add(&name, count, room);
                *exactly.entry(name.clone()).or_default() += count;
                all += count;
                prop_assert_eq!(since(&sketch, &name), Some(before.unwrap_or_default() + count), "it only ever grows");
                prop_assert!(sketch.counts.len() <= room && sketch.missed() <= 2 * all / room as u64);
            }
            for (name, exactly) in &exactly {
                match sketch.counts.get(name) {
                    Some(count) => prop_assert!((count.most - count.unseen..=count.most).contains(exactly)),
                    None => prop_assert!(*exactly <= sketch.missed()),
                }
            }
            let least = sketch.certain().map(|(name, _)| exactly[name]).min().unwrap_or(u64::MAX);
            let missing = exactly.iter().filter(|(name, _)| !sketch.counts.contains_key(name));
            prop_assert!(missing.map(|(_, count)| *count).max().unwrap_or_default() < least);
        }
    }

    #[test]
    fn with_room_for_all_every_count_is_exact() {
        let mut sketch = Sketch::default();
        (0..100).for_each(|number| sketch.add(&name(number % 10), number % 10, 10));
        assert_eq!(
            (sketch.missed(), sketch.certain().count()),
            (0, 9),
            "who has counted nothing has no place"
        );
        assert_eq!(sketch.top(2), [(&name(9), 90), (&name(8), 80)]);
    }

    #[test]
    fn a_flood_of_made_up_names_is_neither_kept_nor_told() {
        let mut sketch = Sketch::default();
        for number in 0..200_000 {
            sketch.add(&name(1_000 + number), 1, 400);
            if number % 50 == 0 {
                sketch.add(&name(number / 50 % 3), 1, 400);
            }
        }
        assert!(sketch.counts.len() <= 400);
        let told: Vec<_> = sketch.top(50).into_iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!((0..3).all(|real| told.contains(&name(real))), "{told:?}");
    }
}
