//! What the kernels' tests share.
// No test needs all of it.
#![allow(dead_code)]

use engraft_kernels::{Level, Pool};

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

/// What a kernel gives on every instruction set that this machine has, of which the bits must not depend on the number of threads.
pub fn on_all_levels(run: impl Fn(Level, &Pool) -> Vec<Vec<f32>>) -> Vec<(Level, Vec<Vec<f32>>)> {
    let bits = |results: &[Vec<f32>]| -> Vec<Vec<u32>> {
        results.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
    };
    let of_level = |level| {
        let results = run(level, &Pool::new(1));
        for threads in [2, 3] {
            let others = run(level, &Pool::new(threads));
            assert!(bits(&others) == bits(&results), "{level}: {threads} threads change the result");
        }
        (level, results)
    };
    Level::all().into_iter().map(of_level).collect()
}

/// Fails unless all values are within `tolerance` of what is expected.
pub fn assert_near(what: &str, values: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(values.len(), expected.len(), "{what}");
    for (place, (value, expected)) in values.iter().zip(expected).enumerate() {
        let difference = (f64::from(*value) - expected).abs();
        assert!(difference <= tolerance, "{what}: {value} instead of {expected} at {place}");
    }
}

/// The gradient of `f` at `x`, by central differences.
pub fn differences(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = to_f64(x);
    let step = 1e-5;
    let mut gradient = Vec::with_capacity(x.len());
    for i in 0..x.len() {
        let middle = x[i];
        let mut at = |value: f64| {
            x[i] = value;
            f(&x)
        };
        gradient.push((at(middle + step) - at(middle - step)) / (2.0 * step));
        x[i] = middle;
    }
    gradient
}

pub fn to_f64(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Rows with gaps, which are filled with this: inputs' gaps with NaN, outputs' with what must stay.
pub fn with_gaps(rows: &[f32], columns: usize, stride: usize, gap: f32) -> Vec<f32> {
    let mut all = Vec::new();
    for row in rows.chunks(columns) {
        all.extend_from_slice(row);
        all.resize(all.len() + stride - columns, gap);
    }
    all
}

/// The rows without their gaps, in which nothing may have been written.
pub fn without_gaps(rows: &[f32], columns: usize, stride: usize, gap: f32) -> Vec<f32> {
    let mut values = Vec::new();
    for row in rows.chunks(stride) {
        values.extend_from_slice(&row[..columns]);
        assert!(row[columns..].iter().all(|value| value.to_bits() == gap.to_bits()), "written between rows");
    }
    values
}
