//! Depthwise convolution: every channel has a kernel of its own.
//!
//! Lanes are channels. A tile of seven columns of one or two rows of the output stays in registers, while the input's rows below it
//! are read one after the other; within a row, a value is read once for all the columns that it contributes to. Kernel rows beyond the
//! input are left out; columns beyond it are read from zeros.

use std::ops::Range;

use crate::activation::activate_rows;
use crate::pool::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Epilogue, Level, Maps, MapsMut, MapsShape, Pool};

/// Columns of a tile: 224 x 224 images give maps of a multiple of seven columns at every stage.
const COLUMNS: usize = 7;

/// Columns of the tile for what is left.
const FEW_COLUMNS: usize = 4;

/// Multiply-adds of a task, so that handing it out costs little beside it.
const TASK_WORK: usize = 100_000;

/// What columns beyond the input are read from; no vector has more lanes.
static ZEROS: [f32; 16] = [0.0; 16];

/// The weights of a depthwise convolution in the order in which it reads them, for the instruction set they were packed for.
///
/// Channels are cut into blocks of a vector, the last of which begins so early that it is full, too, if there are enough channels.
pub struct DepthwiseWeights {
    level: Level,
    channels: usize,
    kernel: [usize; 2],
    /// `[blocks, kernel height, kernel width, lanes]`
    values: Vec<f32>,
}

