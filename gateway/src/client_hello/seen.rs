//! Which extension types have occurred, told in linear time however many there are.

/// How many types are held without an allocation; more than any client in the corpus sends.
const FEW: usize = 24;

/// A set of extension types.
#[derive(Default)]
pub(super) struct Seen {
    few: [u16; FEW],
    count: usize,
    /// One bit for each type, once there are more than [`FEW`]: a hello of 128 KiB can hold 30,000 extensions.
    many: Option<Box<[u64]>>,
}

impl Seen {
    /// Adds a type; false where it was there already.
    pub(super) fn insert(&mut self, kind: u16) -> bool {
        if let Some(bits) = &mut self.many {
            return set(bits, kind);
        }
        let few = self.few.get(..self.count).unwrap_or_default();
        if few.contains(&kind) {
            return false;
        }
        if let Some(free) = self.few.get_mut(self.count) {
            *free = kind;
            self.count += 1;
            return true;
        }
        let mut bits = vec![0; 1 << 10].into_boxed_slice();
        for old in self.few {
            set(&mut bits, old);
        }
        set(&mut bits, kind);
        self.many = Some(bits);
        true
    }
}

fn set(bits: &mut [u64], kind: u16) -> bool {
    let bit = 1 << (kind % 64);
    let Some(word) = bits.get_mut(usize::from(kind / 64)) else { return false };
    let new = *word & bit == 0;
    *word |= bit;
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_new_once() {
        let mut seen = Seen::default();
        for kind in 0..=u16::MAX {
            assert!(seen.insert(kind), "{kind}");
            assert!(!seen.insert(kind), "{kind}");
        }
    }
}
