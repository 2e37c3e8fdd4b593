//! Derivatives of activations, and the backward pass of softmax.

use std::ops::Range;

use crate::bounds::check_output;
use crate::math;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Activation, Level, Matrix, Pool};

/// Values of a task, so that handing it out costs little beside it.
const TASK_VALUES: usize = 8 << 10;

/// `dx = dy f'(z)` for the activation `f`, `[rows, columns]`; without `dy`, `dx` holds it, and is changed in place.
///
/// `z` is what the activation was computed from. For the identity, ReLU and ReLU6 it may be what the activation gave instead: the
/// derivative is the same. Where a derivative has a step, it is PyTorch's: ReLU's is zero at 0, ReLU6's at 0 and 6.
///
/// # Panics
/// When a slice is too short, or the rows of `dx` overlap.
#[expect(clippy::too_many_arguments, reason = "three matrices and what connects them")]
pub fn activation_backward(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    activation: Activation,
    z: Matrix<'_>,
    dy: Option<Matrix<'_>>,
    dx: &mut [f32],
    dx_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(z.has(rows, columns), "z has fewer than {rows} rows of {columns}");
    assert!(dy.is_none_or(|dy| dy.has(rows, columns)), "dy has fewer than {rows} rows of {columns}");
    check_output(dx.len(), [rows, columns], dx_stride);
    let rows_a_task = (TASK_VALUES / columns).clamp(1, rows);
    let dx = Shares::new(dx);
    pool.run(rows.div_ceil(rows_a_task), |task| {
        let first = task * rows_a_task;
        let rows = first..(first + rows_a_task).min(rows);
        level.run(ActivationTask { rows, columns, activation, z, dy, dx: &dx, dx_stride });
    });
}

/// A task: some rows.
struct ActivationTask<'a> {
    rows: Range<usize>,
    columns: usize,
    activation: Activation,
    z: Matrix<'a>,
    dy: Option<Matrix<'a>>,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for ActivationTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self { activation, columns, dx_stride, .. } = self;
        let (first, sizes) = (self.rows.start, [self.rows.len(), columns]);
        // SAFETY: `activation_backward` has checked the slices; tasks have different rows.
        unsafe {
            let z = self.z.values.as_ptr().add(first * self.z.stride);
            let to = self.dx.at(first * dx_stride);
            let (dy, stride) = self.dy.map_or((to.cast_const(), dx_stride), |dy| {
                (dy.values.as_ptr().add(first * dy.stride), dy.stride)
            });
            activation_backward_rows::<S>(activation, sizes, z, self.z.stride, dy, stride, to, dx_stride);
        }
    }
}

