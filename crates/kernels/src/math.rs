//! Exponential functions on vectors.
//!
//! Errors are in units in the last place of the exact result, the largest of a dense sample of all f32, under the worst instruction
//! set; the tests below hold them. A NaN gives a NaN.

use crate::simd::Simd;

/// Added to a number between -127.5 and 128.5, it leaves the nearest whole number `n` as `n + 127` in the lowest bits, which
/// [`Simd::power_of_two`] reads: 1.5 times 2^23 for the one, 127 for the other.
const ROUND: f32 = 12_583_039.0;

/// `e^r`, or `e^-r` if `NEGATIVE`, for `|r| <= ln 2 / 2`; the polynomial is within 3.2e-9.
#[inline(always)]
unsafe fn exp_near_zero<S: Simd, const NEGATIVE: bool>(r: S::V) -> S::V {
    let odd = if NEGATIVE { -1.0 } else { 1.0 };
    // SAFETY: the machine has the instruction set.
    unsafe {
        let mut p = S::splat(1.395_047_9e-3);
        for coefficient in [8.368_882e-3 * odd, 4.166_620_6e-2, 0.166_665_2 * odd, 0.5, odd, 1.0] {
            p = S::mul_add(p, r, S::splat(coefficient));
        }
        p
    }
}

/// `e^x`, or `e^-x` if `NEGATIVE`, as `p` near one and a power of two, whose product it is, for `|x| <= 89`: from 88.4 on the power
/// is infinite, below -87.7 it is 0.
#[inline(always)]
unsafe fn exp_parts<S: Simd, const NEGATIVE: bool>(x: S::V) -> [S::V; 2] {
    let sign = if NEGATIVE { -1.0 } else { 1.0 };
    // SAFETY: the machine has the instruction set.
    unsafe {
        let rounded = S::mul_add(x, S::splat(sign * std::f32::consts::LOG2_E), S::splat(ROUND));
        let n = S::sub(rounded, S::splat(ROUND));
        // ln 2 in two parts, of which the first has few bits, so that its product with `n` is exact.
        let r = S::mul_add(n, S::splat(sign * -0.693_359_4), x);
        let r = S::mul_add(n, S::splat(sign * 2.121_944_4e-4), r);
        [exp_near_zero::<S, NEGATIVE>(r), S::power_of_two(rounded)]
    }
}

/// `e^x`, within 1.2 units; that of 88 above it, and 0 below -87.7: no subnormal numbers.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let [p, power] = exp_parts::<S, false>(S::min(S::splat(88.0), S::max(S::splat(-88.0), x)));
        S::mul(p, power)
    }
}

/// `1 + e^-x`; infinite below -88.4.
#[inline(always)]
unsafe fn one_and_exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let [p, power] = exp_parts::<S, true>(S::min(S::splat(87.0), S::max(S::splat(-89.0), x)));
        S::mul_add(p, power, S::splat(1.0))
    }
}

/// `1 / (1 + e^-x)`, within 2.3 units where that is a normal number; 0 below -88.4.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe { S::div(S::splat(1.0), one_and_exp::<S>(x)) }
}

/// `x / (1 + e^-x)`, within 2.3 units for `x >= -87`; -0 below -88.4, but NaN for minus infinity, as PyTorch has it.
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe { S::div(x, one_and_exp::<S>(x)) }
}

/// Hyperbolic tangent, within 1.4 units.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let size = S::abs(x);
        // Near zero, where the other formula cancels, an odd polynomial, within 6.4e-9.
        let square = S::mul(x, x);
        let mut p = S::splat(-5.528_633e-3);
        for coefficient in [2.048_331_7e-2, -5.369_296_7e-2, 0.133_308_99, -0.333_332_63] {
            p = S::mul_add(p, square, S::splat(coefficient));
        }
        let near = S::mul_add(S::mul(p, square), x, x);
        // From 10 on it is one.
        let doubled = S::mul(S::splat(2.0), S::min(S::splat(10.0), size));
        let [p, power] = exp_parts::<S, false>(doubled);
        let quotient = S::div(S::splat(-2.0), S::mul_add(p, power, S::splat(1.0)));
        let far = S::add(quotient, S::splat(1.0));
        let far = S::select_less(x, S::zero(), S::sub(S::zero(), far), far);
        S::select_less(size, S::splat(0.625), near, far)
    }
}

/// `x Phi(x)`, Phi being the normal distribution function: the exact GELU, `x / 2 (1 + erf(x / sqrt 2))`.
///
/// Within 3.1 units for `x >= -1`, and within 5e-8 below; from -8 down it is -3e-14, also for minus infinity (where PyTorch has NaN).
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        // x Phi(x) = max(x, 0) - |x| Phi(-|x|), where nothing cancels.
        let size = S::min(S::splat(8.0), S::abs(x));
        S::sub(S::max(S::zero(), x), S::mul(size, normal_tail::<S>(size)))
    }
}

/// `Phi(-size)` for a size in 0..=8.
#[inline(always)]
unsafe fn normal_tail<S: Simd>(size: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        // The logarithm of Phi is nearly a polynomial.
        let mut log2 = S::splat(4.041_205_3e-7);
        for coefficient in [
            -7.985_453e-6,
            6.565_879e-5,
            -2.552_133_8e-4,
            -3.711_075_3e-5,
            6.984_871e-3,
            -5.246_541e-2,
            -0.459_212_8,
            -1.151_105_2,
            -1.0,
        ] {
            log2 = S::mul_add(log2, size, S::splat(coefficient));
        }
        let rounded = S::add(log2, S::splat(ROUND));
        let r = S::mul(S::sub(log2, S::sub(rounded, S::splat(ROUND))), S::splat(std::f32::consts::LN_2));
        S::mul(exp_near_zero::<S, false>(r), S::power_of_two(rounded))
    }
}

