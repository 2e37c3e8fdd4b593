//! Gradients of convolutions in general: any kernel, stride, padding, dilation and groups.

use std::collections::BTreeMap;
use std::ops::Range;

use super::activation::activation_backward_rows;
use super::outer::{Groups, Outer, PIXELS, PanelProduct, panels_a_task};
use super::product::{SUMS, copy_row};
use super::{GradientEpilogue, depthwise_weight_gradient, product_weight_gradient};
use crate::blocks::Blocks;
use crate::bounds::check_weight;
use crate::conv::panels_of_groups;
use crate::gemm::{Panel, panels};
use crate::scratch::with_scratch;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::taps::Taps;
use crate::tile::Rows;
use crate::{ConvGeometry, Level, Maps, MapsMut, MapsShape, Matrix, Pool, Prologue};

/// The weights of a convolution in the order in which the gradient of its input reads them.
///
/// With a stride, the pixels of the input are of several classes, by the remainders of their places: those of a class are reached by
/// the same taps. So the gradient is a convolution with stride 1 for each class, with some of the taps, which nothing but these has.
pub struct ConvGradientWeights {
    level: Level,
    geometry: ConvGeometry,
    out_channels: usize,
    in_channels: usize,
    /// Those that a tap reaches: with a stride beyond the kernel not all.
    classes: Vec<Class>,
    /// Group after group, in each the classes, each as a [`PackedMatrix`](crate::PackedMatrix) of a row for every tap and output
    /// channel and a column for every input channel.
    values: Vec<f32>,
    /// The gradient of a pixel that the output does not have.
    zeros: Vec<f32>,
}

/// The pixels of the input whose places have these remainders.
struct Class {
    remainders: [usize; 2],
    /// Down and across: a tap, and the place of the output that it connects the class' first pixel with.
    taps: [Vec<(usize, isize)>; 2],
    /// Values of a group's weights before the class'.
    first: usize,
}

impl Class {
    fn count(&self) -> usize {
        self.taps[0].len() * self.taps[1].len()
    }
}

impl ConvGradientWeights {
    /// Weights of zeros, to be packed, of the convolution that has this geometry.
    ///
    /// # Panics
    /// When the groups do not divide the channels, a kernel, a stride or a dilation is zero, or a window is longer than any memory.
    pub fn zeros(
        level: Level,
        out_channels: usize,
        in_channels: usize,
        geometry: ConvGeometry,
    ) -> ConvGradientWeights {
        let ConvGeometry { kernel, stride, padding, dilation, groups } = geometry;
        // The size of the input has no say in what is checked here.
        geometry.output_size(0, 0);
        assert!(
            groups > 0 && in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
            "{groups} groups do not divide {in_channels} and {out_channels} channels"
        );
        let [inputs, outputs] = [in_channels / groups, out_channels / groups];
        let width: usize = panels(level, inputs).map(|panel| panel.width).sum();
        // The remainders that a tap reaches, and the taps of each.
        let axes = [0, 1].map(|axis| {
            let (step, mut axis_classes) =
                (stride[axis] as i128, BTreeMap::<usize, Vec<(usize, isize)>>::new());
            for tap in 0..kernel[axis] {
                let place = tap as i128 * dilation[axis] as i128 - padding[axis] as i128;
                let remainder = place.rem_euclid(step);
                let first = ((remainder - place) / step) as isize;
                axis_classes.entry(remainder as usize).or_default().push((tap, first));
            }
            axis_classes
        });
        let (mut classes, mut first) = (Vec::new(), 0);
        for (y, down) in &axes[0] {
            for (x, across) in &axes[1] {
                let class = Class { remainders: [*y, *x], taps: [down.clone(), across.clone()], first };
                first += class.count() * outputs * width;
                classes.push(class);
            }
        }
        ConvGradientWeights {
            level,
            geometry,
            out_channels,
            in_channels,
            classes,
            values: vec![0.0; groups * first],
            zeros: vec![0.0; out_channels],
        }
    }

