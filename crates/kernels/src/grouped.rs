//! Convolution in groups no wider than a vector, which holds one or several of them.
//!
//! Each lane is an output channel, and multiplies its weights with the inputs of its group, one after the
//! other: a vector of input is spread so that every lane of a group has the same value. As that costs as much
//! as a multiplication, pixels whose windows overlap are summed at a time and share what is spread.
//!
//! There are so few multiplications for a value that the way to it matters as much. So rows of the input are
//! copied first, in the order of memory, with the zeros of the padding, and such that the columns of a row
//! follow each other in each vector of channels.

use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::activation::activate_rows;
use crate::conv::{ConvGeometry, ConvWeights};
use crate::gemm::PanelEnd;
use crate::scratch::{LINE, scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::finish;
use crate::windows::Axis;
use crate::{Epilogue, Level, Maps, MapsMut, MapsShape, Pool};

/// Values that a task copies, at most, if that is not less than a row of output needs: they stay in the cache
/// of the second level.
const COPIED_VALUES: usize = 96 << 10;

/// Pixels that are summed in one vector of channels before the next one follows, at least: weights then stay in
/// the first-level cache, and so does the output, of which a cache line belongs to two vectors.
const PIXELS_A_PASS: usize = 56;

/// How far ahead of the copy the input is brought nearer.
const PIXELS_AHEAD: usize = 8;

/// Taps of a window's row.
const TAPS: usize = 3;

/// Whether the convolution of groups of so many channels is of the kind that this file is about.
///
/// With a stride, more is copied for each sum: groups of four are then faster where they are.
pub(crate) fn suits(level: Level, geometry: ConvGeometry, inputs: usize, outputs: usize) -> bool {
    let ConvGeometry { kernel, stride, dilation, groups, .. } = geometry;
    let narrow = match inputs {
        4 => stride == [1, 1],
        8 => stride[1] <= 2 && level.lanes() >= 8,
        _ => false,
    };
    groups > 1 && inputs == outputs && narrow && kernel[1] == TAPS && dilation[1] == 1
}

/// Weights `[channels, width, taps]` as `[vectors, taps, width, lanes]`, with zeros for the channels that the
/// last vector lacks.
pub(crate) fn pack(level: Level, weight: &[f32], channels: usize, width: usize, taps: usize) -> Vec<f32> {
    let lanes = level.lanes();
    let mut values = Vec::with_capacity(channels.next_multiple_of(lanes) * width * taps);
    for first in (0..channels).step_by(lanes) {
        for tap in 0..taps {
            for input in 0..width {
                let value = |channel: usize| {
                    if channel < channels { weight[(channel * width + input) * taps + tap] } else { 0.0 }
                };
                values.extend((first..first + lanes).map(value));
            }
        }
    }
    values
}

/// As [`conv`](crate::conv), which has checked everything, for the weights of [`pack`].
pub(crate) fn conv(
    pool: &Pool,
    input: Maps<'_>,
    weights: &ConvWeights,
    epilogue: Epilogue<'_>,
    output: MapsMut<'_>,
) {
    let ConvWeights { level, geometry, in_channels, ref values, .. } = *weights;
    let MapsShape { batch, height, width: out_width, channels } = output.shape;
    let vectors = channels.div_ceil(level.lanes());
    let [down, across] = geometry.axes(input.shape.height, input.shape.width);
    let columns = (out_width - 1) * across.stride + across.reach();
    let rows = COPIED_VALUES / (columns * vectors * level.lanes());
    let rows = (rows.saturating_sub(down.reach()) / down.stride + 1).min(height);
    let blocks = height.div_ceil(rows);
    let rows = height.div_ceil(blocks);
    // Enough tasks that no thread waits long for the last one.
    let parts = if pool.threads() == 1 { 1 } else { (8 * pool.threads()).div_ceil(batch * blocks) };
    let parts = parts.min(vectors);
    let vectors_a_part = vectors.div_ceil(parts);
    let parts = vectors.div_ceil(vectors_a_part);
    let to = Shares::new(output.values);
    pool.run(batch * blocks * parts, |task| {
        let (block, part) = (task / parts, task % parts);
        let first_row = block % blocks * rows;
        let first_vector = part * vectors_a_part;
        let task = GroupedTask {
            input,
            geometry,
            width: in_channels / geometry.groups,
            weights: values,
            image: block / blocks,
            rows: first_row..(first_row + rows).min(height),
            vectors: first_vector..(first_vector + vectors_a_part).min(vectors),
            out: [height, out_width],
            columns,
            epilogue,
            to: &to,
            to_stride: output.stride,
            copy: &mut [],
        };
        let rows = task.copied_rows();
        let plane = scratch_stride(rows * columns * level.lanes());
        with_scratch(task.vectors.len() * plane, 0, |copy, _| {
            level.run(GroupedTask { copy, ..task });
        });
    });
}

/// Some rows of one image's output in some vectors of channels.
struct GroupedTask<'a> {
    input: Maps<'a>,
    geometry: ConvGeometry,
    /// Channels of a group.
    width: usize,
    weights: &'a [f32],
    image: usize,
    /// Of the output.
    rows: Range<usize>,
    vectors: Range<usize>,
    /// Height and width of the output.
    out: [usize; 2],
    /// Those that a row's windows reach, with the padding.
    columns: usize,
    epilogue: Epilogue<'a>,
    to: &'a Shares<'a>,
    to_stride: usize,
    /// The input of this task, `[vectors, rows, columns, lanes]`.
    copy: &'a mut [f32],
}

