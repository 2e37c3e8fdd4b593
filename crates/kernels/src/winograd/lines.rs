//! Values that begin at a cache line.

use crate::scratch::LINE;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A vector of values of which the first begins a cache line, so that no aligned load touches two.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// With room for this many values, which are zero at first.
    pub(crate) fn new(values: usize) -> Lines {
        Lines(vec![Line([0.0; LINE]); values.div_ceil(LINE)])
    }

    /// Makes room for this many values, and keeps none.
    pub(crate) fn grow(&mut self, values: usize) {
        if self.values().len() < values {
            *self = Lines::new(values);
        }
    }

    pub(crate) fn values(&self) -> &[f32] {
        // SAFETY: a line is an array of `LINE` values without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: see `values`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}