    /// Packs `weight`, `[out_channels, in_channels / groups, kernel height, kernel width]`, in place of what is packed.
    ///
    /// # Panics
    /// When the weight has another number of values.
    pub fn pack(&mut self, pool: &Pool, weight: &[f32]) {
        let ConvGradientWeights { level, geometry, out_channels, in_channels, .. } = *self;
        let ConvGeometry { kernel, groups, .. } = geometry;
        let [inputs, outputs] = [in_channels / groups, out_channels / groups];
        check_weight(weight, [out_channels, inputs, kernel[0], kernel[1]]);
        let taps = kernel[0] * kernel[1];
        if self.values.is_empty() {
            return;
        }
        let values_a_group = self.values.len() / groups;
        let parts = outputs.div_ceil(OUTPUTS);
        let values = Shares::new(&mut self.values);
        let classes = &self.classes;
        pool.run(groups * parts, |task| {
            let (group, part) = (task / parts, task % parts);
            for output in part * OUTPUTS..((part + 1) * OUTPUTS).min(outputs) {
                let weight = &weight[(group * outputs + output) * inputs * taps..][..inputs * taps];
                for class in classes {
                    let first = group * values_a_group + class.first;
                    let of_class = class.taps[0]
                        .iter()
                        .flat_map(|(y, _)| class.taps[1].iter().map(move |(x, _)| y * kernel[1] + x));
                    for (index, tap) in of_class.enumerate() {
                        for panel in panels(level, inputs) {
                            let row = first
                                + panel.first * class.count() * outputs
                                + (index * outputs + output) * panel.width;
                            // SAFETY: the rows lie within the values, and no other task has this output channel.
                            unsafe {
                                let to = values.at(row);
                                for column in 0..panel.columns {
                                    to.add(column).write(weight[(panel.first + column) * taps + tap]);
                                }
                            }
                        }
                    }
                }
            }
        });
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        (self.values.len() + self.zeros.len()) * size_of::<f32>()
    }
}

/// Output channels that a task packs.
const OUTPUTS: usize = 4;

/// The gradient of a convolution's input.
///
/// # Panics
/// When a slice is too short, the channels are not the weights', or `dy` has another size than the convolution's output for an input
/// of the size of `dx`.
pub fn conv_input_gradient(
    pool: &Pool,
    dy: Maps<'_>,
    weights: &ConvGradientWeights,
    epilogue: GradientEpilogue<'_>,
    dx: MapsMut<'_>,
) {
    let ConvGradientWeights { level, geometry, out_channels, in_channels, .. } = *weights;
    dy.check();
    dx.check();
    assert_eq!(dx.shape.channels, in_channels, "the input's channels");
    assert_eq!(dy.shape, geometry.output(dx.shape, out_channels), "the output's sizes");
    let shape = dx.shape;
    epilogue.check(shape.pixels(), in_channels);
    if shape.pixels() * in_channels == 0 {
        return;
    }
    let [inputs, outputs] = [in_channels, out_channels].map(|channels| channels / geometry.groups);
    let panels_a_group = panels(level, inputs).count();
    let dx_stride = dx.stride;
    let dx = Shares::new(dx.values);
    let reached = [0, 1]
        .map(|axis| -> Vec<usize> { weights.classes.iter().map(|class| class.remainders[axis]).collect() });
    if [0, 1].iter().any(|axis| (0..geometry.stride[*axis]).any(|rest| !reached[*axis].contains(&rest))) {
        pool.run(shape.batch * shape.height, |row| {
            level.run(BareRow { row, shape, geometry, reached: &reached, epilogue, dx: &dx, dx_stride });
        });
    }
    for class in &weights.classes {
        let size = |axis: usize, size: usize| {
            size.saturating_sub(class.remainders[axis]).div_ceil(geometry.stride[axis])
        };
        let [height, width] = [size(0, shape.height), size(1, shape.width)];
        let pixels = shape.batch * height * width;
        if pixels == 0 {
            continue;
        }
        let blocks =
            Blocks::new(level, pool.threads(), pixels, out_channels, geometry.groups * panels_a_group);
        pool.run(blocks.tasks(), |task| {
            let (rows, panels) = blocks.task(task);
            let taps = class.count();
            let wide = 2 * level.lanes();
            with_scratch(rows.len() * wide, taps * rows.len(), |scratch, pointers| {
                class.find([height, width], rows.clone(), dy, &weights.zeros, pointers);
                level.run(ClassTask {
                    weights,
                    class,
                    size: [height, width],
                    shape,
                    reads: Rows {
                        pointers: pointers.as_ptr(),
                        stride: rows.len(),
                        taps,
                        run: outputs,
                        offset: 0,
                    },
                    rows,
                    panels,
                    panels_a_group,
                    epilogue,
                    scratch,
                    dx: &dx,
                    dx_stride,
                });
            });
        });
    }
}

