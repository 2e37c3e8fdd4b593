//! Feature maps in memory: channels last.

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
}

impl<'a> Maps<'a> {
    /// Maps whose pixels follow each other without gaps.
    pub fn new(values: &'a [f32], shape: MapsShape) -> Maps<'a> {
        Maps { values, shape, stride: shape.channels }
    }
}

impl<'a> MapsMut<'a> {
    /// Maps whose pixels follow each other without gaps.
    pub fn new(values: &'a mut [f32], shape: MapsShape) -> MapsMut<'a> {
        MapsMut { values, shape, stride: shape.channels }
    }
}
