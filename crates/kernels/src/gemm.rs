//! The matrix product with packed weights: linear layers and 1x1 convolutions, and the inside of other
//! convolutions.

use crate::activation::activate_rows;
use crate::blocks::Blocks;
use crate::bounds::check_output;
use crate::scratch::{scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::{NARROW_RUN, Rows, TileEnd, narrow_tile, tile};
use crate::{Activation, Level, Pool, Prologue};

/// Rows of values in a slice, some distance apart: `[rows, columns]`, or channels-last pixels.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Row `r` begins at `r * stride`.
    pub values: &'a [f32],
    /// Values from one row's begin to the next's, at least the columns.
    pub stride: usize,
}

/// A matrix `[k, n]` in the order in which the product reads it, for the instruction set it was packed for.
///
/// Columns are cut into panels of two vectors, the last one narrower if that suffices; a panel holds its `k`
/// rows one after the other, and zeros for the columns it lacks.
pub struct PackedMatrix {
    pub(crate) values: Vec<f32>,
    pub(crate) level: Level,
    k: usize,
    n: usize,
}

/// The columns of a panel: where they begin, how many exist, and how many are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Panel {
    pub(crate) first: usize,
    pub(crate) columns: usize,
    pub(crate) width: usize,
}

/// The panels that `n` columns are cut into.
pub(crate) fn panels(level: Level, n: usize) -> impl Iterator<Item = Panel> + Clone {
    let lanes = level.lanes();
    let half = level.half_lanes();
    let mut first = 0;
    std::iter::from_fn(move || {
        let left = n - first;
        if left == 0 {
            return None;
        }
        let width = match left {
            left if left > lanes + half || (left > lanes && half == lanes) => 2 * lanes,
            left if left > half => lanes,
            _ => half,
        };
        let panel = Panel { first, columns: left.min(width), width };
        first += panel.columns;
        Some(panel)
    })
}

impl PackedMatrix {
    /// Packs `[k, n]`, of which `value(row, column)` gives the values.
    pub fn new(level: Level, k: usize, n: usize, value: impl Fn(usize, usize) -> f32) -> PackedMatrix {
        let mut values = Vec::with_capacity(k * n.next_multiple_of(2 * level.lanes()));
        for panel in panels(level, n) {
            for row in 0..k {
                values.extend((0..panel.columns).map(|column| value(row, panel.first + column)));
                values.resize(values.len() + panel.width - panel.columns, 0.0);
            }
        }
        PackedMatrix { values, level, k, n }
    }

    /// Packs rows `[k, n]` that lie in memory: what [`Self::new`] does with their values, by copies of whole panels' rows.
    ///
    /// # Panics
    /// When the slice is too short.
    pub fn of_rows(level: Level, k: usize, n: usize, rows: Matrix<'_>) -> PackedMatrix {
        assert!(rows.has(k, n), "there are fewer than {k} rows of {n}");
        let mut values = Vec::with_capacity(k * n.next_multiple_of(2 * level.lanes()));
        for panel in panels(level, n) {
            for row in 0..k {
                let from = row * rows.stride + panel.first;
                values.extend_from_slice(&rows.values[from..from + panel.columns]);
                values.resize(values.len() + panel.width - panel.columns, 0.0);
            }
        }
        PackedMatrix { values, level, k, n }
    }

    /// Rows.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}

/// What happens to a product's values before they are stored: `y = activation(x + bias + residual)`.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// For each column.
    pub bias: Option<&'a [f32]>,
    /// A matrix of the result's shape.
    pub residual: Option<Matrix<'a>>,
    /// The last step.
    pub activation: Activation,
}

/// `c = activation(prologue(a) b + bias + residual)` for `m` rows.
///
/// `c` has `m` rows that are `c_stride` apart; values between them are not touched.
///
/// # Panics
/// When a slice is too short, or the rows of `c` overlap.
#[expect(clippy::too_many_arguments, reason = "three matrices, and what happens before and after")]
pub fn gemm(
    pool: &Pool,
    m: usize,
    a: Matrix<'_>,
    prologue: Prologue<'_>,
    b: &PackedMatrix,
    epilogue: Epilogue<'_>,
    c: &mut [f32],
    c_stride: usize,
) {
    let (k, n) = (b.k, b.n);
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.has(m, k), "a has fewer than {m} rows of {k}");
    check_output(c.len(), [m, n], c_stride);
    prologue.check(m, k);
    epilogue.check(m, n);
    let run = run(k);
    let blocks = Blocks::new(b.level, pool.threads(), m, run, panels(b.level, n).count());
    let c = Shares::new(c);
    // A copy of the rows, unless they can be read where they are.
    let copy = !matches!(prologue, Prologue::None) || aliases(a.stride);
    let copy_stride = if copy { scratch_stride(run) } else { 0 };
    pool.run(blocks.tasks(), |task| {
        let (rows, panels) = blocks.task(task);
        with_scratch(rows.len() * copy_stride, rows.len(), |copy, pointers| {
            b.level.run(Block {
                a,
                prologue,
                b,
                epilogue,
                c: &c,
                c_stride,
                rows,
                panels,
                run,
                copy,
                copy_stride,
                pointers,
            });
        });
    });
}