/// The pixels of a row that no tap reaches.
struct BareRow<'a> {
    /// Counted through all images.
    row: usize,
    shape: MapsShape,
    geometry: ConvGeometry,
    /// Remainders of places down and across.
    reached: &'a [Vec<usize>; 2],
    epilogue: GradientEpilogue<'a>,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for BareRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let MapsShape { height, width, channels, .. } = self.shape;
        let [down, across] = self.geometry.stride;
        let [of_rows, of_columns] = self.reached;
        let reached = of_rows.contains(&(self.row % height % down));
        for x in 0..width {
            if reached && of_columns.contains(&(x % across)) {
                continue;
            }
            let pixel = self.row * width + x;
            // SAFETY: the caller has checked the slices; tasks have different rows.
            unsafe {
                let to = self.dx.at(pixel * self.dx_stride);
                if !self.epilogue.accumulate {
                    to.write_bytes(0, channels);
                } else if let Some((activation, z)) = self.epilogue.activation {
                    let (from, stride) = (z.values.as_ptr().add(pixel * z.stride), self.dx_stride);
                    let sizes = [1, channels];
                    activation_backward_rows::<S>(activation, sizes, from, z.stride, to, stride, to, stride);
                }
            }
        }
    }
}

impl Class {
    /// Fills `pointers`, `[taps, pixels]`, with where the gradient of the output lies that a tap connects a pixel of the class with.
    fn find(
        &self,
        [height, width]: [usize; 2],
        pixels: Range<usize>,
        dy: Maps<'_>,
        zeros: &[f32],
        pointers: &mut [*const f32],
    ) {
        let count = pixels.len();
        let mut done = 0;
        while done < count {
            let (row, x) = ((pixels.start + done) / width, (pixels.start + done) % width);
            let (image, y) = (row / height, row % height);
            let run = (width - x).min(count - done);
            let mut tap = 0;
            for (_, down) in &self.taps[0] {
                // Places before the first wrap around, and are beyond the last.
                let out_y = y.wrapping_add_signed(*down);
                for (_, across) in &self.taps[1] {
                    let to = &mut pointers[tap * count + done..][..run];
                    for (to, x) in to.iter_mut().zip(x..) {
                        let out_x = x.wrapping_add_signed(*across);
                        *to = if out_y < dy.shape.height && out_x < dy.shape.width {
                            let pixel = (image * dy.shape.height + out_y) * dy.shape.width + out_x;
                            dy.values[pixel * dy.stride..].as_ptr()
                        } else {
                            zeros.as_ptr()
                        };
                    }
                    tap += 1;
                }
            }
            done += run;
        }
    }
}

