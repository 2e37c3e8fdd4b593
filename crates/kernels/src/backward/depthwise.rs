//! Gradients of depthwise convolutions.
//!
//! Lanes are channels, as in the convolution itself.

use std::ops::Range;

use super::GradientEpilogue;
use super::activation::{activation_backward, activation_backward_rows};
use super::product::SUMS;
use crate::bounds::check_weight;
use crate::depthwise::first_channel;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::windows::Axis;
use crate::{ConvGeometry, DepthwiseWeights, Epilogue, Level, Maps, MapsMut, MapsShape, Pool, depthwise};

/// The gradient of a depthwise convolution's input; `weights` are the convolution's own.
///
/// # Panics
/// When a slice is too short, the channels are not the weights', a stride is zero, or `dy` has another size than the convolution's
/// output for an input of the size of `dx`.
pub fn depthwise_input_gradient(
    pool: &Pool,
    dy: Maps<'_>,
    weights: &DepthwiseWeights,
    epilogue: GradientEpilogue<'_>,
    dx: MapsMut<'_>,
) {
    let DepthwiseWeights { level, channels, ref values, geometry } = *weights;
    let ConvGeometry { kernel, stride, padding, dilation, groups } = geometry;
    assert_eq!(groups, channels, "each channel has an output of its own");
    dy.check();
    dx.check();
    assert_eq!(dx.shape.channels, channels, "the input's channels");
    assert_eq!(dy.shape, geometry.output(dx.shape, channels), "the output's sizes");
    let shape = dx.shape;
    epilogue.check(shape.pixels(), channels);
    if shape.pixels() * channels == 0 {
        return;
    }
    let reach = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis]);
    if stride == [1, 1] && !epilogue.accumulate && padding[0] <= reach[0] && padding[1] <= reach[1] {
        // The convolution of the gradient with the rotated weights, which are few.
        let (taps, lanes) = (kernel[0] * kernel[1], level.lanes());
        let padding = [reach[0] - padding[0], reach[1] - padding[1]];
        let rotated = DepthwiseWeights {
            level,
            channels,
            geometry: ConvGeometry { padding, ..geometry },
            values: values
                .chunks_exact(taps * lanes)
                .flat_map(|block| block.rchunks_exact(lanes).flatten().copied())
                .collect(),
        };
        let (to, to_stride) = (dx.values, dx.stride);
        let dx = MapsMut { values: &mut *to, shape, stride: to_stride };
        depthwise(pool, dy, &rotated, Epilogue::default(), None, dx);
        // One more pass over both maps, which the fast convolution is well worth.
        if let Some((activation, z)) = epilogue.activation {
            activation_backward(level, pool, [shape.pixels(), channels], activation, z, None, to, to_stride);
        }
        return;
    }
    // For each remainder of a column the taps that reach it, and the window of the first such column that each belongs to.
    let phases: Vec<Vec<(usize, isize)>> = (0..stride[1].min(shape.width))
        .map(|phase| {
            let step = stride[1] as isize;
            let place = |tap: usize| (phase + padding[1]) as isize - (tap * dilation[1]) as isize;
            let taps = (0..kernel[1]).filter(|tap| place(*tap) % step == 0);
            taps.map(|tap| (tap, place(tap) / step)).collect()
        })
        .collect();
    let rows = shape.batch * shape.height;
    let dx_stride = dx.stride;
    let dx = Shares::new(dx.values);
    pool.run(rows, |row| {
        level.run(InputRow {
            geometry,
            weights,
            phases: &phases,
            dy,
            shape,
            row,
            epilogue,
            dx: &dx,
            dx_stride,
        });
    });
}

/// A task: a row of the input.
struct InputRow<'a> {
    geometry: ConvGeometry,
    weights: &'a DepthwiseWeights,
    /// For each remainder of a column its taps and their windows.
    phases: &'a [Vec<(usize, isize)>],
    dy: Maps<'a>,
    /// The input's.
    shape: MapsShape,
    /// Counted through all images.
    row: usize,
    epilogue: GradientEpilogue<'a>,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

/// Columns that are summed at a time.
const COLUMNS: usize = 4;

/// What the gradient of a pixel that the output does not have is read from; no vector has more lanes.
static ZEROS: [f32; 16] = [0.0; 16];

/// The taps along an axis that reach a place, and the windows that they belong to: from the last window on, every `step`-th tap.
#[inline(always)]
fn taps_of(axis: Axis, place: usize) -> impl Iterator<Item = (usize, usize)> + Clone {
    (0..axis.kernel).filter_map(move |tap| {
        let shifted = (place + axis.padding).checked_sub(tap * axis.dilation)?;
        shifted.is_multiple_of(axis.stride).then_some((tap, shifted / axis.stride))
    })
}

