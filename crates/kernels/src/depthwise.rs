//! Depthwise convolution: every channel of the output has a kernel of its own, and reads one channel of the input.
//!
//! Lanes are channels; a task computes some rows of an image for some vectors of channels: of a few rows one vector after the other, so
//! that what one reads beside its own channels is still in the cache for the next.

mod channel_vector;
mod expand;

use std::ops::Range;

use crate::bounds::check_weight;
use crate::gemm::PanelEnd;
use crate::scratch::with_scratch;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::windows::Axis;
use crate::{ConvGeometry, Epilogue, Level, Maps, MapsMut, MapsShape, Pool, adaptive_avg_pool};
use channel_vector::ChannelVector;

pub use expand::{ExpandWeights, expand_depthwise};

/// Multiply-adds of a task, so that handing it out costs little beside it.
const TASK_WORK: usize = 100_000;

/// Values of the input's rows that are read for all vectors of channels before the next rows follow: a part of the second-level cache.
const ROWS_VALUES: usize = 48 << 10;

/// The weights of a depthwise convolution in the order in which it reads them, for the instruction set they were packed for.
///
/// Channels are cut into blocks of a vector, the last of which begins so early that it is full, too, if there are enough channels.
pub struct DepthwiseWeights {
    pub(crate) level: Level,
    /// Its groups are the input's channels.
    pub(crate) geometry: ConvGeometry,
    /// Of the output: a multiple of the input's.
    pub(crate) channels: usize,
    /// `[blocks, kernel height, kernel width, lanes]`
    pub(crate) values: Vec<f32>,
}