/// Values of a row that are multiplied at a time.
const MOST_RUN: usize = 1024;

/// How many values of rows of `k` are multiplied at a time: of more, too few rows would stay in the second-level cache to pay for
/// the way of `b`'s values to it.
fn run(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MOST_RUN).max(1))
}

/// Whether rows so many values apart share one place of the first-level cache: its lines with equal addresses
/// modulo 4096 are eight, fewer than a tile has rows.
pub fn aliases(stride: usize) -> bool {
    stride.is_multiple_of(4096 / size_of::<f32>())
}

/// A task: some rows by some panels.
struct Block<'a> {
    a: Matrix<'a>,
    prologue: Prologue<'a>,
    b: &'a PackedMatrix,
    epilogue: Epilogue<'a>,
    c: &'a Shares<'a>,
    c_stride: usize,
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    /// Values of a row that are multiplied at a time.
    run: usize,
    /// A run of the rows after the prologue, unless `copy_stride` is zero.
    copy: &'a mut [f32],
    copy_stride: usize,
    /// For each row.
    pointers: &'a mut [*const f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (k, count) = (self.b.k, self.rows.len());
        // One pointer for all rows: another borrow of the copy would make the pointers to its other rows invalid.
        let copy = self.copy.as_mut_ptr();
        // A product of no values has a run, too: of zeros.
        for first in (0..k.max(1)).step_by(self.run.max(1)) {
            let run = first..(first + self.run).min(k);
            for (i, (pointer, row)) in self.pointers.iter_mut().zip(self.rows.clone()).enumerate() {
                *pointer = self.a.values[row * self.a.stride + run.start..].as_ptr();
                if self.copy_stride > 0 {
                    // SAFETY: `gemm` has checked the slices, and the copy has `copy_stride` values for each row.
                    *pointer = unsafe {
                        let to = copy.add(i * self.copy_stride);
                        self.prologue.row::<S>(row, run.clone(), *pointer, to);
                        to
                    };
                }
            }
            let rows =
                Rows { pointers: self.pointers.as_ptr(), stride: 0, taps: 1, run: run.len(), offset: 0 };
            for panel in panels(self.b.level, self.b.n).skip(self.panels.start).take(self.panels.len()) {
                let Panel { first, width, columns } = panel;
                // A panel's values follow those of all columns before it, which fill their panels.
                let b = self.b.values[first * k + run.start * width..].as_ptr();
                let mut end = PanelEnd::new(&self.epilogue, self.rows.start, first);
                // SAFETY: `gemm` has checked the slices; tasks have different rows or columns.
                unsafe {
                    let to = self.c.at(self.rows.start * self.c_stride + first);
                    if run.start > 0 {
                        // The sums so far have the bias and the residual in them.
                        end = PanelEnd {
                            bias: std::ptr::null(),
                            residual: to,
                            residual_stride: self.c_stride,
                            ..end
                        };
                    }
                    if run.end < k {
                        end.activation = Activation::Identity;
                    }
                    panel_rows::<S>(rows, count, b, width, width, columns, end, to, self.c_stride);
                }
            }
        }
    }
}

/// What happens to a panel's values: `y = activation(x + bias + residual)`; null pointers for what there is
/// not.
#[derive(Clone, Copy)]
pub(crate) struct PanelEnd {
    pub(crate) bias: *const f32,
    pub(crate) residual: *const f32,
    pub(crate) residual_stride: usize,
    pub(crate) activation: Activation,
}

impl PanelEnd {
    /// From the result's row `row` and column `column` on.
    pub(crate) fn new(epilogue: &Epilogue<'_>, row: usize, column: usize) -> PanelEnd {
        PanelEnd {
            bias: epilogue.bias.map_or(std::ptr::null(), |bias| bias[column..].as_ptr()),
            residual: epilogue
                .residual
                .map_or(std::ptr::null(), |r| r.values[row * r.stride + column..].as_ptr()),
            residual_stride: epilogue.residual.map_or(0, |r| r.stride),
            activation: epilogue.activation,
        }
    }

    /// That of a tile from row `row` of the panel on, and whether the activation is in it, being a clamp; any other must
    /// follow.
    ///
    /// # Safety
    /// The residual has the row.
    #[inline(always)]
    pub(crate) unsafe fn of_tile(self, row: usize) -> (TileEnd, bool) {
        let clamp = self.activation.clamp();
        let residual = if self.residual.is_null() {
            self.residual
        } else {
            // SAFETY: the caller's.
            unsafe { self.residual.add(row * self.residual_stride) }
        };
        let end = TileEnd {
            bias: self.bias,
            residual,
            residual_stride: self.residual_stride,
            clamp: clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]),
        };
        (end, clamp.is_some())
    }
}

