//! Where the features come from.

/// Rows of features, `[rows, features]`: in memory, in a memory map, or picked from either.
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

    /// A row, below `len`: `features` values.
    fn row(&self, index: usize) -> &[f32];
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

    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.features..][..self.features]
    }
}