/// The derivative of [`gelu`]: `Phi(x) + x phi(x)`, phi being the normal density; within 1.5e-7.
#[inline(always)]
pub(crate) unsafe fn gelu_derivative<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let size = S::min(S::splat(8.0), S::abs(x));
        let tail = normal_tail::<S>(size);
        let phi = S::select_less(x, S::zero(), tail, S::sub(S::splat(1.0), tail));
        let density = exp::<S>(S::mul(S::mul(size, size), S::splat(-0.5)));
        let moment = S::mul(S::mul(size, S::splat(0.398_942_3)), density);
        S::add(phi, S::select_less(x, S::zero(), S::sub(S::zero(), moment), moment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Kernel;
    use crate::{Activation, Level};

    /// A function of a vector, on a slice of whole vectors.
    struct Sweep<'a>(Function, &'a mut [f32]);

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Of(Activation),
    }

    impl Kernel for Sweep<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for values in self.1.chunks_exact_mut(S::LANES) {
                // SAFETY: `Level::run` calls with an instruction set of the machine; a chunk is a vector.
                unsafe {
                    let x = S::load(values.as_ptr());
                    let y = match self.0 {
                        Function::Exp => exp::<S>(x),
                        Function::Of(activation) => activation.apply::<S>(x),
                    };
                    S::store(values.as_mut_ptr(), y);
                }
            }
        }
    }

    /// Calls `check` with an argument, the function's value and its name for a dense sample of all f32, in order of their bits.
    fn sweep(function: Function, mut check: impl FnMut(Level, f32, f32)) {
        for level in Level::all() {
            let mut bits = (0..=u32::MAX).step_by(509);
            loop {
                let arguments: Vec<f32> = bits.by_ref().take(1 << 12).map(f32::from_bits).collect();
                if arguments.is_empty() {
                    break;
                }
                let mut values = arguments.clone();
                values.resize(values.len().next_multiple_of(16), 0.0);
                level.run(Sweep(function, &mut values));
                for (x, y) in arguments.into_iter().zip(values) {
                    check(level, x, y);
                }
            }
        }
    }

    /// The error in units in the last place of the exact value.
    fn units(value: f32, exact: f64) -> f64 {
        let exponent = exact.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
        (f64::from(value) - exact).abs() / (exponent - 23.0).exp2()
    }

    /// Checks a function against the `exact` one: within `bound` units for arguments in `from..=to`, elsewhere within `distance`.
    fn agrees(function: Function, exact: fn(f64) -> f64, [from, to]: [f32; 2], bound: f64, distance: f64) {
        sweep(function, |level, x, y| {
            if x.is_nan() {
                assert!(y.is_nan(), "{level}: {y} for NaN");
            } else if x.is_finite() {
                let exact = exact(f64::from(x));
                let near = if x >= from && x <= to {
                    units(y, exact) <= bound
                } else {
                    f64::from(y) == exact || (f64::from(y) - exact).abs() <= distance
                };
                assert!(near, "{level}: {y} instead of {exact} for {x}");
            }
        });
    }

    /// What a function makes of a value.
    fn of(function: Function, x: f32) -> Vec<f32> {
        let value = |level: Level| {
            let mut values = [x; 16];
            level.run(Sweep(function, &mut values));
            values[15]
        };
        Level::all().into_iter().map(value).collect()
    }

    #[test]
    fn exp_is_near() {
        agrees(Function::Exp, |x| x.min(88.0).exp(), [-87.3, f32::MAX], 1.2, 1.2e-38);
        assert!(of(Function::Exp, f32::INFINITY).iter().all(|&y| y == of(Function::Exp, 88.0)[0]));
        assert!(of(Function::Exp, f32::NEG_INFINITY).iter().all(|&y| y == 0.0));
        assert!(of(Function::Exp, 0.0).iter().all(|&y| y == 1.0));
    }

    #[test]
    fn sigmoid_is_near() {
        let sigmoid = Function::Of(Activation::Sigmoid);
        agrees(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), [-87.0, f32::MAX], 2.3, 2e-38);
        assert!(of(sigmoid, f32::INFINITY).iter().all(|&y| y == 1.0));
        assert!(of(sigmoid, f32::NEG_INFINITY).iter().all(|&y| y == 0.0));
    }

    #[test]
    fn silu_is_near() {
        let silu = Function::Of(Activation::SiLU);
        agrees(silu, |x| x / (1.0 + (-x).exp()), [-87.0, f32::MAX], 2.3, 2e-36);
        assert!(of(silu, f32::INFINITY).iter().all(|&y| y == f32::INFINITY));
        assert!(of(silu, f32::NEG_INFINITY).iter().all(|y| y.is_nan()));
    }

    #[test]
    fn tanh_is_near() {
        let tanh = Function::Of(Activation::Tanh);
        agrees(tanh, f64::tanh, [f32::MIN, f32::MAX], 1.4, 0.0);
        assert!(of(tanh, f32::INFINITY).iter().all(|&y| y == 1.0));
        assert!(of(tanh, f32::NEG_INFINITY).iter().all(|&y| y == -1.0));
    }

    #[test]
    fn gelu_is_near() {
        let gelu = Function::Of(Activation::GELU);
        let exact = |x: f64| x * 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
        agrees(gelu, exact, [-1.0, f32::MAX], 3.1, 5e-8);
        assert!(of(gelu, f32::INFINITY).iter().all(|&y| y == f32::INFINITY));
        assert!(of(gelu, f32::NEG_INFINITY).iter().all(|&y| y.abs() < 1e-13));
    }
}