/// All tiles of `count` rows by one panel.
///
/// # Safety
/// As [`tile`]'s, for `count` rows.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "they are the tile's, and its height")]
pub(crate) unsafe fn panel_rows<S: Simd>(
    rows: Rows,
    count: usize,
    b: *const f32,
    b_stride: usize,
    width: usize,
    columns: usize,
    end: PanelEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe { S::call(PanelRows { rows, count, b, b_stride, width, columns, end, to, to_stride }) }
}

/// The arguments of [`panel_rows`].
struct PanelRows {
    rows: Rows,
    count: usize,
    b: *const f32,
    b_stride: usize,
    width: usize,
    columns: usize,
    end: PanelEnd,
    to: *mut f32,
    to_stride: usize,
}

impl Kernel for PanelRows {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let PanelRows { rows, count, b, b_stride, width, columns, end, to, to_stride } = self;
        // SAFETY: the caller's.
        unsafe {
            let most = most_rows::<S>(width.div_ceil(S::LANES));
            let mut done = 0;
            while done < count {
                let height = (count - done).min(most);
                let rows = Rows { pointers: rows.pointers.add(done), ..rows };
                let (tile_end, clamped) = end.of_tile(done);
                let to = to.add(done * to_stride);
                if width == 2 * S::LANES {
                    tile_of::<S, S, 2>(height, rows, b, b_stride, columns, tile_end, to, to_stride);
                } else if width == S::LANES {
                    tile_of::<S, S, 1>(height, rows, b, b_stride, columns, tile_end, to, to_stride);
                } else if const { S::Half::LANES < S::LANES } {
                    if rows.run.is_multiple_of(NARROW_RUN) {
                        narrow_tile_of::<S, S::Half>(
                            height, rows, b, b_stride, columns, tile_end, to, to_stride,
                        );
                    } else {
                        tile_of::<S, S::Half, 1>(height, rows, b, b_stride, columns, tile_end, to, to_stride);
                    }
                }
                if !clamped {
                    // The tile is still in the first-level cache.
                    activate_rows::<S>(end.activation, to, height, columns, to_stride);
                }
                done += height;
            }
        }
    }
}

/// Rows of a tile of so many vectors: a single one needs eight, so that no sum waits for the one before it.
const fn most_rows<S: Simd>(vectors: usize) -> usize {
    if vectors == 1 && S::TILE_ROWS < 8 { 8 } else { S::TILE_ROWS }
}

/// Calls a tile function with the height as its constant, which is one of the first so many.
macro_rules! of_height {
    ($height:expr, $most:expr, |$rows:ident| $call:expr, [$($literal:literal)*]) => {
        match $height {
            $($literal => {
                const $rows: usize = $literal;
                // The others are not even compiled.
                if const { $rows <= $most } {
                    $call
                }
            })*
            _ => unreachable!("a tile has at most 14 rows"),
        }
    };
    ($height:expr, $most:expr, |$rows:ident| $call:expr) => {
        of_height!($height, $most, |$rows| $call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14])
    };
}

/// A tile of the height of `S`'s, in vectors of `V`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "they are the tile's, and its height")]
unsafe fn tile_of<S: Simd, V: Simd, const VECTORS: usize>(
    height: usize,
    rows: Rows,
    b: *const f32,
    b_stride: usize,
    columns: usize,
    end: TileEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        of_height!(height, most_rows::<S>(VECTORS), |ROWS| tile::<V, ROWS, VECTORS>(
            rows, b, b_stride, columns, end, to, to_stride
        ))
    }
}

/// As [`tile_of`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "they are the tile's, and its height")]
unsafe fn narrow_tile_of<S: Simd, V: Simd>(
    height: usize,
    rows: Rows,
    b: *const f32,
    b_stride: usize,
    columns: usize,
    end: TileEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        of_height!(height, most_rows::<S>(1), |ROWS| narrow_tile::<V, ROWS>(
            rows, b, b_stride, columns, end, to, to_stride
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::{Level, Matrix, PackedMatrix};

    #[test]
    fn rows_are_packed_as_their_values_are() {
        let (k, stride) = (5, 71);
        let values: Vec<f32> = (0..k * stride).map(|i| i as f32).collect();
        for level in Level::all() {
            for n in 0..=stride {
                let by_value = PackedMatrix::new(level, k, n, |row, column| values[row * stride + column]);
                let by_row = PackedMatrix::of_rows(level, k, n, Matrix { values: &values, stride });
                assert_eq!(by_row.values, by_value.values, "{level}, {n} columns");
                assert_eq!((by_row.k, by_row.n), (k, n));
            }
        }
    }
}
