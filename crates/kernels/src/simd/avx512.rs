//! AVX-512 (F, VL, DQ): 16 lanes, 32 registers.

use std::arch::x86_64::*;

use super::{Avx2, Kernel, Simd};

/// Servers since 2017, AMD since Zen 4.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    // 28 sums, 2 columns: 224 x 224 images give rows in multiples of 7 at every stage.
    const TILE_ROWS: usize = 14;
    type Half = Avx2;
    type V = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: the caller's machine has AVX-512; so in all methods below.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for sixteen values.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for sixteen values.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        // SAFETY: masked lanes are not touched; the others the caller's pointer is valid for.
        unsafe { _mm512_maskz_loadu_ps(first(n), from) }
    }

    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        // SAFETY: masked lanes are not touched; the others the caller's pointer is valid for.
        unsafe { _mm512_mask_storeu_ps(to, first(n), v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max_or_nan(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_mask_max_ps(a, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn sqrt(v: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_sqrt_ps(v) }
    }

    #[inline(always)]
    unsafe fn power_of_two(v: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v))) }
    }

    #[inline(always)]
    unsafe fn select_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }

    #[inline(always)]
    unsafe fn broadcast_in_fours<const I: usize>(v: Self::V) -> Self::V {
        const { assert!(I < 4) };
        // SAFETY: see `splat`.
        unsafe {
            match I {
                0 => _mm512_permute_ps::<0b00_00_00_00>(v),
                1 => _mm512_permute_ps::<0b01_01_01_01>(v),
                2 => _mm512_permute_ps::<0b10_10_10_10>(v),
                _ => _mm512_permute_ps::<0b11_11_11_11>(v),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_spread<const WIDTH: usize>(from: *const f32, i: usize) -> Self::V {
        const { assert!(WIDTH == 4 || WIDTH == 8) };
        // SAFETY: see `splat`; the caller's pointer is valid for sixteen values.
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let first = _mm512_and_si512(lanes, _mm512_set1_epi32(-(WIDTH as i32)));
            let from_lanes = _mm512_add_epi32(first, _mm512_set1_epi32(i as i32));
            _mm512_permutexvar_ps(from_lanes, Self::load(from))
        }
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: see `splat`.
        unsafe { _mm512_reduce_add_ps(v) }
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        // SAFETY: see `splat`.
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
        #[inline(never)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller's.
            unsafe { kernel.run::<Avx512>() }
        }
        // SAFETY: see `splat`.
        unsafe { apart(kernel) }
    }
}
