//! Images from PyTorch's layout to ours.

use crate::pool::Shares;
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
    assert!(input.len() >= shape.pixels() * shape.channels, "the input is too short for {shape:?}");
    let parts = pixels.div_ceil(TASK_PIXELS).max(1);
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
