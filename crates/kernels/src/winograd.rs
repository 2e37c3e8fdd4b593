//! 3x3 convolution with stride 1 by Winograd's method: the same sums from fewer multiplications.
//!
//! A tile of 4x4 output pixels needs 36 multiplications for each pair of channels instead of 144, one of 2x2 needs 16 instead of 36.
//! Tiles are transformed to that many points, at each of which there is a matrix product over the channels, and back.
//!
//! All three steps are done for a strip of tiles at a time, so that what lies between them stays in the second-level cache. Tiles
//! are numbered through all images, so that small maps of several images fill a strip.

pub(crate) mod lines;
mod packing;
mod tiles;
mod transform;
mod weight_gradient;

use std::cell::RefCell;
use std::ops::Range;

use crate::bounds::check_weight;
use crate::gemm::{Panel, PanelEnd, panel_rows, panels};
use crate::scratch::{scratch_stride, with_scratch};
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::tile::Rows;
use crate::windows::Axis;
use crate::{Activation, ConvGeometry, Epilogue, Level, Maps, MapsMut, Pool};
use lines::Lines;
use tiles::{InputTransform, OutputTransform, Points, Tiling};
use transform::{F2, F4, Transform};

pub use weight_gradient::winograd_weight_gradient;

/// The size of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WinogradTile {
    /// F(2x2, 3x3): 2.25 times fewer multiplications; about twice the rounding error of the direct sum.
    F2,
    /// F(4x4, 3x3): 4 times fewer multiplications; about five times the rounding error.
    F4,
}

impl WinogradTile {
    /// Output pixels down and across.
    fn output(self) -> usize {
        match self {
            WinogradTile::F2 => 2,
            WinogradTile::F4 => 4,
        }
    }

    /// Matrix products: values of a transformed kernel.
    pub fn points(self) -> usize {
        (self.output() + 2).pow(2)
    }
}

/// The weights of a 3x3 convolution, transformed and packed for an instruction set.
pub struct WinogradWeights {
    /// `[panels, points, in_channels, width]`
    values: Lines,
    /// A pixel outside of the maps.
    zeros: Vec<f32>,
    level: Level,
    tile: WinogradTile,
    out_channels: usize,
    in_channels: usize,
}

impl WinogradWeights {
    /// From `weight[out_channels, in_channels, 3, 3]`, PyTorch's order; the transform is computed in f64.
    ///
    /// # Panics
    /// When `weight` has another length.
    pub fn new(
        level: Level,
        tile: WinogradTile,
        weight: &[f32],
        out_channels: usize,
        in_channels: usize,
    ) -> WinogradWeights {
        check_weight(weight, [out_channels, in_channels, 3, 3]);
        let points = tile.points();
        let total: usize = panels(level, out_channels).map(|panel| panel.width).sum();
        let mut values = Lines::new(total * in_channels * points);
        let flat = values.values_mut();
        for panel in panels(level, out_channels) {
            let mut rows = vec![0.0; points * panel.width];
            let start = panel.first * in_channels * points;
            for channel in 0..in_channels {
                for column in 0..panel.columns {
                    let kernel = &weight[((panel.first + column) * in_channels + channel) * 9..][..9];
                    let to = rows[column..].iter_mut().step_by(panel.width);
                    match tile {
                        WinogradTile::F2 => transformed::<F2, 4, 2>(kernel, to),
                        WinogradTile::F4 => transformed::<F4, 6, 4>(kernel, to),
                    }
                }
                for (point, row) in rows.chunks_exact(panel.width).enumerate() {
                    let at = start + (point * in_channels + channel) * panel.width;
                    flat[at..at + panel.width].copy_from_slice(row);
                }
            }
        }
        WinogradWeights { values, zeros: vec![0.0; in_channels], level, tile, out_channels, in_channels }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.values.values())
    }
}

/// Puts a kernel's values at the points.
fn transformed<'a, F: Transform<IN, OUT>, const IN: usize, const OUT: usize>(
    kernel: &[f32],
    to: impl Iterator<Item = &'a mut f32>,
) {
    let row = |y: usize| F::weights(std::array::from_fn(|x| f64::from(kernel[3 * y + x])));
    let rows = [row(0), row(1), row(2)];
    let columns: [[f64; IN]; IN] = std::array::from_fn(|x| F::weights(rows.map(|row| row[x])));
    for (point, to) in to.enumerate() {
        *to = columns[point % IN][point / IN] as f32;
    }
}

