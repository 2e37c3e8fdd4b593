//! Functions of single values, and sums and products of two tensors.

use crate::activation::activate_rows;
use crate::shares::Shares;
use crate::simd::{Kernel, Simd};
use crate::{Activation, Level, Matrix, MatrixMut, Pool};

/// Values of a task, so that handing it out costs little beside it.
const TASK_VALUES: usize = 8 << 10;

/// What becomes of a value `x` before the activation.
#[derive(Clone, Copy)]
pub enum Function<'a> {
    /// Nothing.
    Identity,
    /// `x scale + shift`, with a scale and a shift for each column.
    #[expect(missing_docs, reason = "the names say it")]
    Affine { scale: &'a [f32], shift: &'a [f32] },
    /// `x + other`, a matrix of the same shape.
    Add(Matrix<'a>),
    /// `x other`, a matrix of the same shape.
    Multiply(Matrix<'a>),
    /// `x scale`, with a scale for each column, the same for so many successive rows: squeeze-excitation, whose rows are an
    /// image's pixels.
    #[expect(missing_docs, reason = "the names say it")]
    Scale { scale: Matrix<'a>, rows_per_image: usize },
}

/// `y = activation(function(x))` for `[rows, columns]` values of `x`.
///
/// # Panics
/// When a slice is too short, the output's rows overlap, or an image has no rows.
pub fn elementwise(
    level: Level,
    pool: &Pool,
    [rows, columns]: [usize; 2],
    x: Matrix<'_>,
    function: Function<'_>,
    activation: Activation,
    output: MatrixMut<'_>,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(x.has(rows, columns), "x has fewer than {rows} rows of {columns}");
    output.check(rows, columns);
    let fits = match function {
        Function::Identity => true,
        Function::Affine { scale, shift } => scale.len() >= columns && shift.len() >= columns,
        Function::Add(other) | Function::Multiply(other) => other.has(rows, columns),
        Function::Scale { scale, rows_per_image } => scale.has(rows.div_ceil(rows_per_image), columns),
    };
    assert!(fits, "an operand is too short for {rows} rows of {columns}");
    let rows_a_task = (TASK_VALUES / columns).clamp(1, rows);
    let output_stride = output.stride;
    let output = Shares::new(output.values);
    pool.run(rows.div_ceil(rows_a_task), |task| {
        let first = task * rows_a_task;
        let rows = first..(first + rows_a_task).min(rows);
        level.run(ElementwiseTask { rows, columns, x, function, activation, output: &output, output_stride });
    });
}

/// A task: some rows.
struct ElementwiseTask<'a> {
    rows: std::ops::Range<usize>,
    columns: usize,
    x: Matrix<'a>,
    function: Function<'a>,
    activation: Activation,
    output: &'a Shares<'a>,
    output_stride: usize,
}

impl Kernel for ElementwiseTask<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [least, most] = self.activation.clamp().unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        // SAFETY: `elementwise` has checked the slices and that rows do not overlap; tasks have different rows.
        unsafe {
            let (least, most) = (S::splat(least), S::splat(most));
            for row in self.rows.clone() {
                let x = self.x.values.as_ptr().add(row * self.x.stride);
                let to = self.output.at(row * self.output_stride);
                let mut column = 0;
                while column < self.columns {
                    let lanes = self.columns - column;
                    let value = S::load_upto(x.add(column), lanes);
                    let of_row = |matrix: Matrix<'_>, row: usize| {
                        S::load_upto(matrix.values.as_ptr().add(row * matrix.stride + column), lanes)
                    };
                    let value = match self.function {
                        Function::Identity => value,
                        Function::Affine { scale, shift } => {
                            let shift = S::load_upto(shift.as_ptr().add(column), lanes);
                            S::mul_add(value, S::load_upto(scale.as_ptr().add(column), lanes), shift)
                        }
                        Function::Add(other) => S::add(value, of_row(other, row)),
                        Function::Multiply(other) => S::mul(value, of_row(other, row)),
                        Function::Scale { scale, rows_per_image } => {
                            S::mul(value, of_row(scale, row / rows_per_image))
                        }
                    };
                    S::store_upto(to.add(column), S::min(most, S::max(least, value)), lanes);
                    column += S::LANES;
                }
            }
            if self.activation.clamp().is_none() {
                let first = self.output.at(self.rows.start * self.output_stride);
                activate_rows::<S>(self.activation, first, self.rows.len(), self.columns, self.output_stride);
            }
        }
    }
}
