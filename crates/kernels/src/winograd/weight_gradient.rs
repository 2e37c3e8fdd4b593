//! The gradient of a 3x3 convolution's weight by Winograd's method.
//!
//! Every step of the convolution is linear, so that its gradient goes the same way back: tiles of the output's gradient are brought to
//! the points by the transpose of the output's transform, multiplied there with the transformed input and summed over all tiles, and
//! the sums are brought back to nine taps by the transpose of the weights' transform. So it is F(3x3, 4x4), at the same 36 points.

use std::cell::RefCell;
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::ops::Range;

use super::WinogradTile;
use super::lines::Lines;
use super::tiles::{InputTransform, Tiling};
use super::{Layout, SharedPoints};
use crate::backward::outer::{Outer, PIXELS};
use crate::bounds::check_weight;
use crate::gemm::{Panel, panels};
use crate::scratch::{scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{ConvGeometry, Level, Maps, Pool, conv_weight_gradient};

/// Channels below which the transforms cost more than they save.
const FEW_CHANNELS: usize = 8;

/// Bytes of a strip's transformed tiles.
const STRIP_BYTES: usize = 8 << 20;

/// Tiles of a strip, at least: sums that no near cache holds are read and written once for all of them.
const LEAST_TILES: usize = 224;

const POINTS: usize = 36;

thread_local! {
    /// Transformed tiles of a strip of both maps, and the sums of all strips.
    static STRIP: RefCell<[Lines; 3]> = RefCell::default();
}

/// The gradient of the weight of a 3x3 convolution with stride 1, `[out_channels, in_channels, 3, 3]`: what
/// [`conv_weight_gradient`] gives, from fewer multiplications.
///
/// # Panics
/// When a slice is too short, `dw` is not as long as the weight, or `dy` has another size than the convolution's output.
pub fn winograd_weight_gradient(
    level: Level,
    pool: &Pool,
    input: Maps<'_>,
    dy: Maps<'_>,
    padding: [usize; 2],
    accumulate: bool,
    dw: &mut [f32],
) {
    let geometry = ConvGeometry { kernel: [3; 2], stride: [1; 2], padding, dilation: [1; 2], groups: 1 };
    let [inputs, outputs] = [input.shape.channels, dy.shape.channels];
    let tiling = Tiling { tile: WinogradTile::F4, output: dy.shape };
    if inputs < FEW_CHANNELS || outputs < FEW_CHANNELS || dy.shape.pixels() == 0 {
        return conv_weight_gradient(level, pool, input, dy, geometry, accumulate, dw);
    }
    input.check();
    dy.check();
    assert_eq!(dy.shape, geometry.output(input.shape, outputs), "the output's sizes");
    check_weight(dw, [outputs, inputs, 3, 3]);
    let windows = geometry.axes(input.shape.height, input.shape.width);
    let tiles = tiling.tiles();
    let width: usize = panels(level, outputs).map(|panel| panel.width).sum();
    let fitting = STRIP_BYTES / (POINTS * (inputs + width) * size_of::<f32>());
    let strips = tiles.div_ceil(fitting.max(LEAST_TILES));
    let strip = tiles.div_ceil(strips);
    let zeros = vec![0.0; inputs.max(outputs)];

    let mut scratch = STRIP.take();
    let [of_input, of_output, sums] = &mut scratch;
    let layout = Layout::new(POINTS, strip, scratch_stride(inputs));
    of_input.grow(layout.values);
    of_output.grow(POINTS * strip * width);
    sums.grow(POINTS * inputs * width);
    let points = SharedPoints(layout.at(of_input.values_mut()));
    let gradients = Shares::new(of_output.values_mut());
    let sums = Shares::new(sums.values_mut());
    let all = panels(level, outputs).count();
    for start in (0..tiles).step_by(strip) {
        let of_strip = start..(start + strip).min(tiles);
        let count = of_strip.len();
        // As many tasks as threads can share: each tile is transformed by itself.
        let chunk = count.div_ceil(8 * pool.threads()).max(1);
        pool.run(count.div_ceil(chunk), |task| {
            let first = task * chunk;
            let tiles = of_strip.start + first..(of_strip.start + first + chunk).min(of_strip.end);
            let to = points.from(first);
            level.run(InputTransform { tiling, tiles: tiles.clone(), input, windows, zeros: &zeros, to });
            level.run(GradientTransform {
                level,
                tiling,
                tiles,
                dy,
                zeros: &zeros,
                first,
                count,
                to: &gradients,
            });
        });
        pool.run(POINTS * all, |task| {
            let point = task / all;
            for panel in panels(level, outputs).skip(task % all).take(1) {
                with_scratch(0, count, |_, pointers| {
                    for (tile, pointer) in pointers.iter_mut().enumerate() {
                        *pointer = points.from(tile).start;
                    }
                    let sums = PointSums {
                        level,
                        tiles: pointers,
                        offset: point * layout.plane,
                        point,
                        panel,
                        inputs,
                        gradients: &gradients,
                        add: start > 0,
                        sums: &sums,
                    };
                    // SAFETY: the strip has all tiles; tasks have different points or panels.
                    unsafe { sums.run() };
                });
            }
        });
    }
    let dw = Shares::new(dw);
    let parts = inputs.div_ceil(CHANNELS);
    pool.run(all * parts, |task| {
        let first = task % parts * CHANNELS;
        for panel in panels(level, outputs).skip(task / parts).take(1) {
            let channels = first..(first + CHANNELS).min(inputs);
            level.run(Taps { panel, inputs, channels, sums: &sums, accumulate, to: &dw });
        }
    });
    STRIP.set(scratch);
}

/// Input channels of a task that makes taps.
const CHANNELS: usize = 32;

/// Some tiles of the output's gradient, transformed: `[panels, points, tiles, width]`.
struct GradientTransform<'a> {
    level: Level,
    tiling: Tiling,
    tiles: Range<usize>,
    dy: Maps<'a>,
    /// A pixel's channels.
    zeros: &'a [f32],
    /// The first of these tiles in the strip.
    first: usize,
    /// Tiles of the strip.
    count: usize,
    to: &'a Shares<'a>,
}