impl Kernel for GroupedTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        // SAFETY: the caller's.
        unsafe {
            self.copy::<S>();
            match self.width {
                4 => self.of_width::<S, 4>(),
                8 if S::LANES >= 8 => self.of_width::<S, 8>(),
                width => unreachable!("groups of {width}"),
            }
        }
    }
}

impl GroupedTask<'_> {
    /// Down and across the input.
    #[inline(always)]
    fn windows(&self) -> [Axis; 2] {
        self.geometry.axes(self.input.shape.height, self.input.shape.width)
    }

    /// Rows of the input that the windows reach, with the padding.
    fn copied_rows(&self) -> usize {
        let [down, _] = self.windows();
        (self.rows.len() - 1) * down.stride + down.reach()
    }

    /// Values from a vector of channels to the next in the copy.
    #[inline(always)]
    fn plane(&self) -> usize {
        self.copy.len() / self.vectors.len()
    }

    /// Copies the input.
    #[inline(always)]
    unsafe fn copy<S: Simd>(&mut self) {
        let [down, across] = self.windows();
        let MapsShape { height, width, channels, .. } = self.input.shape;
        let (plane, row_values) = (self.plane(), self.columns * S::LANES);
        let left = across.padding.min(self.columns);
        let inside = width.min(self.columns - left);
        for row in 0..self.copied_rows() {
            let y = down.place(self.rows.start, 0).wrapping_add(row);
            let zeros =
                if y < height { [0..left, left + inside..self.columns] } else { [0..self.columns, 0..0] };
            for plane in self.copy.chunks_exact_mut(plane) {
                let row = &mut plane[row * row_values..][..row_values];
                for columns in zeros.clone() {
                    row[columns.start * S::LANES..columns.end * S::LANES].fill(0.0);
                }
            }
            if y >= height {
                continue;
            }
            let first = self.vectors.start * S::LANES;
            let count = channels.min(self.vectors.end * S::LANES) - first;
            for column in 0..inside {
                let pixel = (self.image * height + y) * width + column;
                // SAFETY: `conv` has checked the input, and made the copy large enough.
                unsafe {
                    let from = self.input.values.as_ptr().add(pixel * self.input.stride + first);
                    let to = self.copy.as_mut_ptr().add(row * row_values + (left + column) * S::LANES);
                    for value in (0..count).step_by(LINE) {
                        S::prefetch(from.wrapping_add(PIXELS_AHEAD * self.input.stride + value));
                    }
                    let full = count / S::LANES;
                    for vector in 0..full {
                        S::store(to.add(vector * plane), S::load(from.add(vector * S::LANES)));
                    }
                    if count > full * S::LANES {
                        let rest = S::load_first(from.add(full * S::LANES), count - full * S::LANES);
                        S::store(to.add(full * plane), rest);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn of_width<S: Simd, const WIDTH: usize>(&self) {
        // SAFETY: the caller's.
        unsafe {
            match self.geometry.stride[1] {
                1 => self.strips::<S, WIDTH, 1>(),
                _ => self.strips::<S, WIDTH, 2>(),
            }
        }
    }

    /// In strips of pixels that are neighbours in a row.
    #[inline(always)]
    unsafe fn strips<S: Simd, const WIDTH: usize, const STEP: usize>(&self) {
        let ConvGeometry { kernel, stride, dilation, .. } = self.geometry;
        let [out_height, out_width] = self.out;
        let channels = self.input.shape.channels;
        let row = self.columns * S::LANES;
        let most = if S::REGISTERS >= 32 { 14 } else { 7 };
        let rows_a_pass = PIXELS_A_PASS.div_ceil(out_width);
        for rows in self.rows.clone().step_by(rows_a_pass) {
            let rows = rows..(rows + rows_a_pass).min(self.rows.end);
            for vector in self.vectors.clone() {
                let first = vector * S::LANES;
                let columns = S::LANES.min(channels - first);
                let weights = self.weights[first * WIDTH * kernel[0] * TAPS..].as_ptr();
                let plane = self.copy[(vector - self.vectors.start) * self.plane()..].as_ptr();
                for y in rows.clone() {
                    let mut x = 0;
                    while x < out_width {
                        let left = out_width - x;
                        let count = [14, 7, 4, 2].into_iter().find(|&n| n <= left.min(most)).unwrap_or(1);
                        let pixel = (self.image * out_height + y) * out_width + x;
                        let end = PanelEnd::new(&self.epilogue, pixel, first);
                        // SAFETY: `conv` has checked the slices; tasks have different pixels or channels.
                        unsafe {
                            let from =
                                plane.add((y - self.rows.start) * stride[0] * row + x * stride[1] * S::LANES);
                            let to = self.to.at(pixel * self.to_stride + first);
                            let window = CopiedWindow { from, rows: kernel[0], row: dilation[0] * row };
                            strip::<S, WIDTH, STEP>(count, window, weights, columns, end, to, self.to_stride);
                        }
                        x += count;
                    }
                }
            }
        }
    }
}

/// A window in the copied input.
#[derive(Clone, Copy)]
struct CopiedWindow {
    from: *const f32,
    rows: usize,
    /// Values from a row to the next.
    row: usize,
}

/// Calls [`sums`] with the count as its constant, and finishes them.
#[inline(always)]
unsafe fn strip<S: Simd, const WIDTH: usize, const STEP: usize>(
    count: usize,
    window: CopiedWindow,
    weights: *const f32,
    columns: usize,
    end: PanelEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let (tile_end, clamped) = end.of_tile(0);
        macro_rules! of_count {
            ($($count:literal)*) => {
                match count {
                    $($count => {
                        let sums = sums::<S, $count, WIDTH, STEP>(window, weights);
                        if columns == S::LANES {
                            finish::<S, $count, 1, true>(sums, columns, tile_end, to, to_stride);
                        } else {
                            finish::<S, $count, 1, false>(sums, columns, tile_end, to, to_stride);
                        }
                    })*
                    _ => unreachable!("a strip of {count} pixels"),
                }
            };
        }
        if const { S::REGISTERS >= 32 } {
            of_count!(1 2 4 7 14);
        } else {
            of_count!(1 2 4 7);
        }
        if !clamped {
            // The strip is still in the first-level cache.
            activate_rows::<S>(end.activation, to, count, columns, to_stride);
        }
    }
}

/// The sums of `COUNT` pixels in a vector of channels, whose windows are `STEP` columns apart. The taps of a
/// row are summed together.
#[inline(always)]
unsafe fn sums<S: Simd, const COUNT: usize, const WIDTH: usize, const STEP: usize>(
    window: CopiedWindow,
    weights: *const f32,
) -> [[S::V; 1]; COUNT] {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[S::zero(); 1]; COUNT];
        let mut weights = weights;
        for row in 0..window.rows {
            let from = window.from.add(row * window.row);
            for input in 0..WIDTH {
                // Or the compiler would load all columns before the loop, and keep them on the stack.
                compiler_fence(Ordering::SeqCst);
                let w: [S::V; TAPS] =
                    std::array::from_fn(|tap| S::load(weights.add((tap * WIDTH + input) * S::LANES)));
                // The compiler finds a loop too long to unroll, and would keep the sums in memory.
                macro_rules! columns {
                        ($($j:literal)*) => {$(
                            if $j < (COUNT - 1) * STEP + TAPS {
                                let x = S::load_spread::<WIDTH>(from.add($j * S::LANES), input);
                                columns!($j, x, 0);
                                columns!($j, x, 1);
                                columns!($j, x, 2);
                            }
                        )*};
                        ($j:literal, $x:ident, $tap:literal) => {
                            if $j >= $tap
                                && ($j - $tap) % STEP == 0
                                && ($j - $tap) / STEP < COUNT
                            {
                                let [sum] = &mut sums[($j - $tap) / STEP];
                                *sum = S::mul_add($x, w[$tap], *sum);
                            }
                        };
                    }
                columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28);
            }
            weights = weights.add(TAPS * WIDTH * S::LANES);
        }
        sums
    }
}
