//! Sums over pixels of outer products: the inside of every weight's gradient.
//!
//! It is the matrix product's tile with the pixels in the place of its inner dimension: at each pixel, some values of the one operand
//! are multiplied with two vectors of the other one, both read where they lie.

use crate::gemm::{PanelEnd, panel_rows};
use crate::simd::{Kernel, Simd};
use crate::tile::Rows;
use crate::{Activation, Level};

/// Pixels that are summed at a time, so that both operands stay in the caches near the core meanwhile.
pub(crate) const PIXELS: usize = 256;

/// Bytes of sums that stay in a cache of the second level beside the operands.
const CACHED: usize = 512 << 10;

/// Groups of pixels that are summed apart, so that threads share them; at most.
const MOST_GROUPS: usize = 16;

/// Bytes of all groups' sums together; at most.
const MOST_BYTES: usize = 2 << 20;

/// How the pixels of a weight's gradient are divided into groups, which are summed apart and added in their order: by the sizes alone,
/// so that the bits of the sums follow from them.
pub(crate) struct Groups {
    /// Of a group: a multiple of [`PIXELS`] if there are several.
    pub(crate) pixels: usize,
    pub(crate) count: usize,
}

impl Groups {
    /// For `pixels` pixels, at least one, and a gradient of so many values.
    pub(crate) fn new(pixels: usize, sums: usize) -> Groups {
        let fitting = (MOST_BYTES / (sums * size_of::<f32>()).max(1)).clamp(1, MOST_GROUPS);
        let count = fitting.min(pixels.div_ceil(2 * PIXELS));
        let each = pixels.div_ceil(count).next_multiple_of(PIXELS);
        Groups { pixels: each, count: pixels.div_ceil(each) }
    }

    /// The pixels of a group, of so many.
    pub(crate) fn range(&self, group: usize, pixels: usize) -> std::ops::Range<usize> {
        group * self.pixels..((group + 1) * self.pixels).min(pixels)
    }
}

/// Of `panels` panels, each with sums of `panel_values` values: how many a task has, if there are `groups` groups.
pub(crate) fn panels_a_task(panels: usize, panel_values: usize, groups: usize, threads: usize) -> usize {
    let cached = (CACHED / (panel_values * size_of::<f32>()).max(1)).max(1);
    let wanted = (4 * threads).div_ceil(groups);
    cached.min(panels.div_ceil(wanted)).max(1)
}

/// Sums of outer products over some pixels.
#[derive(Clone, Copy)]
pub(crate) struct Outer {
    pub(crate) pixels: usize,
    /// For each pixel, the left operand's values, `offset` before the first.
    pub(crate) left: *const *const f32,
    pub(crate) offset: usize,
    /// The first pixel's values of the right operand.
    pub(crate) right: *const f32,
    /// Values between the right operand's pixels.
    pub(crate) right_stride: usize,
    /// Whether the sums are added to what is there.
    pub(crate) add: bool,
}

impl Outer {
    /// The products of `rows` values of the left operand with a panel of `width` columns (one vector of either kind, or two) of the
    /// right one, of which `columns` are stored.
    ///
    /// # Safety
    /// The left operand's pointers are valid for the rows, the right operand for `width` columns at each pixel, and `to` for `rows` rows
    /// of `columns` values that are `to_stride` apart.
    pub(crate) unsafe fn panel(
        self,
        level: Level,
        rows: usize,
        width: usize,
        columns: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        level.run(OuterPanel { outer: self, rows, width, columns, to, to_stride });
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const VECTORS: usize>(
        self,
        rows: usize,
        columns: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        let mut row = 0;
        // What is left of the highest tiles is done by lower ones, few of which the compiler has to make.
        macro_rules! tiles {
            ($($height:literal)*) => {$(
                while $height <= S::TILE_ROWS && rows - row >= $height {
                    // SAFETY: the caller's.
                    unsafe {
                        let outer = Outer { offset: self.offset + row, ..self };
                        outer.tile::<S, $height, VECTORS>(columns, to.add(row * to_stride), to_stride);
                    }
                    row += $height;
                }
            )*};
        }
        tiles!(14 8 6 4 2 1);
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        self,
        columns: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [[S::zero(); VECTORS]; ROWS];
            let mut right = self.right;
            for pixel in 0..self.pixels {
                let left = (*self.left.add(pixel)).add(self.offset);
                let mut vectors = [S::zero(); VECTORS];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(right.add(v * S::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = S::splat(*left.add(r));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = S::mul_add(x, vector, *sum);
                    }
                }
                right = right.wrapping_add(self.right_stride);
            }
            if columns >= VECTORS * S::LANES {
                self.store::<S, ROWS, VECTORS, true>(sums, columns, to, to_stride);
            } else {
                self.store::<S, ROWS, VECTORS, false>(sums, columns, to, to_stride);
            }
        }
    }

