//! A 1x1 convolution and the depthwise convolution behind it, at once: the first two thirds of an inverted residual.
//!
//! The maps between the two have several times the channels of those around them, and are the largest of the network (MobileNetV2,
//! arXiv 1801.04381, section 3). Here they never are in memory: a task computes some rows of them for one panel of channels, lets
//! the depthwise convolution read these while they are in the cache, and goes on with the next rows.

use std::ops::Range;

use super::channel_vector::ChannelVector;
use super::{Division, means_are_apart, means_of};
use crate::bounds::check_weight;
use crate::gemm::{Panel, PanelEnd, panel_rows, panels};
use crate::scratch::with_scratch;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::Rows;
use crate::{ConvGeometry, Epilogue, Maps, MapsMut, MapsShape, PackedMatrix, Pool};

/// Values of the rows in between that a task keeps: a part of the second-level cache.
const BUFFER_VALUES: usize = 32 << 10;

/// The weights of both convolutions in the order in which they are read, for the instruction set they were packed for.
pub struct ExpandWeights {
    expand: PackedMatrix,
    kernel: [usize; 2],
    /// Those of the depthwise convolution: for each panel of `expand`'s columns `[vectors, kernel height, kernel width, lanes]`, with
    /// zeros for channels that do not exist.
    depthwise: Vec<f32>,
}

impl ExpandWeights {
    /// Packs the depthwise convolution's `weight`, `[channels, 1, kernel height, kernel width]`, beside `[in_channels, channels]`
    /// of the 1x1 convolution.
    ///
    /// # Panics
    /// When the weight has another number of values, or the kernel is empty.
    pub fn new(expand: PackedMatrix, weight: &[f32], kernel: [usize; 2]) -> ExpandWeights {
        let taps = kernel[0] * kernel[1];
        assert!(taps > 0, "a kernel of no values");
        check_weight(weight, [kernel[0], kernel[1], 1, expand.n()]);
        let lanes = expand.level.lanes();
        let mut depthwise = Vec::new();
        for panel in panels(expand.level, expand.n()) {
            for vector in (0..panel.width).step_by(lanes) {
                for tap in 0..taps {
                    let value = |channel: usize| {
                        if channel < panel.columns {
                            weight[(panel.first + channel) * taps + tap]
                        } else {
                            0.0
                        }
                    };
                    depthwise.extend((vector..vector + lanes).map(value));
                }
            }
        }
        ExpandWeights { expand, kernel, depthwise }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.expand.bytes() + self.depthwise.len() * size_of::<f32>()
    }
}

/// `output = activation(depthwise(activation(input expand + bias)) + bias + residual)`: `between` is what happens to the values between
/// the two convolutions and has no residual, `epilogue` to the last. Pairs are of height and width.
///
/// `means` as for [`depthwise`](super::depthwise).
///
/// # Panics
/// When a slice is too short, the channels are not the weights', a stride is zero, or the output has another size than PyTorch's.
#[expect(clippy::too_many_arguments, reason = "they are those of two Conv2d")]
pub fn expand_depthwise(
    pool: &Pool,
    input: Maps<'_>,
    weights: &ExpandWeights,
    between: Epilogue<'_>,
    stride: [usize; 2],
    padding: [usize; 2],
    epilogue: Epilogue<'_>,
    mut means: Option<&mut [f32]>,
    output: MapsMut<'_>,
) {
    let ExpandWeights { expand, kernel, .. } = weights;
    let (level, channels) = (expand.level, expand.n());
    let shape = output.shape;
    let geometry = ConvGeometry { kernel: *kernel, stride, padding, dilation: [1; 2], groups: channels };
    input.check();
    output.check();
    assert_eq!(input.shape.channels, expand.k(), "the input's channels");
    assert_eq!(shape, geometry.output(input.shape, channels), "the output's sizes");
    let MapsShape { height, width, .. } = input.shape;
    assert!(between.residual.is_none(), "a residual between the convolutions");
    between.check(input.shape.pixels(), channels);
    epilogue.check(shape.pixels(), channels);
    assert!(means.as_ref().is_none_or(|means| means.len() >= shape.batch * channels), "too few means");
    if shape.pixels() * channels == 0 {
        return;
    }
    let count = panels(level, channels).count();
    let apart = means_are_apart(shape, count);
    let along = means.as_deref_mut().filter(|_| !apart).map(Shares::new);
    // Of a row of a panel.
    let taps = kernel[0] * kernel[1];
    let work = shape.width * 2 * level.lanes() * (taps + expand.k() * stride[0] * stride[1]);
    let division = Division::new(shape, count, work, pool.threads(), along.is_some());
    let output_stride = output.stride;
    let to = Shares::new(output.values);
    let row = width * panels(level, channels).map(|panel| panel.width).max().unwrap_or(0).max(level.lanes());
    // Of the output at once, an even number, and those in between that they reach.
    let at_once = ((BUFFER_VALUES / row.max(1)).saturating_sub(kernel[0]) / stride[0] + 1).max(2) & !1;
    let rows = ((at_once - 1) * stride[0] + kernel[0]).min(height);
    pool.run(division.tasks(), |task| {
        let (image, band, panels) = division.task(task);
        with_scratch(rows * row, rows * width, |buffer, pointers| {
            level.run(Band {
                geometry,
                input,
                weights,
                between,
                epilogue,
                means: along.as_ref(),
                output: &to,
                output_stride,
                shape,
                image,
                rows: band,
                panels,
                buffer,
                at_once,
                pointers,
            });
        });
    });
    if let Some(means) = means.filter(|_| apart) {
        means_of(level, pool, Maps { values: output.values, shape, stride: output_stride }, means);
    }
}