/// A task of the input's gradient: some pixels of a class by some panels of the groups.
struct ClassTask<'a> {
    weights: &'a ConvGradientWeights,
    class: &'a Class,
    /// Of the class.
    size: [usize; 2],
    /// Of the input.
    shape: MapsShape,
    reads: Rows,
    rows: Range<usize>,
    /// Counted through all groups.
    panels: Range<usize>,
    panels_a_group: usize,
    epilogue: GradientEpilogue<'a>,
    scratch: &'a mut [f32],
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for ClassTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ConvGradientWeights { level, in_channels, out_channels, ref values, geometry, .. } =
            *self.weights;
        let ConvGeometry { stride, groups, .. } = geometry;
        let [inputs, outputs] = [in_channels / groups, out_channels / groups];
        let k = self.reads.taps * self.reads.run;
        let values_a_group = values.len() / groups;
        let count = self.rows.len();
        let whole = stride == [1, 1];
        let scratch = self.scratch.as_mut_ptr();
        for (number, panel) in panels_of_groups(level, inputs, self.panels.clone(), self.panels_a_group) {
            let group = number / self.panels_a_group;
            let Panel { width, columns, .. } = panel;
            let b = values[group * values_a_group + self.class.first + panel.first * k..].as_ptr();
            let column = group * inputs + panel.first;
            let reads = Rows { offset: group * outputs, ..self.reads };
            let mut product = PanelProduct {
                rows: reads,
                count,
                b,
                b_stride: width,
                width,
                columns: width,
                residual: std::ptr::null(),
                to: scratch,
                to_stride: width,
            };
            // SAFETY: the caller has checked the slices; the pointers are to a pixel's gradient or to zeros; tasks have different pixels
            // or panels.
            unsafe {
                if whole {
                    let first = self.rows.start;
                    let to = self.dx.at(first * self.dx_stride + column);
                    (product.to, product.to_stride, product.columns) = (to, self.dx_stride, columns);
                    if self.epilogue.accumulate {
                        product.residual = to;
                    }
                    product.run(level);
                    self.activate::<S>(to, first, column, [count, columns]);
                    continue;
                }
                product.run(level);
                for i in 0..count {
                    let pixel = self.pixel(self.rows.start + i);
                    let to = self.dx.at(pixel * self.dx_stride + column);
                    let from = scratch.add(i * width);
                    let mut at = 0;
                    while at < columns {
                        let left = columns - at;
                        let mut g = S::load_upto(from.add(at), left);
                        if self.epilogue.accumulate {
                            g = S::add(S::load_upto(to.add(at), left), g);
                        }
                        S::store_upto(to.add(at), g, left);
                        at += S::LANES;
                    }
                    self.activate::<S>(to, pixel, column, [1, columns]);
                }
            }
        }
    }
}

impl ClassTask<'_> {
    /// The pixel of the input that is the class' `pixel`-th.
    #[inline(always)]
    fn pixel(&self, pixel: usize) -> usize {
        let ([height, width], [down, across]) = (self.size, self.weights.geometry.stride);
        let (row, x) = (pixel / width, pixel % width);
        let (image, y) = (row / height, row % height);
        let [first_y, first_x] = self.class.remainders;
        (image * self.shape.height + first_y + y * down) * self.shape.width + first_x + x * across
    }

    /// # Safety
    /// The machine has the instruction set, and the pointer is valid for the rows, from pixel `pixel` and this column on.
    #[inline(always)]
    unsafe fn activate<S: Simd>(&self, to: *mut f32, pixel: usize, column: usize, sizes: [usize; 2]) {
        if let Some((activation, z)) = self.epilogue.activation {
            let stride = self.dx_stride;
            // SAFETY: the caller's.
            unsafe {
                let from = z.values.as_ptr().add(pixel * z.stride + column);
                activation_backward_rows::<S>(activation, sizes, from, z.stride, to, stride, to, stride);
            }
        }
    }
}