/// A 3x3 convolution with stride 1: `y = activation(conv(input) + bias + residual)`.
///
/// `padding` is that of rows and of columns. The residual's rows are the output's pixels.
///
/// # Panics
/// When shapes do not fit, or a slice is too short.
pub fn winograd(
    pool: &Pool,
    input: Maps<'_>,
    weights: &WinogradWeights,
    padding: [usize; 2],
    epilogue: Epilogue<'_>,
    output: MapsMut<'_>,
) {
    input.check();
    output.check();
    let [from, to] = [input.shape, output.shape];
    assert_eq!(from.channels, weights.in_channels, "the weights are for other input maps");
    let geometry = ConvGeometry { kernel: [3; 2], stride: [1; 2], padding, dilation: [1; 2], groups: 1 };
    assert_eq!(to, geometry.output(from, weights.out_channels), "the output's sizes");
    epilogue.check(to.pixels(), to.channels);
    let tiling = Tiling { tile: weights.tile, output: to };
    let windows = geometry.axes(from.height, from.width);
    if tiling.tiles() == 0 || to.channels == 0 {
        return;
    }
    let stride = output.stride;
    let output = Shares::new(output.values);
    let strips = Strips::new(weights, tiling.tiles(), pool.threads());
    let conv = WinogradConv { tiling, input, weights, windows, epilogue, output, stride };
    match strips.shared {
        None => conv.run_strips(pool, strips.strip),
        Some(shared) => conv.run_shared(pool, strips.strip, shared),
    }
}

/// How a layer is divided.
struct Strips {
    /// Tiles that are multiplied at once.
    strip: usize,
    /// Tiles whose transformed input all threads share; each thread has its own strips if there is no such number.
    shared: Option<usize>,
}

/// Bytes of weights that stay in a thread's second-level cache beside a strip.
const SMALL: usize = 2 << 20;

/// Bytes of weights that no cache holds, so that they are read once a strip from main memory.
const LARGE: usize = 16 << 20;

/// Bytes of transformed input that stay in the last-level cache.
const MOST_SHARED: usize = 16 << 20;

impl Strips {
    fn new(weights: &WinogradWeights, tiles: usize, threads: usize) -> Strips {
        let rows = weights.level.tile_rows();
        let least = if weights.bytes() > LARGE { 56 } else { 14 };
        let base = usize::next_multiple_of(least, rows);
        let mut strips = tiles.div_ceil(base);
        if strips < 4 * threads {
            strips = strips.next_multiple_of(threads).min(tiles);
        }
        let strip = tiles.div_ceil(strips);
        if threads == 1 || weights.bytes() <= SMALL || strip == base {
            return Strips { strip, shared: None };
        }
        // Low strips would read the weights too often: divide the output channels, too.
        let bytes = tiles * weights.tile.points() * weights.in_channels * size_of::<f32>();
        let shared = tiles.div_ceil(bytes.div_ceil(MOST_SHARED));
        let panels = panels(weights.level, weights.out_channels).count();
        let mut strips = shared.div_ceil(8 * rows);
        while strips * panels < 4 * threads
            && !(strips * panels).is_multiple_of(threads)
            && shared / strips > rows
        {
            strips += 1;
        }
        Strips { strip: shared.div_ceil(strips), shared: Some(shared) }
    }
}

thread_local! {
    /// Transformed input that this thread shares with others.
    static SHARED: RefCell<Lines> = RefCell::default();
}

struct WinogradConv<'a> {
    tiling: Tiling,
    input: Maps<'a>,
    weights: &'a WinogradWeights,
    /// Down and across the input.
    windows: [Axis; 2],
    epilogue: Epilogue<'a>,
    output: Shares<'a>,
    /// Values from one output pixel to the next.
    stride: usize,
}

