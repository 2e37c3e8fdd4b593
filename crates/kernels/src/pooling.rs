//! Pooling: the largest or the mean value of windows.

use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::windows::Axis;
use crate::{Level, Maps, MapsMut, MapsShape, Pool};

/// Values that a task reads, so that handing it out costs little beside it.
const TASK_VALUES: usize = 16 << 10;

/// The windows of a pool: square ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Size.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Padding on every side.
    pub padding: usize,
}

impl PoolGeometry {
    /// The windows along an axis of so many places.
    #[inline(always)]
    fn axis(&self, size: usize) -> Axis {
        let PoolGeometry { kernel, stride, padding } = *self;
        Axis { size, kernel, stride, padding, dilation: 1 }
    }
}

/// What becomes of the values of a window.
#[derive(Clone, Copy)]
pub(crate) enum Pooling {
    /// Padding does not count.
    Max(PoolGeometry),
    /// The mean; whether padding counts as zeros.
    Average(PoolGeometry, bool),
    /// The mean over as many windows as there is output.
    Adaptive,
}

/// The largest value of each window and channel (`torch.nn.MaxPool2d`), NaN if one of them is; the output's shape says how many windows
/// there are.
///
/// # Panics
/// When a slice is too short, batch or channels differ, or a window lies outside the input or is empty.
pub fn max_pool(level: Level, pool: &Pool, input: Maps<'_>, window: PoolGeometry, output: MapsMut<'_>) {
    pooling(level, pool, input, Pooling::Max(window), output);
}

/// The mean of each window and channel (`torch.nn.AvgPool2d`), as [`max_pool`].
///
/// # Panics
/// As [`max_pool`].
pub fn avg_pool(
    level: Level,
    pool: &Pool,
    input: Maps<'_>,
    window: PoolGeometry,
    count_include_pad: bool,
    output: MapsMut<'_>,
) {
    pooling(level, pool, input, Pooling::Average(window, count_include_pad), output);
}

/// The mean over as many windows as the output has places (`torch.nn.AdaptiveAvgPool2d`); one for a global average pool.
///
/// # Panics
/// When a slice is too short, or batch or channels differ.
pub fn adaptive_avg_pool(level: Level, pool: &Pool, input: Maps<'_>, output: MapsMut<'_>) {
    pooling(level, pool, input, Pooling::Adaptive, output);
}

fn pooling(level: Level, pool: &Pool, input: Maps<'_>, pooling: Pooling, output: MapsMut<'_>) {
    input.check();
    output.check();
    let (from, to) = (input.shape, output.shape);
    assert_eq!((from.batch, from.channels), (to.batch, to.channels), "batch and channels of a pool");
    if to.pixels() * to.channels == 0 {
        return;
    }
    for [size, outputs] in [[from.height, to.height], [from.width, to.width]] {
        let axis = PoolAxis { pooling, size, outputs };
        assert!(axis.are_numbers(), "the windows reach further than memory could");
        assert!((0..outputs).all(|place| !axis.range(place).is_empty()), "a window outside the input");
    }
    // A task is some rows of some channels: a small map with many channels is divided along these.
    let row_values = from.width * from.channels * from.height.div_ceil(to.height);
    let rows = to.batch * to.height;
    let rows_a_task = (TASK_VALUES / row_values.max(1)).clamp(1, rows);
    let parts = (row_values / TASK_VALUES).clamp(1, from.channels.div_ceil(level.lanes()));
    let channels_a_task = from.channels.div_ceil(parts).next_multiple_of(level.lanes());
    let parts = from.channels.div_ceil(channels_a_task);
    let (stride, values) = (output.stride, Shares::new(output.values));
    pool.run(rows.div_ceil(rows_a_task) * parts, |task| {
        let first = task / parts * rows_a_task;
        let channel = task % parts * channels_a_task;
        level.run(PoolingTask {
            input,
            pooling,
            output: &values,
            stride,
            shape: to,
            rows: first..(first + rows_a_task).min(rows),
            channels: channel..(channel + channels_a_task).min(from.channels),
        });
    });
}

