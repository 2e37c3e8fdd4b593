//! What happens to a product's left operand before it is multiplied.

use std::ops::Range;

use crate::activation::activate_rows;
use crate::simd::Simd;
use crate::{Activation, Matrix};

/// What happens to the left operand's values `x` before they are multiplied.
#[derive(Clone, Copy, Default)]
pub enum Prologue<'a> {
    /// Nothing.
    #[default]
    None,
    /// `activation(x scale + shift)`, with a scale and a shift for each column: a batch norm before a 1x1
    /// convolution.
    #[expect(missing_docs, reason = "the names say it")]
    Affine { scale: &'a [f32], shift: &'a [f32], activation: Activation },
    /// `x scale`, with a scale for each image and column: squeeze-excitation.
    ImageScale {
        /// `[images, columns]`
        scale: Matrix<'a>,
        /// Rows of an image.
        rows_per_image: usize,
    },
}

impl Prologue<'_> {
    /// Panics when a slice is too short for `rows` rows of `columns` values.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        match self {
            Prologue::None => {}
            Prologue::Affine { scale, shift, .. } => {
                assert!(
                    scale.len() >= columns && shift.len() >= columns,
                    "fewer than {columns} scales or shifts"
                );
            }
            Prologue::ImageScale { scale, rows_per_image } => {
                let images = rows.div_ceil(*rows_per_image);
                assert!(scale.has(images, columns), "fewer than {images} rows of {columns} scales");
            }
        }
    }

    /// `columns` of row `row` of the left operand, after this; `row` counts images. Both pointers are to the first column's value.
    ///
    /// # Safety
    /// The machine has the instruction set, the pointers are valid for the columns, and [`check`](Self::check) has passed.
    #[inline(always)]
    pub(crate) unsafe fn row<S: Simd>(
        &self,
        row: usize,
        columns: Range<usize>,
        from: *const f32,
        to: *mut f32,
    ) {
        let (first, columns) = (columns.start, columns.len());
        // SAFETY: the caller's.
        unsafe {
            match *self {
                Prologue::None => to.copy_from_nonoverlapping(from, columns),
                Prologue::Affine { scale, shift, activation } => {
                    let (scale, shift) = (scale.as_ptr().add(first), shift.as_ptr().add(first));
                    let clamp = activation.clamp();
                    let [least, most] =
                        clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]).map(|bound| S::splat(bound));
                    let mut column = 0;
                    while column < columns {
                        let left = columns - column;
                        let x = S::load_upto(from.add(column), left);
                        let scale = S::load_upto(scale.add(column), left);
                        let shift = S::load_upto(shift.add(column), left);
                        let y = S::mul_add(x, scale, shift);
                        S::store_upto(to.add(column), S::min(most, S::max(least, y)), left);
                        column += S::LANES;
                    }
                    if clamp.is_none() {
                        activate_rows::<S>(activation, to, 1, columns, columns);
                    }
                }
                Prologue::ImageScale { scale, rows_per_image } => {
                    let scale = scale.values.as_ptr().add(row / rows_per_image * scale.stride + first);
                    let mut column = 0;
                    while column < columns {
                        let left = columns - column;
                        let x = S::load_upto(from.add(column), left);
                        S::store_upto(to.add(column), S::mul(x, S::load_upto(scale.add(column), left)), left);
                        column += S::LANES;
                    }
                }
            }
        }
    }
}
