//! AVX2 and FMA: 8 lanes, 16 registers.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// x86-64 since 2013.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// A mask of the first `n` lanes is the eight values from place `8 - n` on.
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: `n <= 8`, so the eight values lie within the table.
    unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - n).cast()) }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const TILE_ROWS: usize = 6;
    type Half = Avx2;
    type V = __m256;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: the caller's machine has AVX2; so in all methods below.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for eight values.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller's pointer is valid for eight values.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        // SAFETY: masked lanes are not touched; the others the caller's pointer is valid for.
        unsafe { _mm256_maskload_ps(from, first(n)) }
    }

    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        // SAFETY: masked lanes are not touched; the others the caller's pointer is valid for.
        unsafe { _mm256_maskstore_ps(to, first(n), v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max_or_nan(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) }
    }

    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn sqrt(v: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_sqrt_ps(v) }
    }

    #[inline(always)]
    unsafe fn power_of_two(v: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v))) }
    }

    #[inline(always)]
    unsafe fn select_less(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        // SAFETY: see `splat`.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    unsafe fn broadcast_in_fours<const I: usize>(v: Self::V) -> Self::V {
        const { assert!(I < 4) };
        // SAFETY: see `splat`.
        unsafe {
            match I {
                0 => _mm256_permute_ps::<0b00_00_00_00>(v),
                1 => _mm256_permute_ps::<0b01_01_01_01>(v),
                2 => _mm256_permute_ps::<0b10_10_10_10>(v),
                _ => _mm256_permute_ps::<0b11_11_11_11>(v),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_spread<const WIDTH: usize>(from: *const f32, i: usize) -> Self::V {
        const { assert!(WIDTH == 4 || WIDTH == 8) };
        // SAFETY: see `splat`; the caller's pointer is valid for eight values.
        unsafe {
            match WIDTH {
                4 => _mm256_permutevar_ps(Self::load(from), _mm256_set1_epi32(i as i32)),
                _ => Self::splat(*from.add(i)),
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const *const f32, offset: usize, to: *mut f32, stride: usize) {
        // SAFETY: see `splat`; the caller's pointers are valid for eight values each.
        unsafe {
            // The halves of rows j and j + 4 in one register, so that the rest stays within halves.
            macro_rules! half_rows {
                ($j:literal, $from:literal) => {
                    _mm256_insertf128_ps::<1>(
                        _mm256_castps128_ps256(_mm_loadu_ps((*from.add($j)).add(offset + $from))),
                        _mm_loadu_ps((*from.add($j + 4)).add(offset + $from)),
                    )
                };
            }
            macro_rules! four_columns {
                ($from:literal) => {
                    let [a, b, c, d] = [
                        half_rows!(0, $from),
                        half_rows!(1, $from),
                        half_rows!(2, $from),
                        half_rows!(3, $from),
                    ];
                    let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                    let to = to.add($from * stride);
                    _mm256_storeu_ps(to, _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd));
                    _mm256_storeu_ps(to.add(stride), _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd));
                    let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                    _mm256_storeu_ps(to.add(2 * stride), _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd));
                    _mm256_storeu_ps(to.add(3 * stride), _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd));
                };
            }
            four_columns!(0);
            four_columns!(4);
        }
    }

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        #[inline(never)]
        unsafe fn apart<K: Kernel>(kernel: K) -> K::Output {
            // SAFETY: as the caller's.
            unsafe { kernel.run::<Avx2>() }
        }
        // SAFETY: see `splat`.
        unsafe { apart(kernel) }
    }
}
