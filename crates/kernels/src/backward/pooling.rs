//! The backward passes of pooling.

use std::ops::Range;

use super::GradientEpilogue;
use super::activation::activation_backward_rows;
use crate::pooling::{PoolAxis, Pooling};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Level, Maps, MapsMut, MapsShape, Pool, PoolGeometry};

/// The gradient of [`max_pool`](crate::max_pool)'s input: that of each output value goes to the largest value of its window, the first
/// of equals in the order of rows, as in PyTorch. A NaN is the largest of no window.
///
/// # Panics
/// When a slice is too short, shapes do not fit, or a window lies outside the input or is empty.
pub fn max_pool_backward(
    level: Level,
    pool: &Pool,
    input: Maps<'_>,
    window: PoolGeometry,
    dy: Maps<'_>,
    epilogue: GradientEpilogue<'_>,
    dx: MapsMut<'_>,
) {
    input.check();
    assert_eq!(input.shape, dx.shape, "the input's shape");
    backward(level, pool, Some(input), Pooling::Max(window), dy, epilogue, dx);
}

/// The gradient of [`avg_pool`](crate::avg_pool)'s input.
///
/// # Panics
/// As [`max_pool_backward`].
pub fn avg_pool_backward(
    level: Level,
    pool: &Pool,
    window: PoolGeometry,
    count_include_pad: bool,
    dy: Maps<'_>,
    epilogue: GradientEpilogue<'_>,
    dx: MapsMut<'_>,
) {
    backward(level, pool, None, Pooling::Average(window, count_include_pad), dy, epilogue, dx);
}

/// The gradient of [`adaptive_avg_pool`](crate::adaptive_avg_pool)'s input.
///
/// # Panics
/// When a slice is too short, or batch or channels differ.
pub fn adaptive_avg_pool_backward(
    level: Level,
    pool: &Pool,
    dy: Maps<'_>,
    epilogue: GradientEpilogue<'_>,
    dx: MapsMut<'_>,
) {
    backward(level, pool, None, Pooling::Adaptive, dy, epilogue, dx);
}

fn backward(
    level: Level,
    pool: &Pool,
    input: Option<Maps<'_>>,
    pooling: Pooling,
    dy: Maps<'_>,
    epilogue: GradientEpilogue<'_>,
    dx: MapsMut<'_>,
) {
    dy.check();
    dx.check();
    let (from, to) = (dx.shape, dy.shape);
    assert_eq!((from.batch, from.channels), (to.batch, to.channels), "batch and channels of a pool");
    epilogue.check(from.pixels(), from.channels);
    if from.pixels() * from.channels == 0 {
        return;
    }
    let axes = [[from.height, to.height], [from.width, to.width]];
    let axes = axes.map(|[size, outputs]| PoolAxis { pooling, size, outputs });
    for axis in &axes {
        assert!(axis.outputs == 0 || axis.are_numbers(), "the windows reach further than memory could");
        assert!((0..axis.outputs).all(|place| !axis.range(place).is_empty()), "a window outside the input");
    }
    let dx_stride = dx.stride;
    let dx = Shares::new(dx.values);
    let Some(input) = input else {
        let windows = axes.map(|axis| Covering::new(&axis));
        pool.run(from.batch * from.height, |row| {
            level.run(MeanRow { shape: from, windows: &windows, dy, row, epilogue, dx: &dx, dx_stride });
        });
        return;
    };
    let parts = from.channels.div_ceil(CHANNELS);
    pool.run(from.batch * parts, |task| {
        let first = task % parts * CHANNELS;
        let channels = first..(first + CHANNELS).min(from.channels);
        let image = task / parts;
        level.run(LargestTask { input, axes: &axes, dy, image, channels, epilogue, dx: &dx, dx_stride });
    });
}

/// Channels of a task: whole cache lines.
const CHANNELS: usize = 64;

/// The windows of an axis that cover each place, and the share of a window's gradient that each of its places gets.
struct Covering {
    windows: Vec<Range<usize>>,
    shares: Vec<f32>,
}

impl Covering {
    fn new(axis: &PoolAxis) -> Covering {
        let mut windows = vec![0..0; axis.size];
        for window in 0..axis.outputs {
            for place in axis.range(window) {
                let covering: &mut Range<usize> = &mut windows[place];
                // Windows that cover a place follow one another.
                *covering = if covering.start == covering.end {
                    window..window + 1
                } else {
                    covering.start..window + 1
                };
            }
        }
        let shares = (0..axis.outputs).map(|window| 1.0 / axis.count(window) as f32).collect();
        Covering { windows, shares }
    }
}

