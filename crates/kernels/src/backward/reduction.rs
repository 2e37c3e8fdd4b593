//! Sums over rows, and what else gradients need of simple things.

use std::ops::Range;

use super::product::SUMS;
use crate::bounds::check_output;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Level, Matrix, Pool};

/// Rows whose sums are made at a time, before they are added to those of the rows before: long sums would lose digits.
const ROWS: usize = 64;

/// Groups of rows that are summed apart, so that threads share them; at most.
const MOST_GROUPS: usize = 32;

/// Columns of a task.
const COLUMNS: usize = 512;

/// How the rows of a reduction are divided into groups, which are summed apart and added in their order: by the sizes alone, so that the
/// bits of the sums follow from them.
pub(super) struct RowGroups {
    rows: usize,
    each: usize,
    pub(super) count: usize,
}

impl RowGroups {
    pub(super) fn new(rows: usize) -> RowGroups {
        let each = rows.div_ceil(MOST_GROUPS).next_multiple_of(ROWS).max(1);
        RowGroups { rows, each, count: rows.div_ceil(each) }
    }

    pub(super) fn range(&self, group: usize) -> Range<usize> {
        group * self.each..((group + 1) * self.each).min(self.rows)
    }
}

/// `N` terms of a row and column, of which the sums over rows are wanted.
pub(super) trait Terms<const N: usize>: Sync + Copy {
    /// Those of the first `lanes` columns from `column` on; any number in the other lanes.
    ///
    /// # Safety
    /// The machine has the instruction set, and the terms have the row and the columns.
    unsafe fn of<S: Simd>(&self, row: usize, column: usize, lanes: usize) -> [S::V; N];
}

/// Calls `finish(image, sums)` for each of the images that `rows` are divided into, with the sums `[N, columns]` of its rows.
pub(super) fn sum_rows<T: Terms<N>, const N: usize>(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    rows_per_image: usize,
    terms: T,
    mut finish: impl FnMut(usize, &[f32]),
) {
    let images = rows.div_ceil(rows_per_image);
    if images == 0 || columns == 0 {
        return;
    }
    let groups = RowGroups::new(rows_per_image.min(rows));
    let parts = columns.div_ceil(COLUMNS);
    let mut sums = SUMS.take();
    let each = N * columns;
    sums.grow(images * groups.count * each);
    let values = &mut sums.values_mut()[..images * groups.count * each];
    let to = Shares::new(values);
    pool.run(images * groups.count * parts, |task| {
        let (part, group) = (task % parts, task / parts);
        let first = group / groups.count * rows_per_image;
        let range = groups.range(group % groups.count);
        level.run(SumTask::<T, N> {
            rows: (first + range.start).min(rows)..(first + range.end).min(rows),
            columns: part * COLUMNS..((part + 1) * COLUMNS).min(columns),
            terms,
            to: &to,
            at: group * each,
            apart: columns,
        });
    });
    for (image, values) in values.chunks_exact_mut(groups.count * each).enumerate() {
        let (first, others) = values.split_at_mut(each);
        for other in others.chunks_exact(each) {
            first.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        }
        finish(image, first);
    }
    SUMS.set(sums);
}

/// A task: the sums of some rows' columns.
struct SumTask<'a, T, const N: usize> {
    rows: Range<usize>,
    columns: Range<usize>,
    terms: T,
    to: &'a Shares<'a>,
    at: usize,
    /// Values from one term's sums to the next one's.
    apart: usize,
}

impl<T: Terms<N>, const N: usize> Kernel for SumTask<'_, T, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Range { start, end } = self.columns;
        let mut sums = [[0.0; COLUMNS]; N];
        let mut chunk = self.rows.start;
        loop {
            let rows = chunk..(chunk + ROWS).min(self.rows.end);
            for (n, sums) in sums.iter_mut().enumerate() {
                for column in (0..end - start).step_by(S::LANES) {
                    // SAFETY: a multiple of a vector fits; tasks have different columns or rows.
                    unsafe {
                        let sum = sums.as_mut_ptr().add(column);
                        if chunk > self.rows.start {
                            let left = end - start - column;
                            let to = self.to.at(self.at + n * self.apart + start + column);
                            let before = if chunk > self.rows.start + ROWS {
                                S::load_upto(to, left)
                            } else {
                                S::zero()
                            };
                            S::store_upto(to, S::add(before, S::load(sum)), left);
                        }
                        S::store(sum, S::zero());
                    }
                }
            }
            if rows.is_empty() {
                break;
            }
            let mut row = rows.start;
            while row < rows.end {
                if row + 4 <= rows.end {
                    // SAFETY: the terms have the rows and columns.
                    unsafe { add_rows_of::<S, T, N, 4>(self.terms, row, start..end, &mut sums) };
                    row += 4;
                } else {
                    // SAFETY: as above.
                    unsafe { add_rows_of::<S, T, N, 1>(self.terms, row, start..end, &mut sums) };
                    row += 1;
                }
            }
            chunk += ROWS;
        }
        if self.rows.is_empty() {
            for n in 0..N {
                // SAFETY: as above.
                unsafe { self.to.at(self.at + n * self.apart + start).write_bytes(0, end - start) };
            }
        }
    }
}