impl DepthwiseWeights {
    /// Packs `weight`, `[channels, 1, kernel height, kernel width]`. The geometry's groups are the channels of the input, each of which
    /// `channels / groups` successive ones of the output are made from.
    ///
    /// # Panics
    /// When the weight has another number of values, the groups do not divide the channels, or the kernel is empty.
    pub fn new(level: Level, weight: &[f32], channels: usize, geometry: ConvGeometry) -> DepthwiseWeights {
        let ConvGeometry { kernel, groups, .. } = geometry;
        let taps = kernel[0] * kernel[1];
        assert!(taps > 0, "a kernel of no values");
        let divides = groups > 0 && channels.is_multiple_of(groups) || channels == groups;
        assert!(divides, "{channels} channels of {groups}");
        check_weight(weight, [kernel[0], kernel[1], 1, channels]);
        let lanes = level.lanes();
        let mut values = Vec::with_capacity(channels.next_multiple_of(lanes) * taps);
        for block in 0..channels.div_ceil(lanes) {
            let first = first_channel(block, channels, lanes);
            for tap in 0..taps {
                let lane = |lane| weight.get((first + lane) * taps + tap).copied().unwrap_or(0.0);
                values.extend((0..lanes).map(lane));
            }
        }
        DepthwiseWeights { level, geometry, channels, values }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}

pub(crate) fn first_channel(block: usize, channels: usize, lanes: usize) -> usize {
    (block * lanes).min(channels.saturating_sub(lanes))
}

/// Values of the input that are spread at a time, at most, if that is not less than two rows of output need: they stay in the cache of
/// the second level.
const SPREAD_VALUES: usize = 16 << 10;

/// Rows of the output, an even number, that reach about so many values of the input, whose rows have `row` of them. Even, as many rows
/// are summed at a time for the means.
fn rows_at_once(values: usize, down: Axis, row: usize) -> usize {
    ((values / row.max(1)).saturating_sub(down.reach()) / down.stride + 1).max(2) & !1
}

/// Rows of the input that so many successive rows of the output read, at most.
fn rows_reached(down: Axis, rows: usize) -> usize {
    (rows - 1).saturating_mul(down.stride).saturating_add(down.reach()).min(down.size)
}

/// `output = activation(conv(input) + bias + residual)`; the residual has a row for each pixel of the output.
///
/// `means`, `[batch, channels]`, receives the means of the output over each image's pixels: what a global average pool would give.
///
/// # Panics
/// When a slice is too short, the channels are not the weights', a stride is zero, or the output has another size than PyTorch's.
pub fn depthwise(
    pool: &Pool,
    input: Maps<'_>,
    weights: &DepthwiseWeights,
    epilogue: Epilogue<'_>,
    mut means: Option<&mut [f32]>,
    output: MapsMut<'_>,
) {
    let DepthwiseWeights { level, geometry, channels, .. } = *weights;
    let shape = output.shape;
    input.check();
    output.check();
    assert_eq!(input.shape.channels, geometry.groups, "the input's channels");
    assert_eq!(shape, geometry.output(input.shape, channels), "the output's sizes");
    epilogue.check(shape.pixels(), channels);
    assert!(means.as_ref().is_none_or(|means| means.len() >= shape.batch * channels), "too few means");
    if shape.pixels() * channels == 0 {
        return;
    }
    let lanes = level.lanes();
    let blocks = channels.div_ceil(lanes);
    let apart = means_are_apart(shape, blocks);
    let along = means.as_deref_mut().filter(|_| !apart).map(Shares::new);
    let work = shape.width * geometry.kernel[0] * geometry.kernel[1] * lanes;
    // The last block shares channels with the one before it, if it is moved so as to be full: one task computes both.
    let moved = blocks > 1 && !channels.is_multiple_of(lanes);
    let division = Division::new(shape, blocks - usize::from(moved), work, pool.threads(), along.is_some());
    let [down, _] = geometry.axes(input.shape.height, input.shape.width);
    let row = input.shape.width * lanes;
    let output_stride = output.stride;
    let to = Shares::new(output.values);
    pool.run(division.tasks(), |task| {
        let (image, rows, mut blocks) = division.task(task);
        if moved && blocks.end == division.blocks {
            blocks.end += 1;
        }
        // Spread rows are those of one block.
        let (at_once, spread) = match channels == geometry.groups {
            true => (rows_at_once(ROWS_VALUES, down, row * blocks.len()), 0),
            false => {
                let at_once = rows_at_once(SPREAD_VALUES, down, row);
                (at_once, row * rows_reached(down, at_once))
            }
        };
        let sums = blocks.len() * lanes;
        with_scratch(sums + spread, 0, |scratch, _| {
            let (sums, spread) = scratch.split_at_mut(sums);
            level.run(Strip {
                geometry,
                input,
                weights,
                epilogue,
                means: along.as_ref(),
                output: &to,
                output_stride,
                shape,
                image,
                rows,
                at_once,
                blocks,
                sums,
                spread,
            });
        });
    });
    if let Some(means) = means.filter(|_| apart) {
        means_of(level, pool, Maps { values: output.values, shape, stride: output_stride }, means);
    }
}

/// Tasks of whole images that are enough for the threads of any machine that this is likely to run on.
const ENOUGH_TASKS: usize = 16;

/// Rows of an image that are worth dividing.
const MANY_ROWS: usize = 28;

/// Whether means are computed from the output, and not along with it: a task would have all rows of its channels, and there would
/// be too few tasks. The number of threads has no say, because the two add up in another order.
fn means_are_apart(shape: MapsShape, blocks: usize) -> bool {
    shape.batch * blocks < ENOUGH_TASKS && shape.height >= MANY_ROWS
}

fn means_of(level: Level, pool: &Pool, output: Maps<'_>, means: &mut [f32]) {
    let shape = MapsShape { height: 1, width: 1, ..output.shape };
    adaptive_avg_pool(level, pool, output, MapsMut::new(means, shape));
}

/// How the output is divided into tasks.
struct Division {
    height: usize,
    blocks: usize,
    batch: usize,
    /// Of a task.
    rows: usize,
    /// Of a task.
    blocks_a_task: usize,
}

impl Division {
    /// `work` is that of a row of a block. With means, a task has all rows of its blocks.
    fn new(shape: MapsShape, blocks: usize, work: usize, threads: usize, whole: bool) -> Division {
        let MapsShape { batch, height, .. } = shape;
        // Tasks for each image, if that many are worth it.
        let wanted = (8 * threads).div_ceil(batch);
        let most = (height * blocks * work / TASK_WORK).max(1);
        let wanted = if threads == 1 { 1 } else { wanted.min(most) };
        let strips = if whole { 1 } else { wanted.min(height.div_ceil(14)).max(1) };
        let rows = height.div_ceil(strips).next_multiple_of(2);
        let blocks_a_task = blocks.div_ceil(wanted.div_ceil(strips)).max(1);
        Division { height, blocks, batch, rows, blocks_a_task }
    }

    fn tasks(&self) -> usize {
        self.batch * self.height.div_ceil(self.rows) * self.groups()
    }

    fn groups(&self) -> usize {
        self.blocks.div_ceil(self.blocks_a_task)
    }

