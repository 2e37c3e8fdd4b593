//! Operations that read their inputs by strides, whatever these are: rare ones, and broadcasts.

use engraft_graph::Op;
use engraft_kernels::{Pool, strided_copy};

use crate::view::View;

/// A tensor in a slice that begins with its first value.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) view: &'a View,
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

/// Copies values to another place; both views have the same shape.
pub(crate) fn copy(pool: &Pool, input: Operand<'_>, output: &mut [f32], to: &View) {
    // In the order in which the output lies, wherever its batch is.
    let mut order: Vec<usize> = (0..to.shape.len()).collect();
    order.sort_by_key(|axis| std::cmp::Reverse(to.strides[*axis]));
    let (to, from) = (to.permuted(&order), input.view.permuted(&order));
    strided_copy(pool, &to.shape, (input.values, &from.strides), (output, &to.strides));
}

/// Computes an operation that has no kernel of its own.
pub(crate) fn compute(pool: &Pool, op: &Op, inputs: &[Operand<'_>], output: &mut [f32], to: &View) {
    match op {
        Op::Add => combine(inputs, output, to, |a, b| a + b),
        Op::Mul => combine(inputs, output, to, |a, b| a * b),
        Op::MatMul => matmul(inputs, output, to),
        Op::Softmax { axis } => softmax(inputs[0], *axis, output, to),
        Op::Mean { axes } => mean(inputs[0], axes, output, to),
        Op::PadToMultiple { .. } => {
            for_each(&to.shape, [&to.strides], |[to]| output[to] = 0.0);
            let inner = View { shape: inputs[0].view.shape.clone(), ..to.clone() };
            copy(pool, inputs[0], output, &inner);
        }
        Op::Roll { shifts, axes } => roll(inputs[0], shifts, axes, output, to),
        other => unreachable!("{} has a kernel, or moves nothing", other.name()),
    }
}

fn combine(inputs: &[Operand<'_>], output: &mut [f32], to: &View, f: impl Fn(f32, f32) -> f32) {
    let order = to.order();
    let to = to.permuted(&order);
    let [a, b] = [inputs[0], inputs[1]].map(|x| (x.values, ordered_broadcast(x.view, &to, &order)));
    for_each(&to.shape, [&a.1, &b.1, &to.strides], |[i, j, to]| output[to] = f(a.0[i], b.0[j]));
}

/// The strides of an operand that is broadcast to the output, in the output's order.
fn ordered_broadcast(view: &View, ordered: &View, order: &[usize]) -> Vec<usize> {
    let mut shape = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, axis)| shape[*axis] = ordered.shape[i]);
    view.broadcast(&shape).permuted(order).strides
}

fn matmul(inputs: &[Operand<'_>], output: &mut [f32], to: &View) {
    let (a, b) = (inputs[0], inputs[1]);
    let axes = to.shape.len();
    let inner = a.view.shape[axes - 1];
    let (row, column) = (axes - 2, axes - 1);
    // The sum runs along `a`'s last axis and `b`'s last but one; neither is an axis of the output.
    let mut strides_a = a.view.strides.clone();
    strides_a[column] = 0;
    let mut strides_b = b.view.strides.clone();
    strides_b[row] = 0;
    let (step_a, step_b) = (a.view.strides[column], b.view.strides[row]);
    for_each(&to.shape, [&strides_a, &strides_b, &to.strides], |[i, j, to]| {
        let term = |k| a.values[i + k * step_a] * b.values[j + k * step_b];
        output[to] = (0..inner).map(term).sum();
    });
}

fn softmax(x: Operand<'_>, axis: usize, output: &mut [f32], to: &View) {
    let mut shape = to.shape.clone();
    let size = std::mem::replace(&mut shape[axis], 1);
    let (step, step_to) = (x.view.strides[axis], to.strides[axis]);
    for_each(&shape, [&x.view.strides, &to.strides], |[from, to]| {
        let at = |i| x.values[from + i * step];
        let largest = (0..size).map(at).fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = (0..size).map(|i| (at(i) - largest).exp()).sum();
        for i in 0..size {
            output[to + i * step_to] = (at(i) - largest).exp() / sum;
        }
    });
}

fn mean(x: Operand<'_>, axes: &[usize], output: &mut [f32], to: &View) {
    let shape = &x.view.shape;
    let count: usize = axes.iter().map(|axis| shape[*axis]).product();
    let mut strides = vec![0; shape.len()];
    let kept = (0..shape.len()).filter(|axis| !axes.contains(axis));
    kept.zip(&to.strides).for_each(|(axis, stride)| strides[axis] = *stride);
    for_each(&to.shape, [&to.strides], |[to]| output[to] = 0.0);
    for_each(shape, [&x.view.strides, &strides], |[from, to]| output[to] += x.values[from]);
    for_each(&to.shape, [&to.strides], |[to]| output[to] /= count as f32);
}

fn roll(x: Operand<'_>, shifts: &[isize], axes: &[usize], output: &mut [f32], to: &View) {
    let shape = &to.shape;
    let mut index = vec![0; shape.len()];
    for_each(shape, [&to.strides], |[to]| {
        let mut from = 0;
        for (axis, size) in shape.iter().enumerate() {
            let shift = axes.iter().position(|rolled| *rolled == axis).map_or(0, |i| shifts[i]);
            let place = (index[axis] as isize - shift).rem_euclid(*size as isize) as usize;
            from += place * x.view.strides[axis];
        }
        output[to] = x.values[from];
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    });
}