/// Adds the terms of a few rows to the sums, which are read and written once for all of them.
#[inline(always)]
unsafe fn add_rows_of<S: Simd, T: Terms<N>, const N: usize, const HEIGHT: usize>(
    terms: T,
    row: usize,
    columns: Range<usize>,
    sums: &mut [[f32; COLUMNS]; N],
) {
    for column in (0..columns.len()).step_by(S::LANES) {
        // SAFETY: the caller's; a multiple of a vector fits in the sums.
        unsafe {
            let mut all = [S::zero(); N];
            for (all, sums) in all.iter_mut().zip(sums.iter()) {
                *all = S::load(sums.as_ptr().add(column));
            }
            for i in 0..HEIGHT {
                let of_row = terms.of::<S>(row + i, columns.start + column, columns.len() - column);
                for (all, term) in all.iter_mut().zip(of_row) {
                    *all = S::add(*all, term);
                }
            }
            for (all, sums) in all.into_iter().zip(sums.iter_mut()) {
                S::store(sums.as_mut_ptr().add(column), all);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Values<'a>(Matrix<'a>);

impl Terms<1> for Values<'_> {
    #[inline(always)]
    unsafe fn of<S: Simd>(&self, row: usize, column: usize, lanes: usize) -> [S::V; 1] {
        // SAFETY: the caller's.
        unsafe { [S::load_upto(self.0.values.as_ptr().add(row * self.0.stride + column), lanes)] }
    }
}

#[derive(Clone, Copy)]
struct Products<'a>(Matrix<'a>, Matrix<'a>);

impl Terms<1> for Products<'_> {
    #[inline(always)]
    unsafe fn of<S: Simd>(&self, row: usize, column: usize, lanes: usize) -> [S::V; 1] {
        // SAFETY: the caller's.
        unsafe {
            let [x] = Values(self.0).of::<S>(row, column, lanes);
            let [y] = Values(self.1).of::<S>(row, column, lanes);
            [S::mul(x, y)]
        }
    }
}

/// The sum of each column of `x`, `[rows, columns]`: the gradient of a bias, or of whatever is added to every row.
///
/// # Panics
/// When a slice is too short.
pub fn column_sums(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    accumulate: bool,
    sums: &mut [f32],
) {
    assert!(x.has_apart(rows, columns), "x has fewer than {rows} rows of {columns}, or they overlap");
    assert!(sums.len() >= columns, "there are fewer than {columns} sums");
    if !accumulate {
        sums[..columns].fill(0.0);
    }
    sum_rows(level, pool, [rows, columns], rows.max(1), Values(x), |_, values| {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    });
}

/// The sum of each column of `x y` over each image's rows: `[images, columns]`, rows of `sums` being `sums_stride` apart.
///
/// With rows of one image it is the gradient of a scale for each column; otherwise that of a scale for each image and column
/// (squeeze-excitation).
///
/// # Panics
/// When a slice is too short, rows of `sums` overlap, or an image has no rows.
#[expect(clippy::too_many_arguments, reason = "three matrices and their sizes")]
pub fn column_products(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    y: Matrix<'_>,
    rows_per_image: usize,
    accumulate: bool,
    sums: &mut [f32],
    sums_stride: usize,
) {
    assert!(rows_per_image > 0, "an image without rows");
    assert!(x.has_apart(rows, columns), "x has fewer than {rows} rows of {columns}, or they overlap");
    assert!(y.has(rows, columns), "y has fewer than {rows} rows of {columns}");
    let images = rows.div_ceil(rows_per_image);
    check_output(sums.len(), [images, columns], sums_stride);
    sum_rows(level, pool, [rows, columns], rows_per_image, Products(x, y), |image, values| {
        let sums = &mut sums[image * sums_stride..][..columns];
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = if accumulate { *sum + value } else { *value };
        }
    });
}