    /// Image, rows and blocks of channels.
    fn task(&self, task: usize) -> (usize, Range<usize>, Range<usize>) {
        let strips = self.height.div_ceil(self.rows);
        let (group, strip) = (task % self.groups(), task / self.groups() % strips);
        let row = strip * self.rows;
        let block = group * self.blocks_a_task;
        (
            task / self.groups() / strips,
            row..(row + self.rows).min(self.height),
            block..(block + self.blocks_a_task).min(self.blocks),
        )
    }
}

/// A task: some rows of some blocks of channels of an image.
struct Strip<'a> {
    geometry: ConvGeometry,
    input: Maps<'a>,
    weights: &'a DepthwiseWeights,
    epilogue: Epilogue<'a>,
    means: Option<&'a Shares<'a>>,
    output: &'a Shares<'a>,
    output_stride: usize,
    /// The output's.
    shape: MapsShape,
    image: usize,
    rows: Range<usize>,
    /// Rows that are computed for all blocks before the next follow.
    at_once: usize,
    blocks: Range<usize>,
    /// Those of the pixels so far, `[blocks, lanes]`, if means are wanted.
    sums: &'a mut [f32],
    /// Room for the rows of the input that these reach, if they are spread; none if each channel of the output has one of the input to
    /// itself.
    spread: &'a mut [f32],
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let MapsShape { height, width, .. } = self.input.shape;
        let windows = self.geometry.axes(height, width);
        let ConvGeometry { kernel, groups, .. } = self.geometry;
        let channels = self.weights.channels;
        let pixels = self.shape.height * self.shape.width;
        self.sums.fill(0.0);
        for begin in self.rows.clone().step_by(self.at_once) {
            let rows = begin..(begin + self.at_once).min(self.rows.end);
            for (number, block) in self.blocks.clone().enumerate() {
                let first = first_channel(block, channels, S::LANES);
                let count = channels.min(S::LANES);
                let image = self.image * height * width * self.input.stride;
                let weights = &self.weights.values[block * kernel[0] * kernel[1] * S::LANES..];
                // SAFETY: `depthwise` has checked the slices, and made room for what is spread; tasks have different rows or channels.
                unsafe {
                    let mut vector = ChannelVector {
                        windows: &windows,
                        from: self.input.values.as_ptr().add(image),
                        pixel: self.input.stride,
                        whole: count == S::LANES,
                        weights: weights.as_ptr(),
                        channels: count,
                        to: self.output.at(self.image * pixels * self.output_stride + first),
                        to_width: self.shape.width,
                        to_pixel: self.output_stride,
                        end: PanelEnd::new(&self.epilogue, self.image * pixels, first),
                        with_sums: self.means.is_some(),
                    };
                    if groups == channels {
                        vector.from = vector.from.add(first);
                    } else {
                        (vector.pixel, vector.whole) = (S::LANES, true);
                        vector.from = self.spread_rows::<S>(image, windows[0].span(rows.clone()), first);
                    }
                    let sums = self.sums[number * S::LANES..].as_mut_ptr();
                    let so_far = vector.rows::<S>(rows.clone(), S::load(sums));
                    S::store(sums, so_far);
                    if let Some(means) = self.means.filter(|_| rows.end == self.rows.end) {
                        let mean = S::mul(so_far, S::splat(1.0 / pixels as f32));
                        S::store_upto(means.at(self.image * channels + first), mean, count);
                    }
                }
            }
        }
    }
}

impl Strip<'_> {
    /// Copies rows of the image that begins at a place of the input, such that each lane of the channels from `first` on has the value
    /// that it multiplies. Returns where the image would begin if all of it was copied.
    ///
    /// # Safety
    /// The machine has the instruction set, and there is room for so many rows.
    #[inline(always)]
    unsafe fn spread_rows<S: Simd>(&mut self, image: usize, rows: Range<usize>, first: usize) -> *const f32 {
        let width = self.input.shape.width;
        let DepthwiseWeights { channels, .. } = *self.weights;
        let multiplier = channels / self.geometry.groups;
        // No vector has more lanes. Those beyond the channels are not written.
        let channel: [usize; 16] = std::array::from_fn(|lane| (first + lane).min(channels - 1) / multiplier);
        let spread = self.spread.as_mut_ptr();
        for pixel in 0..rows.len() * width {
            let place = image + (rows.start * width + pixel) * self.input.stride;
            // SAFETY: the caller's.
            unsafe {
                let from = self.input.values.as_ptr().add(place);
                let to = spread.add(pixel * S::LANES);
                for (lane, channel) in channel.iter().enumerate().take(S::LANES) {
                    to.add(lane).write(*from.add(*channel));
                }
            }
        }
        spread.wrapping_sub(rows.start * width * S::LANES)
    }
}
