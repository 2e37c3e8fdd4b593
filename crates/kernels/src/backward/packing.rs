//! Packing again: what training does with every weight after every update, by all threads.

use std::ops::Range;

use super::product::copy_row;
use crate::bounds::check_weight;
use crate::fours::in_fours;
use crate::gemm::{Panel, panels};
use crate::grouped;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{ConvGeometry, ConvWeights, DepthwiseWeights, Level, Matrix, PackedMatrix, Pool};

impl PackedMatrix {
    /// A matrix of zeros, to be packed.
    pub fn zeros(level: Level, k: usize, n: usize) -> PackedMatrix {
        PackedMatrix::new(level, k, n, |_, _| 0.0)
    }

    /// Packs rows `[k, n]` that lie in memory, in place of what is packed.
    ///
    /// # Panics
    /// When the slice is too short.
    pub fn pack_rows(&mut self, pool: &Pool, rows: Matrix<'_>) {
        let (level, [k, n]) = (self.level, [self.k(), self.n()]);
        assert!(rows.has(k, n), "there are fewer than {k} rows of {n}");
        let to = Shares::new(&mut self.values);
        let height = (TASK_VALUES / n.max(1)).max(1);
        pool.run(k.div_ceil(height), |task| {
            let range = task * height..((task + 1) * height).min(k);
            level.run(PackRows { level, k, n, rows, range, to: &to });
        });
    }

    /// Packs `[k, n]` from its transpose `[n, k]`, which is PyTorch's weight of a linear layer, in place of what is packed.
    ///
    /// # Panics
    /// When the slice is too short.
    pub fn pack_transposed(&mut self, pool: &Pool, rows: Matrix<'_>) {
        let (level, [k, n]) = (self.level, [self.k(), self.n()]);
        assert!(rows.has(n, k), "there are fewer than {n} rows of {k}");
        let to = Shares::new(&mut self.values);
        let parts = k.div_ceil(COLUMNS).max(1);
        pool.run(panels(level, n).count() * parts, |task| {
            for panel in panels(level, n).skip(task / parts).take(1) {
                let (first, part) = (panel.first * k, task % parts * COLUMNS);
                let values = part..(part + COLUMNS).min(k);
                level.run(PackColumns {
                    rows,
                    taps: 1,
                    inputs: k,
                    first_row: 0,
                    panel,
                    values,
                    to: &to,
                    first,
                });
            }
        });
    }
}

/// Values of a task, so that handing it out costs little beside it.
const TASK_VALUES: usize = 16 << 10;

/// Values of each row that a task packs as columns.
const COLUMNS: usize = 1024;

/// A task: some rows of a matrix, into all panels.
struct PackRows<'a> {
    level: Level,
    k: usize,
    n: usize,
    rows: Matrix<'a>,
    range: Range<usize>,
    to: &'a Shares<'a>,
}

impl Kernel for PackRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.range.clone() {
            for Panel { first, columns, width } in panels(self.level, self.n) {
                // SAFETY: `pack_rows` has measured the slice; what lies behind the columns is zero already. Tasks have different rows.
                unsafe {
                    let to = self.to.at(first * self.k + row * width);
                    copy_row::<S>(self.rows.values.as_ptr().add(row * self.rows.stride + first), columns, to);
                }
            }
        }
    }
}

/// A task: some values of a panel's columns, of which each lies in memory in one piece, `[inputs, taps]`; the panel's rows are `[taps,
/// inputs]`.
struct PackColumns<'a> {
    /// A row for each column of the panels.
    rows: Matrix<'a>,
    taps: usize,
    inputs: usize,
    /// The row that the first panel's first column is.
    first_row: usize,
    panel: Panel,
    values: Range<usize>,
    to: &'a Shares<'a>,
    /// Where the panel begins.
    first: usize,
}

impl Kernel for PackColumns<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the machine has the instruction set.
        unsafe { self.pack::<S::Half>() }
    }
}

