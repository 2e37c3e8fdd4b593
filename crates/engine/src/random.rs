//! Randomness that every engine shares, so that a seed means the same on all of them.

use std::ops::Range;

/// The dropout mask of one node for one batch of training: `0` with probability `p`, otherwise `1 / (1 - p)`.
///
/// `draw` is the batch's own number ([`Trainer::accumulate`](crate::Trainer::accumulate)), `node` the place in `Graph::nodes`,
/// `values` those of the batch's that are wanted, in row-major order: `0..len` for all. Each depends on nothing but its place and the other
/// arguments.
pub fn dropout_mask(draw: u64, node: usize, values: Range<usize>, p: f64) -> Vec<f32> {
    // Callers count draws from 0 as they count nodes: both are spread before they meet.
    let mut random = SplitMix64::new(mix(draw ^ mix(node as u64)));
    random.skip(values.start as u64);
    let kept = (1.0 / (1.0 - p)) as f32;
    values.map(|_| if random.uniform() < p { 0.0 } else { kept }).collect()
}

/// The generator of Steele, Lea and Flood 2014 ("Fast splittable pseudorandom number generators"), as in Java's
/// `SplittableRandom`.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Leaves out so many numbers.
    pub fn skip(&mut self, count: u64) {
        self.0 = self.0.wrapping_add(STEP.wrapping_mul(count));
    }

    /// A number in `0..1`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        // The bias of this reduction is below 2^-40 for every number of images that a disk can hold.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Puts a slice into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// From one state of [`SplitMix64`] to the next.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_published_sequence() {
        // Of the reference implementation, seed 1234567.
        let mut random = SplitMix64::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(expected, [random.next_u64(), random.next_u64(), random.next_u64()]);
    }

    #[test]
    fn a_mask_drops_its_share_and_keeps_the_mean() {
        for p in [0.0, 0.2, 0.5, 0.9] {
            let mask = dropout_mask(1, 3, 0..100_000, p);
            let dropped = mask.iter().filter(|value| **value == 0.0).count() as f64 / 1e5;
            let mean = mask.iter().map(|value| f64::from(*value)).sum::<f64>() / 1e5;
            assert!((dropped - p).abs() < 0.01, "{dropped} of {p}");
            assert!((mean - 1.0).abs() < 0.03, "{mean}");
        }
    }

    #[test]
    fn masks_of_other_draws_and_nodes_differ() {
        let mask = |draw, node| dropout_mask(draw, node, 0..64, 0.5);
        assert_eq!(mask(1, 2), mask(1, 2));
        for other in [mask(2, 2), mask(1, 1), mask(2, 1)] {
            assert_ne!(other, mask(1, 2));
        }
    }

    #[test]
    fn a_part_of_a_mask_is_that_of_the_whole() {
        assert_eq!(dropout_mask(5, 2, 7..30, 0.5), dropout_mask(5, 2, 0..40, 0.5)[7..30]);
    }

    #[test]
    fn shuffling_keeps_all_items() {
        let mut items: Vec<usize> = (0..1000).collect();
        SplitMix64::new(7).shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
