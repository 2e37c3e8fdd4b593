//! What makes the values of a row comparable: layer normalisation and softmax, over the last axis.

use std::ops::Range;

use crate::math;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Level, Matrix, MatrixMut, Pool};

/// Values of a task, so that handing it out costs little beside it.
const TASK_VALUES: usize = 16 << 10;

/// What layer normalisation makes of a row: `(x - mean) / sqrt(variance + eps) * gamma + beta`, the variance being the biased one, as
/// `torch.nn.functional.layer_norm` computes it.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LayerNorm<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub eps: f32,
}

/// Normalises each row of `[rows, columns]`.
///
/// # Panics
/// When a slice is too short, or the output's rows overlap.
pub fn layer_norm(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    input: Matrix<'_>,
    norm: LayerNorm<'_>,
    output: MatrixMut<'_>,
) {
    let LayerNorm { gamma, beta, .. } = norm;
    assert!(gamma.len() >= columns && beta.len() >= columns, "gamma or beta has fewer than {columns} values");
    all_rows(level, pool, [rows, columns], input, Normalise::Layer(norm), output);
}

/// `exp(x) / sum exp(x)` for each row of `[rows, columns]`.
///
/// A row with a NaN or plus infinity, or of nothing but minus infinity, gives NaN, as in PyTorch.
///
/// # Panics
/// When a slice is too short, or the output's rows overlap.
pub fn softmax(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    input: Matrix<'_>,
    output: MatrixMut<'_>,
) {
    all_rows(level, pool, [rows, columns], input, Normalise::Softmax, output);
}

/// What is done with a row.
#[derive(Clone, Copy)]
enum Normalise<'a> {
    Layer(LayerNorm<'a>),
    Softmax,
}

fn all_rows(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    input: Matrix<'_>,
    normalise: Normalise<'_>,
    output: MatrixMut<'_>,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(input.has(rows, columns), "the input has fewer than {rows} rows of {columns}");
    output.check(rows, columns);
    let output_stride = output.stride;
    let output = Shares::new(output.values);
    let height = TASK_VALUES.div_ceil(columns);
    pool.run(rows.div_ceil(height), |task| {
        let rows = task * height..rows.min((task + 1) * height);
        level.run(NormTask { rows, columns, input, normalise, output: &output, output_stride });
    });
}

/// A task: some rows.
struct NormTask<'a> {
    rows: Range<usize>,
    columns: usize,
    input: Matrix<'a>,
    normalise: Normalise<'a>,
    output: &'a Shares<'a>,
    output_stride: usize,
}

impl Kernel for NormTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows {
            let from = self.input.values[row * self.input.stride..][..self.columns].as_ptr();
            // SAFETY: `all_rows` has checked the slices; tasks have different rows.
            unsafe {
                let to = self.output.at(row * self.output_stride);
                match self.normalise {
                    Normalise::Layer(LayerNorm { gamma, beta, eps }) => {
                        layer_norm_row::<S>(from, self.columns, gamma.as_ptr(), beta.as_ptr(), eps, to);
                    }
                    Normalise::Softmax => softmax_row::<S>(from, self.columns, to),
                }
            }
        }
    }
}

/// # Safety
/// The machine has the instruction set, and all pointers are valid for `columns` values.
#[inline(always)]
unsafe fn layer_norm_row<S: Simd>(
    from: *const f32,
    columns: usize,
    gamma: *const f32,
    beta: *const f32,
    eps: f32,
    to: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mean = sum::<S, false>(from, columns, 0.0) / columns as f32;
        let variance = sum::<S, true>(from, columns, mean) / columns as f32;
        let slope = S::splat(1.0 / (variance + eps).sqrt());
        let mean = S::splat(mean);
        let mut column = 0;
        while column < columns {
            let left = columns - column;
            let x = S::mul(S::sub(S::load_upto(from.add(column), left), mean), slope);
            let gamma = S::load_upto(gamma.add(column), left);
            let beta = S::load_upto(beta.add(column), left);
            S::store_upto(to.add(column), S::mul_add(x, gamma, beta), left);
            column += S::LANES;
        }
    }
}

/// # Safety
/// The machine has the instruction set, and the pointer is valid for `columns` values.
#[inline(always)]
pub(crate) unsafe fn sum_of_squares<S: Simd>(from: *const f32, columns: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe { sum::<S, true>(from, columns, 0.0) }
}

