//! Gradients of the matrix product: linear layers and 1x1 convolutions.

use std::cell::RefCell;
use std::ops::Range;

use super::GradientEpilogue;
use super::activation::activation_backward_rows;
use super::outer::{Groups, Outer, PIXELS, PanelProduct, panels_a_task};
use crate::blocks::Blocks;
use crate::bounds::check_output;
use crate::gemm::{Panel, aliases, panels};
use crate::scratch::{LINE, scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::Rows;
use crate::winograd::lines::Lines;
use crate::{Level, Matrix, PackedMatrix, Pool, Prologue};

/// The gradient of a product's left operand: `dx = dy w`, for `m` rows.
///
/// `weights` are `[n, k]`, a row for each column of `dy`: PyTorch's weight of a linear layer as it is
/// ([`pack_rows`](PackedMatrix::pack_rows)).
///
/// # Panics
/// When a slice is too short, or the rows of `dx` overlap.
pub fn product_input_gradient(
    pool: &Pool,
    m: usize,
    dy: Matrix<'_>,
    weights: &PackedMatrix,
    epilogue: GradientEpilogue<'_>,
    dx: &mut [f32],
    dx_stride: usize,
) {
    let [n, k] = [weights.k(), weights.n()];
    assert!(dy.has(m, n), "dy has fewer than {m} rows of {n}");
    epilogue.check(m, k);
    check_output(dx.len(), [m, k], dx_stride);
    if m == 0 || k == 0 {
        return;
    }
    let run = n.div_ceil(n.div_ceil(MOST_RUN).max(1));
    let blocks = Blocks::new(weights.level, pool.threads(), m, run, panels(weights.level, k).count());
    let dx = Shares::new(dx);
    let copy_stride = if aliases(dy.stride) { scratch_stride(run) } else { 0 };
    pool.run(blocks.tasks(), |task| {
        let (rows, panels) = blocks.task(task);
        with_scratch(rows.len() * copy_stride, rows.len(), |copy, pointers| {
            let block = InputBlock {
                dy,
                weights,
                epilogue,
                rows,
                panels,
                run,
                copy,
                copy_stride,
                pointers,
                dx: &dx,
                dx_stride,
            };
            weights.level.run(block);
        });
    });
}

/// Values of a row that are multiplied at a time, as in the forward product.
const MOST_RUN: usize = 1024;

/// A task of the input's gradient: some rows by some panels.
struct InputBlock<'a> {
    dy: Matrix<'a>,
    weights: &'a PackedMatrix,
    epilogue: GradientEpilogue<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    /// Values of a row that are multiplied at a time.
    run: usize,
    /// A run of the rows, unless `copy_stride` is zero.
    copy: &'a mut [f32],
    copy_stride: usize,
    pointers: &'a mut [*const f32],
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for InputBlock<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (n, count) = (self.weights.k(), self.rows.len());
        let copy = self.copy.as_mut_ptr();
        for first in (0..n.max(1)).step_by(self.run.max(1)) {
            let run = first..(first + self.run).min(n);
            for (i, (pointer, row)) in self.pointers.iter_mut().zip(self.rows.clone()).enumerate() {
                *pointer = self.dy.values[row * self.dy.stride + run.start..].as_ptr();
                if self.copy_stride > 0 {
                    // SAFETY: the caller has checked the slices, and the copy has `copy_stride` values for each row.
                    *pointer = unsafe {
                        let to = copy.add(i * self.copy_stride);
                        Prologue::None.row::<S>(row, run.clone(), *pointer, to);
                        to
                    };
                }
            }
            let rows =
                Rows { pointers: self.pointers.as_ptr(), stride: 0, taps: 1, run: run.len(), offset: 0 };
            for panel in
                panels(self.weights.level, self.weights.n()).skip(self.panels.start).take(self.panels.len())
            {
                let Panel { first, width, columns } = panel;
                let b = self.weights.values[first * n + run.start * width..].as_ptr();
                // SAFETY: the caller has checked the slices; tasks have different rows or columns.
                unsafe {
                    let to = self.dx.at(self.rows.start * self.dx_stride + first);
                    let add = run.start > 0 || self.epilogue.accumulate;
                    let product = PanelProduct {
                        rows,
                        count,
                        b,
                        b_stride: width,
                        width,
                        columns,
                        residual: if add { to } else { std::ptr::null() },
                        to,
                        to_stride: self.dx_stride,
                    };
                    product.run(self.weights.level);
                    if run.end == n
                        && let Some((activation, z)) = self.epilogue.activation
                    {
                        let z_values = z.values.as_ptr().add(self.rows.start * z.stride + first);
                        let stride = self.dx_stride;
                        activation_backward_rows::<S>(
                            activation,
                            [count, columns],
                            z_values,
                            z.stride,
                            to,
                            stride,
                            to,
                            stride,
                        );
                    }
                }
            }
        }
    }
}

