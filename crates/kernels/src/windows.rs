//! Where the windows of a convolution or a pool lie: the one place that knows padding, stride and dilation.

use std::ops::Range;

/// The windows along one axis.
#[derive(Clone, Copy)]
pub(crate) struct Axis {
    /// Places of the input.
    pub(crate) size: usize,
    /// Taps of a window.
    pub(crate) kernel: usize,
    /// Places from one window to the next.
    pub(crate) stride: usize,
    /// Places before and behind the input that count as zeros, or not at all.
    pub(crate) padding: usize,
    /// Places from one tap to the next.
    pub(crate) dilation: usize,
}

impl Axis {
    /// How many windows there are, as PyTorch counts them: those that fit in the input and its padding.
    ///
    /// # Panics
    /// When kernel, stride or dilation is zero, or the sizes are beyond what memory could hold.
    pub(crate) fn windows(&self) -> usize {
        let nothing = [self.kernel, self.stride, self.dilation].contains(&0);
        assert!(!nothing, "a kernel, a stride or a dilation of zero");
        let reach = (self.kernel - 1).checked_mul(self.dilation).and_then(|reach| reach.checked_add(1));
        let (reach, padded) =
            reach.zip(self.padded()).expect("a window or a padded input that memory could hold");
        padded.checked_sub(reach).map_or(0, |rest| rest / self.stride + 1)
    }

    /// Places of the input and its padding; none if that is no number.
    pub(crate) fn padded(&self) -> Option<usize> {
        self.padding.checked_mul(2)?.checked_add(self.size)
    }

    /// Places from a window's first tap to its last, both counted.
    #[inline(always)]
    pub(crate) fn reach(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// The input's place that a window's tap reads: not below `size` if it is in the padding.
    #[inline(always)]
    pub(crate) fn place(&self, window: usize, tap: usize) -> usize {
        // Wraps around before the first place.
        (window * self.stride + tap * self.dilation).wrapping_sub(self.padding)
    }

    /// Whether this window's first `taps` taps, which follow one another, all read places of the input.
    #[inline(always)]
    pub(crate) fn covers(&self, window: usize, taps: usize) -> bool {
        let first = window * self.stride;
        first >= self.padding && first + taps <= self.size + self.padding
    }

    /// The input's places from the first to the last that these windows, at least one, lie over.
    #[inline(always)]
    pub(crate) fn span(&self, windows: Range<usize>) -> Range<usize> {
        let behind = (windows.end - 1) * self.stride + self.reach();
        let end = behind.saturating_sub(self.padding).min(self.size);
        (windows.start * self.stride).saturating_sub(self.padding).min(end)..end
    }

    /// The windows of which this tap reads a place of the input; of them, those that exist.
    #[inline(always)]
    pub(crate) fn inside(&self, tap: usize) -> Range<usize> {
        let shift = tap * self.dilation;
        let first = self.padding.saturating_sub(shift).div_ceil(self.stride);
        first..(self.size + self.padding).saturating_sub(shift).div_ceil(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::Axis;

    /// Everything against the definition: tap after tap.
    #[test]
    fn windows_are_where_their_taps_are() {
        let most = if cfg!(miri) { 2 } else { 4 };
        for size in 0..3 * most {
            for (kernel, stride) in (1..most).flat_map(|kernel| (1..most).map(move |stride| (kernel, stride)))
            {
                for (padding, dilation) in (0..most).flat_map(|p| (1..most).map(move |d| (p, d))) {
                    check(Axis { size, kernel, stride, padding, dilation });
                }
            }
        }
    }

    fn check(axis: Axis) {
        let Axis { size, kernel, stride, padding, dilation } = axis;
        let place = |window: usize, tap: usize| {
            let padded = window * stride + tap * dilation;
            padded.checked_sub(padding).filter(|place| *place < size)
        };
        let fits = |window: &usize| window * stride + (kernel - 1) * dilation < size + 2 * padding;
        let windows = (0..100).take_while(fits).count();
        assert_eq!(axis.windows(), windows);
        for window in 0..windows {
            let places: Vec<usize> = (0..kernel).filter_map(|tap| place(window, tap)).collect();
            let span = axis.span(window..window + 1);
            assert!(span.end <= size && places.iter().all(|place| span.contains(place)));
            for tap in 0..kernel {
                let at = place(window, tap);
                assert_eq!(Some(axis.place(window, tap)).filter(|place| *place < size), at);
                assert_eq!(axis.inside(tap).contains(&window), at.is_some());
            }
            if let (1, Some(first), Some(last)) = (dilation, places.first(), places.last()) {
                assert_eq!(span, *first..last + 1);
            }
        }
    }

    #[test]
    #[should_panic(expected = "that memory could hold")]
    fn a_padding_beyond_all_numbers() {
        let most = usize::MAX;
        Axis { size: 5, kernel: 3, stride: 1, padding: most / 2 + 1, dilation: 1 }.windows();
    }
}