/// The gradient of a convolution's weight, `[out_channels, in_channels / groups, kernel height, kernel width]`.
///
/// # Panics
/// When a slice is too short, `dw` is not as long as the weight, the groups do not divide the channels, or `dy` has another size than
/// the convolution's output.
pub fn conv_weight_gradient(
    level: Level,
    pool: &Pool,
    input: Maps<'_>,
    dy: Maps<'_>,
    geometry: ConvGeometry,
    accumulate: bool,
    dw: &mut [f32],
) {
    input.check();
    dy.check();
    let ConvGeometry { kernel, stride, padding, dilation, groups } = geometry;
    let [in_channels, out_channels] = [input.shape.channels, dy.shape.channels];
    assert!(
        groups > 0 && in_channels.is_multiple_of(groups) && out_channels.is_multiple_of(groups),
        "{groups} groups do not divide {in_channels} and {out_channels} channels"
    );
    assert_eq!(dy.shape, geometry.output(input.shape, out_channels), "the output's sizes");
    let [inputs, outputs] = [in_channels / groups, out_channels / groups];
    check_weight(dw, [out_channels, inputs, kernel[0], kernel[1]]);
    if (kernel, stride, padding, groups) == ([1, 1], [1, 1], [0, 0], 1) {
        let (m, sizes) = (dy.shape.pixels(), [out_channels, in_channels]);
        let [x, dy] = [input, dy].map(|maps| Matrix { values: maps.values, stride: maps.stride });
        return product_weight_gradient(level, pool, m, sizes, x, Prologue::None, dy, accumulate, dw);
    }
    if groups > 1 && [inputs, outputs] == [1, 1] {
        return depthwise_weight_gradient(
            level, pool, input, dy, kernel, stride, padding, dilation, accumulate, dw,
        );
    }
    let pixels = dy.shape.pixels();
    if pixels == 0 || dw.is_empty() {
        if !accumulate {
            dw.fill(0.0);
        }
        return;
    }
    let taps = Taps::new(input, geometry);
    let zeros = vec![0.0; in_channels * kernel[1]];
    let k = kernel[0] * kernel[1] * inputs;
    let columns: usize = panels(level, outputs).map(|panel| panel.width).sum();
    let sums_a_group = groups * k * columns;
    let division = Groups::new(pixels, sums_a_group);
    let panels_a_group = panels(level, outputs).count();
    let all = groups * panels_a_group;
    let wide = 2 * level.lanes();
    let size = panels_a_task(all, k * wide, division.count, pool.threads());
    let parts = all.div_ceil(size);
    let mut sums = SUMS.take();
    sums.grow(division.count * sums_a_group);
    let to = Shares::new(sums.values_mut());
    pool.run(division.count * parts, |task| {
        let (group, part) = (task / parts, task % parts);
        let range = division.range(group, pixels);
        for first in range.clone().step_by(PIXELS) {
            let pixels = first..(first + PIXELS).min(range.end);
            let copied = taps.scratch(&pixels);
            with_scratch(copied + pixels.len() * wide, taps.count() * pixels.len(), |scratch, pointers| {
                let (copied, packed) = scratch.split_at_mut(copied);
                taps.find(pixels.clone(), &zeros, copied, pointers);
                level.run(OuterTask {
                    level,
                    channels: [inputs, outputs],
                    dy,
                    taps: [taps.count(), taps.run()],
                    add: first > range.start,
                    pixels,
                    pointers,
                    packed,
                    panels: part * size..((part + 1) * size).min(all),
                    panels_a_group,
                    to: &to,
                    offset: group * sums_a_group,
                    sums_of_channels: k * columns,
                });
            });
        }
    });
    let sums_of = &sums.values()[..division.count * sums_a_group];
    let dw = Shares::new(dw);
    let taps = kernel[0] * kernel[1];
    pool.run(all, |task| {
        for (number, panel) in panels_of_groups(level, outputs, task..task + 1, panels_a_group) {
            let first = number / panels_a_group * k * columns + panel.first * k;
            level.run(Unpack {
                sums: &sums_of[first..],
                groups: division.count,
                sums_a_group,
                panel,
                inputs,
                taps,
                accumulate,
                to: &dw,
                channel: number / panels_a_group * outputs + panel.first,
            });
        }
    });
    SUMS.set(sums);
}

