//! Rows that a kernel writes.

use crate::bounds::check_output;

/// As [`Matrix`](crate::Matrix), to be written; values between the rows are not touched.
pub struct MatrixMut<'a> {
    /// From the first row's first value on.
    pub values: &'a mut [f32],
    /// Values from one row to the next.
    pub stride: usize,
}

impl MatrixMut<'_> {
    /// Panics when the slice is too short for so many rows and columns, or rows overlap.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        check_output(self.values.len(), [rows, columns], self.stride);
    }
}