/// The windows of a pool along one axis.
pub(crate) struct PoolAxis {
    pub(crate) pooling: Pooling,
    pub(crate) size: usize,
    pub(crate) outputs: usize,
}

impl PoolAxis {
    /// Whether all that is computed here is within `usize`.
    pub(crate) fn are_numbers(&self) -> bool {
        match self.pooling {
            Pooling::Max(window) | Pooling::Average(window, _) => {
                let last = (self.outputs - 1).checked_mul(window.stride);
                let behind = last.and_then(|last| last.checked_add(window.kernel));
                behind.is_some() && window.axis(self.size).padded().is_some()
            }
            Pooling::Adaptive => self.outputs.checked_mul(self.size).is_some(),
        }
    }

    /// The places that a window covers within the input.
    #[inline(always)]
    pub(crate) fn range(&self, place: usize) -> std::ops::Range<usize> {
        match self.pooling {
            Pooling::Max(window) | Pooling::Average(window, _) => {
                window.axis(self.size).span(place..place + 1)
            }
            Pooling::Adaptive => {
                place * self.size / self.outputs..((place + 1) * self.size).div_ceil(self.outputs)
            }
        }
    }

    /// How many places of a window count.
    #[inline(always)]
    pub(crate) fn count(&self, place: usize) -> usize {
        match self.pooling {
            Pooling::Average(window, true) => {
                let begin = place * window.stride;
                (begin + window.kernel).min(self.size + 2 * window.padding) - begin
            }
            _ => self.range(place).len(),
        }
    }
}

/// A task: some rows of the output, counted over all images, of some channels.
struct PoolingTask<'a> {
    input: Maps<'a>,
    pooling: Pooling,
    output: &'a Shares<'a>,
    stride: usize,
    shape: MapsShape,
    rows: std::ops::Range<usize>,
    channels: std::ops::Range<usize>,
}

impl Kernel for PoolingTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let MapsShape { height, width, .. } = self.input.shape;
        let down = PoolAxis { pooling: self.pooling, size: height, outputs: self.shape.height };
        let across = PoolAxis { pooling: self.pooling, size: width, outputs: self.shape.width };
        for row in self.rows.clone() {
            let (image, y) = (row / self.shape.height, row % self.shape.height);
            let ys = down.range(y);
            for x in 0..self.shape.width {
                let xs = across.range(x);
                let count = (down.count(y) * across.count(x)) as f32;
                let pixel = row * self.shape.width + x;
                let mut channel = self.channels.start;
                while channel < self.channels.end {
                    let lanes = self.channels.end - channel;
                    // SAFETY: `pooling` has checked the slices and the windows; tasks have different rows or channels.
                    unsafe {
                        let at = |y: usize, x: usize| {
                            let pixel = (image * height + y) * width + x;
                            self.input.values.as_ptr().add(pixel * self.input.stride + channel)
                        };
                        let value = if let Pooling::Max(_) = self.pooling {
                            let mut largest = S::splat(f32::NEG_INFINITY);
                            for y in ys.clone() {
                                for x in xs.clone() {
                                    largest = S::max_or_nan(largest, S::load_upto(at(y, x), lanes));
                                }
                            }
                            largest
                        } else {
                            // Four sums, because one addition would wait for the other.
                            let mut four = [S::zero(); 4];
                            for y in ys.clone() {
                                for x in xs.clone().step_by(4) {
                                    for (i, sum) in four.iter_mut().enumerate() {
                                        if x + i < xs.end {
                                            *sum = S::add(*sum, S::load_upto(at(y, x + i), lanes));
                                        }
                                    }
                                }
                            }
                            let [a, b, c, d] = four;
                            S::div(S::add(S::add(a, b), S::add(c, d)), S::splat(count))
                        };
                        S::store_upto(self.output.at(pixel * self.stride + channel), value, lanes);
                    }
                    channel += S::LANES;
                }
            }
        }
    }
}
