//! What the kernels' tests share.
// No test needs all of it.
#![allow(dead_code)]

/// Values in -1..1, the same for the same seed.
pub fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// How many cases a property is tested with: few under Miri, which is thousands of times slower.
pub fn cases(count: u32) -> u32 {
    if cfg!(miri) { (count / 50).clamp(2, 4) } else { count }
}

/// The upper bound of a size in a property's cases, smaller under Miri.
pub fn most(size: usize) -> usize {
    if cfg!(miri) { (size / 6).max(3) } else { size }
}