impl DepthwiseWeights {
    /// Packs `weight`, `[channels, 1, kernel height, kernel width]`.
    ///
    /// # Panics
    /// When the weight has another number of values, or the kernel is empty.
    pub fn new(level: Level, weight: &[f32], channels: usize, kernel: [usize; 2]) -> DepthwiseWeights {
        let taps = kernel[0] * kernel[1];
        assert!(taps > 0, "a kernel of no values");
        assert_eq!(weight.len(), channels * taps, "the weight's number of values");
        let lanes = level.lanes();
        let mut values = Vec::with_capacity(channels.next_multiple_of(lanes) * taps);
        for block in 0..channels.div_ceil(lanes) {
            let first = first_channel(block, channels, lanes);
            for tap in 0..taps {
                let lane = |lane| weight.get((first + lane) * taps + tap).copied().unwrap_or(0.0);
                values.extend((0..lanes).map(lane));
            }
        }
        DepthwiseWeights { level, channels, kernel, values }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}

fn first_channel(block: usize, channels: usize, lanes: usize) -> usize {
    (block * lanes).min(channels.saturating_sub(lanes))
}

/// `output = activation(conv(input) + bias + residual)`; pairs are of height and width, the residual has a row for each pixel.
///
/// `means`, `[batch, channels]`, receives the means of the output over each image's pixels: what a global average pool would give.
///
/// # Panics
/// When a slice is too short, the channels are not the weights', a stride is zero, or the output has another size than PyTorch's.
#[expect(clippy::too_many_arguments, reason = "they are Conv2d's")]
pub fn depthwise(
    pool: &Pool,
    input: Maps<'_>,
    weights: &DepthwiseWeights,
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    epilogue: Epilogue<'_>,
    means: Option<&mut [f32]>,
    output: MapsMut<'_>,
) {
    let DepthwiseWeights { level, channels, kernel, .. } = *weights;
    let shape = output.shape;
    input.check();
    output.check();
    assert_eq!(input.shape.channels, channels, "the input's channels");
    let size = [input.shape.height, input.shape.width];
    let [height, width] = [0, 1].map(|axis| {
        let reach = (kernel[axis] - 1) * dilation[axis] + 1;
        (size[axis] + 2 * padding[axis]).checked_sub(reach).map_or(0, |rest| rest / stride[axis] + 1)
    });
    assert_eq!(shape, MapsShape { height, width, ..input.shape }, "the output's sizes");
    epilogue.check(shape.pixels(), channels);
    assert!(means.as_ref().is_none_or(|means| means.len() >= shape.batch * channels), "too few means");
    if shape.pixels() * channels == 0 {
        return;
    }
    let blocks = channels.div_ceil(level.lanes());
    let work = width * kernel[0] * kernel[1] * level.lanes();
    // The last block shares channels with the one before it, if it is moved so as to be full: one task computes both.
    let moved = blocks > 1 && !channels.is_multiple_of(level.lanes());
    let division = Division::new(shape, blocks - usize::from(moved), work, pool.threads(), means.is_some());
    let means = means.map(Shares::new);
    let output_stride = output.stride;
    let output = Shares::new(output.values);
    pool.run(division.tasks(), |task| {
        let (image, rows, mut blocks) = division.task(task);
        if moved && blocks.end == division.blocks {
            blocks.end += 1;
        }
        level.run(Strip {
            geometry: Geometry { kernel, stride, padding, dilation },
            input,
            weights,
            epilogue,
            means: means.as_ref(),
            output: &output,
            output_stride,
            shape,
            image,
            rows,
            blocks,
        });
    });
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

#[derive(Clone, Copy)]
struct Geometry {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

/// A task: some rows of some blocks of channels of an image.
struct Strip<'a> {
    geometry: Geometry,
    input: Maps<'a>,
    weights: &'a DepthwiseWeights,
    epilogue: Epilogue<'a>,
    means: Option<&'a Shares>,
    output: &'a Shares,
    output_stride: usize,
    /// The output's.
    shape: MapsShape,
    image: usize,
    rows: Range<usize>,
    blocks: Range<usize>,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Geometry { kernel, stride, dilation, .. } = self.geometry;
        let full = self.shape.channels >= S::LANES && dilation == [1, 1];
        // SAFETY: `depthwise` has checked the slices, and this machine has the instruction set.
        unsafe {
            // With sixteen registers, there is room for one row of sums.
            macro_rules! rows {
                ($width:literal, $stride:literal) => {
                    if S::TILE_ROWS > 6 {
                        self.blocks::<S, $width, $stride, 2>()
                    } else {
                        self.blocks::<S, $width, $stride, 1>()
                    }
                };
            }
            match (kernel[1], stride[1]) {
                (3, 1) if full => rows!(3, 1),
                (3, 2) if full => rows!(3, 2),
                (5, 1) if full => rows!(5, 1),
                (5, 2) if full => rows!(5, 2),
                (7, 1) if full => rows!(7, 1),
                _ => self.blocks::<S, 0, 0, 1>(),
            }
        }
    }
}

/// What a tile reads and writes.
#[derive(Clone, Copy)]
struct Window<'a> {
    geometry: &'a Geometry,
    /// The image's first value of the block.
    from: *const f32,
    /// Of the input's image.
    size: [usize; 2],
    /// Values between the input's pixels.
    pixel: usize,
    /// Of the block.
    weights: *const f32,
    /// Channels of the block that exist, at most a vector.
    channels: usize,
    /// Of the output: the first column.
    column: usize,
    columns: usize,
    /// Of the output: the first row.
    row: usize,
    rows: usize,
    to: *mut f32,
    to_pixel: usize,
    to_row: usize,
    bias: *const f32,
    clamp: [f32; 2],
}

