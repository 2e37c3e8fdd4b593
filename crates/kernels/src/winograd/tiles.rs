//! Tiles of maps to and from the points where they are multiplied.

use std::ops::Range;

use super::WinogradTile;
use super::transform::{F2, F4, Transform};
use crate::activation::activate_rows;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::windows::Axis;
use crate::{Epilogue, Maps, MapsShape};

/// How output maps are cut into tiles, which are numbered through all images.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    pub(super) tile: WinogradTile,
    pub(super) output: MapsShape,
}

impl Tiling {
    /// Tiles of an image, down and across.
    fn grid(&self) -> [usize; 2] {
        let size = self.tile.output();
        [self.output.height.div_ceil(size), self.output.width.div_ceil(size)]
    }

    /// In all images.
    pub(super) fn tiles(&self) -> usize {
        let [down, across] = self.grid();
        self.output.batch * down * across
    }

    /// The image of a tile, and its first pixel's row and column in the output.
    #[inline(always)]
    pub(super) fn place(&self, tile: usize) -> [usize; 3] {
        let [down, across] = self.grid();
        let size = self.tile.output();
        [tile / (down * across), tile / across % down * size, tile % across * size]
    }
}

/// Values at points, `[points, tiles, channels]`, with gaps.
#[derive(Clone, Copy)]
pub(super) struct Points {
    pub(super) start: *mut f32,
    /// Values from one tile to the next.
    pub(super) row: usize,
    /// Values from one point to the next.
    pub(super) plane: usize,
}

/// Some tiles of the input, transformed.
pub(super) struct InputTransform<'a> {
    pub(super) tiling: Tiling,
    pub(super) tiles: Range<usize>,
    pub(super) input: Maps<'a>,
    /// Down and across the input.
    pub(super) windows: [Axis; 2],
    /// A pixel's channels.
    pub(super) zeros: &'a [f32],
    /// Where the first of these tiles goes; rows are whole vectors.
    pub(super) to: Points,
}

impl Kernel for InputTransform<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the machine has the instruction set.
        unsafe {
            match self.tiling.tile {
                WinogradTile::F2 => self.all::<S, F2, 4, 2>(),
                WinogradTile::F4 => self.all::<S, F4, 6, 4>(),
            }
        }
    }
}

impl InputTransform<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd, F: Transform<IN, OUT>, const IN: usize, const OUT: usize>(&self) {
        let channels = self.input.shape.channels;
        for (index, tile) in self.tiles.clone().enumerate() {
            let pixels = self.pixels::<IN>(tile);
            let mut channel = 0;
            while channel < channels {
                // SAFETY: the pixels lie in the input or are `zeros`; the scratch has room for whole vectors.
                unsafe {
                    let to = self.to.start.add(index * self.to.row + channel);
                    let left = channels - channel;
                    if left >= S::LANES {
                        input_vector::<S, F, IN, OUT, true>(&pixels, channel, left, to, self.to.plane);
                    } else {
                        input_vector::<S, F, IN, OUT, false>(&pixels, channel, left, to, self.to.plane);
                    }
                }
                channel += S::LANES;
            }
        }
    }

    /// The first channels of a tile's pixels.
    #[inline(always)]
    fn pixels<const IN: usize>(&self, tile: usize) -> [[*const f32; IN]; IN] {
        let shape = self.input.shape;
        let [image, y, x] = self.tiling.place(tile);
        let [down, across] = self.windows;
        let inside = down.covers(y, IN) && across.covers(x, IN);
        let mut pixels = [[self.zeros.as_ptr(); IN]; IN];
        for (i, row) in pixels.iter_mut().enumerate() {
            let y = down.place(y, i);
            if !inside && y >= shape.height {
                continue;
            }
            let start = (image * shape.height + y) * shape.width;
            for (j, pixel) in row.iter_mut().enumerate() {
                let x = across.place(x, j);
                if inside || x < shape.width {
                    *pixel = self.input.values.as_ptr().wrapping_add((start + x) * self.input.stride);
                }
            }
        }
        pixels
    }
}

/// A vector of channels of a tile, at all points.
///
/// # Safety
/// The pixels are valid for `left` channels from `channel` on if `FULL` is false, else for a vector; `to` for a vector in each plane.
#[inline(always)]
unsafe fn input_vector<
    S: Simd,
    F: Transform<IN, OUT>,
    const IN: usize,
    const OUT: usize,
    const FULL: bool,
>(
    pixels: &[[*const f32; IN]; IN],
    channel: usize,
    left: usize,
    to: *mut f32,
    plane: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [[S::zero(); IN]; IN];
        for (x, column) in columns.iter_mut().enumerate() {
            let mut values = [S::zero(); IN];
            for (value, row) in values.iter_mut().zip(pixels) {
                let from = row[x].add(channel);
                *value = if FULL { S::load(from) } else { S::load_first(from, left) };
            }
            *column = F::input::<S>(values);
        }
        for y in 0..IN {
            let mut row = [S::zero(); IN];
            for (value, column) in row.iter_mut().zip(&columns) {
                *value = column[y];
            }
            for (x, value) in F::input::<S>(row).into_iter().enumerate() {
                S::store(to.add((y * IN + x) * plane), value);
            }
        }
    }
}

