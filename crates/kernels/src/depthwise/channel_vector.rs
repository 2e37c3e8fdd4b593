//! One vector of channels of an image: the inside of depthwise convolution.
//!
//! A tile of seven columns of one or two rows of the output stays in registers, while the input's rows below it are read one after
//! the other; within a row, a value is read once for all the columns that it contributes to. Kernel rows beyond the input are left
//! out, and so are columns beyond it, if they are as many as networks pad with; others are read from zeros.

use std::ops::Range;

use crate::activation::activate_rows;
use crate::gemm::PanelEnd;
use crate::simd::{Kernel, Simd};
use crate::windows::Axis;

/// Columns of a tile: 224 x 224 images give maps of a multiple of seven columns at every stage.
const COLUMNS: usize = 7;

/// Columns of the tile for what is left.
const FEW_COLUMNS: usize = 4;

/// Edges of a tile, beyond which its windows reach: by [`LEFT`] half a kernel, by [`RIGHT`] that less what a stride jumps over, by
/// [`ANY`] any number of columns on either side.
const INSIDE: u8 = 0;
const LEFT: u8 = 1;
const RIGHT: u8 = 2;
const BOTH: u8 = LEFT | RIGHT;
const ANY: u8 = 4;

/// Columns beyond [`LEFT`] and [`RIGHT`].
const fn beyond(kernel: usize, stride: usize) -> [usize; 2] {
    [kernel / 2, (kernel / 2).saturating_sub(stride - 1)]
}

/// What columns beyond the input are read from; no vector has more lanes.
static ZEROS: [f32; 16] = [0.0; 16];

/// What is read and written for one vector of channels of one image.
pub(crate) struct ChannelVector<'a> {
    /// Down and across the input's image.
    pub(crate) windows: &'a [Axis; 2],
    /// The image's first value; only the rows that are reached need to exist.
    pub(crate) from: *const f32,
    /// Values between the input's pixels.
    pub(crate) pixel: usize,
    /// Whether whole vectors can be read, even if there are fewer channels.
    pub(crate) whole: bool,
    /// `[kernel height, kernel width, lanes]`
    pub(crate) weights: *const f32,
    /// At most a vector.
    pub(crate) channels: usize,
    /// The output's image's first value.
    pub(crate) to: *mut f32,
    /// Of the output's image.
    pub(crate) to_width: usize,
    /// Values between the output's pixels.
    pub(crate) to_pixel: usize,
    /// From the image's first pixel on.
    pub(crate) end: PanelEnd,
    /// Whether the sums of the output's pixels are wanted.
    pub(crate) with_sums: bool,
}