impl WinogradConv<'_> {
    fn panels(&self) -> impl Iterator<Item = Panel> + Clone {
        panels(self.weights.level, self.weights.out_channels)
    }

    /// Each strip is one task.
    fn run_strips(&self, pool: &Pool, strip: usize) {
        let all = self.tiling.tiles();
        pool.run(all.div_ceil(strip), |task| {
            let tiles = task * strip..((task + 1) * strip).min(all);
            let (input, products) = (self.input_points(tiles.len()), self.products(tiles.len()));
            with_scratch(input.values + products.values, tiles.len(), |scratch, pointers| {
                let (first, second) = scratch.split_at_mut(input.values);
                let input = input.at(first);
                self.transform_input(tiles.clone(), input);
                for panel in self.panels() {
                    self.multiply(tiles.clone(), input, panel, products.at(second), pointers);
                }
            });
        });
    }

    /// The input of many strips is transformed by all threads; then a task is a strip by a panel.
    fn run_shared(&self, pool: &Pool, strip: usize, shared: usize) {
        let mut scratch = SHARED.take();
        let tiles = self.tiling.tiles();
        let panels: usize = self.panels().count();
        for group in (0..tiles).step_by(shared) {
            let group = group..(group + shared).min(tiles);
            let layout = self.input_points(group.len());
            scratch.grow(layout.values);
            let input = SharedPoints(layout.at(scratch.values_mut()));
            let chunk = (group.len() / (4 * pool.threads())).max(1);
            pool.run(group.len().div_ceil(chunk), |task| {
                let first = group.start + task * chunk;
                self.transform_input(first..(first + chunk).min(group.end), input.from(task * chunk));
            });
            let strips = group.len().div_ceil(strip);
            pool.run(strips * panels, |task| {
                // Tasks that follow each other share a panel, so that it comes from main memory once.
                let first = task % strips * strip;
                let tiles = group.start + first..(group.start + first + strip).min(group.end);
                let products = self.products(tiles.len());
                with_scratch(products.values, tiles.len(), |scratch, pointers| {
                    for panel in self.panels().skip(task / strips).take(1) {
                        let (input, products) = (input.from(first), products.at(scratch));
                        self.multiply(tiles.clone(), input, panel, products, pointers);
                    }
                });
            });
        }
        SHARED.set(scratch);
    }

    /// The transformed input of some tiles.
    fn input_points(&self, tiles: usize) -> Layout {
        Layout::new(self.tiling.tile.points(), tiles, scratch_stride(self.input.shape.channels))
    }

    /// The products of some tiles and a panel.
    fn products(&self, tiles: usize) -> Layout {
        Layout::new(self.tiling.tile.points(), tiles, 2 * self.weights.level.lanes())
    }

    fn transform_input(&self, tiles: Range<usize>, to: Points) {
        let WinogradConv { tiling, input, windows, .. } = *self;
        let zeros = &self.weights.zeros[..];
        self.weights.level.run(InputTransform { tiling, tiles, input, windows, zeros, to });
    }

    /// Makes the output of some tiles and a panel from the tiles' transformed input.
    fn multiply(
        &self,
        tiles: Range<usize>,
        from: Points,
        panel: Panel,
        products: Points,
        pointers: &mut [*const f32],
    ) {
        let level = self.weights.level;
        for (index, pointer) in pointers.iter_mut().enumerate() {
            *pointer = from.start.wrapping_add(index * from.row);
        }
        let (weights, plane) = (self.weights, from.plane);
        level.run(Products { weights, tiles: pointers, plane, panel, to: products });
        level.run(OutputTransform {
            tiling: self.tiling,
            tiles,
            channels: panel.first..panel.first + panel.columns,
            from: products,
            epilogue: self.epilogue,
            output: &self.output,
            stride: self.stride,
        });
    }
}

/// [`Points`] without a place.
#[derive(Clone, Copy)]
struct Layout {
    row: usize,
    plane: usize,
    /// Of all points together.
    values: usize,
}

impl Layout {
    fn new(points: usize, tiles: usize, row: usize) -> Layout {
        let plane = scratch_stride(tiles * row);
        Layout { row, plane, values: points * plane }
    }

    fn at(&self, scratch: &mut [f32]) -> Points {
        assert!(scratch.len() >= self.values);
        Points { start: scratch.as_mut_ptr(), row: self.row, plane: self.plane }
    }
}

/// Points whose tiles are written by several tasks, and read when all have been.
struct SharedPoints(Points);

// SAFETY: different tasks write different tiles, and nobody reads meanwhile.
unsafe impl Sync for SharedPoints {}

impl SharedPoints {
    /// Those of the tiles from the `tile`-th on.
    fn from(&self, tile: usize) -> Points {
        Points { start: self.0.start.wrapping_add(tile * self.0.row), ..self.0 }
    }
}

/// The products of some tiles and a panel at all points.
struct Products<'a> {
    weights: &'a WinogradWeights,
    /// The transformed input of each tile at the first point.
    tiles: &'a [*const f32],
    /// Values of the transformed input from one point to the next.
    plane: usize,
    panel: Panel,
    to: Points,
}

impl Kernel for Products<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Panel { first, width, .. } = self.panel;
        let [points, k] = [self.weights.tile.points(), self.weights.in_channels];
        // A panel's values follow those of all columns before it, which fill their panels.
        let panel = &self.weights.values.values()[first * k * points..][..width * k * points];
        let end = PanelEnd {
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            residual_stride: 0,
            activation: Activation::Identity,
        };
        for point in 0..points {
            let rows = Rows {
                pointers: self.tiles.as_ptr(),
                stride: 0,
                taps: 1,
                run: k,
                offset: point * self.plane,
            };
            let b = panel[point * k * width..].as_ptr();
            let to = self.to.start.wrapping_add(point * self.to.plane);
            // SAFETY: the scratch has room for all tiles, and for a panel's width in each row.
            unsafe { panel_rows::<S>(rows, self.tiles.len(), b, width, width, width, end, to, self.to.row) };
        }
    }
}