/// The gradient of a product's weight: `dw[n, k] = dy^T prologue(x)`, for `m` rows of `x[m, k]` and `dy[m, n]`; PyTorch's layout of
/// a linear layer's weight, and of a 1x1 convolution's.
///
/// # Panics
/// When a slice is too short, or `dw` is not `n * k` values.
#[expect(clippy::too_many_arguments, reason = "three matrices and their sizes")]
pub fn product_weight_gradient(
    level: Level,
    pool: &Pool,
    m: usize,
    [n, k]: [usize; 2],
    x: Matrix<'_>,
    prologue: Prologue<'_>,
    dy: Matrix<'_>,
    accumulate: bool,
    dw: &mut [f32],
) {
    assert!(x.has_apart(m, k), "x has fewer than {m} rows of {k}, or they overlap");
    assert!(dy.has(m, n), "dy has fewer than {m} rows of {n}");
    assert_eq!(Some(dw.len()), n.checked_mul(k), "the weight's number of values for [{n}, {k}]");
    prologue.check(m, k);
    if m == 0 || dw.is_empty() {
        if !accumulate {
            dw.fill(0.0);
        }
        return;
    }
    let groups = Groups::new(m, n * k);
    if groups.count == 1 {
        outer_products(level, pool, m, [n, k], x, prologue, dy, &groups, accumulate, &Shares::new(dw));
        return;
    }
    let mut sums = SUMS.take();
    sums.grow(groups.count * n * k);
    let values = &mut sums.values_mut()[..groups.count * n * k];
    outer_products(level, pool, m, [n, k], x, prologue, dy, &groups, false, &Shares::new(values));
    add_groups(level, pool, values, accumulate, dw);
    SUMS.set(sums);
}

thread_local! {
    /// Sums of groups of pixels, before they are added.
    pub(super) static SUMS: RefCell<Lines> = RefCell::default();
}

/// Rows of the left operand that a task has, at most: so many that packing the right one costs little.
const ROWS: usize = 256;

/// `[groups, n, k]`, for each group of rows.
#[expect(clippy::too_many_arguments, reason = "they are the gradient's")]
fn outer_products(
    level: Level,
    pool: &Pool,
    m: usize,
    [n, k]: [usize; 2],
    x: Matrix<'_>,
    prologue: Prologue<'_>,
    dy: Matrix<'_>,
    groups: &Groups,
    accumulate: bool,
    to: &Shares<'_>,
) {
    let heights = n.div_ceil(n.div_ceil(ROWS)).next_multiple_of(level.tile_rows());
    let bands = n.div_ceil(heights);
    let all = panels(level, k).count();
    let size = panels_a_task(all, heights.min(n) * 2 * level.lanes(), groups.count * bands, pool.threads());
    let parts = all.div_ceil(size);
    let width = 2 * level.lanes();
    // Rows whose beginnings share a place of the cache are copied, where several tiles read each of their lines, and enough is done with them.
    let copies = aliases(dy.stride) && 2 * level.tile_rows() <= LINE && size > 1;
    let copy_stride = if copies { scratch_stride(heights) } else { 0 };
    pool.run(groups.count * bands * parts, |task| {
        let (part, band, group) = (task % parts, task / parts % bands, task / parts / bands);
        with_scratch(PIXELS * (width + copy_stride), PIXELS, |scratch, pointers| {
            let (packed, copy) = scratch.split_at_mut(PIXELS * width);
            level.run(OuterTask {
                level,
                sizes: [n, k],
                x,
                prologue,
                dy,
                pixels: groups.range(group, m),
                rows: band * heights..((band + 1) * heights).min(n),
                panels: part * size..((part + 1) * size).min(all),
                accumulate,
                to,
                offset: group * n * k,
                packed,
                copy,
                copy_stride,
                pointers,
            });
        });
    });
}