impl Strip<'_> {
    /// All blocks, for a kernel of this width and stride, or of any if the width is zero.
    #[inline(always)]
    unsafe fn blocks<S: Simd, const WIDTH: usize, const STRIDE: usize, const ROWS: usize>(self) {
        let MapsShape { height, width, channels, .. } = self.input.shape;
        let (geometry, out) = (&self.geometry, self.shape);
        let taps = geometry.kernel[0] * geometry.kernel[1];
        let activation = self.epilogue.activation;
        // A clamp is done in registers, unless the residual comes before it.
        let clamp = activation.clamp().filter(|_| self.epilogue.residual.is_none());
        let pixels = out.height * out.width;
        // SAFETY: `depthwise` has checked the slices; tasks have different rows or channels.
        unsafe {
            for block in self.blocks.clone() {
                let first = first_channel(block, channels, S::LANES);
                let count = channels.min(S::LANES);
                let image = self.image * height * width * self.input.stride;
                let mut means = S::zero();
                let mut row = self.rows.start;
                while row < self.rows.end {
                    let rows = ROWS.min(self.rows.end - row);
                    let at = (self.image * out.height + row) * out.width;
                    let mut window = Window {
                        geometry,
                        from: self.input.values.as_ptr().add(image + first),
                        size: [height, width],
                        pixel: self.input.stride,
                        weights: self.weights.values.as_ptr().add(block * taps * S::LANES),
                        channels: count,
                        column: 0,
                        columns: 0,
                        row,
                        rows,
                        to: self.output.at(at * self.output_stride + first),
                        to_pixel: self.output_stride,
                        to_row: out.width * self.output_stride,
                        bias: self.epilogue.bias.map_or(std::ptr::null(), |bias| bias.as_ptr().add(first)),
                        clamp: clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]),
                    };
                    while window.column < out.width {
                        let left = out.width - window.column;
                        if WIDTH == 0 {
                            window.columns = left.min(FEW_COLUMNS);
                            any_tile::<S>(window);
                        } else if left > FEW_COLUMNS && left != 2 * FEW_COLUMNS {
                            window.columns = left.min(COLUMNS);
                            // Two rows of a seven wide kernel are too much for the compiler without the edge's checks: half as fast.
                            if (WIDTH < 7 || ROWS == 1) && window.inside() {
                                tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, false>(window);
                            } else {
                                tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, true>(window);
                            }
                        } else {
                            window.columns = left.min(FEW_COLUMNS);
                            tile::<S, WIDTH, STRIDE, ROWS, FEW_COLUMNS, true>(window);
                        }
                        window.column += window.columns;
                    }
                    // The rows are still in the first-level cache.
                    if clamp.is_none() || self.means.is_some() {
                        for i in 0..rows * out.width {
                            let to = self.output.at((at + i) * self.output_stride + first);
                            if let Some(residual) = self.epilogue.residual {
                                let residual =
                                    residual.values.as_ptr().add((at + i) * residual.stride + first);
                                let y = S::add(S::load_upto(to, count), S::load_upto(residual, count));
                                S::store_upto(to, y, count);
                            }
                        }
                        if clamp.is_none() {
                            activate_rows::<S>(
                                activation,
                                window.to,
                                rows * out.width,
                                count,
                                self.output_stride,
                            );
                        }
                        if self.means.is_some() {
                            for i in 0..rows * out.width {
                                means =
                                    S::add(means, S::load_upto(window.to.add(i * self.output_stride), count));
                            }
                        }
                    }
                    row += rows;
                }
                if let Some(to) = self.means {
                    let mean = S::mul(means, S::splat(1.0 / pixels as f32));
                    S::store_upto(to.at(self.image * channels + first), mean, count);
                }
            }
        }
    }
}

impl Window<'_> {
    /// Whether a whole tile of columns reads only columns of the input that exist.
    #[inline(always)]
    fn inside(&self) -> bool {
        let Geometry { kernel, stride, padding, .. } = self.geometry;
        let first = self.column * stride[1];
        self.columns == COLUMNS
            && first >= padding[1]
            && first + (COLUMNS - 1) * stride[1] + kernel[1] <= self.size[1] + padding[1]
    }
}

/// The sums of `ROWS x COLUMNS` pixels of a full vector of channels, finished and stored, of which `window.rows x window.columns`
/// exist; without `EDGE` all columns do, and so do all that they read.
#[inline(always)]
unsafe fn tile<
    S: Simd,
    const WIDTH: usize,
    const STRIDE: usize,
    const ROWS: usize,
    const COLUMNS: usize,
    const EDGE: bool,
