//! Values from one layout to another.

use crate::shares::Shares;
use crate::{MapsMut, Pool};

/// Pixels of a task.
const TASK_PIXELS: usize = 4 << 10;

/// Copies `[batch, channels, height, width]` to maps, whose channels lie last.
///
/// # Panics
/// When a slice is too short.
pub fn to_channels_last(pool: &Pool, input: &[f32], output: MapsMut<'_>) {
    output.check();
    let (shape, stride) = (output.shape, output.stride);
    let pixels = shape.height * shape.width;
    if shape.pixels() * shape.channels == 0 {
        return;
    }
    assert!(input.len() >= shape.pixels() * shape.channels, "the input is too short for {shape:?}");
    let parts = pixels.div_ceil(TASK_PIXELS);
    let values = Shares::new(output.values);
    pool.run(shape.batch * parts, |task| {
        let (image, first) = (task / parts, task % parts * TASK_PIXELS);
        let count = TASK_PIXELS.min(pixels - first);
        let channel = |c: usize| &input[(image * shape.channels + c) * pixels + first..][..count];
        // SAFETY: the slices are long enough; tasks have different pixels.
        let to = unsafe { values.at((image * pixels + first) * stride) };
        if let 3 = shape.channels {
            let [r, g, b] = [0, 1, 2].map(channel);
            for (pixel, ((r, g), b)) in r.iter().zip(g).zip(b).enumerate() {
                // SAFETY: as above.
                unsafe { to.add(pixel * stride).cast::<[f32; 3]>().write_unaligned([*r, *g, *b]) };
            }
            return;
        }
        for c in 0..shape.channels {
            for (pixel, value) in channel(c).iter().enumerate() {
                // SAFETY: as above.
                unsafe { to.add(pixel * stride + c).write(*value) };
            }
        }
    });
}

/// Values of a task of [`strided_copy`], so that handing it out costs little beside it.
const TASK_VALUES: usize = 16 << 10;

/// Copies a tensor to other strides, which are given in the order of `shape`'s axes; `to`'s are those of the outermost axis first.
///
/// # Panics
/// When a slice is too short, there is not one stride for each axis, or an axis of `to` lies within a later one.
pub fn strided_copy(
    pool: &Pool,
    shape: &[usize],
    (from, from_strides): (&[f32], &[usize]),
    (to, to_strides): (&mut [f32], &[usize]),
) {
    assert!(shape.len() == from_strides.len() && shape.len() == to_strides.len(), "a stride for each axis");
    if shape.contains(&0) {
        return;
    }
    // The last place of the axes from one on; none if that is no number.
    let reach = |strides: &[usize], first: usize| {
        let mut axes = shape.iter().zip(strides).skip(first);
        axes.try_fold(0_usize, |reach, (size, stride)| reach.checked_add((size - 1).checked_mul(*stride)?))
    };
    let within = |strides: &[usize], len: usize| reach(strides, 0).is_some_and(|last| last < len);
    assert!(within(from_strides, from.len()) && within(to_strides, to.len()), "a slice is too short");
    for (axis, size) in shape.iter().enumerate() {
        let apart = reach(to_strides, axis + 1).is_some_and(|inner| to_strides[axis] > inner);
        assert!(*size == 1 || apart, "places are written twice");
    }
    // The two innermost axes are a block; an axis of one place stands for those that there are not.
    let axis = |strides: &[usize], place: usize| {
        shape.len().checked_sub(place).map_or((1, 0), |axis| (shape[axis], strides[axis]))
    };
    let [(rows, from_row), (columns, from_column)] = [axis(from_strides, 2), axis(from_strides, 1)];
    let [to_row, to_column] = [axis(to_strides, 2).1, axis(to_strides, 1).1];
    let outer = shape.len().saturating_sub(2);
    let blocks: usize = shape[..outer].iter().product();
    let blocks_a_task = (TASK_VALUES / (rows * columns)).clamp(1, blocks);
    let to = Shares::new(to);
    pool.run(blocks.div_ceil(blocks_a_task), |task| {
        for block in task * blocks_a_task..((task + 1) * blocks_a_task).min(blocks) {
            let (mut rest, mut first, mut first_to) = (block, 0, 0);
            for axis in (0..outer).rev() {
                first += rest % shape[axis] * from_strides[axis];
                first_to += rest % shape[axis] * to_strides[axis];
                rest /= shape[axis];
            }
            for row in 0..rows {
                let from = from[first + row * from_row..].as_ptr();
                // SAFETY: the slices reach to the last value of all, and blocks have different places, as was checked above.
                unsafe {
                    let to = to.at(first_to + row * to_row);
                    if from_column == 1 && to_column == 1 {
                        to.copy_from_nonoverlapping(from, columns);
                    } else {
                        for column in 0..columns {
                            to.add(column * to_column).write(*from.add(column * from_column));
                        }
                    }
                }
            }
        }
    });
}
