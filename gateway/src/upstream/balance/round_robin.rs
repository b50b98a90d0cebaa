//! Smooth weighted round robin as a fixed order that any number of threads can walk with one counter.

/// The longest order that is kept; larger weights are scaled down to fit.
const MAX_ORDER: u64 = 4096;

/// Indices in an order where each stands as often as its weight says (in lowest terms) and as evenly spread as can be:
/// at every step the index whose credit has grown most is taken and pays the total.
///
/// The weights are at least 1. When they add up to more than [`MAX_ORDER`], each is scaled, never below 1.
pub(super) fn smooth_order(weights: &[u64]) -> Box<[u32]> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let mut weights: Vec<i64> = weights.iter().map(|weight| (*weight / divisor) as i64).collect();
    let total = weights.iter().sum::<i64>() as u64;
    if total > MAX_ORDER {
        for weight in &mut weights {
            *weight = ((*weight as u128 * u128::from(MAX_ORDER) / u128::from(total)) as i64).max(1);
        }
    }
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0i64; weights.len()];
    let order = (0..total).filter_map(|_| {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        // The first of the richest, so that the order does not depend on how `max` breaks ties.
        let richest = (0..credit.len()).rev().max_by_key(|index| credit[*index])?;
        credit[richest] -= total;
        Some(richest as u32)
    });
    order.collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn after_any_number_of_turns_nobody_is_two_away_from_its_share(weights in prop::collection::vec(1u64..40, 1..9)) {
            let order = smooth_order(&weights);
            let total: u64 = weights.iter().sum();
            let mut counts = vec![0_u64; weights.len()];
            for (turn, index) in (1_u64..).zip(&order) {
                counts[*index as usize] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let share = turn as f64 * *weight as f64 / total as f64;
                    prop_assert!((*count as f64 - share).abs() < 2.0, "{:?} after {}", counts, turn);
                }
            }
            let divisor = weights.iter().fold(0, |a, b| gcd(a, *b));
            let wanted: Vec<_> = weights.iter().map(|weight| weight / divisor).collect();
            prop_assert_eq!(counts, wanted);
        }
    }

    #[test]
    fn shares_are_exact_and_spread() {
        assert_eq!(*smooth_order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*smooth_order(&[20, 10]), [0, 1, 0]);
        assert!(smooth_order(&[]).is_empty());
    }

    #[test]
    fn huge_weights_are_scaled_and_none_is_lost() {
        let order = smooth_order(&[u64::from(u32::MAX) << 16, (u64::from(u32::MAX) - 1) << 16, 1]);
        assert!(order.len() as u64 <= MAX_ORDER + 1);
        let count = |index| order.iter().filter(|at| **at == index).count();
        assert!(count(2) == 1 && count(0).abs_diff(count(1)) <= 1);
    }
}
