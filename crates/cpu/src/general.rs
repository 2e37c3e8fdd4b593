//! Operations that have no kernel of their own: they read their inputs by strides, whatever these are.

use engraft_graph::{Op, Resize, ResizeMode};
use engraft_kernels::{Epilogue, Level, Matrix, PackedMatrix, Pool, Prologue, gemm, strided_copy};

use crate::call::Strided;
use crate::program::Combine;
use crate::view::View;

/// An operation that has no kernel of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum General {
    Add,
    Multiply,
    MatMul,
    Softmax {
        axis: usize,
    },
    Mean {
        axes: Vec<usize>,
    },
    /// Zeros behind the input's values, up to the output's shape.
    Pad,
    Roll {
        shifts: Vec<isize>,
        axes: Vec<usize>,
    },
    Resize(Resize),
    /// From the gradient of what a resize gives to that of its input.
    ResizeGradient(Resize),
}

/// A tensor in a slice that begins with its first value.
pub(crate) struct Operand<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) view: View,
}

/// As [`Operand`], to be written.
pub(crate) struct Target<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) view: View,
}

impl General {
    /// An operation of a graph, if it is one of these.
    pub(crate) fn of(op: &Op) -> Option<General> {
        match op {
            Op::MatMul => Some(General::MatMul),
            Op::Softmax { axis } => Some(General::Softmax { axis: *axis }),
            Op::Mean { axes } => Some(General::Mean { axes: axes.clone() }),
            Op::PadToMultiple { .. } => Some(General::Pad),
            Op::Roll { shifts, axes } => Some(General::Roll { shifts: shifts.clone(), axes: axes.clone() }),
            Op::Resize(resize) => Some(General::Resize(resize.clone())),
            _ => None,
        }
    }

    /// Of values that are broadcast.
    pub(crate) fn of_combine(by: Combine) -> General {
        match by {
            Combine::Add => General::Add,
            Combine::Multiply => General::Multiply,
        }
    }

    /// What it is called in a profile.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            General::Add => "sum, broadcast",
            General::Multiply => "product of values, broadcast",
            General::MatMul => "matrix product",
            General::Softmax { .. } => "softmax",
            General::Mean { .. } => "mean",
            General::Pad => "padding",
            General::Roll { .. } => "roll",
            General::Resize(_) => "resize",
            General::ResizeGradient(_) => "resize gradient",
        }
    }

    /// Multiplications followed by additions for an image.
    pub(crate) fn multiply_adds(&self, inputs: &[Strided], to: &Strided) -> usize {
        match (self, inputs) {
            (General::MatMul, [a, ..]) => to.view.len() * a.view.shape.last().copied().unwrap_or(0),
            _ => 0,
        }
    }

    /// Computes it. There are as many inputs as the operation has [`operands`](Op::operands) in the graph.
    pub(crate) fn compute(&self, level: Level, pool: &Pool, inputs: &[Operand<'_>], to: Target<'_>) {
        match (self, inputs) {
            (General::Add, [a, b]) => combine([a, b], to, |a, b| a + b),
            (General::Multiply, [a, b]) => combine([a, b], to, |a, b| a * b),
            (General::MatMul, [a, b]) => matmul(level, pool, a, b, to),
            (General::Softmax { axis }, [x]) => softmax(x, *axis, to),
            (General::Mean { axes }, [x]) => mean(x, axes, to),
            (General::Pad, [x]) => pad(pool, x, to),
            (General::Roll { shifts, axes }, [x]) => roll(x, shifts, axes, to),
            (General::Resize(how), [x]) => resize(x, how, to),
            (General::ResizeGradient(how), [dy]) => resize_gradient(dy, how, to),
            _ => debug_assert!(false, "{} of {} values", self.name(), inputs.len()),
        }
    }
}

