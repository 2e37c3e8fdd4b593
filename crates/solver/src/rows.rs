//! Where the features come from.

use std::io;

/// Rows of features, `[rows, features]`: in memory, in a memory map, in files, or picked from any of them.
///
/// They are read some twenty to a hundred times, from several threads at once and nearly in order; a row must be the same each
/// time. Nothing is kept of them but a block of a few megabytes.
pub trait Rows: Sync {
    /// How many rows there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of a row.
    fn features(&self) -> usize;

    /// Copies the rows of these numbers, below `len`, one after the other into `values`, which are `features` values for each. The caller needs
    /// a copy anyhow, to standardise it.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&self, indices: &[u32], values: &mut [f32]) -> io::Result<()>;
}

/// Rows that lie one after the other in a slice, as those of a matrix in memory or a memory map do.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    features: usize,
}

impl<'a> Matrix<'a> {
    /// Of `[rows, features]` values, row by row. Values beyond the last whole row are not used; without features there are no
    /// rows.
    pub fn new(values: &'a [f32], features: usize) -> Matrix<'a> {
        Matrix { values, features }
    }
}

impl Rows for Matrix<'_> {
    fn len(&self) -> usize {
        self.values.len().checked_div(self.features).unwrap_or(0)
    }

    fn features(&self) -> usize {
        self.features
    }

    fn read(&self, indices: &[u32], values: &mut [f32]) -> io::Result<()> {
        for (index, row) in indices.iter().zip(values.chunks_exact_mut(self.features)) {
            row.copy_from_slice(&self.values[*index as usize * self.features..][..self.features]);
        }
        Ok(())
    }
}