impl Kernel for GradientTransform<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = self.dy.shape;
        for (index, tile) in self.tiles.clone().enumerate() {
            let [image, y, x] = self.tiling.place(tile);
            let mut pixels = [[self.zeros.as_ptr(); 4]; 4];
            for (i, row) in pixels.iter_mut().enumerate() {
                for (j, pixel) in row.iter_mut().enumerate() {
                    if y + i < shape.height && x + j < shape.width {
                        let number = (image * shape.height + y + i) * shape.width + x + j;
                        *pixel = self.dy.values[number * self.dy.stride..].as_ptr();
                    }
                }
            }
            for panel in panels(self.level, shape.channels) {
                let start = panel.first * POINTS * self.count + (self.first + index) * panel.width;
                // SAFETY: the pixels lie in the maps or are zeros; the strip has room for all tiles, and no other task has these. A panel
                // is whole vectors, or a narrow one.
                unsafe {
                    let to = self.to.at(start);
                    if panel.width < S::LANES {
                        panel_tile::<S::Half>(&pixels, panel, to, self.count * panel.width);
                    } else {
                        panel_tile::<S>(&pixels, panel, to, self.count * panel.width);
                    }
                }
            }
        }
    }
}

/// A panel of a tile of the output's gradient at all points, which are `apart` values apart.
///
/// # Safety
/// The machine has the instruction set; the pixels are valid for the panel's columns, `to` for its width at each point.
#[inline(always)]
unsafe fn panel_tile<S: Simd>(pixels: &[[*const f32; 4]; 4], panel: Panel, to: *mut f32, apart: usize) {
    for column in (0..panel.width).step_by(S::LANES) {
        let left = panel.columns.saturating_sub(column);
        // SAFETY: the caller's.
        unsafe {
            let mut columns = [[S::zero(); 6]; 4];
            for (x, column_values) in columns.iter_mut().enumerate() {
                let mut values = [S::zero(); 4];
                for (value, row) in values.iter_mut().zip(pixels) {
                    *value = S::load_upto(row[x].wrapping_add(panel.first + column), left);
                }
                *column_values = output_transposed::<S>(values);
            }
            let [a, b, c, d] = columns;
            for (y, (((a, b), c), d)) in a.into_iter().zip(b).zip(c).zip(d).enumerate() {
                let row = [a, b, c, d];
                for (x, value) in output_transposed::<S>(row).into_iter().enumerate() {
                    S::store(to.add((y * 6 + x) * apart + column), value);
                }
            }
        }
    }
}

/// The transpose of [`F4`](super::transform::F4)'s output transform.
#[inline(always)]
unsafe fn output_transposed<S: Simd>([a, b, c, d]: [S::V; 4]) -> [S::V; 6] {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let [half, two] = [S::splat(0.5), S::splat(2.0)];
        let even = S::mul_add(half, c, a);
        let odd = S::mul(S::splat(FRAC_1_SQRT_2 as f32), S::mul_add(half, d, b));
        let even_2 = S::mul_add(two, c, a);
        let odd_2 = S::mul(S::splat(SQRT_2 as f32), S::mul_add(two, d, b));
        [a, S::add(even, odd), S::sub(even, odd), S::add(even_2, odd_2), S::sub(even_2, odd_2), d]
    }
}

