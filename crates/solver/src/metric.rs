//! A change of variables in which the problem is round.
//!
//! With one curvature `s` for all logits, the Hessian in the weights of a class is `H = s X'X / n + strength I`; Böhning 1992 ("Multinomial logistic
//! regression algorithm") shows that it bounds the true one for `s = 1/2`, here `s` is the mean of `p (1 - p)` where the solver stands. With `H =
//! L L'` and `w = v L^-1` for a row `w`, the problem's Hessian in `v` is near the identity, whatever the correlations between features.

use engraft_kernels::{Epilogue, Level, Matrix, PackedMatrix, Pool, Prologue, gemm};

/// Rows and columns of a block of the factorisation.
const BLOCK: usize = 64;

/// What is added to a diagonal, at least, relative to its mean: less is lost in f32.
const LEAST_RIDGE: f64 = 1e-6;

/// `w = v K`, and the gradient in `v`, which is that in `w` times `K'`.
pub(crate) struct Metric {
    kind: Kind,
    /// The same for a bias.
    bias: f32,
}

enum Kind {
    /// `K` is a multiple of the identity.
    Scale(f32),
    Matrix {
        k: PackedMatrix,
        transposed: PackedMatrix,
    },
}

impl Metric {
    /// For columns of deviation 1 of which nothing more is known.
    pub(crate) fn scale(curvature: f64, strength: f64) -> Metric {
        let kind = Kind::Scale((curvature + strength).sqrt().recip() as f32);
        Metric { kind, bias: bias_scale(curvature) }
    }

    /// For columns with the lower half of `X'X / n`, `[features, features]`.
    pub(crate) fn whitening(
        level: Level,
        pool: &Pool,
        gram: &[f32],
        features: usize,
        curvature: f64,
        strength: f64,
    ) -> Metric {
        // The mean of the diagonal is at most 1.
        let ridge = strength.max(curvature * LEAST_RIDGE * features as f64);
        let mut lower: Vec<f32> = gram.iter().map(|value| (f64::from(*value) * curvature) as f32).collect();
        for i in 0..features {
            lower[i * features + i] += ridge as f32;
        }
        let inverses = cholesky(level, pool, &mut lower, features, ridge);
        let k = inverse(level, pool, &lower, features, &inverses);
        let kind = Kind::Matrix {
            k: PackedMatrix::new(level, features, features, |row, column| k[row * features + column]),
            transposed: PackedMatrix::new(level, features, features, |row, column| {
                k[column * features + row]
            }),
        };
        Metric { kind, bias: bias_scale(curvature) }
    }

    /// `v K` for rows `v`, and for biases.
    pub(crate) fn apply(&self, pool: &Pool, rows: &mut [f32], biases: &mut [f32]) {
        self.times(pool, rows, biases, false);
    }

    /// `g K'` for rows `g`, and for biases.
    pub(crate) fn apply_transposed(&self, pool: &Pool, rows: &mut [f32], biases: &mut [f32]) {
        self.times(pool, rows, biases, true);
    }

    fn times(&self, pool: &Pool, rows: &mut [f32], biases: &mut [f32], transposed: bool) {
        biases.iter_mut().for_each(|bias| *bias *= self.bias);
        match &self.kind {
            Kind::Scale(scale) => rows.iter_mut().for_each(|value| *value *= scale),
            Kind::Matrix { k, transposed: kt } => {
                let k = if transposed { kt } else { k };
                let from = rows.to_vec();
                product(pool, &from, k.k(), rows.len() / k.k(), k, rows, k.n());
            }
        }
    }
}

fn bias_scale(curvature: f64) -> f32 {
    curvature.max(f64::from(f32::MIN_POSITIVE)).sqrt().recip() as f32
}

/// `c = a b` for `m` rows.
fn product(
    pool: &Pool,
    a: &[f32],
    stride: usize,
    m: usize,
    b: &PackedMatrix,
    c: &mut [f32],
    c_stride: usize,
) {
    gemm(pool, m, Matrix { values: a, stride }, Prologue::None, b, Epilogue::default(), c, c_stride);
}