    // Nothing here may index `sums` by a variable, or the compiler keeps them in memory during the loop above.
    #[inline(always)]
    unsafe fn store<S: Simd, const ROWS: usize, const VECTORS: usize, const FULL: bool>(
        self,
        sums: [[S::V; VECTORS]; ROWS],
        columns: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let lanes = |v: usize| if FULL { S::LANES } else { columns.saturating_sub(v * S::LANES) };
            for (r, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    let to = to.add(r * to_stride + v * S::LANES);
                    let sum = if self.add { S::add(S::load_upto(to, lanes(v)), sum) } else { sum };
                    S::store_upto(to, sum, lanes(v));
                }
            }
        }
    }
}

/// A kernel of its own, so that its tiles are compiled once for all who use them.
struct OuterPanel {
    outer: Outer,
    rows: usize,
    width: usize,
    columns: usize,
    to: *mut f32,
    to_stride: usize,
}

impl Kernel for OuterPanel {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let OuterPanel { outer, rows, width, columns, to, to_stride } = self;
        // SAFETY: that of `Outer::panel`.
        unsafe {
            if width == 2 * S::LANES {
                outer.rows::<S, 2>(rows, columns, to, to_stride);
            } else if width == S::LANES {
                outer.rows::<S, 1>(rows, columns, to, to_stride);
            } else {
                outer.rows::<S::Half, 1>(rows, columns, to, to_stride);
            }
        }
    }
}

/// A forward product's tiles of some rows by a panel: a kernel of its own, so that they are compiled once for all gradients.
pub(crate) struct PanelProduct {
    pub(crate) rows: Rows,
    pub(crate) count: usize,
    pub(crate) b: *const f32,
    pub(crate) b_stride: usize,
    pub(crate) width: usize,
    pub(crate) columns: usize,
    /// What is added: null, or the result's begin, to add to what is there.
    pub(crate) residual: *const f32,
    pub(crate) to: *mut f32,
    pub(crate) to_stride: usize,
}

impl PanelProduct {
    /// # Safety
    /// As [`panel_rows`]'s, but for the instruction set.
    pub(crate) unsafe fn run(self, level: Level) {
        level.run(self);
    }
}

impl Kernel for PanelProduct {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let PanelProduct { rows, count, b, b_stride, width, columns, residual, to, to_stride } = self;
        let (bias, activation) = (std::ptr::null(), Activation::Identity);
        let end = PanelEnd { bias, residual, residual_stride: to_stride, activation };
        // SAFETY: that of `PanelProduct::run`.
        unsafe { panel_rows::<S>(rows, count, b, b_stride, width, columns, end, to, to_stride) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Groups, PIXELS};

    #[test]
    fn groups_have_all_pixels_once() {
        for pixels in [1, 5, PIXELS, PIXELS + 1, 10 * PIXELS, 200_704] {
            for sums in [0, 1, 1000, 1 << 18, 1 << 24] {
                let groups = Groups::new(pixels, sums);
                let all: Vec<usize> =
                    (0..groups.count).flat_map(|group| groups.range(group, pixels)).collect();
                assert_eq!(all, (0..pixels).collect::<Vec<_>>());
            }
        }
    }
}