impl Kernel for InputRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let DepthwiseWeights { channels, geometry: ConvGeometry { kernel, .. }, ref values, .. } =
            *self.weights;
        let MapsShape { height, width, .. } = self.shape;
        let [down, across] = self.geometry.axes(height, width);
        let out = self.dy.shape;
        let (image, y) = (self.row / height, self.row % height);
        let taps = kernel[0] * kernel[1];
        let lines: Vec<(usize, usize)> = taps_of(down, y).filter(|(_, out_y)| *out_y < out.height).collect();
        for block in 0..channels.div_ceil(S::LANES) {
            // The last block is moved so as to be full, if it can be; channels that it shares with the one before are left to that one.
            let first = first_channel(block, channels, S::LANES);
            let skipped = block * S::LANES - first;
            let count = channels.min(S::LANES);
            let weights = values[block * taps * S::LANES..].as_ptr();
            for (phase, of_phase) in self.phases.iter().enumerate() {
                let count_of_phase = (width - phase).div_ceil(across.stride);
                let mut number = 0;
                while number < count_of_phase {
                    let columns = COLUMNS.min(count_of_phase - number);
                    let x = phase + number * across.stride;
                    // SAFETY: the caller has checked the slices; tasks have different rows.
                    unsafe {
                        let mut sums = [S::zero(); COLUMNS];
                        for (tap_y, out_y) in &lines {
                            let line = (image * out.height + out_y) * out.width;
                            for (tap_x, out_x) in of_phase {
                                let out_x = number as isize + out_x;
                                let weight = S::load(weights.add((tap_y * kernel[1] + tap_x) * S::LANES));
                                let is_inside = out_x >= 0 && out_x as usize + COLUMNS <= out.width;
                                if is_inside && columns == COLUMNS && count == S::LANES {
                                    let pixel = line + out_x as usize;
                                    let from = self.dy.values.as_ptr().add(pixel * self.dy.stride + first);
                                    for (c, sum) in sums.iter_mut().enumerate() {
                                        let dy = S::load(from.add(c * self.dy.stride));
                                        *sum = S::mul_add(dy, weight, *sum);
                                    }
                                    continue;
                                }
                                for (c, sum) in sums.iter_mut().enumerate() {
                                    let out_x = (out_x + c as isize) as usize;
                                    let from = if out_x < out.width && c < columns {
                                        self.dy.values.as_ptr().add((line + out_x) * self.dy.stride + first)
                                    } else {
                                        ZEROS.as_ptr()
                                    };
                                    *sum = S::mul_add(S::load_upto(from, count), weight, *sum);
                                }
                            }
                        }
                        for (c, sum) in sums.into_iter().enumerate() {
                            if c >= columns {
                                continue;
                            }
                            let pixel = self.row * width + x + c * across.stride;
                            let to = self.dx.at(pixel * self.dx_stride + first);
                            if skipped > 0 {
                                let mut whole = [0.0; 16];
                                S::store(whole.as_mut_ptr(), sum);
                                for (lane, value) in whole.iter().enumerate().take(count).skip(skipped) {
                                    let before = if self.epilogue.accumulate { *to.add(lane) } else { 0.0 };
                                    to.add(lane).write(before + value);
                                }
                                continue;
                            }
                            let sum = if self.epilogue.accumulate {
                                S::add(S::load_upto(to, count), sum)
                            } else {
                                sum
                            };
                            S::store_upto(to, sum, count);
                        }
                    }
                    number += columns;
                }
            }
        }
        if let Some((activation, z)) = self.epilogue.activation {
            let (pixel, stride) = (self.row * width, self.dx_stride);
            // SAFETY: as above.
            unsafe {
                let to = self.dx.at(pixel * stride);
                let from = z.values.as_ptr().add(pixel * z.stride);
                let sizes = [width, channels];
                activation_backward_rows::<S>(activation, sizes, from, z.stride, to, stride, to, stride);
            }
        }
    }
}

