//! Feature maps in memory: channels last.

use crate::{Epilogue, Matrix};

/// Feature maps `[batch, height, width, channels]` in a slice.
///
/// A pixel's channels lie side by side; from one pixel's first channel to the next's are `stride` values, at least the channels, so
/// that maps can be some channels of wider maps: a concatenation needs no copy.
#[derive(Clone, Copy)]
pub struct Maps<'a> {
    /// From the first pixel's first channel on.
    pub values: &'a [f32],
    /// Their sizes.
    pub shape: MapsShape,
    /// Values from one pixel to the next.
    pub stride: usize,
}

/// As [`Maps`], to be written.
pub struct MapsMut<'a> {
    /// From the first pixel's first channel on.
    pub values: &'a mut [f32],
    /// Their sizes.
    pub shape: MapsShape,
    /// Values from one pixel to the next.
    pub stride: usize,
}

/// Sizes of feature maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MapsShape {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl MapsShape {
    /// In all images.
    pub fn pixels(&self) -> usize {
        self.batch * self.height * self.width
    }

    /// Panics when a slice of so many values is too short.
    fn check(&self, values: usize, stride: usize) {
        assert!(stride >= self.channels, "pixels overlap");
        let needed = self.pixels().checked_sub(1).map_or(0, |before| before * stride + self.channels);
        assert!(values >= needed, "the slice is too short for {self:?}");
    }
}

impl<'a> Maps<'a> {
    /// Maps whose pixels follow each other without gaps.
    pub fn new(values: &'a [f32], shape: MapsShape) -> Maps<'a> {
        Maps { values, shape, stride: shape.channels }
    }

    /// Panics when the slice is too short for the shape.
    pub(crate) fn check(&self) {
        self.shape.check(self.values.len(), self.stride);
    }
}

impl<'a> MapsMut<'a> {
    /// Maps whose pixels follow each other without gaps.
    pub fn new(values: &'a mut [f32], shape: MapsShape) -> MapsMut<'a> {
        MapsMut { values, shape, stride: shape.channels }
    }

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
        let long_enough = |r: Matrix<'_>| rows == 0 || r.values.len() >= (rows - 1) * r.stride + columns;
        assert!(
            self.residual.is_none_or(long_enough),
            "the residual has fewer than {rows} rows of {columns}"
        );
    }
}
