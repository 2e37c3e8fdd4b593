//! The backward pass of layer normalisation.

use std::ops::Range;

use super::GradientEpilogue;
use super::activation::activation_backward_rows;
use super::product::SUMS;
use super::reduction::RowGroups;
use crate::bounds::check_output;
use crate::norm::sum;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Level, Matrix, Pool};

/// The gradients of [`layer_norm`](crate::layer_norm), `[rows, columns]`; mean and variance are computed again from `x`.
///
/// # Panics
/// When a slice is too short, or the rows of `dx` overlap.
#[expect(clippy::too_many_arguments, reason = "three matrices and four vectors")]
pub fn layer_norm_backward(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    gamma: &[f32],
    eps: f32,
    dy: Matrix<'_>,
    accumulate: bool,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    epilogue: GradientEpilogue<'_>,
    dx: &mut [f32],
    dx_stride: usize,
) {
    assert!(x.has(rows, columns), "x has fewer than {rows} rows of {columns}");
    assert!(dy.has(rows, columns), "dy has fewer than {rows} rows of {columns}");
    assert!(gamma.len() >= columns, "gamma has fewer than {columns} values");
    assert!(dgamma.len() >= columns && dbeta.len() >= columns, "a gradient has fewer than {columns} values");
    epilogue.check(rows, columns);
    check_output(dx.len(), [rows, columns], dx_stride);
    if !accumulate {
        dgamma[..columns].fill(0.0);
        dbeta[..columns].fill(0.0);
    }
    if rows == 0 || columns == 0 {
        return;
    }
    let groups = RowGroups::new(rows);
    let mut sums = SUMS.take();
    // Each group's begin with whole vectors.
    let apart = columns.next_multiple_of(16);
    sums.grow(groups.count * 2 * apart);
    let to = Shares::new(sums.values_mut());
    let dx = Shares::new(dx);
    pool.run(groups.count, |group| {
        let (rows, at) = (groups.range(group), group * 2 * apart);
        level.run(NormTask {
            rows,
            columns,
            x,
            gamma,
            eps,
            dy,
            epilogue,
            sums: &to,
            at,
            apart,
            dx: &dx,
            dx_stride,
        });
    });
    for group in sums.values().chunks_exact(2 * apart).take(groups.count) {
        let (of_gamma, of_beta) = group.split_at(apart);
        dgamma[..columns].iter_mut().zip(of_gamma).for_each(|(sum, value)| *sum += value);
        dbeta[..columns].iter_mut().zip(of_beta).for_each(|(sum, value)| *sum += value);
    }
    SUMS.set(sums);
}

/// A task: a group of rows.
struct NormTask<'a> {
    rows: Range<usize>,
    columns: usize,
    x: Matrix<'a>,
    gamma: &'a [f32],
    eps: f32,
    dy: Matrix<'a>,
    epilogue: GradientEpilogue<'a>,
    /// Of the gradients of gamma and beta, `apart` values apart, from `at` on.
    sums: &'a Shares<'a>,
    at: usize,
    apart: usize,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for NormTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let columns = self.columns;
        // SAFETY: `layer_norm_backward` has checked the slices; tasks have different rows and sums.
        unsafe {
            let of_gamma = self.sums.at(self.at);
            let of_beta = of_gamma.add(self.apart);
            of_gamma.write_bytes(0, 2 * self.apart);
            for row in self.rows.clone() {
                let x = self.x.values.as_ptr().add(row * self.x.stride);
                let dy = self.dy.values.as_ptr().add(row * self.dy.stride);
                let mean = sum::<S, false>(x, columns, 0.0) / columns as f32;
                let variance = sum::<S, true>(x, columns, mean) / columns as f32;
                let rstd = 1.0 / (variance + self.eps).sqrt();
                let (mean, slope) = (S::splat(mean), S::splat(rstd));
                let [mut all, mut products] = [S::zero(); 2];
                for column in (0..columns).step_by(S::LANES) {
                    let left = columns - column;
                    let dy = S::load_upto(dy.add(column), left);
                    // Lanes behind the last column have a gradient of zero.
                    let hat = S::mul(S::sub(S::load_upto(x.add(column), left), mean), slope);
                    let g = S::mul(dy, S::load_upto(self.gamma.as_ptr().add(column), left));
                    all = S::add(all, g);
                    products = S::mul_add(g, hat, products);
                    let to = of_gamma.add(column);
                    S::store_upto(to, S::mul_add(dy, hat, S::load_upto(to, left)), left);
                    let to = of_beta.add(column);
                    S::store_upto(to, S::add(dy, S::load_upto(to, left)), left);
                }
                let all = S::splat(S::sum(all) / columns as f32);
                let products = S::splat(S::sum(products) / columns as f32);
                let to = self.dx.at(row * self.dx_stride);
                for column in (0..columns).step_by(S::LANES) {
                    let left = columns - column;
                    let g = S::mul(
                        S::load_upto(dy.add(column), left),
                        S::load_upto(self.gamma.as_ptr().add(column), left),
                    );
                    let hat = S::mul(S::sub(S::load_upto(x.add(column), left), mean), slope);
                    let mut g = S::mul(slope, S::sub(S::sub(g, all), S::mul(hat, products)));
                    if self.epilogue.accumulate {
                        g = S::add(g, S::load_upto(to.add(column), left));
                    }
                    S::store_upto(to.add(column), g, left);
                }
                if let Some((activation, z)) = self.epilogue.activation {
                    let (from, sizes) = (z.values.as_ptr().add(row * z.stride), [1, columns]);
                    activation_backward_rows::<S>(
                        activation, sizes, from, z.stride, to, columns, to, columns,
                    );
                }
            }
        }
    }
}