/// Values of a task, so that handing it out costs little beside it.
const TASK_VALUES: usize = 8 << 10;

/// Calls `vector(row, column, lanes)` for all vectors of `[rows, columns]`, in tasks of some rows.
pub(super) fn each_vector<K: EachVector>(level: Level, pool: &Pool, [rows, columns]: [usize; 2], kernel: K) {
    if rows == 0 || columns == 0 {
        return;
    }
    let rows_a_task = (TASK_VALUES / columns).clamp(1, rows);
    // A single row, which a slice without structure is, is divided along its columns.
    let columns_a_task = if rows == 1 { TASK_VALUES } else { columns };
    let parts = columns.div_ceil(columns_a_task);
    pool.run(rows.div_ceil(rows_a_task) * parts, |task| {
        let (part, first) = (task % parts, task / parts * rows_a_task);
        level.run(VectorTask {
            rows: first..(first + rows_a_task).min(rows),
            columns: part * columns_a_task..((part + 1) * columns_a_task).min(columns),
            kernel: &kernel,
        });
    });
}

/// What is done with each vector of a matrix.
pub(super) trait EachVector: Sync {
    /// With the first `lanes` columns from `column` on, or all of a vector if these are more.
    ///
    /// # Safety
    /// The machine has the instruction set, and the row and the columns exist; no other thread has them.
    unsafe fn vector<S: Simd>(&self, row: usize, column: usize, lanes: usize);
}

struct VectorTask<'a, K> {
    rows: Range<usize>,
    columns: Range<usize>,
    kernel: &'a K,
}

impl<K: EachVector> Kernel for VectorTask<'_, K> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows.clone() {
            for column in self.columns.clone().step_by(S::LANES) {
                // SAFETY: tasks have different rows or columns.
                unsafe { self.kernel.vector::<S>(row, column, self.columns.end - column) };
            }
        }
    }
}

struct AddRows<'a> {
    x: Matrix<'a>,
    to: Shares<'a>,
    stride: usize,
}

impl EachVector for AddRows<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, row: usize, column: usize, lanes: usize) {
        // SAFETY: the caller's.
        unsafe {
            let to = self.to.at(row * self.stride + column);
            let x = S::load_upto(self.x.values.as_ptr().add(row * self.x.stride + column), lanes);
            S::store_upto(to, S::add(S::load_upto(to, lanes), x), lanes);
        }
    }
}

/// `to += x`, `[rows, columns]`.
///
/// # Panics
/// When a slice is too short, or rows of `to` overlap.
pub fn add_rows(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    to: &mut [f32],
    to_stride: usize,
) {
    assert!(x.has(rows, columns), "x has fewer than {rows} rows of {columns}");
    check_output(to.len(), [rows, columns], to_stride);
    each_vector(level, pool, [rows, columns], AddRows { x, to: Shares::new(to), stride: to_stride });
}

struct ScaleImages<'a> {
    x: Matrix<'a>,
    factors: &'a [f32],
    rows_per_image: usize,
    to: Shares<'a>,
    stride: usize,
}

impl EachVector for ScaleImages<'_> {
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, row: usize, column: usize, lanes: usize) {
        let factor = self.factors[row / self.rows_per_image];
        // SAFETY: the caller's.
        unsafe {
            let x = S::load_upto(self.x.values.as_ptr().add(row * self.x.stride + column), lanes);
            let to = self.to.at(row * self.stride + column);
            S::store_upto(to, S::mul(x, S::splat(factor)), lanes);
        }
    }
}

/// `y = x factor`, `[rows, columns]`, with a factor for each image: stochastic depth, forward and backward.
///
/// # Panics
/// When a slice is too short, the output's rows overlap, or an image has no rows.
#[expect(clippy::too_many_arguments, reason = "two matrices and what connects them")]
pub fn scale_images(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    factors: &[f32],
    rows_per_image: usize,
    output: &mut [f32],
    output_stride: usize,
) {
    assert!(rows_per_image > 0, "an image without rows");
    assert!(x.has(rows, columns), "x has fewer than {rows} rows of {columns}");
    assert!(factors.len() >= rows.div_ceil(rows_per_image), "an image has no factor");
    check_output(output.len(), [rows, columns], output_stride);
    let to = Shares::new(output);
    let kernel = ScaleImages { x, factors, rows_per_image, to, stride: output_stride };
    each_vector(level, pool, [rows, columns], kernel);
}
