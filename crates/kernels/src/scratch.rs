//! Memory of a thread that lives on from one kernel to the next, so that no kernel allocates.

use std::cell::RefCell;

/// Values of a cache line: vectors that straddle two lines are slower.
pub(crate) const LINE: usize = 16;

#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
    pointers: Vec<*const f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends this thread's scratch of so many values, which begin with a cache line, and pointers. What they hold
/// is left over from earlier calls.
///
/// # Panics
/// When called inside `body`.
pub(crate) fn with_scratch<R>(
    values: usize,
    pointers: usize,
    body: impl FnOnce(&mut [f32], &mut [*const f32]) -> R,
) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.values.len() < values + LINE {
            scratch.values.resize(values + LINE, 0.0);
        }
        if scratch.pointers.len() < pointers {
            scratch.pointers.resize(pointers, std::ptr::null());
        }
        let start = scratch.values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        body(&mut scratch.values[start..start + values], &mut scratch.pointers[..pointers])
    })
}

/// The distance of rows of `values` values in scratch: whole cache lines, and never such that many rows'
/// beginnings share the few places that a cache has for addresses equal modulo 4096.
pub(crate) fn scratch_stride(values: usize) -> usize {
    let lines = values.div_ceil(LINE);
    (lines | 1) * LINE
}
