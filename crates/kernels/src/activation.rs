//! Element-wise nonlinearities, on vectors that are in registers.

use crate::math;
use crate::simd::{Kernel, Simd};

/// An element-wise nonlinearity; names and meaning are `torch.nn`'s.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `max(x, 0)`
    ReLU,
    /// `x` where it is positive, elsewhere so many times `x`
    LeakyReLU(f32),
    /// `min(max(x, 0), 6)`
    ReLU6,
    /// `x sigmoid(x)`
    SiLU,
    /// `x relu6(x + 3) / 6`
    Hardswish,
    /// `relu6(x + 3) / 6`
    Hardsigmoid,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x Phi(x)` with the exact normal distribution function
    GELU,
    /// Hyperbolic tangent
    Tanh,
}

impl Activation {
    /// The bounds of a function that only clamps.
    pub(crate) fn clamp(self) -> Option<[f32; 2]> {
        match self {
            Activation::Identity => Some([f32::NEG_INFINITY, f32::INFINITY]),
            Activation::ReLU => Some([0.0, f32::INFINITY]),
            Activation::ReLU6 => Some([0.0, 6.0]),
            _ => None,
        }
    }

    /// Of every lane.
    #[inline(always)]
    pub(crate) unsafe fn apply<S: Simd>(self, x: S::V) -> S::V {
        // SAFETY: the machine has the instruction set.
        unsafe {
            match self {
                Activation::Identity => x,
                Activation::ReLU => S::max(S::zero(), x),
                // Of the two parts, one is zero.
                Activation::LeakyReLU(slope) => {
                    S::mul_add(S::splat(slope), S::min(S::zero(), x), S::max(S::zero(), x))
                }
                Activation::ReLU6 => S::min(S::splat(6.0), S::max(S::zero(), x)),
                Activation::Hardsigmoid => hardsigmoid::<S>(x),
                Activation::Hardswish => S::mul(x, hardsigmoid::<S>(x)),
                Activation::Sigmoid => math::sigmoid::<S>(x),
                Activation::SiLU => math::silu::<S>(x),
                Activation::GELU => math::gelu::<S>(x),
                Activation::Tanh => math::tanh::<S>(x),
            }
        }
    }
}

#[inline(always)]
unsafe fn hardsigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let clamped = S::min(S::splat(6.0), S::max(S::zero(), S::add(x, S::splat(3.0))));
        S::mul(clamped, S::splat(1.0 / 6.0))
    }
}

/// Of every value of `rows` rows of `columns` values.
///
/// # Safety
/// The machine has the instruction set, and the pointer is valid for the rows.
#[inline(always)]
pub(crate) unsafe fn activate_rows<S: Simd>(
    activation: Activation,
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe { S::call(ActivateRows { activation, start, rows, columns, stride }) }
}

/// The arguments of [`activate_rows`].
struct ActivateRows {
    activation: Activation,
    start: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Kernel for ActivateRows {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ActivateRows { activation, start, rows, columns, stride } = self;
        let whole = columns - columns % S::LANES;
        macro_rules! sweep {
            ($function:expr) => {
                for row in 0..rows {
                    // SAFETY: the caller's.
                    unsafe {
                        let row = start.add(row * stride);
                        let mut column = 0;
                        while column < whole {
                            let at = row.add(column);
                            S::store(at, $function.apply::<S>(S::load(at)));
                            column += S::LANES;
                        }
                        if whole < columns {
                            let (at, rest) = (row.add(whole), columns - whole);
                            let y = $function.apply::<S>(S::load_first(at, rest));
                            S::store_first(at, y, rest);
                        }
                    }
                }
            };
        }
        // The function is chosen once for all values.
        match activation {
            Activation::Identity => {}
            Activation::ReLU => sweep!(Activation::ReLU),
            Activation::LeakyReLU(slope) => sweep!(Activation::LeakyReLU(slope)),
            Activation::ReLU6 => sweep!(Activation::ReLU6),
            Activation::SiLU => sweep!(Activation::SiLU),
            Activation::Hardswish => sweep!(Activation::Hardswish),
            Activation::Hardsigmoid => sweep!(Activation::Hardsigmoid),
            Activation::Sigmoid => sweep!(Activation::Sigmoid),
            Activation::GELU => sweep!(Activation::GELU),
            Activation::Tanh => sweep!(Activation::Tanh),
        }
    }
}