/// Some tiles of some output channels from the products at the points.
pub(super) struct OutputTransform<'a> {
    pub(super) tiling: Tiling,
    pub(super) tiles: Range<usize>,
    /// Output channels: at most two vectors.
    pub(super) channels: Range<usize>,
    /// The first tile's products for these channels.
    pub(super) from: Points,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) output: &'a Shares<'a>,
    /// Values from one output pixel to the next.
    pub(super) stride: usize,
}

impl Kernel for OutputTransform<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the machine has the instruction set.
        unsafe {
            match self.tiling.tile {
                WinogradTile::F2 => self.all::<S, F2, 4, 2>(),
                WinogradTile::F4 => self.all::<S, F4, 6, 4>(),
            }
        }
    }
}

/// Where a tile's results go and what is added to them.
struct Destination<const OUT: usize> {
    to: [[*mut f32; OUT]; OUT],
    /// Meaningless if there is no residual.
    residual: [[*const f32; OUT]; OUT],
}

/// Values of the widest panel.
const MAX_WIDTH: usize = 32;

impl OutputTransform<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd, F: Transform<IN, OUT>, const IN: usize, const OUT: usize>(&self) {
        let first = self.channels.start;
        let shape = self.tiling.output;
        // Pixels of a tile that the maps do not have.
        let mut nowhere = [0.0; MAX_WIDTH];
        let zeros = [0.0; MAX_WIDTH];
        for (index, tile) in self.tiles.clone().enumerate() {
            let [image, y, x] = self.tiling.place(tile);
            let [height, width] = [OUT.min(shape.height - y), OUT.min(shape.width - x)];
            let pixel = (image * shape.height + y) * shape.width + x;
            let mut destination = Destination {
                to: [[nowhere.as_mut_ptr(); OUT]; OUT],
                residual: [[zeros.as_ptr(); OUT]; OUT],
            };
            for i in 0..OUT {
                for j in 0..OUT {
                    if i >= height || j >= width {
                        continue;
                    }
                    let pixel = pixel + i * shape.width + j;
                    // SAFETY: the pixel lies in the output, and no other task writes these channels of it.
                    destination.to[i][j] = unsafe { self.output.at(pixel * self.stride + first) };
                    if let Some(residual) = self.epilogue.residual {
                        destination.residual[i][j] =
                            residual.values.as_ptr().wrapping_add(pixel * residual.stride + first);
                    }
                }
            }
            let mut channel = 0;
            while channel < self.channels.len() {
                // SAFETY: the destination is valid for the channels, the products for whole vectors.
                unsafe {
                    let from = self.from.start.add(index * self.from.row + channel);
                    let left = self.channels.len() - channel;
                    if left >= S::LANES {
                        self.vector::<S, F, IN, OUT, true>(from, channel, left, &destination);
                    } else {
                        self.vector::<S, F, IN, OUT, false>(from, channel, left, &destination);
                    }
                }
                channel += S::LANES;
            }
            if self.epilogue.activation.clamp().is_none() {
                for row in destination.to.iter().take(height) {
                    let (activation, channels) = (self.epilogue.activation, self.channels.len());
                    // SAFETY: the pixels of a row of a tile are `stride` apart.
                    unsafe { activate_rows::<S>(activation, row[0], width, channels, self.stride) };
                }
            }
        }
    }

    /// A vector of channels of a tile: the `channel`-th of these and those after it.
    ///
    /// # Safety
    /// `from` is valid for a vector in each plane, `destination` for `left` channels if `FULL` is false, else for a vector.
    #[inline(always)]
    unsafe fn vector<S: Simd, F: Transform<IN, OUT>, const IN: usize, const OUT: usize, const FULL: bool>(
        &self,
        from: *const f32,
        channel: usize,
        left: usize,
        destination: &Destination<OUT>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut columns = [[S::zero(); OUT]; IN];
            for (x, column) in columns.iter_mut().enumerate() {
                let mut values = [S::zero(); IN];
                for (y, value) in values.iter_mut().enumerate() {
                    *value = S::load(from.add((y * IN + x) * self.from.plane));
                }
                *column = F::output::<S>(values);
            }
            let load = |from: *const f32| if FULL { S::load(from) } else { S::load_first(from, left) };
            let mut bias = S::zero();
            if let Some(values) = self.epilogue.bias {
                bias = load(values.as_ptr().add(self.channels.start + channel));
            }
            let [least, most] =
                self.epilogue.activation.clamp().unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
            let [least, most] = [S::splat(least), S::splat(most)];
            for y in 0..OUT {
                let mut row = [S::zero(); IN];
                for (value, column) in row.iter_mut().zip(&columns) {
                    *value = column[y];
                }
                for (x, value) in F::output::<S>(row).into_iter().enumerate() {
                    let mut value = S::add(value, bias);
                    if self.epilogue.residual.is_some() {
                        value = S::add(value, load(destination.residual[y][x].add(channel)));
                    }
                    let value = S::min(most, S::max(least, value));
                    let to = destination.to[y][x].add(channel);
                    if FULL { S::store(to, value) } else { S::store_first(to, value, left) }
                }
            }
        }
    }
}
