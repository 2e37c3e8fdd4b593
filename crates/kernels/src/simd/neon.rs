//! NEON: 4 lanes, 32 registers. Every 64-bit ARM machine has it.

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// 64-bit ARM.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Simd for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 8;
    type Half = Neon;
    type V = float32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: every 64-bit ARM machine has NEON; so in all methods below.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for four values.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for four values.
        unsafe { vst1q_f32(to, v) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        let mut values = [0.0f32; 4];
        for (i, value) in values.iter_mut().enumerate().take(n) {
            // SAFETY: the caller's pointer is valid for `n` values.
            *value = unsafe { from.add(i).read() };
        }
        // SAFETY: the array has four values.
        unsafe { vld1q_f32(values.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        let mut values = [0.0f32; 4];
        // SAFETY: the array has four values.
        unsafe { vst1q_f32(values.as_mut_ptr(), v) };
        for (i, value) in values.iter().enumerate().take(n) {
            // SAFETY: the caller's pointer is valid for `n` values.
            unsafe { to.add(i).write(*value) };
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    unsafe fn max_or_nan(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`; a lane equals itself unless it is NaN.
        unsafe { vbslq_f32(vceqq_f32(a, a), Self::max(a, b), a) }
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn sqrt(v: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vsqrtq_f32(v) }
    }

    #[inline(always)]
    unsafe fn power_of_two(v: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(v))) }
    }

    #[inline(always)]
    unsafe fn select_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { vbslq_f32(vcltq_f32(a, b), yes, no) }
    }

    #[inline(always)]
    unsafe fn broadcast_in_fours<const I: usize>(v: Self::V) -> Self::V {
        const { assert!(I < 4) };
        // SAFETY: see `splat`.
        unsafe {
            match I {
                0 => vdupq_laneq_f32::<0>(v),
                1 => vdupq_laneq_f32::<1>(v),
                2 => vdupq_laneq_f32::<2>(v),
                _ => vdupq_laneq_f32::<3>(v),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_spread<const WIDTH: usize>(from: *const f32, i: usize) -> Self::V {
        const { assert!(WIDTH >= 4) };
        // SAFETY: see `splat`; the caller's pointer is valid for the group, which fills the vector.
        unsafe { vld1q_dup_f32(from.add(i)) }
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: see `splat`.
        unsafe { vaddvq_f32(v) }
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        // SAFETY: see `splat`.
        unsafe { vmaxvq_f32(v) }
    }

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        #[inline(never)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller's.
            unsafe { kernel.run::<Neon>() }
        }
        // SAFETY: see `splat`.
        unsafe { apart(kernel) }
    }
}