/// The sum of all `x - mean`, or of their squares.
///
/// # Safety
/// The machine has the instruction set, and the pointer is valid for `columns` values.
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd, const SQUARED: bool>(from: *const f32, columns: usize, mean: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let means = S::splat(mean);
        let mut sums = [S::zero(); 4];
        let mut column = 0;
        // Four sums, because an addition waits for the one before it.
        while column + 4 * S::LANES <= columns {
            for (v, sum) in sums.iter_mut().enumerate() {
                let x = S::sub(S::load(from.add(column + v * S::LANES)), means);
                *sum = if SQUARED { S::mul_add(x, x, *sum) } else { S::add(*sum, x) };
            }
            column += 4 * S::LANES;
        }
        let [mut a, b, c, d] = sums;
        while column < columns {
            let x = S::sub(S::load_upto_or(from.add(column), columns - column, mean), means);
            a = if SQUARED { S::mul_add(x, x, a) } else { S::add(a, x) };
            column += S::LANES;
        }
        S::sum(S::add(S::add(a, b), S::add(c, d)))
    }
}

/// # Safety
/// The machine has the instruction set, and the pointers are valid for `columns` values.
#[inline(always)]
unsafe fn softmax_row<S: Simd>(from: *const f32, columns: usize, to: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        let mut largest = S::splat(f32::NEG_INFINITY);
        for column in (0..columns).step_by(S::LANES) {
            let x = S::load_upto_or(from.add(column), columns - column, f32::NEG_INFINITY);
            largest = S::max(x, largest);
        }
        let largest = S::splat(S::largest(largest));
        let mut sum = S::zero();
        for column in (0..columns).step_by(S::LANES) {
            let left = columns - column;
            let x = S::load_upto_or(from.add(column), left, f32::NEG_INFINITY);
            let y = math::exp::<S>(S::sub(x, largest));
            sum = S::add(sum, y);
            S::store_upto(to.add(column), y, left);
        }
        let slope = S::splat(1.0 / S::sum(sum));
        for column in (0..columns).step_by(S::LANES) {
            let left = columns - column;
            S::store_upto(to.add(column), S::mul(S::load_upto(to.add(column), left), slope), left);
        }
    }
}

/// What a score is below the largest when its exponential counts as zero. That of a mask's -100 would be subnormal, and a machine needs
/// many times as long to make such a number, and again for each product with it; beside the largest, which is one, it is nothing.
const LEAST_EXPONENT: f32 = -87.0;

/// Makes `exp(y - the largest y)` of the `columns` values of a row, `y` being `scale x + first + second`, and returns their sum. What
/// would be below 1.6e-38 is zero.
///
/// # Safety
/// The machine has the instruction set. The row is in whole vectors, with minus infinity behind the columns, which stays; `first`
/// and `second` are valid for `columns` values or null, and `second` is null if `first` is. `scale` is positive.
#[inline(always)]
pub(crate) unsafe fn softmax_scores<S: Simd>(
    row: *mut f32,
    columns: usize,
    scale: f32,
    first: *const f32,
    second: *const f32,
) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let mut largest = S::splat(f32::NEG_INFINITY);
        let mut scale = S::splat(scale);
        if first.is_null() {
            for column in (0..columns).step_by(S::LANES) {
                largest = S::max(S::load(row.add(column)), largest);
            }
        } else {
            for column in (0..columns).step_by(S::LANES) {
                let left = columns - column;
                let x = S::load(row.add(column));
                let mut y = S::mul_add(x, scale, S::load_upto(first.add(column), left));
                if !second.is_null() {
                    y = S::add(y, S::load_upto(second.add(column), left));
                }
                S::store(row.add(column), y);
                largest = S::max(y, largest);
            }
            scale = S::splat(1.0);
        }
        let shift = S::mul(S::splat(-S::largest(largest)), scale);
        let mut sum = S::zero();
        let least = S::splat(LEAST_EXPONENT);
        for column in (0..columns).step_by(S::LANES) {
            let x = S::mul_add(S::load(row.add(column)), scale, shift);
            let y = S::select_less(x, least, S::zero(), math::exp::<S>(S::max(least, x)));
            sum = S::add(sum, y);
            S::store_upto(row.add(column), y, columns - column);
        }
        S::sum(sum)
    }
}