/// The gradient of a depthwise convolution's weight, `[channels, 1, kernel height, kernel width]`.
///
/// # Panics
/// When a slice is too short, `dw` is not as long as the weight, a stride is zero, or `dy` has another size than the convolution's
/// output.
#[expect(clippy::too_many_arguments, reason = "they are Conv2d's")]
pub fn depthwise_weight_gradient(
    level: Level,
    pool: &Pool,
    input: Maps<'_>,
    dy: Maps<'_>,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    accumulate: bool,
    dw: &mut [f32],
) {
    input.check();
    dy.check();
    let channels = input.shape.channels;
    let geometry = ConvGeometry { kernel, stride, padding, dilation, groups: channels };
    assert_eq!(dy.shape, geometry.output(input.shape, channels), "the output's sizes");
    check_weight(dw, [channels, 1, kernel[0], kernel[1]]);
    let taps = kernel[0] * kernel[1];
    if !accumulate {
        dw.fill(0.0);
    }
    let rows = dy.shape.batch * dy.shape.height;
    if rows * dy.shape.width * channels == 0 {
        return;
    }
    // Groups of rows are summed apart, and added in their order; they follow from the sizes alone.
    let each = rows.div_ceil(MOST_GROUPS);
    let groups = rows.div_ceil(each);
    let apart = channels.next_multiple_of(16) * taps;
    let mut sums = SUMS.take();
    sums.grow(groups * apart);
    let to = Shares::new(&mut sums.values_mut()[..groups * apart]);
    // Rows whose values of both maps stay in a cache of the second level, while vectors of channels follow one another.
    let row_values = channels * (dy.shape.width + input.shape.width * stride[0]);
    let strip = (STRIP_VALUES / row_values.max(1)).max(1);
    pool.run(groups, |group| {
        let rows = group * each..((group + 1) * each).min(rows);
        level.run(WeightTask { geometry, input, dy, rows, strip, to: &to, at: group * apart });
    });
    for group in sums.values().chunks_exact(apart).take(groups) {
        for channel in 0..channels {
            for tap in 0..taps {
                dw[channel * taps + tap] += group[tap * channels.next_multiple_of(16) + channel];
            }
        }
    }
    SUMS.set(sums);
}

/// Groups of rows that are summed apart; at most.
const MOST_GROUPS: usize = 16;

/// Values of a strip.
const STRIP_VALUES: usize = 128 << 10;

/// A task: a group of rows of the output, counted over all images.
struct WeightTask<'a> {
    geometry: ConvGeometry,
    input: Maps<'a>,
    dy: Maps<'a>,
    rows: Range<usize>,
    /// Rows for which all channels are summed before the next ones come.
    strip: usize,
    /// `[taps, channels]`, from `at` on, rows of whole vectors.
    to: &'a Shares<'a>,
    at: usize,
}

impl Kernel for WeightTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ConvGeometry { kernel, stride, dilation, .. } = self.geometry;
        let channels = self.input.shape.channels;
        let apart = channels.next_multiple_of(16);
        // SAFETY: the caller has measured the sums; tasks have different ones.
        unsafe { self.to.at(self.at).write_bytes(0, apart * kernel[0] * kernel[1]) };
        for first in self.rows.clone().step_by(self.strip) {
            let rows = first..(first + self.strip).min(self.rows.end);
            for channel in (0..channels).step_by(S::LANES) {
                let full = channels - channel >= S::LANES;
                for top in 0..kernel[0] {
                    // SAFETY: the caller has checked the slices.
                    unsafe {
                        match (kernel[1], stride[1], dilation[1]) {
                            (3, 1, 1) if full && kernel[0] == 3 => {
                                if top == 0 {
                                    self.taps_of_rows::<S, 3, 3, 1>(rows.clone(), channel, 0);
                                }
                            }
                            (3, 2, 1) if full && kernel[0] == 3 => {
                                if top == 0 {
                                    self.taps_of_rows::<S, 3, 3, 2>(rows.clone(), channel, 0);
                                }
                            }
                            (5, 1, 1) if full => self.taps_of_rows::<S, 1, 5, 1>(rows.clone(), channel, top),
                            (5, 2, 1) if full => self.taps_of_rows::<S, 1, 5, 2>(rows.clone(), channel, top),
                            (7, 1, 1) if full => self.taps_of_rows::<S, 1, 7, 1>(rows.clone(), channel, top),
                            _ => self.any_taps::<S>(rows.clone(), channel, top),
                        }
                    }
                }
            }
        }
    }
}

/// Columns whose gradients are in registers at a time.
const WEIGHT_COLUMNS: usize = 4;

