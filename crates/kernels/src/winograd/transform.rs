//! The transforms in one dimension, for convolutions with three taps.
//!
//! A convolution is a product of polynomials, and a product can be taken at points: the input's and the weights' polynomials are
//! evaluated, their values multiplied, and the result interpolated. Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2015, bring it to tiles of two dimensions by transforming the columns, then the rows.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::simd::Simd;

/// From `IN` input values to `OUT = IN - 2` output values.
pub(super) trait Transform<const IN: usize, const OUT: usize> {
    /// The input's values at the points, in the order of the other two functions.
    unsafe fn input<S: Simd>(d: [S::V; IN]) -> [S::V; IN];

    /// The output from the products at the points.
    unsafe fn output<S: Simd>(m: [S::V; IN]) -> [S::V; OUT];

    /// The taps' values at the points, divided by what interpolation needs.
    fn weights(g: [f64; 3]) -> [f64; IN];
}

/// Two outputs from four multiplications; points 0, 1, -1, infinity.
pub(super) struct F2;

impl Transform<4, 2> for F2 {
    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
        // SAFETY: the machine has the instruction set; so in all methods below.
        unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[3], d[1])] }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
        // SAFETY: see `input`.
        unsafe { [S::add(S::add(m[0], m[1]), m[2]), S::add(S::sub(m[1], m[2]), m[3])] }
    }

    fn weights([a, b, c]: [f64; 3]) -> [f64; 4] {
        [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c]
    }
}

/// Four outputs from six multiplications; points 0, ±√½, ±√2, infinity.
///
/// Their error is a fourth of that of the usual points 0, ±1, ±2, and since the squares are ½ and 2, they cost nothing more.
pub(super) struct F4;

impl Transform<6, 4> for F4 {
    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
        // SAFETY: see `F2::input`.
        unsafe {
            let [root_half, root_2] = [S::splat(FRAC_1_SQRT_2 as f32), S::splat(SQRT_2 as f32)];
            let [minus_half, minus_2, minus_5_halves] = [S::splat(-0.5), S::splat(-2.0), S::splat(-2.5)];
            let even = S::mul_add(minus_2, d[2], d[4]);
            let odd = S::mul(root_half, S::mul_add(minus_2, d[1], d[3]));
            let even_2 = S::mul_add(minus_half, d[2], d[4]);
            let odd_2 = S::mul(root_2, S::mul_add(minus_half, d[1], d[3]));
            [
                S::mul_add(minus_5_halves, d[2], S::add(d[0], d[4])),
                S::add(even, odd),
                S::sub(even, odd),
                S::add(even_2, odd_2),
                S::sub(even_2, odd_2),
                S::mul_add(minus_5_halves, d[3], S::add(d[1], d[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
        // SAFETY: see `F2::input`.
        unsafe {
            let [half, two] = [S::splat(0.5), S::splat(2.0)];
            let even = S::add(m[1], m[2]);
            let even_2 = S::add(m[3], m[4]);
            let odd = S::mul(S::splat(FRAC_1_SQRT_2 as f32), S::sub(m[1], m[2]));
            let odd_2 = S::mul(S::splat(SQRT_2 as f32), S::sub(m[3], m[4]));
            [
                S::add(m[0], S::add(even, even_2)),
                S::add(odd, odd_2),
                S::mul_add(half, even, S::mul(two, even_2)),
                S::mul_add(half, odd, S::mul_add(two, odd_2, m[5])),
            ]
        }
    }

    fn weights([a, b, c]: [f64; 3]) -> [f64; 6] {
        let near = |point: f64| (a + point * b + 0.5 * c) / -1.5;
        let far = |point: f64| (a + point * b + 2.0 * c) / 6.0;
        [a, near(FRAC_1_SQRT_2), near(-FRAC_1_SQRT_2), far(SQRT_2), far(-SQRT_2), c]
    }
}