impl ChannelVector<'_> {
    /// Computes these rows of the output; returns `sums` plus the sums of their pixels, if they are wanted.
    ///
    /// # Safety
    /// The machine has the instruction set, and the pointers are valid for the sizes.
    #[inline(always)]
    pub(crate) unsafe fn rows<S: Simd>(&self, rows: Range<usize>, sums: S::V) -> S::V {
        // Through memory, as a kernel's arguments are the same for all instruction sets.
        let mut values = [0.0; 16];
        let sums_at = values.as_mut_ptr();
        // SAFETY: the caller's; no vector has more than sixteen lanes.
        unsafe {
            S::store(sums_at, sums);
            S::call(ChannelRows { vector: self, rows, sums: sums_at });
            S::load(sums_at)
        }
    }

    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn all_rows<S: Simd>(&self, rows: Range<usize>, sums: S::V) -> S::V {
        let [down, across] = *self.windows;
        let whole = self.whole && [down.dilation, across.dilation] == [1, 1];
        // SAFETY: the caller's.
        unsafe {
            // With sixteen registers, there is room for one row of sums.
            macro_rules! rows {
                ($width:literal, $stride:literal) => {
                    if const { S::TILE_ROWS > 6 } {
                        self.rows_of::<S, $width, $stride, 2>(rows, sums)
                    } else {
                        self.rows_of::<S, $width, $stride, 1>(rows, sums)
                    }
                };
            }
            match (across.kernel, across.stride) {
                (3, 1) if whole => rows!(3, 1),
                (3, 2) if whole => rows!(3, 2),
                (5, 1) if whole => rows!(5, 1),
                (5, 2) if whole => rows!(5, 2),
                (7, 1) if whole => rows!(7, 1),
                _ => self.rows_of::<S, 0, 0, 1>(rows, sums),
            }
        }
    }

    /// For a kernel of this width and stride, or of any if the width is zero; `ROWS` rows at a time.
    #[inline(always)]
    unsafe fn rows_of<S: Simd, const WIDTH: usize, const STRIDE: usize, const ROWS: usize>(
        &self,
        rows: Range<usize>,
        mut sums: S::V,
    ) -> S::V {
        let activation = self.end.activation;
        // A clamp is done in registers, unless the residual comes before it.
        let clamp = activation.clamp().filter(|_| self.end.residual.is_null());
        // SAFETY: the caller's.
        unsafe {
            let mut row = rows.start;
            while row < rows.end {
                let rows = ROWS.min(rows.end - row);
                let pixels = rows * self.to_width;
                let first = row * self.to_width;
                let mut window = ChannelTile {
                    windows: self.windows,
                    from: self.from,
                    pixel: self.pixel,
                    weights: self.weights,
                    channels: self.channels,
                    column: 0,
                    columns: 0,
                    row,
                    rows,
                    to: self.to.add(first * self.to_pixel),
                    to_pixel: self.to_pixel,
                    to_row: self.to_width * self.to_pixel,
                    bias: self.end.bias,
                    clamp: clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]),
                };
                while window.column < self.to_width {
                    let left = self.to_width - window.column;
                    if WIDTH == 0 {
                        window.columns = left.min(FEW_COLUMNS);
                        any_tile::<S>(window);
                    } else if left > FEW_COLUMNS && left != 2 * FEW_COLUMNS {
                        window.columns = left.min(COLUMNS);
                        // Two rows of a seven wide kernel are too much for the compiler without the edge's checks: half as fast.
                        let edges = if WIDTH < 7 || ROWS == 1 { window.edges() } else { ANY };
                        match edges {
                            INSIDE => tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, INSIDE>(window),
                            LEFT => tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, LEFT>(window),
                            RIGHT => tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, RIGHT>(window),
                            BOTH => tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, BOTH>(window),
                            _ => tile::<S, WIDTH, STRIDE, ROWS, COLUMNS, ANY>(window),
                        }
                    } else {
                        window.columns = left.min(FEW_COLUMNS);
                        tile::<S, WIDTH, STRIDE, ROWS, FEW_COLUMNS, ANY>(window);
                    }
                    window.column += window.columns;
                }
                // The rows are still in the first-level cache.
                if !self.end.residual.is_null() {
                    for i in 0..pixels {
                        let residual = self.end.residual.add((first + i) * self.end.residual_stride);
                        let to = window.to.add(i * self.to_pixel);
                        let y =
                            S::add(S::load_upto(to, self.channels), S::load_upto(residual, self.channels));
                        S::store_upto(to, y, self.channels);
                    }
                }
                if clamp.is_none() {
                    activate_rows::<S>(activation, window.to, pixels, self.channels, self.to_pixel);
                }
                if self.with_sums {
                    // Four sums, because one addition would wait for the other.
                    let mut four = [S::zero(); 4];
                    let at = |i: usize| S::load_upto(window.to.add(i * self.to_pixel), self.channels);
                    for i in (0..pixels).step_by(4) {
                        for (j, sum) in four.iter_mut().enumerate() {
                            if i + j < pixels {
                                *sum = S::add(*sum, at(i + j));
                            }
                        }
                    }
                    let [a, b, c, d] = four;
                    sums = S::add(sums, S::add(S::add(a, b), S::add(c, d)));
                }
                row += rows;
            }
        }
        sums
    }
}

/// The arguments of [`ChannelVector::rows`].
struct ChannelRows<'a> {
    vector: &'a ChannelVector<'a>,
    rows: Range<usize>,
    /// A vector, to which the sums are added.
    sums: *mut f32,
}

impl Kernel for ChannelRows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's.
        unsafe {
            let sums = self.vector.all_rows::<S>(self.rows, S::load(self.sums));
            S::store(self.sums, sums);
        }
    }
}

/// What a tile reads and writes.
#[derive(Clone, Copy)]
struct ChannelTile<'a> {
    windows: &'a [Axis; 2],
    from: *const f32,
    pixel: usize,
    weights: *const f32,
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