/// A task of the weight's gradient: some pixels by some panels of the output channels of the groups.
struct OuterTask<'a> {
    level: Level,
    /// Inputs and outputs of a group.
    channels: [usize; 2],
    dy: Maps<'a>,
    /// Taps, and values of one.
    taps: [usize; 2],
    add: bool,
    pixels: Range<usize>,
    pointers: &'a [*const f32],
    packed: &'a mut [f32],
    /// Counted through all groups of channels.
    panels: Range<usize>,
    panels_a_group: usize,
    /// For each group of channels its panels, each `[taps, inputs, width]`.
    to: &'a Shares<'a>,
    offset: usize,
    /// Of a group of channels.
    sums_of_channels: usize,
}

impl Kernel for OuterTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [inputs, outputs] = self.channels;
        let [taps, run] = self.taps;
        let packed = self.packed.as_mut_ptr();
        for (number, panel) in panels_of_groups(self.level, outputs, self.panels.clone(), self.panels_a_group)
        {
            let group = number / self.panels_a_group;
            let Panel { first, width, columns } = panel;
            // SAFETY: the caller has checked the slices; the pointers are to a window's values or to zeros, both for all channels; tasks
            // have different panels of a group's sums.
            unsafe {
                for (i, pixel) in self.pixels.clone().enumerate() {
                    let from = self.dy.values.as_ptr().add(pixel * self.dy.stride + group * outputs + first);
                    let to = packed.add(i * width);
                    copy_row::<S>(from, columns, to);
                    for column in columns..width {
                        to.add(column).write(0.0);
                    }
                }
                let start = self.offset + group * self.sums_of_channels + first * taps * run;
                for tap in 0..taps {
                    let outer = Outer {
                        pixels: self.pixels.len(),
                        left: self.pointers.as_ptr().add(tap * self.pixels.len()),
                        offset: group * inputs,
                        right: packed,
                        right_stride: width,
                        add: self.add,
                    };
                    outer.panel(self.level, run, width, width, self.to.at(start + tap * run * width), width);
                }
            }
        }
    }
}

/// Brings a panel's sums, `[taps, inputs, width]`, to PyTorch's layout `[columns, inputs, taps]`.
struct Unpack<'a> {
    /// From the first group's on.
    sums: &'a [f32],
    /// Of pixels.
    groups: usize,
    sums_a_group: usize,
    panel: Panel,
    inputs: usize,
    taps: usize,
    accumulate: bool,
    to: &'a Shares<'a>,
    /// The panel's first output channel.
    channel: usize,
}

impl Kernel for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Panel { width, columns, .. } = self.panel;
        let mut row = [0.0; 32];
        for input in 0..self.inputs {
            for tap in 0..self.taps {
                let at = (tap * self.inputs + input) * width;
                for column in (0..width).step_by(S::Half::LANES) {
                    // SAFETY: a panel is half vectors; no panel is wider than the row.
                    unsafe {
                        let mut sum = S::Half::zero();
                        for group in 0..self.groups {
                            let from = self.sums.as_ptr().add(group * self.sums_a_group + at + column);
                            sum = S::Half::add(sum, S::Half::load(from));
                        }
                        S::Half::store(row.as_mut_ptr().add(column), sum);
                    }
                }
                for (column, sum) in row.iter().enumerate().take(columns) {
                    // SAFETY: the caller has measured the weight; tasks have different output channels.
                    unsafe {
                        let to =
                            self.to.at(((self.channel + column) * self.inputs + input) * self.taps + tap);
                        *to = if self.accumulate { *to + sum } else { *sum };
                    }
                }
            }
        }
    }
}