/// A task: some rows of some panels of channels of an image.
struct Band<'a> {
    geometry: ConvGeometry,
    input: Maps<'a>,
    weights: &'a ExpandWeights,
    between: Epilogue<'a>,
    epilogue: Epilogue<'a>,
    means: Option<&'a Shares<'a>>,
    output: &'a Shares<'a>,
    output_stride: usize,
    /// The output's.
    shape: MapsShape,
    image: usize,
    rows: Range<usize>,
    panels: Range<usize>,
    /// Rows of the output that are computed at once.
    at_once: usize,
    /// Room for the rows in between that they reach.
    buffer: &'a mut [f32],
    /// For each pixel of the buffer.
    pointers: &'a mut [*const f32],
}

impl Kernel for Band<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let ExpandWeights { expand, depthwise, .. } = self.weights;
        let all = panels(expand.level, expand.n());
        for panel in all.skip(self.panels.start).take(self.panels.len()) {
            // Panels before this one are full.
            let taps = self.geometry.kernel[0] * self.geometry.kernel[1];
            let depthwise = depthwise[panel.first * taps..].as_ptr();
            // SAFETY: `expand_depthwise` has checked the slices; tasks have different rows or channels.
            unsafe { self.panel::<S>(panel, depthwise) };
        }
    }
}

impl Band<'_> {
    #[inline(always)]
    unsafe fn panel<S: Simd>(&mut self, panel: Panel, depthwise: *const f32) {
        let windows = self.geometry.axes(self.input.shape.height, self.input.shape.width);
        let kernel = self.geometry.kernel;
        let Panel { first, columns, width } = panel;
        // A panel may be narrower than a vector.
        let pixel = width.max(S::LANES);
        let row = self.input.shape.width * pixel;
        let pixels = self.shape.height * self.shape.width;
        // SAFETY: the machine has the instruction set.
        let mut sums = unsafe { [S::zero(); 2] };
        // Rows in between that are in the buffer.
        let mut there = 0..0;
        let mut begin = self.rows.start;
        // SAFETY: the caller's; the buffer has room for the rows that are reached at once.
        unsafe {
            while begin < self.rows.end {
                let rows = begin..(begin + self.at_once).min(self.rows.end);
                let reach = windows[0].span(rows.clone());
                let kept = reach.start.min(there.end)..there.end;
                let buffer = self.buffer.as_mut_ptr();
                if !kept.is_empty() && kept.start > there.start {
                    buffer.copy_from(buffer.add((kept.start - there.start) * row), kept.len() * row);
                }
                let new = reach.start.max(there.end)..reach.end;
                self.expand::<S>(panel, new.clone(), buffer.add(new.start.saturating_sub(reach.start) * row));
                there = reach;
                for (vector, sums) in sums.iter_mut().enumerate().take(width.div_ceil(S::LANES)) {
                    let channel = vector * S::LANES;
                    let image = buffer.wrapping_sub(there.start * row).wrapping_add(channel);
                    let channel_vector = ChannelVector {
                        windows: &windows,
                        from: image,
                        pixel,
                        whole: true,
                        weights: depthwise.add(channel * kernel[0] * kernel[1]),
                        channels: (columns - channel).min(S::LANES),
                        to: self.output.at(self.image * pixels * self.output_stride + first + channel),
                        to_width: self.shape.width,
                        to_pixel: self.output_stride,
                        end: PanelEnd::new(&self.epilogue, self.image * pixels, first + channel),
                        with_sums: self.means.is_some(),
                    };
                    *sums = channel_vector.rows::<S>(rows.clone(), *sums);
                }
                begin = rows.end;
            }
            if let Some(means) = self.means {
                for (vector, sums) in sums.into_iter().enumerate().take(columns.div_ceil(S::LANES)) {
                    let mean = S::mul(sums, S::splat(1.0 / pixels as f32));
                    let channel = vector * S::LANES;
                    let to = means.at(self.image * self.shape.channels + first + channel);
                    S::store_upto(to, mean, columns - channel);
                }
            }
        }
    }

    /// These rows in between, for the channels of a panel.
    #[inline(always)]
    unsafe fn expand<S: Simd>(&mut self, panel: Panel, rows: Range<usize>, to: *mut f32) {
        if rows.is_empty() {
            return;
        }
        let MapsShape { height, width: columns, .. } = self.input.shape;
        let first = (self.image * height + rows.start) * columns;
        let count = rows.len() * columns;
        // Without a check of each: of few input channels, the product takes little longer than that.
        let mut from = self.input.values[first * self.input.stride..].as_ptr();
        for pointer in &mut self.pointers[..count] {
            *pointer = from;
            from = from.wrapping_add(self.input.stride);
        }
        let expand = &self.weights.expand;
        let reads = Rows { pointers: self.pointers.as_ptr(), stride: 0, taps: 1, run: expand.k(), offset: 0 };
        let b = expand.values[panel.first * expand.k()..].as_ptr();
        let end = PanelEnd::new(&self.between, 0, panel.first);
        let Panel { width, columns, .. } = panel;
        // SAFETY: the caller's.
        unsafe { panel_rows::<S>(reads, count, b, width, width, columns, end, to, width.max(S::LANES)) };
    }
}
