//! Where a value lies: PyTorch's strided tensors.
//!
//! A value's shape is the one that the graph says, `[batch, channels, height, width]` for an image; its strides say how it lies in
//! memory, which for images is channels last. So a permutation, a chunk, a selection and most reshapes move nothing.

/// Which memory a value is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A buffer of the plan.
    Buffer(usize),
    /// A parameter that is itself an operand.
    Constant(usize),
}

/// A tensor within a buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub(crate) place: Place,
    /// Of the first value.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// From one place of an axis to the next.
    pub(crate) strides: Vec<usize>,
}

impl View {
    /// A tensor without gaps that begins a buffer; `order` tells the axes, the outermost first.
    pub(crate) fn dense(place: Place, shape: &[usize], order: &[usize]) -> View {
        let mut strides = vec![0; shape.len()];
        let mut stride = 1;
        for &axis in order.iter().rev() {
            strides[axis] = stride;
            stride *= shape[axis];
        }
        View { place, offset: 0, shape: shape.to_vec(), strides }
    }

    /// How many values the tensor has.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The axes as they lie, the outermost first.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shape.len()).collect();
        // Axes of size one lie anywhere: outside, so that the innermost has the values that lie side by side.
        let stride = |axis: usize| if self.shape[axis] == 1 { usize::MAX } else { self.strides[axis] };
        order.sort_by_key(|axis| std::cmp::Reverse(stride(*axis)));
        order.sort_by_key(|axis| *axis != 0);
        order
    }

    /// Axis `i` of the result is axis `axes[i]`.
    pub(crate) fn permuted(&self, axes: &[usize]) -> View {
        let pick = |values: &[usize]| axes.iter().map(|axis| values[*axis]).collect();
        View { shape: pick(&self.shape), strides: pick(&self.strides), ..self.clone() }
    }

    /// `size` places of an axis, from `start` on.
    pub(crate) fn narrowed(&self, axis: usize, start: usize, size: usize) -> View {
        let mut view = self.clone();
        view.offset += start * view.strides[axis];
        view.shape[axis] = size;
        view
    }

    /// One place of an axis, which is removed.
    pub(crate) fn selected(&self, axis: usize, index: usize) -> View {
        let mut view = self.narrowed(axis, index, 1);
        view.shape.remove(axis);
        view.strides.remove(axis);
        view
    }

    /// Repeated to a shape of as many or more axes, as `torch.broadcast_to`.
    pub(crate) fn broadcast(&self, shape: &[usize]) -> View {
        let added = shape.len() - self.shape.len();
        let strides = (0..shape.len()).map(|axis| match axis.checked_sub(added) {
            Some(own) if self.shape[own] == shape[axis] => self.strides[own],
            _ => 0,
        });
        View { strides: strides.collect(), shape: shape.to_vec(), ..self.clone() }
    }

    /// The same values in another shape, if that needs no copy (`computeStride` of PyTorch's `TensorUtils.cpp`).
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Option<View> {
        let mut strides = vec![0; shape.len()];
        // Runs of old axes that lie as one, from the innermost on, are given to new axes until they are used up.
        let mut new = shape.len();
        let mut run = 1;
        let mut base = None;
        for old in (0..self.shape.len()).rev() {
            if self.shape[old] == 1 {
                continue;
            }
            let base_stride = *base.get_or_insert(self.strides[old]);
            run *= self.shape[old];
            let outer = (0..old).rev().find(|axis| self.shape[*axis] != 1);
            let continues = outer.is_some_and(|outer| self.strides[outer] == run * base_stride);
            if continues {
                continue;
            }
            let mut given = 1;
            while new > 0 && (given < run || shape[new - 1] == 1) {
                new -= 1;
                strides[new] = given * base_stride;
                given *= shape[new];
            }
            if given != run {
                return None;
            }
            run = 1;
            base = None;
        }
        Some(View { shape: shape.to_vec(), strides, ..self.clone() })
    }

    /// `[batch, channels, height, width]` that lies channels last: the stride from pixel to pixel.
    pub(crate) fn pixel_stride(&self) -> Option<usize> {
        let &[batch, channels, height, width] = &self.shape[..] else { return None };
        self.strides_fit(&[(batch, 0), (height, 2), (width, 3)], (channels, 1))
    }

    /// `[.., features]` whose features lie side by side: the stride from row to row.
    pub(crate) fn row_stride(&self) -> Option<usize> {
        // A single number is a row of one.
        let Some(last) = self.shape.len().checked_sub(1) else { return Some(1) };
        let outer = &self.shape;
        let axes: Vec<_> = (0..last).map(|axis| (outer[axis], axis)).collect();
        self.strides_fit(&axes, (outer[last], last))
    }

    /// Whether the last axis lies side by side and the others as one: the stride of these.
    fn strides_fit(&self, outer: &[(usize, usize)], (size, axis): (usize, usize)) -> Option<usize> {
        if size > 1 && self.strides[axis] != 1 {
            return None;
        }
        let mut expected = None;
        for &(size, axis) in outer.iter().rev().filter(|(size, _)| *size > 1) {
            let stride = self.strides[axis];
            if expected.is_some_and(|expected| expected != stride) {
                return None;
            }
            expected = Some(stride * size);
        }
        let inner = outer.iter().rev().find(|(size, _)| *size > 1);
        let stride = inner.map_or(size, |(_, axis)| self.strides[*axis]);
        (stride >= size).then_some(stride)
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, View};

    fn channels_last(shape: [usize; 4]) -> View {
        View::dense(Place::Buffer(0), &shape, &[0, 2, 3, 1])
    }

    #[test]
    fn a_reshape_that_splits_an_axis_moves_nothing() {
        let view = channels_last([2, 6, 5, 4]).reshaped(&[2, 2, 3, 5, 4]).unwrap();
        assert_eq!(view.strides, [120, 3, 1, 24, 6]);
        assert!(view.permuted(&[0, 2, 1, 3, 4]).reshaped(&[2, 6, 5, 4]).is_none());
    }

    #[test]
    fn channels_last_flattens_when_there_is_one_pixel() {
        assert!(channels_last([2, 6, 5, 4]).reshaped(&[2, 120]).is_none());
        let view = channels_last([2, 6, 1, 1]).reshaped(&[2, 6]).unwrap();
        assert_eq!(view.row_stride(), Some(6));
    }

    #[test]
    fn rows_of_pixels_are_found_through_permutations() {
        let view = channels_last([2, 6, 5, 4]);
        assert_eq!(view.pixel_stride(), Some(6));
        assert_eq!(view.permuted(&[0, 2, 3, 1]).row_stride(), Some(6));
        assert_eq!(view.row_stride(), None);
        assert_eq!(view.narrowed(1, 2, 3).pixel_stride(), Some(6));
        assert_eq!(view.narrowed(2, 0, 3).pixel_stride(), None);
        assert_eq!(view.order(), [0, 2, 3, 1]);
    }

    #[test]
    fn a_selected_token_is_a_row() {
        let view = View::dense(Place::Buffer(0), &[2, 7, 5], &[0, 1, 2]).selected(1, 3);
        assert_eq!((view.offset, view.row_stride()), (15, Some(35)));
    }
}