/// The sums over a strip's tiles at a point, of a panel of output channels: `[panels, points, inputs, width]`.
struct PointSums<'a> {
    level: Level,
    /// The transformed input of each tile at the first point.
    tiles: &'a [*const f32],
    /// Values from the first point to this one.
    offset: usize,
    point: usize,
    panel: Panel,
    inputs: usize,
    gradients: &'a Shares<'a>,
    add: bool,
    sums: &'a Shares<'a>,
}

impl PointSums<'_> {
    /// # Safety
    /// The strip has all tiles, and no other task has this point of this panel.
    unsafe fn run(self) {
        let Panel { first, width, .. } = self.panel;
        let count = self.tiles.len();
        for tile in (0..count).step_by(PIXELS) {
            // SAFETY: the caller's.
            unsafe {
                let outer = Outer {
                    pixels: PIXELS.min(count - tile),
                    left: self.tiles.as_ptr().add(tile),
                    offset: self.offset,
                    right: self.gradients.at(first * POINTS * count + (self.point * count + tile) * width),
                    right_stride: width,
                    add: self.add || tile > 0,
                };
                let to = self.sums.at((first * POINTS + self.point * width) * self.inputs);
                outer.panel(self.level, self.inputs, width, width, to, width);
            }
        }
    }
}

/// Some input channels' taps, for a panel of output channels, from the sums at the points.
struct Taps<'a> {
    panel: Panel,
    inputs: usize,
    channels: Range<usize>,
    sums: &'a Shares<'a>,
    accumulate: bool,
    to: &'a Shares<'a>,
}

impl Kernel for Taps<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the machine has the instruction set.
        unsafe { if self.panel.width < S::LANES { self.taps::<S::Half>() } else { self.taps::<S>() } }
    }
}

impl Taps<'_> {
    /// # Safety
    /// The machine has the instruction set, and a panel is whole vectors.
    #[inline(always)]
    unsafe fn taps<S: Simd>(&self) {
        let Panel { first, width, columns } = self.panel;
        for channel in self.channels.clone() {
            for column in (0..width).step_by(S::LANES) {
                let mut taps = [[0.0_f32; 16]; 9];
                // SAFETY: there are sums for every point and channel; no vector is longer than the taps' rows. Tasks have different channels.
                unsafe {
                    let from = self.sums.at((first * POINTS * self.inputs) + channel * width + column);
                    let mut rows = [[S::zero(); 6]; 3];
                    for x in 0..6 {
                        let point = |y: usize| S::load(from.add((y * 6 + x) * self.inputs * width));
                        let values = [point(0), point(1), point(2), point(3), point(4), point(5)];
                        for (row, value) in rows.iter_mut().zip(weights_transposed::<S>(values)) {
                            row[x] = value;
                        }
                    }
                    for (row, taps) in rows.into_iter().zip(taps.chunks_exact_mut(3)) {
                        for (value, tap) in weights_transposed::<S>(row).into_iter().zip(taps) {
                            S::store(tap.as_mut_ptr(), value);
                        }
                    }
                    for lane in 0..S::LANES.min(columns.saturating_sub(column)) {
                        let to = self.to.at(((first + column + lane) * self.inputs + channel) * 9);
                        for (tap, values) in taps.iter().enumerate() {
                            let to = to.add(tap);
                            *to = if self.accumulate { *to + values[lane] } else { values[lane] };
                        }
                    }
                }
            }
        }
    }
}

/// The transpose of [`F4`](super::transform::F4)'s transform of the weights.
#[inline(always)]
unsafe fn weights_transposed<S: Simd>([a, b, c, d, e, f]: [S::V; 6]) -> [S::V; 3] {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let near = S::mul(S::add(b, c), S::splat(-1.0 / 1.5));
        let far = S::mul(S::add(d, e), S::splat(1.0 / 6.0));
        let odd = S::mul(S::sub(b, c), S::splat((FRAC_1_SQRT_2 / -1.5) as f32));
        [
            S::add(a, S::add(near, far)),
            S::mul_add(S::sub(d, e), S::splat((SQRT_2 / 6.0) as f32), odd),
            S::add(f, S::mul_add(S::splat(0.5), near, S::mul(S::splat(2.0), far))),
        ]
    }
}