/// A task of the weight's gradient: some rows by some panels, of some pixels.
struct OuterTask<'a> {
    level: Level,
    sizes: [usize; 2],
    x: Matrix<'a>,
    prologue: Prologue<'a>,
    dy: Matrix<'a>,
    pixels: Range<usize>,
    /// Of `dw`: columns of `dy`.
    rows: Range<usize>,
    /// Of columns of `dw` and `x`.
    panels: Range<usize>,
    accumulate: bool,
    to: &'a Shares<'a>,
    offset: usize,
    packed: &'a mut [f32],
    /// The left operand's values for some pixels, unless `copy_stride` is zero.
    copy: &'a mut [f32],
    copy_stride: usize,
    pointers: &'a mut [*const f32],
}

impl Kernel for OuterTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [_, k] = self.sizes;
        let [packed, copy] = [self.packed.as_mut_ptr(), self.copy.as_mut_ptr()];
        for first_pixel in self.pixels.clone().step_by(PIXELS) {
            let pixels = first_pixel..(first_pixel + PIXELS).min(self.pixels.end);
            for (i, (pointer, pixel)) in self.pointers.iter_mut().zip(pixels.clone()).enumerate() {
                *pointer = self.dy.values[pixel * self.dy.stride + self.rows.start..].as_ptr();
                if self.copy_stride > 0 {
                    // SAFETY: the caller has checked the slices, and the copy has `copy_stride` values for each pixel.
                    *pointer = unsafe {
                        let to = copy.add(i * self.copy_stride);
                        copy_row::<S>(*pointer, self.rows.len(), to);
                        to
                    };
                }
            }
            for panel in panels(self.level, k).skip(self.panels.start).take(self.panels.len()) {
                let Panel { first, width, columns } = panel;
                // SAFETY: the caller has checked the slices; tasks have different rows or columns of a group's sums.
                unsafe {
                    for (i, pixel) in pixels.clone().enumerate() {
                        let from = self.x.values.as_ptr().add(pixel * self.x.stride + first);
                        let to = packed.add(i * width);
                        // The next panel's line of this pixel, which lies too far from the next pixel's for the machine to foresee it.
                        S::prefetch(from.wrapping_add(width));
                        match self.prologue {
                            Prologue::None => copy_row::<S>(from, columns, to),
                            prologue => prologue.row::<S>(pixel, first..first + columns, from, to),
                        }
                        for column in columns..width {
                            to.add(column).write(0.0);
                        }
                    }
                    let outer = Outer {
                        pixels: pixels.len(),
                        left: self.pointers.as_ptr(),
                        offset: 0,
                        right: packed,
                        right_stride: width,
                        add: self.accumulate || pixels.start > self.pixels.start,
                    };
                    let to = self.to.at(self.offset + self.rows.start * k + first);
                    outer.panel(self.level, self.rows.len(), width, columns, to, k);
                }
            }
        }
    }
}

/// # Safety
/// The machine has the instruction set, and the pointers are valid for the columns.
#[inline(always)]
pub(super) unsafe fn copy_row<S: Simd>(from: *const f32, columns: usize, to: *mut f32) {
    let mut column = 0;
    while column < columns {
        // SAFETY: the caller's.
        unsafe {
            S::store_upto(to.add(column), S::load_upto(from.add(column), columns - column), columns - column)
        };
        column += S::LANES;
    }
}

/// Values of a task, so that handing it out costs little beside it.
const TASK_VALUES: usize = 8 << 10;

/// `to = (to +) the groups' values`, one group after the other.
pub(super) fn add_groups(level: Level, pool: &Pool, groups: &[f32], accumulate: bool, to: &mut [f32]) {
    let len = to.len();
    let count = groups.len() / len;
    let to = Shares::new(to);
    pool.run(len.div_ceil(TASK_VALUES), |task| {
        let range = task * TASK_VALUES..((task + 1) * TASK_VALUES).min(len);
        level.run(AddGroups { groups, len, count, range, accumulate, to: &to });
    });
}

struct AddGroups<'a> {
    groups: &'a [f32],
    len: usize,
    count: usize,
    range: Range<usize>,
    accumulate: bool,
    to: &'a Shares<'a>,
}

impl Kernel for AddGroups<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut at = self.range.start;
        while at < self.range.end {
            let left = self.range.end - at;
            // SAFETY: `add_groups` has measured the slices; tasks have different values.
            unsafe {
                let to = self.to.at(at);
                let mut sum = if self.accumulate { S::load_upto(to, left) } else { S::zero() };
                for group in 0..self.count {
                    sum = S::add(sum, S::load_upto(self.groups.as_ptr().add(group * self.len + at), left));
                }
                S::store_upto(to, sum, left);
            }
            at += S::LANES;
        }
    }
}