>(
    window: Window<'_>,
) {
    let Geometry { kernel, stride, padding, .. } = *window.geometry;
    let [height, width] = window.size;
    // SAFETY: the caller's.
    unsafe {
        let bias = if window.bias.is_null() { S::zero() } else { S::load(window.bias) };
        let mut sums = [[bias; COLUMNS]; ROWS];
        // From the kernel's first row on; it need not exist.
        let top = (window.row * stride[0]).wrapping_sub(padding[0]) as isize;
        let left = (window.column * STRIDE).wrapping_sub(padding[1]);
        let bottom = top + ((window.rows - 1) * stride[0] + kernel[0]) as isize;
        for y in top.max(0)..bottom.min(height as isize) {
            let line =
                window.from.wrapping_add((y as usize * width).wrapping_add(left).wrapping_mul(window.pixel));
            for (r, sums) in sums.iter_mut().enumerate() {
                let tap = (y - top) as usize;
                let tap = tap.wrapping_sub(r * stride[0]);
                if tap >= kernel[0] || r >= window.rows {
                    continue;
                }
                let weights = window.weights.add(tap * WIDTH * S::LANES);
                // In this order, few of the input's values are needed again later.
                for phase in 0..STRIDE {
                    for step in 0..(WIDTH - phase).div_ceil(STRIDE) {
                        let tap = phase + step * STRIDE;
                        let weight = S::load(weights.add(tap * S::LANES));
                        for (c, sum) in sums.iter_mut().enumerate() {
                            let place = c * STRIDE + tap;
                            let mut from = line.wrapping_add(place * window.pixel);
                            if EDGE && left.wrapping_add(place) >= width {
                                from = ZEROS.as_ptr();
                            }
                            *sum = S::mul_add(S::load(from), weight, *sum);
                        }
                    }
                }
            }
        }
        let [least, most] = window.clamp.map(|bound| S::splat(bound));
        for (r, row) in sums.into_iter().enumerate() {
            for (c, sum) in row.into_iter().enumerate() {
                if r < window.rows && (!EDGE || c < window.columns) {
                    let to = window.to.add(r * window.to_row + (window.column + c) * window.to_pixel);
                    S::store(to, S::min(most, S::max(least, sum)));
                }
            }
        }
    }
}

/// As [`tile`], for any kernel and number of channels: one row of up to `FEW_COLUMNS` pixels.
#[inline(always)]
unsafe fn any_tile<S: Simd>(window: Window<'_>) {
    let Geometry { kernel, stride, padding, dilation } = *window.geometry;
    let [height, width] = window.size;
    let channels = window.channels;
    // SAFETY: the caller's.
    unsafe {
        let bias = if window.bias.is_null() { S::zero() } else { S::load_upto(window.bias, channels) };
        let mut sums = [bias; FEW_COLUMNS];
        for tap_y in 0..kernel[0] {
            let y = (window.row * stride[0] + tap_y * dilation[0]).wrapping_sub(padding[0]);
            if y >= height {
                continue;
            }
            for tap_x in 0..kernel[1] {
                let weight = S::load(window.weights.add((tap_y * kernel[1] + tap_x) * S::LANES));
                for (c, sum) in sums.iter_mut().enumerate() {
                    let x = ((window.column + c) * stride[1] + tap_x * dilation[1]).wrapping_sub(padding[1]);
                    let mut from =
                        window.from.wrapping_add((y * width).wrapping_add(x).wrapping_mul(window.pixel));
                    if x >= width {
                        from = ZEROS.as_ptr();
                    }
                    *sum = S::mul_add(S::load_upto(from, channels), weight, *sum);
                }
            }
        }
        let [least, most] = window.clamp.map(|bound| S::splat(bound));
        for (c, sum) in sums.into_iter().enumerate() {
            if c < window.columns {
                let to = window.to.add((window.column + c) * window.to_pixel);
                S::store_upto(to, S::min(most, S::max(least, sum)), channels);
            }
        }
    }
}