/// `to = dy f'(z)` for all of `[rows, columns]`; `dy` may be `to`.
///
/// # Safety
/// The machine has the instruction set, and the pointers are valid for the rows.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "three matrices and what connects them")]
pub(super) unsafe fn activation_backward_rows<S: Simd>(
    activation: Activation,
    [rows, columns]: [usize; 2],
    z: *const f32,
    z_stride: usize,
    dy: *const f32,
    dy_stride: usize,
    to: *mut f32,
    to_stride: usize,
) {
    macro_rules! sweep {
        ($function:expr) => {
            for row in 0..rows {
                let mut column = 0;
                while column < columns {
                    let left = columns - column;
                    // SAFETY: the caller's.
                    unsafe {
                        let z = S::load_upto(z.add(row * z_stride + column), left);
                        let dy = S::load_upto(dy.add(row * dy_stride + column), left);
                        let dx = backward::<S>($function, z, dy);
                        S::store_upto(to.add(row * to_stride + column), dx, left);
                    }
                    column += S::LANES;
                }
            }
        };
    }
    // The function is chosen once for all values.
    match activation {
        Activation::Identity if dy == to.cast_const() => {}
        Activation::Identity => sweep!(Activation::Identity),
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

/// `dy f'(z)` of every lane.
#[inline(always)]
pub(super) unsafe fn backward<S: Simd>(activation: Activation, z: S::V, dy: S::V) -> S::V {
    // SAFETY: the machine has the instruction set.
    unsafe {
        let (zero, one) = (S::zero(), S::splat(1.0));
        let inside = |least: f32, most: f32, dy: S::V| {
            S::select_less(S::splat(least), z, S::select_less(z, S::splat(most), dy, zero), zero)
        };
        match activation {
            Activation::Identity => dy,
            Activation::ReLU => S::select_less(zero, z, dy, zero),
            Activation::LeakyReLU(slope) => S::select_less(zero, z, dy, S::mul(dy, S::splat(slope))),
            Activation::ReLU6 => inside(0.0, 6.0, dy),
            Activation::Hardsigmoid => S::mul(inside(-3.0, 3.0, dy), S::splat(1.0 / 6.0)),
            Activation::Hardswish => {
                let slope = S::mul_add(z, S::splat(1.0 / 3.0), S::splat(0.5));
                let below = S::select_less(z, S::splat(3.0), S::mul(dy, slope), dy);
                S::select_less(S::splat(-3.0), z, below, zero)
            }
            Activation::Sigmoid => {
                let y = math::sigmoid::<S>(z);
                S::mul(dy, S::mul(y, S::sub(one, y)))
            }
            Activation::SiLU => {
                // Where the sigmoid is zero or one, infinity times what is zero would be no number.
                let y = math::sigmoid::<S>(z);
                let z = S::min(S::splat(100.0), S::max(S::splat(-100.0), z));
                S::mul(dy, S::mul(y, S::mul_add(z, S::sub(one, y), one)))
            }
            Activation::GELU => S::mul(dy, math::gelu_derivative::<S>(z)),
            Activation::Tanh => {
                let y = math::tanh::<S>(z);
                S::mul(dy, S::mul(S::sub(one, y), S::add(one, y)))
            }
        }
    }
}

/// `dx = y (dy - sum y dy)` for each row of `[rows, columns]`, `y` being what [`softmax`](crate::softmax) gave.
///
/// # Panics
/// When a slice is too short, or the rows of `dx` overlap.
pub fn softmax_backward(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    y: Matrix<'_>,
    dy: Matrix<'_>,
    dx: &mut [f32],
    dx_stride: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(y.has(rows, columns), "y has fewer than {rows} rows of {columns}");
    assert!(dy.has(rows, columns), "dy has fewer than {rows} rows of {columns}");
    check_output(dx.len(), [rows, columns], dx_stride);
    let rows_a_task = (TASK_VALUES / columns).clamp(1, rows);
    let dx = Shares::new(dx);
    pool.run(rows.div_ceil(rows_a_task), |task| {
        let first = task * rows_a_task;
        let rows = first..(first + rows_a_task).min(rows);
        level.run(SoftmaxTask { rows, columns, y, dy, dx: &dx, dx_stride });
    });
}

/// A task: some rows.
struct SoftmaxTask<'a> {
    rows: Range<usize>,
    columns: usize,
    y: Matrix<'a>,
    dy: Matrix<'a>,
    dx: &'a Shares<'a>,
    dx_stride: usize,
}

impl Kernel for SoftmaxTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for row in self.rows.clone() {
            // SAFETY: `softmax_backward` has checked the slices; tasks have different rows.
            unsafe {
                let y = self.y.values.as_ptr().add(row * self.y.stride);
                let dy = self.dy.values.as_ptr().add(row * self.dy.stride);
                let to = self.dx.at(row * self.dx_stride);
                let mut dot = S::zero();
                for column in (0..self.columns).step_by(S::LANES) {
                    let left = self.columns - column;
                    dot = S::mul_add(
                        S::load_upto(y.add(column), left),
                        S::load_upto(dy.add(column), left),
                        dot,
                    );
                }
                let dot = S::splat(S::sum(dot));
                for column in (0..self.columns).step_by(S::LANES) {
                    let left = self.columns - column;
                    let dy = S::sub(S::load_upto(dy.add(column), left), dot);
                    S::store_upto(to.add(column), S::mul(S::load_upto(y.add(column), left), dy), left);
                }
            }
        }
    }
}
