//! Arrays of eight, for machines without an instruction set of ours, and for tests to compare with.

use super::{Kernel, Simd};

/// Plain Rust, which compilers vectorise as they can.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 4;
    type Half = Portable;
    type V = [f32; 8];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for eight values.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for eight values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        let mut v = [0.0; 8];
        for (i, value) in v.iter_mut().enumerate().take(n) {
            // SAFETY: the caller's pointer is valid for `n` values.
            *value = unsafe { from.add(i).read() };
        }
        v
    }

    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        for (i, value) in v.iter().enumerate().take(n) {
            // SAFETY: the caller's pointer is valid for `n` values.
            unsafe { to.add(i).write(*value) };
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn max_or_nan(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| if a > b || a.is_nan() { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn sqrt(v: Self::V) -> Self::V {
        v.map(f32::sqrt)
    }

    #[inline(always)]
    unsafe fn power_of_two(v: Self::V) -> Self::V {
        v.map(|v| f32::from_bits(v.to_bits() << 23))
    }

    #[inline(always)]
    unsafe fn select_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    unsafe fn broadcast_in_fours<const I: usize>(v: Self::V) -> Self::V {
        std::array::from_fn(|i| v[i / 4 * 4 + I])
    }

    #[inline(always)]
    unsafe fn load_spread<const WIDTH: usize>(from: *const f32, i: usize) -> Self::V {
        const { assert!(8 % WIDTH == 0) };
        // SAFETY: the caller's pointer is valid for eight values.
        std::array::from_fn(|lane| unsafe { from.add(lane / WIDTH * WIDTH + i).read() })
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        v.iter().sum()
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        v.iter().copied().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        #[inline(never)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller's.
            unsafe { kernel.run::<Portable>() }
        }
        // SAFETY: see `splat`.
        unsafe { apart(kernel) }
    }
}