impl WeightTask<'_> {
    /// Adds what some rows of the output give to the sums of `HEIGHT` rows of taps, from `top` on.
    ///
    /// # Safety
    /// The machine has the instruction set, and there is a whole vector of channels.
    #[inline(always)]
    unsafe fn taps_of_rows<S: Simd, const HEIGHT: usize, const WIDTH: usize, const STRIDE: usize>(
        &self,
        rows: Range<usize>,
        channel: usize,
        top: usize,
    ) {
        let [down, across] = self.geometry.axes(self.input.shape.height, self.input.shape.width);
        let out = self.dy.shape;
        let apart = self.input.shape.channels.next_multiple_of(16);
        // SAFETY: the caller's.
        let mut sums = unsafe { [[S::zero(); WIDTH]; HEIGHT] };
        for row in rows {
            let (image, y) = (row / out.height, row % out.height);
            // SAFETY: the caller's; pointers to columns that do not exist are not read.
            unsafe {
                let gradients = self.dy.values.as_ptr().add(row * out.width * self.dy.stride + channel);
                let mut lines = [std::ptr::null(); HEIGHT];
                for (i, line) in lines.iter_mut().enumerate() {
                    let in_y = down.place(y, top + i);
                    if in_y < down.size {
                        let pixel = (image * down.size + in_y) * across.size;
                        *line = self.input.values.as_ptr().add(pixel * self.input.stride + channel);
                    }
                }
                let mut x = 0;
                while x + WEIGHT_COLUMNS <= out.width {
                    let mut dy = [S::zero(); WEIGHT_COLUMNS];
                    for (c, dy) in dy.iter_mut().enumerate() {
                        *dy = S::load(gradients.add((x + c) * self.dy.stride));
                    }
                    let inside = across.covers(x, (WEIGHT_COLUMNS - 1) * STRIDE + WIDTH);
                    for i in 0..HEIGHT {
                        if lines[i].is_null() {
                            continue;
                        }
                        let left = (x * STRIDE).wrapping_sub(across.padding);
                        let begin = lines[i].wrapping_add(left.wrapping_mul(self.input.stride));
                        for place in 0..(WEIGHT_COLUMNS - 1) * STRIDE + WIDTH {
                            if !inside && left.wrapping_add(place) >= across.size {
                                continue;
                            }
                            let value = S::load(begin.wrapping_add(place * self.input.stride));
                            for (c, dy) in dy.iter().enumerate() {
                                let tap = place.wrapping_sub(c * STRIDE);
                                if tap < WIDTH {
                                    sums[i][tap] = S::mul_add(value, *dy, sums[i][tap]);
                                }
                            }
                        }
                    }
                    x += WEIGHT_COLUMNS;
                }
                while x < out.width {
                    let dy = S::load(gradients.add(x * self.dy.stride));
                    for (line, sums) in lines.iter().zip(&mut sums) {
                        if line.is_null() {
                            continue;
                        }
                        for (tap, sum) in sums.iter_mut().enumerate() {
                            let in_x = across.place(x, tap);
                            if in_x < across.size {
                                let value = S::load(line.add(in_x * self.input.stride));
                                *sum = S::mul_add(value, dy, *sum);
                            }
                        }
                    }
                    x += 1;
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (tap, sum) in sums.into_iter().enumerate() {
                // SAFETY: the caller's.
                unsafe {
                    let to = self.to.at(self.at + ((top + i) * WIDTH + tap) * apart + channel);
                    S::store(to, S::add(S::load(to), sum));
                }
            }
        }
    }

    /// As [`Self::taps_of_rows`], for a row of any taps, and any number of channels.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn any_taps<S: Simd>(&self, rows: Range<usize>, channel: usize, top: usize) {
        let [down, across] = self.geometry.axes(self.input.shape.height, self.input.shape.width);
        let (out, lanes) = (self.dy.shape, self.input.shape.channels - channel);
        let apart = self.input.shape.channels.next_multiple_of(16);
        for tap in 0..across.kernel {
            // SAFETY: the caller's; `inside` are windows whose tap reads a column that exists.
            unsafe {
                let mut sum = S::zero();
                for row in rows.clone() {
                    let (image, y) = (row / out.height, row % out.height);
                    let in_y = down.place(y, top);
                    if in_y >= down.size {
                        continue;
                    }
                    let line = (image * down.size + in_y) * across.size;
                    let inside = across.inside(tap);
                    for x in inside.start..inside.end.min(out.width) {
                        let pixel = row * out.width + x;
                        let dy = self.dy.values.as_ptr().add(pixel * self.dy.stride + channel);
                        let pixel = line + across.place(x, tap);
                        let value = self.input.values.as_ptr().add(pixel * self.input.stride + channel);
                        sum = S::mul_add(S::load_upto(value, lanes), S::load_upto(dy, lanes), sum);
                    }
                }
                let to = self.to.at(self.at + (top * across.kernel + tap) * apart + channel);
                S::store(to, S::add(S::load(to), sum));
            }
        }
    }
}