/// Calls `visit` with the places of all values of a shape within tensors of these strides, in the order of `shape`'s axes.
pub(crate) fn for_each<const N: usize>(
    shape: &[usize],
    strides: [&[usize]; N],
    mut visit: impl FnMut([usize; N]),
) {
    let Some((&size, outer)) = shape.split_last() else {
        visit([0; N]);
        return;
    };
    let axes = outer.len();
    let mut index = vec![0; axes];
    let mut begin = [0; N];
    'rows: loop {
        let mut places = begin;
        for _ in 0..size {
            visit(places);
            places.iter_mut().zip(&strides).for_each(|(place, strides)| *place += strides[axes]);
        }
        for axis in (0..axes).rev() {
            index[axis] += 1;
            begin.iter_mut().zip(&strides).for_each(|(begin, strides)| *begin += strides[axis]);
            if index[axis] < shape[axis] {
                continue 'rows;
            }
            index[axis] = 0;
            begin.iter_mut().zip(&strides).for_each(|(begin, strides)| *begin -= shape[axis] * strides[axis]);
        }
        return;
    }
}

/// Copies values to another place; the input is broadcast to the output's shape.
pub(crate) fn copy(pool: &Pool, input: &Operand<'_>, to: Target<'_>) {
    let from = input.view.broadcast(&to.view.shape);
    // In the order in which the output lies, wherever its batch is.
    let mut order: Vec<usize> = (0..to.view.shape.len()).collect();
    order.sort_by_key(|axis| std::cmp::Reverse(to.view.strides[*axis]));
    let (view, from) = (to.view.permuted(&order), from.permuted(&order));
    strided_copy(pool, &view.shape, (input.values, &from.strides), (to.values, &view.strides));
}

fn combine(inputs: [&Operand<'_>; 2], to: Target<'_>, f: impl Fn(f32, f32) -> f32) {
    let order = to.view.order();
    let view = to.view.permuted(&order);
    let [a, b] = inputs.map(|x| (x.values, x.view.broadcast(&to.view.shape).permuted(&order).strides));
    for_each(&view.shape, [&a.1, &b.1, &view.strides], |[i, j, at]| to.values[at] = f(a.0[i], b.0[j]));
}

/// Over the last two axes, a matrix of the axes before them after the other.
fn matmul(level: Level, pool: &Pool, a: &Operand<'_>, b: &Operand<'_>, to: Target<'_>) {
    let outer = to.view.shape.len() - 2;
    let [m, n] = [to.view.shape[outer], to.view.shape[outer + 1]];
    let k = a.view.shape[outer + 1];
    let [strides_a, strides_b, strides_to] = [&a.view.strides, &b.view.strides, &to.view.strides];
    let [mut rows, mut result] = [m * k, m * n].map(|values| vec![0.0; values]);
    for_each(
        &to.view.shape[..outer],
        [&strides_a[..outer], &strides_b[..outer], &strides_to[..outer]],
        |[from_a, from_b, at]| {
            let of_b = |row: usize, column: usize| {
                b.values[from_b + row * strides_b[outer] + column * strides_b[outer + 1]]
            };
            let b = PackedMatrix::new(level, k, n, of_b);
            for (i, value) in rows.iter_mut().enumerate() {
                let (row, column) = (i / k, i % k);
                *value = a.values[from_a + row * strides_a[outer] + column * strides_a[outer + 1]];
            }
            let a = Matrix { values: &rows, stride: k };
            gemm(pool, m, a, Prologue::None, &b, Epilogue::default(), &mut result, n);
            for (i, value) in result.iter().enumerate() {
                let (row, column) = (i / n, i % n);
                to.values[at + row * strides_to[outer] + column * strides_to[outer + 1]] = *value;
            }
        },
    );
}

fn softmax(x: &Operand<'_>, axis: usize, to: Target<'_>) {
    let mut shape = to.view.shape.clone();
    let size = std::mem::replace(&mut shape[axis], 1);
    let (step, step_to) = (x.view.strides[axis], to.view.strides[axis]);
    for_each(&shape, [&x.view.strides, &to.view.strides], |[from, at]| {
        let value = |i| x.values[from + i * step];
        let largest = (0..size).map(value).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = (0..size).map(|i| (value(i) - largest).exp()).sum();
        for i in 0..size {
            to.values[at + i * step_to] = (value(i) - largest).exp() / sum;
        }
    });
}

fn mean(x: &Operand<'_>, axes: &[usize], to: Target<'_>) {
    let shape = &x.view.shape;
    let count: usize = axes.iter().map(|axis| shape[*axis]).product();
    let mut strides = vec![0; shape.len()];
    let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
    kept.zip(&to.view.strides).for_each(|(axis, stride)| strides[axis] = *stride);
    for_each(&to.view.shape, [&to.view.strides], |[at]| to.values[at] = 0.0);
    for_each(shape, [&x.view.strides, &strides], |[from, at]| to.values[at] += x.values[from]);
    for_each(&to.view.shape, [&to.view.strides], |[at]| to.values[at] /= count as f32);
}

fn pad(pool: &Pool, x: &Operand<'_>, to: Target<'_>) {
    for_each(&to.view.shape, [&to.view.strides], |[at]| to.values[at] = 0.0);
    let inner = View { shape: x.view.shape.clone(), ..to.view };
    copy(pool, x, Target { values: to.values, view: inner });
}

fn roll(x: &Operand<'_>, shifts: &[isize], axes: &[usize], to: Target<'_>) {
    let shape = &to.view.shape;
    let mut index = vec![0; shape.len()];
    for_each(shape, [&to.view.strides], |[at]| {
        let mut from = 0;
        for (axis, size) in shape.iter().enumerate() {
            let shift = axes.iter().position(|rolled| *rolled == axis).map_or(0, |i| shifts[i]);
            let place = (index[axis] as isize - shift).rem_euclid(*size as isize) as usize;
            from += place * x.view.strides[axis];
        }
        to.values[at] = x.values[from];
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    });
}

/// Pixel by pixel, whose channels lie side by side in all but odd cases.
fn resize(x: &Operand<'_>, how: &Resize, to: Target<'_>) {
    let (View { shape, strides, .. }, from) = (&to.view, &x.view);
    let [rows, columns] = [0, 1].map(|axis| how.places(axis, from.shape[2 + axis], shape[2 + axis]));
    let channels = shape[1];
    let side_by_side = [strides[1], from.strides[1]] == [1, 1];
    for image in 0..shape[0] {
        for (y, row) in rows.iter().enumerate() {
            for (x_, column) in columns.iter().enumerate() {
                let blend = |[a, b, c, d]: [f32; 4]| match how.mode {
                    ResizeMode::Nearest => a,
                    ResizeMode::Bilinear { .. } => {
                        let [above, below] = [[a, b], [c, d]].map(|[a, b]| a + (b - a) * column.share);
                        above + (below - above) * row.share
                    }
                };
                let corners = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(i, j)| {
                    let place = row.places[i] * from.strides[2] + column.places[j] * from.strides[3];
                    &x.values[image * from.strides[0] + place..]
                });
                let output = &mut to.values[image * strides[0] + y * strides[2] + x_ * strides[3]..];
                if side_by_side {
                    let [a, b, c, d] = corners.map(|corner| &corner[..channels]);
                    for (channel, value) in output[..channels].iter_mut().enumerate() {
                        *value = blend([a[channel], b[channel], c[channel], d[channel]]);
                    }
                } else {
                    for channel in 0..channels {
                        output[channel * strides[1]] =
                            blend(corners.map(|corner| corner[channel * from.strides[1]]));
                    }
                }
            }
        }
    }
}