/// A task of a mean's gradient: a row of the input.
struct MeanRow<'a> {
    shape: MapsShape,
    /// Down and across.
    windows: &'a [Covering; 2],
    dy: Maps<'a>,
    /// Counted through all images.
    row: usize,
    epilogue: GradientEpilogue<'a>,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for MeanRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let MapsShape { height, width, channels, .. } = self.shape;
        let (image, y) = (self.row / height, self.row % height);
        let [down, across] = self.windows;
        for x in 0..width {
            let pixel = self.row * width + x;
            for channel in (0..channels).step_by(S::LANES) {
                let left = channels - channel;
                // SAFETY: `backward` has checked the slices and the windows; tasks have different rows.
                unsafe {
                    let to = self.dx.at(pixel * self.dx_stride + channel);
                    let mut sum = if self.epilogue.accumulate { S::load_upto(to, left) } else { S::zero() };
                    for out_y in down.windows[y].clone() {
                        for out_x in across.windows[x].clone() {
                            let share = S::splat(down.shares[out_y] * across.shares[out_x]);
                            let pixel = (image * self.dy.shape.height + out_y) * self.dy.shape.width + out_x;
                            let dy = self.dy.values.as_ptr().add(pixel * self.dy.stride + channel);
                            sum = S::mul_add(S::load_upto(dy, left), share, sum);
                        }
                    }
                    S::store_upto(to, sum, left);
                }
            }
        }
        // SAFETY: as above.
        unsafe {
            activate::<S>(self.epilogue, self.row * width, 0, [width, channels], self.dx, self.dx_stride)
        };
    }
}

/// Multiplies the gradient of some pixels, from this channel on, with the activation's derivative.
///
/// # Safety
/// The machine has the instruction set, and the pixels and channels exist.
#[inline(always)]
unsafe fn activate<S: Simd>(
    epilogue: GradientEpilogue<'_>,
    pixel: usize,
    channel: usize,
    sizes: [usize; 2],
    dx: &Shares<'_>,
    stride: usize,
) {
    if let Some((activation, z)) = epilogue.activation {
        // SAFETY: the caller's.
        unsafe {
            let to = dx.at(pixel * stride + channel);
            let from = z.values.as_ptr().add(pixel * z.stride + channel);
            activation_backward_rows::<S>(activation, sizes, from, z.stride, to, stride, to, stride);
        }
    }
}

/// A task of a maximum's gradient: some channels of an image.
struct LargestTask<'a> {
    input: Maps<'a>,
    /// Down and across.
    axes: &'a [PoolAxis; 2],
    dy: Maps<'a>,
    image: usize,
    channels: Range<usize>,
    epilogue: GradientEpilogue<'a>,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for LargestTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let MapsShape { height, width, .. } = self.input.shape;
        let Self { channels, dx_stride, .. } = &self;
        let first_pixel = self.image * height * width;
        let [down, across] = self.axes;
        // SAFETY: `backward` has checked the slices and the windows; tasks have different images or channels.
        unsafe {
            if !self.epilogue.accumulate {
                for pixel in first_pixel..first_pixel + height * width {
                    self.dx.at(pixel * dx_stride + channels.start).write_bytes(0, channels.len());
                }
            }
            for y in 0..down.outputs {
                let ys = down.range(y);
                for x in 0..across.outputs {
                    let xs = across.range(x);
                    let out = (self.image * down.outputs + y) * across.outputs + x;
                    for channel in channels.clone().step_by(S::LANES) {
                        let left = channels.end - channel;
                        let places =
                            ys.clone().flat_map(|y| xs.clone().map(move |x| first_pixel + y * width + x));
                        // The number of the largest value among those of the window.
                        let mut largest = S::splat(f32::NEG_INFINITY);
                        let (mut number, mut at) = (0.0, S::zero());
                        for place in places.clone() {
                            let from = self.input.values.as_ptr().add(place * self.input.stride + channel);
                            let value = S::load_upto(from, left);
                            at = S::select_less(largest, value, S::splat(number), at);
                            largest = S::select_less(largest, value, value, largest);
                            number += 1.0;
                        }
                        let dy = self.dy.values.as_ptr().add(out * self.dy.stride + channel);
                        let dy = S::load_upto(dy, left);
                        number = 0.0;
                        for place in places {
                            let to = self.dx.at(place * dx_stride + channel);
                            let other = S::abs(S::sub(at, S::splat(number)));
                            let g = S::select_less(other, S::splat(0.5), dy, S::zero());
                            S::store_upto(to, S::add(S::load_upto(to, left), g), left);
                            number += 1.0;
                        }
                    }
                }
            }
            let sizes = [height * width, channels.len()];
            activate::<S>(self.epilogue, first_pixel, channels.start, sizes, self.dx, *dx_stride);
        }
    }
}
