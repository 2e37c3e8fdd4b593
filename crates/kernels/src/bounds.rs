//! What every kernel checks at its door, so that no argument lets it read or write beyond a slice.
//!
//! Sizes and strides are anybody's, so their products may be no number that a `usize` holds: such ones fit in no slice.

use crate::windows::Axis;
use crate::{Epilogue, Maps, MapsMut, MapsShape, Matrix};

/// Whether `rows` rows of `columns` values, which begin `stride` values apart, lie within `len` values. Rows may overlap.
pub(crate) fn fits(len: usize, [rows, columns]: [usize; 2], stride: usize) -> bool {
    let Some(before) = rows.checked_sub(1) else { return true };
    let needed = before.checked_mul(stride).and_then(|begin| begin.checked_add(columns));
    needed.is_some_and(|needed| needed <= len)
}

/// Panics when an output of `len` values is too short for `rows` rows of `columns` values, or rows overlap: tasks write different rows
/// at a time.
pub(crate) fn check_output(len: usize, [rows, columns]: [usize; 2], stride: usize) {
    assert!(rows <= 1 || stride >= columns, "the output's rows overlap: they are {stride} values apart");
    assert!(fits(len, [rows, columns], stride), "the output has fewer than {rows} rows of {columns}");
}

/// Panics when a weight is not as long as the product of its sizes.
pub(crate) fn check_weight(weight: &[f32], sizes: [usize; 4]) {
    let product = sizes.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    assert_eq!(Some(weight.len()), product, "the weight's number of values for {sizes:?}");
}

/// Panics when no memory could hold an image with its padding, so that every place in it is a number. A pixel counts as all vectors
/// that its channels begin, and as the widest panel.
pub(crate) fn check_padded([down, across]: [Axis; 2], channels: usize) {
    let bytes = (channels + 32).checked_mul(size_of::<f32>());
    let padded = [down.padded(), across.padded(), bytes];
    let product = padded.into_iter().try_fold(1_usize, |product, size| product.checked_mul(size?));
    assert!(
        product.is_some_and(|bytes| isize::try_from(bytes).is_ok()),
        "no memory could hold an image with its padding"
    );
}

impl Matrix<'_> {
    /// Whether it has so many rows of so many columns.
    pub(crate) fn has(&self, rows: usize, columns: usize) -> bool {
        fits(self.values.len(), [rows, columns], self.stride)
    }

    /// As [`has`](Self::has), with rows that do not overlap: a sum over rows ends, because memory does.
    pub(crate) fn has_apart(&self, rows: usize, columns: usize) -> bool {
        (rows <= 1 || self.stride >= columns) && self.has(rows, columns)
    }
}

impl MapsShape {
    /// Panics when a slice of so many values is too short, or pixels overlap.
    fn check(&self, values: usize, stride: usize) {
        let MapsShape { batch, height, width, channels } = *self;
        assert!(stride >= channels, "pixels overlap: they are {stride} values apart and have {channels}");
        let pixels = batch.checked_mul(height).and_then(|rows| rows.checked_mul(width));
        let fits = pixels.is_some_and(|pixels| fits(values, [pixels, channels], stride));
        assert!(fits, "the slice is too short for {self:?}");
    }
}

impl Maps<'_> {
    /// Panics when the slice is too short for the shape.
    pub(crate) fn check(&self) {
        self.shape.check(self.values.len(), self.stride);
    }
}

impl MapsMut<'_> {
    /// Panics when the slice is too short for the shape.
    pub(crate) fn check(&self) {
        self.shape.check(self.values.len(), self.stride);
    }
}

impl Epilogue<'_> {
    /// Panics when a slice is too short for the result's shape.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        assert!(
            self.bias.is_none_or(|bias| bias.len() >= columns),
            "the bias has fewer than {columns} values"
        );
        assert!(
            self.residual.is_none_or(|residual| residual.has(rows, columns)),
            "the residual has fewer than {rows} rows of {columns}"
        );
    }
}