/// Each pixel's gradient goes to the pixels that it was made of, by their shares.
fn resize_gradient(dy: &Operand<'_>, how: &Resize, to: Target<'_>) {
    let (from, View { shape, strides, .. }) = (&dy.view, &to.view);
    for_each(shape, [strides], |[at]| to.values[at] = 0.0);
    let [rows, columns] = [0, 1].map(|axis| how.places(axis, shape[2 + axis], from.shape[2 + axis]));
    for image in 0..shape[0] {
        for (y, row) in rows.iter().enumerate() {
            for (x, column) in columns.iter().enumerate() {
                let first = image * from.strides[0] + y * from.strides[2] + x * from.strides[3];
                for (i, down) in [1.0 - row.share, row.share].into_iter().enumerate() {
                    for (j, across) in [1.0 - column.share, column.share].into_iter().enumerate() {
                        let share = down * across;
                        if share == 0.0 {
                            continue;
                        }
                        let pixel = row.places[i] * strides[2] + column.places[j] * strides[3];
                        let at = image * strides[0] + pixel;
                        for channel in 0..shape[1] {
                            let gradient = dy.values[first + channel * from.strides[1]];
                            to.values[at + channel * strides[1]] += share * gradient;
                        }
                    }
                }
            }
        }
    }
}
