//! Convolution without a copy of the input: a matrix product whose rows are read where they are, tap after
//! tap.

use std::ops::Range;

use crate::blocks::Blocks;
use crate::bounds::{check_padded, check_weight};
use crate::fours::{Fours, in_fours};
use crate::gemm::{Panel, PanelEnd, panel_rows, panels};
use crate::grouped;
use crate::scratch::with_scratch;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::taps::Taps;
use crate::tile::Rows;
use crate::windows::Axis;
use crate::{Epilogue, Level, Maps, MapsMut, MapsShape, Pool};

/// What `torch.nn.Conv2d` has besides its channels; pairs are of height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ConvGeometry {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
}

impl ConvGeometry {
    /// Height and width of the output for an input of this height and width; zero where the kernel does not
    /// fit.
    ///
    /// # Panics
    /// When a kernel, a stride or a dilation is zero, or a window or a padded input is longer than any memory.
    pub fn output_size(&self, height: usize, width: usize) -> [usize; 2] {
        self.axes(height, width).map(|axis| axis.windows())
    }

    /// The windows down and across an input of this height and width.
    #[inline(always)]
    pub(crate) fn axes(&self, height: usize, width: usize) -> [Axis; 2] {
        let ConvGeometry { kernel, stride, padding, dilation, .. } = *self;
        [(0, height), (1, width)].map(|(axis, size)| Axis {
            size,
            kernel: kernel[axis],
            stride: stride[axis],
            padding: padding[axis],
            dilation: dilation[axis],
        })
    }

    /// The output's sizes for this input.
    ///
    /// # Panics
    /// As [`output_size`](Self::output_size), and when no memory could hold an image with its padding.
    pub(crate) fn output(&self, input: MapsShape, channels: usize) -> MapsShape {
        let axes = self.axes(input.height, input.width);
        check_padded(axes, input.channels.max(channels));
        let [height, width] = axes.map(|axis| axis.windows());
        MapsShape { batch: input.batch, height, width, channels }
    }
}

/// The weights of a convolution in the order in which it reads them, for the instruction set they were packed
/// for.
pub struct ConvWeights {
    pub(crate) level: Level,
    pub(crate) geometry: ConvGeometry,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    /// For narrow groups [`grouped::pack`]'s; otherwise group after group, each as a
    /// [`PackedMatrix`](crate::PackedMatrix) of a row for every tap and input channel.
    pub(crate) values: Vec<f32>,
    /// What padding reads.
    zeros: Vec<f32>,
}

impl ConvWeights {
    /// Packs `weight`, `[out_channels, in_channels / groups, kernel height, kernel width]`.
    ///
    /// # Panics
    /// When the weight has another number of values, the groups do not divide the channels, or a kernel or a
    /// stride is zero.
    pub fn new(
        level: Level,
        weight: &[f32],
        out_channels: usize,
        in_channels: usize,
        geometry: ConvGeometry,
    ) -> ConvWeights {
        let ConvGeometry { kernel, stride, groups, .. } = geometry;
        let taps = kernel[0] * kernel[1];
        assert!(taps > 0 && stride[0] * stride[1] > 0, "a kernel or a stride of zero");
        assert!(
            groups > 0 && in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "{groups} groups do not divide {in_channels} and {out_channels} channels"
        );
        let [inputs, outputs] = [in_channels / groups, out_channels / groups];
        check_weight(weight, [kernel[0], kernel[1], inputs, out_channels]);
        let narrow = grouped::suits(level, geometry, inputs, outputs) || in_fours(groups, inputs, outputs);
        let values = if weight.is_empty() {
            Vec::new()
        } else if narrow {
            grouped::pack(level, weight, out_channels, inputs, taps)
        } else {
            let mut values = Vec::new();
            for group in 0..groups {
                for panel in panels(level, outputs) {
                    for tap in 0..taps {
                        for input in 0..inputs {
                            let first = group * outputs + panel.first;
                            values.extend(
                                (first..first + panel.columns)
                                    .map(|o| weight[(o * inputs + input) * taps + tap]),
                            );
                            values.resize(values.len() + panel.width - panel.columns, 0.0);
                        }
                    }
                }
            }
            values
        };
        let zeros = vec![0.0; in_channels.max(in_channels * kernel[1])];
        ConvWeights { level, geometry, in_channels, out_channels, values, zeros }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        (self.values.len() + self.zeros.len()) * size_of::<f32>()
    }
}