impl ChannelTile<'_> {
    /// Beyond which edges of the input a tile's windows reach.
    #[inline(always)]
    fn edges(&self) -> u8 {
        let [_, across] = self.windows;
        let first = self.column * across.stride;
        let behind = first + (COLUMNS - 1) * across.stride + across.kernel;
        let left = across.padding.saturating_sub(first);
        let right = behind.saturating_sub(across.padding + across.size);
        let known = beyond(across.kernel, across.stride);
        if self.columns < COLUMNS || ![0, known[0]].contains(&left) || ![0, known[1]].contains(&right) {
            return ANY;
        }
        (if left > 0 { LEFT } else { INSIDE }) | (if right > 0 { RIGHT } else { INSIDE })
    }
}

/// The sums of `ROWS x COLUMNS` pixels, finished and stored, of which `window.rows x window.columns`
/// exist; unless `EDGES` are [`ANY`], all columns do, and all that they read but what `EDGES` says.
#[inline(always)]
unsafe fn tile<
    S: Simd,
    const WIDTH: usize,
    const STRIDE: usize,
    const ROWS: usize,
    const COLUMNS: usize,
    const EDGES: u8,
>(
    window: ChannelTile<'_>,
) {
    let [down, across] = *window.windows;
    let [left_out, right_out] = beyond(WIDTH, STRIDE);
    let places = (COLUMNS - 1) * STRIDE + WIDTH;
    let first_place = if EDGES & LEFT != 0 { left_out } else { 0 };
    let behind_place = if EDGES & RIGHT != 0 { places - right_out } else { places };
    // SAFETY: the caller's.
    unsafe {
        let bias = if window.bias.is_null() { S::zero() } else { S::load_upto(window.bias, window.channels) };
        let mut sums = [[bias; COLUMNS]; ROWS];
        // From the kernel's first row on; it need not exist.
        let top = down.place(window.row, 0) as isize;
        let left = (window.column * STRIDE).wrapping_sub(across.padding);
        let bottom = top + ((window.rows - 1) * down.stride + down.kernel) as isize;
        for y in top.max(0)..bottom.min(down.size as isize) {
            let pixel = (y as usize * across.size).wrapping_add(left);
            let line = window.from.wrapping_add(pixel.wrapping_mul(window.pixel));
            for (r, sums) in sums.iter_mut().enumerate() {
                let tap = (y - top) as usize;
                let tap = tap.wrapping_sub(r * down.stride);
                if tap >= down.kernel || r >= window.rows {
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
                            if place < first_place || place >= behind_place {
                                continue;
                            }
                            let mut from = line.wrapping_add(place * window.pixel);
                            if EDGES == ANY && left.wrapping_add(place) >= across.size {
                                from = ZEROS.as_ptr();
                            }
                            *sum = S::mul_add(S::load(from), weight, *sum);
                        }
                    }
                }
            }
        }
        let [least, most] = window.clamp.map(|bound| S::splat(bound));
        let full = window.channels >= S::LANES;
        for (r, row) in sums.into_iter().enumerate() {
            for (c, sum) in row.into_iter().enumerate() {
                if r < window.rows && (EDGES != ANY || c < window.columns) {
                    let to = window.to.add(r * window.to_row + (window.column + c) * window.to_pixel);
                    let y = S::min(most, S::max(least, sum));
                    if full { S::store(to, y) } else { S::store_first(to, y, window.channels) }
                }
            }
        }
    }
}

/// As [`tile`], for any kernel and number of channels: one row of up to `FEW_COLUMNS` pixels.
#[inline(always)]
unsafe fn any_tile<S: Simd>(window: ChannelTile<'_>) {
    let [down, across] = *window.windows;
    let channels = window.channels;
    // SAFETY: the caller's.
    unsafe {
        let bias = if window.bias.is_null() { S::zero() } else { S::load_upto(window.bias, channels) };
        let mut sums = [bias; FEW_COLUMNS];
        for tap_y in 0..down.kernel {
            let y = down.place(window.row, tap_y);
            if y >= down.size {
                continue;
            }
            for tap_x in 0..across.kernel {
                let weight = S::load(window.weights.add((tap_y * across.kernel + tap_x) * S::LANES));
                for (c, sum) in sums.iter_mut().enumerate() {
                    let x = across.place(window.column + c, tap_x);
                    let pixel = (y * across.size).wrapping_add(x);
                    let mut from = window.from.wrapping_add(pixel.wrapping_mul(window.pixel));
                    if x >= across.size {
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
