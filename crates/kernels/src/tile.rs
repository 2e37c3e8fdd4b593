//! The innermost loop: a tile of a matrix product, in registers.

use crate::simd::Simd;

/// Where the rows of a product's left operand are.
///
/// A row is several runs of values, one a tap of a convolution: row `r` of tap `t` begins at `pointers[t *
/// stride + r] + offset`. So a convolution needs no copy of its input: padding is a pointer to zeros, stride
/// and dilation are other pointers.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// `[taps, stride]`
    pub(crate) pointers: *const *const f32,
    /// Pointers of a tap.
    pub(crate) stride: usize,
    /// Runs of a row.
    pub(crate) taps: usize,
    /// Values of a run.
    pub(crate) run: usize,
    /// Added to every pointer.
    pub(crate) offset: usize,
}

/// What happens to a tile before it is stored: `y = min(max(x + bias + residual, least), most)`.
#[derive(Clone, Copy)]
pub(crate) struct TileEnd {
    /// For each column, or null.
    pub(crate) bias: *const f32,
    /// The residual's value for the tile's first row and column, or null.
    pub(crate) residual: *const f32,
    /// Values between the residual's rows.
    pub(crate) residual_stride: usize,
    /// Bounds, which may be infinite.
    pub(crate) clamp: [f32; 2],
}

/// `ROWS x (VECTORS * LANES)` sums over all taps, finished and stored, of which the first `columns` columns
/// exist.
///
/// # Safety
/// The machine has the instruction set `S`; `rows` is valid for `ROWS` rows, `b` for `taps * run` rows of
/// `VECTORS * LANES` values that are `b_stride` apart, `to` for `ROWS` rows of `columns` values that are
/// `to_stride` apart, `end` likewise.
#[inline(always)]
pub(crate) unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    rows: Rows,
    b: *const f32,
    b_stride: usize,
    columns: usize,
    end: TileEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        let mut b = b;
        for tap in 0..rows.taps {
            let pointers = rows.pointers.add(tap * rows.stride);
            let mut a = [std::ptr::null::<f32>(); ROWS];
            for (r, a) in a.iter_mut().enumerate() {
                *a = (*pointers.add(r)).add(rows.offset);
            }
            macro_rules! step {
                ($k:expr) => {
                    let mut columns = [S::zero(); VECTORS];
                    for (v, column) in columns.iter_mut().enumerate() {
                        *column = S::load(b.add(v * S::LANES));
                    }
                    for r in 0..ROWS {
                        let x = S::splat(*a[r].add($k));
                        for v in 0..VECTORS {
                            sums[r][v] = S::mul_add(x, columns[v], sums[r][v]);
                        }
                    }
                    b = b.add(b_stride);
                };
            }
            let mut k = 0;
            // With sixteen registers a step is twelve multiply-adds, too few to hide what a loop costs beside them. The compiler does
            // not unroll it.
            if S::REGISTERS == 16 && ROWS == S::TILE_ROWS && VECTORS == 2 {
                while k + 4 <= rows.run {
                    step!(k);
                    step!(k + 1);
                    step!(k + 2);
                    step!(k + 3);
                    k += 4;
                }
            }
            while k < rows.run {
                step!(k);
                k += 1;
            }
        }
        if columns >= VECTORS * S::LANES {
            finish::<S, ROWS, VECTORS, true>(sums, columns, end, to, to_stride);
        } else {
            finish::<S, ROWS, VECTORS, false>(sums, columns, end, to, to_stride);
        }
    }
}

/// Rows of the right operand that [`narrow_tile`] keeps in registers.
pub(crate) const NARROW_RUN: usize = 8;

/// As [`tile`], the sums in the same order, for one vector of columns, runs of a multiple of [`NARROW_RUN`]
/// and thirty-two registers.
///
/// A value of the left operand serves but one vector here, so that reading it and its row's pointer is what
/// takes the time. With the right operand in registers, a pointer is read once for eight values.
///
/// # Safety
/// As [`tile`]'s.
#[inline(always)]
pub(crate) unsafe fn narrow_tile<S: Simd, const ROWS: usize>(
    rows: Rows,
    b: *const f32,
    b_stride: usize,
    columns: usize,
    end: TileEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[S::zero(); 1]; ROWS];
        let mut b = b;
        for tap in 0..rows.taps {
            let pointers = rows.pointers.add(tap * rows.stride);
            let mut k = 0;
            while k < rows.run {
                let mut column = [S::zero(); NARROW_RUN];
                for (i, column) in column.iter_mut().enumerate() {
                    *column = S::load(b.add(i * b_stride));
                }
                // The compiler finds a loop too long to unroll, and would keep the sums in memory.
                macro_rules! row {
                    ($($r:literal)*) => {$(
                        if $r < ROWS {
                            let a = (*pointers.add($r)).add(rows.offset + k);
                            for i in 0..NARROW_RUN {
                                sums[$r][0] = S::mul_add(S::splat(*a.add(i)), column[i], sums[$r][0]);
                            }
                        }
                    )*};
                }
                row!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
                b = b.add(NARROW_RUN * b_stride);
                k += NARROW_RUN;
            }
        }
        finish::<S, ROWS, 1, false>(sums, columns, end, to, to_stride);
    }
}

/// Stores a tile whose sums are complete; `FULL` if all its columns exist.
// Nothing here may index `sums` by a variable, or the compiler keeps them in memory during the loop above.
#[inline(always)]
pub(crate) unsafe fn finish<S: Simd, const ROWS: usize, const VECTORS: usize, const FULL: bool>(
    sums: [[S::V; VECTORS]; ROWS],
    columns: usize,
    end: TileEnd,
    to: *mut f32,
    to_stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let lanes = |v: usize| if FULL { S::LANES } else { columns.saturating_sub(v * S::LANES) };
        let mut bias = [S::zero(); VECTORS];
        if !end.bias.is_null() {
            for (v, bias) in bias.iter_mut().enumerate() {
                *bias = S::load_upto(end.bias.add(v * S::LANES), lanes(v));
            }
        }
        let [least, most] = end.clamp.map(|bound| S::splat(bound));
        if end.residual.is_null() {
            for (r, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    let y = S::min(most, S::max(least, S::add(sum, bias[v])));
                    S::store_upto(to.add(r * to_stride + v * S::LANES), y, lanes(v));
                }
            }
        } else {
            for (r, row) in sums.into_iter().enumerate() {
                for (v, sum) in row.into_iter().enumerate() {
                    let residual = end.residual.add(r * end.residual_stride + v * S::LANES);
                    let y = S::add(S::add(sum, bias[v]), S::load_upto(residual, lanes(v)));
                    let y = S::min(most, S::max(least, y));
                    S::store_upto(to.add(r * to_stride + v * S::LANES), y, lanes(v));
                }
            }
        }
    }
}