/// `output = activation(conv(input) + bias + residual)`; the residual has a row for each pixel of the output.
///
/// # Panics
/// When a slice is too short, the channels are not the weights', or the output has another size than
/// [`output_size`](ConvGeometry::output_size) says.
pub fn conv(
    pool: &Pool,
    input: Maps<'_>,
    weights: &ConvWeights,
    epilogue: Epilogue<'_>,
    output: MapsMut<'_>,
) {
    let ConvWeights { level, geometry, in_channels, out_channels, .. } = *weights;
    let channels = input.shape.channels;
    input.check();
    output.check();
    assert_eq!(channels, in_channels, "the input's channels");
    let shape = geometry.output(input.shape, out_channels);
    assert_eq!(output.shape, shape, "the output's sizes");
    let pixels = shape.pixels();
    epilogue.check(pixels, out_channels);
    if pixels * out_channels == 0 {
        return;
    }
    let groups = geometry.groups;
    let [inputs, outputs] = [in_channels / groups, out_channels / groups];
    if grouped::suits(level, geometry, inputs, outputs) {
        return grouped::conv(pool, input, weights, epilogue, output);
    }
    let fours = in_fours(groups, inputs, outputs);
    let taps = Taps::new(input, geometry);
    let panels_a_group = panels(level, outputs).count();
    let panels = if fours { out_channels.div_ceil(level.lanes()) } else { groups * panels_a_group };
    // An output pixel shares its window with its neighbours, as far as the windows overlap.
    let [own_height, own_width] = [0, 1].map(|axis| geometry.kernel[axis].min(geometry.stride[axis]));
    let blocks = Blocks::new(level, pool.threads(), pixels, own_height * own_width * in_channels, panels);
    let to = Shares::new(output.values);
    pool.run(blocks.tasks(), |task| {
        let (rows, panels) = blocks.task(task);
        with_scratch(taps.scratch(&rows), taps.count() * rows.len(), |scratch, pointers| {
            taps.find(rows.clone(), &weights.zeros, scratch, pointers);
            let reads = Rows {
                pointers: pointers.as_ptr(),
                stride: rows.len(),
                taps: taps.count(),
                run: taps.run(),
                offset: 0,
            };
            let (to, to_stride) = (&to, output.stride);
            if fours {
                let weights = &weights.values;
                level.run(Fours { rows, reads, weights, panels, channels, epilogue, to, to_stride });
            } else {
                level.run(ConvTask { rows, reads, weights, panels, panels_a_group, epilogue, to, to_stride });
            }
        });
    });
}

/// A task: some pixels of the output by some panels of the groups.
struct ConvTask<'a> {
    rows: Range<usize>,
    reads: Rows,
    weights: &'a ConvWeights,
    /// Counted through all groups.
    panels: Range<usize>,
    panels_a_group: usize,
    epilogue: Epilogue<'a>,
    to: &'a Shares<'a>,
    to_stride: usize,
}

impl Kernel for ConvTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ConvWeights { level, in_channels, out_channels, ref values, geometry, .. } = *self.weights;
        let groups = geometry.groups;
        let [inputs, outputs] = [in_channels / groups, out_channels / groups];
        let k = self.reads.taps * self.reads.run;
        let weights_a_group = values.len() / groups;
        for (number, panel) in panels_of_groups(level, outputs, self.panels.clone(), self.panels_a_group) {
            let group = number / self.panels_a_group;
            let b = values[group * weights_a_group + panel.first * k..].as_ptr();
            let column = group * outputs + panel.first;
            let end = PanelEnd::new(&self.epilogue, self.rows.start, column);
            let reads = Rows { offset: group * inputs, ..self.reads };
            let Panel { width, columns, .. } = panel;
            // SAFETY: `conv` has checked the slices; the pointers are to a window's values or to zeros, both
            // for all channels; tasks have different pixels or panels.
            unsafe {
                let to = self.to.at(self.rows.start * self.to_stride + column);
                panel_rows::<S>(reads, self.rows.len(), b, width, width, columns, end, to, self.to_stride);
            }
        }
    }
}

/// The panels with these numbers, counted through all groups.
#[inline(always)]
pub(crate) fn panels_of_groups(
    level: Level,
    outputs: usize,
    numbers: Range<usize>,
    panels_a_group: usize,
) -> impl Iterator<Item = (usize, Panel)> {
    let first = numbers.start % panels_a_group;
    let endless = std::iter::repeat_with(move || panels(level, outputs)).flatten().skip(first);
    numbers.zip(endless)
}