/// Replaces the lower half of a matrix `[n, n]` by its Cholesky factor; the inverses of the factor's diagonal blocks, `[rows, rows]` each.
///
/// A pivot that rounding has made smaller than `floor` is set to it.
fn cholesky(level: Level, pool: &Pool, a: &mut [f32], n: usize, floor: f64) -> Vec<Vec<f32>> {
    let mut inverses = Vec::new();
    let mut panel = Vec::new();
    for first in (0..n).step_by(BLOCK) {
        let (width, height) = (BLOCK.min(n - first), n - first);
        // The panel below the diagonal, less what the columns before it explain.
        panel.resize(height * width, 0.0);
        let done = PackedMatrix::new(level, first, width, |row, column| a[(first + column) * n + row]);
        product(pool, &a[first * n..], n, height, &done, &mut panel, width);
        for (row, panel) in panel.chunks_exact_mut(width).enumerate() {
            let own = &a[(first + row) * n + first..][..width];
            panel.iter_mut().zip(own).for_each(|(explained, value)| *explained = value - *explained);
        }
        let (factor, inverse) = small_cholesky(&panel[..width * width], width, floor);
        // L = A (L_jj')^-1
        let b = PackedMatrix::new(level, width, width, |row, column| inverse[column * width + row]);
        product(pool, &panel, width, height, &b, &mut a[first * n + first..], n);
        for row in 0..width {
            a[(first + row) * n + first..][..width].copy_from_slice(&factor[row * width..][..width]);
        }
        inverses.push(inverse);
    }
    inverses
}

/// The factor of the lower half of `[n, n]`, and the factor's inverse.
fn small_cholesky(a: &[f32], n: usize, floor: f64) -> (Vec<f32>, Vec<f32>) {
    let mut l = vec![0.0f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = f64::from(a[i * n + j]) - known;
            // `max` prefers the floor to a NaN.
            l[i * n + j] = if i == j { rest.max(floor).sqrt() } else { rest / l[j * n + j] };
        }
    }
    let mut inverse = vec![0.0f64; n * n];
    for column in 0..n {
        for row in column..n {
            let known: f64 = (column..row).map(|k| l[row * n + k] * inverse[k * n + column]).sum();
            let unit = if row == column { 1.0 } else { 0.0 };
            inverse[row * n + column] = (unit - known) / l[row * n + row];
        }
    }
    let rounded = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    (rounded(l), rounded(inverse))
}

/// The inverse of a lower triangular matrix `[n, n]`, whose diagonal blocks' inverses are known.
fn inverse(level: Level, pool: &Pool, l: &[f32], n: usize, inverses: &[Vec<f32>]) -> Vec<f32> {
    let mut k = vec![0.0; n * n];
    let mut sums = Vec::new();
    for (first, own) in (0..n).step_by(BLOCK).zip(inverses) {
        let height = BLOCK.min(n - first);
        if first > 0 {
            // K_i = -L_ii^-1 (L_i K), of the rows before.
            let done = PackedMatrix::new(level, first, first, |row, column| k[row * n + column]);
            sums.resize(height * first, 0.0);
            product(pool, &l[first * n..], n, height, &done, &mut sums, first);
            let b = PackedMatrix::new(level, height, first, |row, column| -sums[row * first + column]);
            product(pool, own, height, height, &b, &mut k[first * n..], n);
        }
        for row in 0..height {
            k[(first + row) * n + first..][..height].copy_from_slice(&own[row * height..][..height]);
        }
    }
    k
}

#[cfg(test)]
mod tests {
    use engraft_kernels::{Level, Pool};

    use super::{BLOCK, Metric};

    /// `v K` times the transposed of the same is the inverse of `s G + strength I`, for sizes around that of a block.
    #[test]
    fn whitening_inverts_the_hessian() {
        let pool = Pool::new(2);
        for n in [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5] {
            let x: Vec<f64> = (0..2 * n * n).map(|i| ((i * i) as f64 * 0.37).sin()).collect();
            let dot = |i: usize, j: usize| -> f64 { (0..2 * n).map(|k| x[k * n + i] * x[k * n + j]).sum() };
            let full: Vec<f64> = (0..n * n).map(|i| dot(i / n, i % n) / (2 * n) as f64).collect();
            let gram: Vec<f32> =
                (0..n * n).map(|i| if i % n <= i / n { full[i] as f32 } else { 0.0 }).collect();
            let (curvature, strength) = (0.2, 0.01);
            let metric = Metric::whitening(Level::detect(), &pool, &gram, n, curvature, strength);
            // K' K H = I: rows of H through K' and then K.
            let mut rows: Vec<f32> = (0..n * n)
                .map(|i| {
                    let ridge = if i % n == i / n { strength } else { 0.0 };
                    (full[i] * curvature + ridge) as f32
                })
                .collect();
            metric.apply_transposed(&pool, &mut rows, &mut []);
            metric.apply(&pool, &mut rows, &mut []);
            for (i, value) in rows.iter().enumerate() {
                let unit = if i % n == i / n { 1.0 } else { 0.0 };
                assert!((value - unit).abs() < 1e-4, "{n}: {value} at {i}");
            }
        }
    }
}
