//! Cross entropy of a few rows: losses and residuals.

use engraft_kernels::{Level, Matrix, MatrixMut, Pool, softmax};

/// Sums over some rows, for one layer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChunkSums {
    pub(crate) loss: f64,
    pub(crate) loss_squares: f64,
    /// Of `sum over classes of p (1 - p)`.
    pub(crate) curvature: f64,
    /// Rows whose label has the highest logit; the first of several.
    pub(crate) right: f64,
}

impl ChunkSums {
    pub(crate) fn add(&mut self, other: &ChunkSums) {
        self.loss += other.loss;
        self.loss_squares += other.loss_squares;
        self.curvature += other.curvature;
        self.right += other.right;
    }
}

/// Writes `softmax(logits) - label` for rows as far apart as those of the logits.
///
/// `ln p` of the label, taken from `p`, would be rounded to nothing where the layer is almost sure. What is small is summed instead:
/// the probabilities of the other classes.
pub(crate) fn softmax_rows(
    level: Level,
    pool: &Pool,
    classes: usize,
    labels: impl ExactSizeIterator<Item = usize>,
    logits: Matrix<'_>,
    residuals: &mut [f32],
) -> ChunkSums {
    let output = MatrixMut { values: residuals, stride: logits.stride };
    softmax(level, pool, [labels.len(), classes], logits, output);
    let mut sums = ChunkSums::default();
    for (row, label) in labels.enumerate() {
        let first = row * logits.stride;
        let z = &logits.values[first..][..classes];
        let p = &mut residuals[first..][..classes];
        let best = largest(z);
        let others = |p: &mut [f32], class: usize| {
            let own = std::mem::replace(&mut p[class], 0.0);
            (own, sum(p, |p| p))
        };
        let (own, rest) = others(p, best);
        p[best] = own;
        let loss = f64::from(z[best] - z[label]) - (-f64::from(rest)).ln_1p();
        sums.loss += loss;
        sums.loss_squares += loss * loss;
        // sum p (1 - p), again without a difference of numbers that are nearly one.
        let squares = sum(p, |p| p * p) - own * own;
        sums.curvature += f64::from(own) * f64::from(rest) + f64::from(rest - squares);
        sums.right += if best == label { 1.0 } else { 0.0 };
        let rest = if best == label { rest } else { others(p, label).1 };
        p[label] = -rest;
    }
    sums
}

/// Sums side by side, in a fixed order, of which the compiler makes vectors.
const LANES: usize = 16;

fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = of(*value);
    }
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += of(*value);
        }
    }
    lanes.iter().sum()
}

/// The place of the largest value, the first of several.
fn largest(values: &[f32]) -> usize {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in values.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let most = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|value| *value == most).unwrap_or(0)
}
