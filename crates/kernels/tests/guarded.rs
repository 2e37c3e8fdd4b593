//! The kernel tests once more, with memory in which every read or write beyond the end of a slice is a fault.
#![cfg(all(target_os = "linux", not(miri)))]
// Each of the tests brings its own.
#![allow(clippy::duplicate_mod)]

use std::alloc::{GlobalAlloc, Layout, System};

/// Every slice of `f32` ends where a page begins that may not be touched.
struct Guarded;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

const PAGE: usize = 4096;

/// Pages of an allocation, and its distance from their begin.
fn place(layout: Layout) -> (usize, usize) {
    let pages = layout.size().div_ceil(PAGE) * PAGE;
    (pages, (pages - layout.size()) / layout.align() * layout.align())
}

/// Slices of `f32` are; of everything else there is so much that the system would run out of mappings.
fn is_guarded(layout: Layout) -> bool {
    layout.align() == align_of::<f32>()
}

// SAFETY: memory comes from the system, as much as was asked for, and aligned.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_guarded(layout) {
            // SAFETY: the caller's.
            return unsafe { System.alloc(layout) };
        }
        let (pages, offset) = place(layout);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of which the last page is then closed.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), pages + PAGE, access, kind, -1, 0);
            if start == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            libc::mprotect(start.byte_add(pages), PAGE, libc::PROT_NONE);
            start.cast::<u8>().add(offset)
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if !is_guarded(layout) {
            // SAFETY: the caller's.
            return unsafe { System.dealloc(pointer, layout) };
        }
        let (pages, offset) = place(layout);
        // SAFETY: `alloc` made the mapping.
        unsafe { libc::munmap(pointer.sub(offset).cast(), pages + PAGE) };
    }
}

#[path = "attention.rs"]
mod attention;
#[path = "attention_gradients.rs"]
mod attention_gradients;
#[path = "conv.rs"]
mod conv;
#[path = "conv_gradients.rs"]
mod conv_gradients;
#[path = "depthwise.rs"]
mod depthwise;
#[path = "doors.rs"]
mod doors;
#[path = "elementwise.rs"]
mod elementwise;
#[path = "expand.rs"]
mod expand;
#[path = "gemm.rs"]
mod gemm;
#[path = "gradients.rs"]
mod gradients;
#[path = "nan.rs"]
mod nan;
#[path = "norm.rs"]
mod norm;
#[path = "norm_gradients.rs"]
mod norm_gradients;
#[path = "pooling.rs"]
mod pooling;
#[path = "product_gradients.rs"]
mod product_gradients;
#[path = "winograd.rs"]
mod winograd;

/// The guard works: a read beyond the end of a slice ends the process that does it.
#[test]
fn a_read_beyond_the_end_is_a_fault() {
    // SAFETY: the child does nothing but this read and an exit.
    unsafe {
        let values = vec![1.0_f32; 100];
        let child = libc::fork();
        if child == 0 {
            std::hint::black_box(values.as_ptr().add(100).read_volatile());
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        assert!(libc::WIFSIGNALED(status), "the read went through");
    }
}