impl PackColumns<'_> {
    /// # Safety
    /// The machine has the instruction set; the rows have the values.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self) {
        let Panel { first, columns, width } = self.panel;
        let mut square = [0.0_f32; 16 * 16];
        for column in (0..columns).step_by(S::LANES) {
            let lanes = S::LANES.min(columns - column);
            let row = self.first_row + first + column;
            let mut value = self.values.start;
            // SAFETY: the caller has measured the slices; tasks have different values or panels.
            unsafe {
                let to = self.to.at(self.first + column);
                let place = |value: usize| (value % self.taps * self.inputs + value / self.taps) * width;
                if lanes == S::LANES {
                    let mut pointers = [std::ptr::null(); 16];
                    for (lane, pointer) in pointers.iter_mut().enumerate().take(lanes) {
                        *pointer = self.rows.values.as_ptr().add((row + lane) * self.rows.stride);
                    }
                    while value + S::LANES <= self.values.end {
                        if self.taps == 1 {
                            S::transpose(pointers.as_ptr(), value, to.add(value * width), width);
                        } else {
                            S::transpose(pointers.as_ptr(), value, square.as_mut_ptr(), S::LANES);
                            for i in 0..S::LANES {
                                S::store(
                                    to.add(place(value + i)),
                                    S::load(square.as_ptr().add(i * S::LANES)),
                                );
                            }
                        }
                        value += S::LANES;
                    }
                }
                for value in value..self.values.end {
                    for lane in 0..lanes {
                        let from = self.rows.values.as_ptr().add((row + lane) * self.rows.stride + value);
                        to.add(place(value) + lane).write(*from);
                    }
                }
            }
        }
    }
}

impl ConvWeights {
    /// Packs a weight as [`new`](Self::new) does, in place of what is packed.
    ///
    /// # Panics
    /// When the weight has another number of values.
    pub fn pack(&mut self, pool: &Pool, weight: &[f32]) {
        let ConvWeights { level, geometry, in_channels, out_channels, .. } = *self;
        let ConvGeometry { kernel, groups, .. } = geometry;
        let [inputs, outputs] = [in_channels, out_channels].map(|channels| channels / groups);
        check_weight(weight, [kernel[0], kernel[1], inputs, out_channels]);
        let taps = kernel[0] * kernel[1];
        if weight.is_empty() {
            return;
        }
        if grouped::suits(level, geometry, inputs, outputs) || in_fours(groups, inputs, outputs) {
            // Narrow groups have few weights.
            self.values = grouped::pack(level, weight, out_channels, inputs, taps);
            return;
        }
        let k = taps * inputs;
        let rows = Matrix { values: weight, stride: k };
        let values_a_group = self.values.len() / groups;
        let to = Shares::new(&mut self.values);
        let all = panels(level, outputs).count();
        let parts = k.div_ceil(COLUMNS);
        pool.run(groups * all * parts, |task| {
            let (part, number) = (task % parts * COLUMNS, task / parts);
            let group = number / all;
            for panel in panels(level, outputs).skip(number % all).take(1) {
                let (values, first_row) = (part..(part + COLUMNS).min(k), group * outputs);
                let first = group * values_a_group + panel.first * k;
                level.run(PackColumns { rows, taps, inputs, first_row, panel, values, to: &to, first });
            }
        });
    }
}

impl DepthwiseWeights {
    /// Packs a weight as [`new`](Self::new) does, in place of what is packed.
    ///
    /// # Panics
    /// When the weight has another number of values.
    pub fn pack(&mut self, _pool: &Pool, weight: &[f32]) {
        let DepthwiseWeights { level, channels, geometry: ConvGeometry { kernel, .. }, .. } = *self;
        let taps = kernel[0] * kernel[1];
        check_weight(weight, [kernel[0], kernel[1], 1, channels]);
        let lanes = level.lanes();
        for (block, values) in self.values.chunks_exact_mut(taps * lanes).enumerate() {
            let first = crate::depthwise::first_channel(block, channels, lanes);
            for (tap, values) in values.chunks_exact_mut(lanes).enumerate() {
                for (value, channel) in values.iter_mut().zip(first..channels) {
                    *value = weight[channel * taps + tap];
                }
            }
        }
    }
}
