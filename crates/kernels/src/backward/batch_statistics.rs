//! Statistics of a batch for its normalisation.

use std::ops::Range;

use super::product::SUMS;
use super::reduction::RowGroups;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Level, Matrix, Pool};

/// Mean and biased variance of each column of `x`, `[rows, columns]`: of each channel of a batch of maps.
///
/// Chunks of rows have their own mean and sum of squared differences from it, and are merged in their order (Chan, Golub and LeVeque
/// 1979). Means are told from the first row of several chunks, so that one far from zero costs no digits.
///
/// # Panics
/// When a slice is too short, or there are no rows.
pub fn batch_statistics(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    mean: &mut [f32],
    variance: &mut [f32],
) {
    assert!(rows > 0, "statistics of no rows");
    assert!(x.has_apart(rows, columns), "x has fewer than {rows} rows of {columns}, or they overlap");
    assert!(mean.len() >= columns && variance.len() >= columns, "fewer than {columns} means or variances");
    if columns == 0 {
        return;
    }
    let groups = RowGroups::new(rows);
    let parts = columns.div_ceil(COLUMNS);
    let mut sums = SUMS.take();
    sums.grow(groups.count * 2 * columns);
    let to = Shares::new(sums.values_mut());
    pool.run(groups.count * parts, |task| {
        let (part, group) = (task % parts, task / parts);
        let first = part * COLUMNS;
        let (rows, columns_of) = (groups.range(group), first..(first + COLUMNS).min(columns));
        let at = group * 2 * columns;
        level.run(Statistics { x, rows, columns: columns_of, to: &to, at, apart: columns });
    });
    let sums = {
        let values = sums.values();
        for column in 0..columns {
            let (mut count, mut mean_so_far, mut squares) = (0.0, 0.0, 0.0);
            for group in 0..groups.count {
                let of_group = |part: usize| f64::from(values[(2 * group + part) * columns + column]);
                let (more, difference) = (groups.range(group).len() as f64, of_group(0) - mean_so_far);
                let all = count + more;
                mean_so_far += difference * more / all;
                squares += of_group(1) + difference * difference * count * more / all;
                count = all;
            }
            mean[column] = mean_so_far as f32;
            variance[column] = (squares / count) as f32;
        }
        sums
    };
    SUMS.set(sums);
}

/// Columns of a task.
const COLUMNS: usize = 128;

/// Rows of a chunk, which stays in a near cache while its mean is found, and then its squared differences from it.
const ROWS: usize = 64;

/// A task: means and sums of squared differences of some columns of a group of rows.
struct Statistics<'a> {
    x: Matrix<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    to: &'a Shares<'a>,
    at: usize,
    /// Values from the means to the sums.
    apart: usize,
}

impl Kernel for Statistics<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.columns.len();
        let [mut means, mut squares, mut of_chunk, mut origin, mut centre] = [[0.0_f32; COLUMNS]; 5];
        let first = self.rows.start * self.x.stride + self.columns.start;
        origin[..width].copy_from_slice(&self.x.values[first..][..width]);
        let mut done = 0.0;
        for first in self.rows.clone().step_by(ROWS) {
            let rows = first..(first + ROWS).min(self.rows.end);
            let more = rows.len() as f32;
            // SAFETY: `batch_statistics` has checked the slices; a multiple of a vector fits in the arrays.
            unsafe {
                self.add::<S, false>(rows.clone(), &origin, &mut of_chunk);
                for column in (0..width).step_by(S::LANES) {
                    let mean = of_chunk.as_mut_ptr().add(column);
                    let from_origin = S::mul(S::load(mean), S::splat(1.0 / more));
                    S::store(mean, from_origin);
                    let origin = S::load(origin.as_ptr().add(column));
                    S::store(centre.as_mut_ptr().add(column), S::add(origin, from_origin));
                }
                let all = done + more;
                for column in (0..width).step_by(S::LANES) {
                    let (mean, square) = (means.as_mut_ptr().add(column), squares.as_mut_ptr().add(column));
                    let difference = S::sub(S::load(of_chunk.as_ptr().add(column)), S::load(mean));
                    let between = S::mul(S::mul(difference, difference), S::splat(done * more / all));
                    S::store(square, S::add(S::load(square), between));
                    S::store(mean, S::mul_add(difference, S::splat(more / all), S::load(mean)));
                }
                let mut within = [0.0; COLUMNS];
                self.add::<S, true>(rows, &centre, &mut within);
                for column in (0..width).step_by(S::LANES) {
                    let square = squares.as_mut_ptr().add(column);
                    S::store(square, S::add(S::load(square), S::load(within.as_ptr().add(column))));
                }
                done = all;
            }
        }
        for column in (0..width).step_by(S::LANES) {
            // SAFETY: as above; tasks have different columns or groups.
            unsafe {
                let to = self.to.at(self.at + self.columns.start + column);
                let mean = S::add(S::load(origin.as_ptr().add(column)), S::load(means.as_ptr().add(column)));
                S::store_upto(to, mean, width - column);
                S::store_upto(to.add(self.apart), S::load(squares.as_ptr().add(column)), width - column);
            }
        }
    }
}

impl Statistics<'_> {
    /// The sums of the rows' differences from a row, or of the squares of these.
    ///
    /// # Safety
    /// The machine has the instruction set, and the rows exist.
    #[inline(always)]
    unsafe fn add<S: Simd, const SQUARED: bool>(
        &self,
        rows: Range<usize>,
        centre: &[f32; COLUMNS],
        sums: &mut [f32; COLUMNS],
    ) {
        let width = self.columns.len();
        // Four vectors at a time, whose sums stay in registers.
        for column in (0..width).step_by(4 * S::LANES) {
            // SAFETY: the caller's.
            unsafe {
                let from = self.x.values.as_ptr().add(self.columns.start + column);
                let mut all = [S::zero(); 4];
                let mut middle = [S::zero(); 4];
                for (v, middle) in middle.iter_mut().enumerate() {
                    if column + v * S::LANES < COLUMNS {
                        *middle = S::load(centre.as_ptr().add(column + v * S::LANES));
                    }
                }
                if column + 4 * S::LANES <= width {
                    for row in rows.clone() {
                        for v in 0..4 {
                            let x = S::load(from.add(row * self.x.stride + v * S::LANES));
                            let x = S::sub(x, middle[v]);
                            all[v] = if SQUARED { S::mul_add(x, x, all[v]) } else { S::add(all[v], x) };
                        }
                    }
                } else {
                    for row in rows.clone() {
                        for v in 0..4 {
                            let left = width.saturating_sub(column + v * S::LANES);
                            if left == 0 {
                                continue;
                            }
                            let x = S::load_upto(from.add(row * self.x.stride + v * S::LANES), left);
                            let x = S::sub(x, middle[v]);
                            all[v] = if SQUARED { S::mul_add(x, x, all[v]) } else { S::add(all[v], x) };
                        }
                    }
                }
                for (v, sum) in all.into_iter().enumerate() {
                    if column + v * S::LANES < width {
                        S::store(sums.as_mut_ptr().add(column + v * S::LANES), sum);
                    }
                }
            }
        }
    }
}
