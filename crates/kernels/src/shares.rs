//! A slice that several threads write at a time.

use std::marker::PhantomData;

/// A slice of which several threads write different parts.
///
/// It borrows the slice mutably for as long as it lives, so that nobody else reads or writes it meanwhile. What is left to those who
/// write through it is to keep apart from each other: see [`at`](Self::at).
pub(crate) struct Shares<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: it only gives pointers away, and whoever takes one promises to write only to a part of their own.
unsafe impl Sync for Shares<'_> {}

impl<'a> Shares<'a> {
    pub(crate) fn new(values: &'a mut [f32]) -> Shares<'a> {
        Shares { start: values.as_mut_ptr(), len: values.len(), slice: PhantomData }
    }

    /// A pointer to the value at `place`, from which every value of the slice can be reached.
    ///
    /// # Safety
    /// `place` is at most the length. The pointer, and those made from it, are used only while this `Shares` lives and only within
    /// the slice; and of two threads that use such pointers, unless the one is done before the other begins, neither writes a value
    /// that the other reads or writes. The kernels keep to this by tasks that have different rows, columns or pixels of an output
    /// whose rows do not overlap, which [`check_output`](crate::bounds::check_output) has seen to.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, place: usize) -> *mut f32 {
        debug_assert!(place <= self.len);
        // SAFETY: the caller's.
        unsafe { self.start.add(place) }
    }
}
