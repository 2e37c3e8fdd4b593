//! Embeddings of positions for images of another size than a Vision Transformer was trained on.

use engraft_graph::TensorSpec;
use engraft_tensor::{StateDict, Tensor};

/// Interpolates the `pos_embedding` of a Vision Transformer, `[1, 1 + side * side, dim]` with the class token first, to as many patches as
/// the network of these `specs` has: bicubic, corners on corners (`torchvision/models/vision_transformer.py`, `interpolate_embeddings`).
///
/// Says what was done, as in `the position embeddings were interpolated from 14x14 to 24x24 patches`; `None` if there was nothing to do,
/// or what is there cannot be interpolated, which [`match_state`](crate::match_state) will then refuse.
pub fn interpolate_positions(dict: &mut StateDict, specs: &[TensorSpec]) -> Option<String> {
    let spec = specs.iter().find(|spec| spec.name.rsplit('.').next() == Some("pos_embedding"))?;
    let tensor = dict.get_mut(&spec.name)?;
    let (from, dim) = grid(&tensor.shape)?;
    let (to, needed) = grid(&spec.shape)?;
    if from == to || dim != needed {
        return None;
    }
    *tensor = Tensor::f32(spec.shape.clone(), interpolate(tensor.as_f32()?, [from, to], dim));
    Some(format!("the position embeddings were interpolated from {from}x{from} to {to}x{to} patches"))
}

/// The side of the grid of patches, and the size of an embedding.
fn grid(shape: &[usize]) -> Option<(usize, usize)> {
    let [1, tokens, dim] = *shape else { return None };
    let side = tokens.checked_sub(1)?.isqrt();
    (side > 0 && dim > 0 && side * side + 1 == tokens).then_some((side, dim))
}

fn interpolate(values: &[f32], [from, to]: [usize; 2], dim: usize) -> Vec<f32> {
    let (class_token, patches) = values.split_at(dim);
    let patch = |y: usize, x: usize| &patches[(y * from + x) * dim..][..dim];
    let mut interpolated = class_token.to_vec();
    let taps: Vec<_> = (0..to).map(|place| taps(place, from, to)).collect();
    for down in &taps {
        for across in &taps {
            let mut sum = vec![0.0; dim];
            for (y, of_row) in down {
                for (x, of_column) in across {
                    let weight = of_row * of_column;
                    let pairs = sum.iter_mut().zip(patch(*y, *x));
                    pairs.for_each(|(sum, value)| *sum += weight * f64::from(*value));
                }
            }
            interpolated.extend(sum.into_iter().map(|sum| sum as f32));
        }
    }
    interpolated
}

/// From which four of `from` places, by which weights, one of `to` places is interpolated: cubic convolution (Keys 1981) with PyTorch's
/// slope of -0.75. Beyond the border the outermost place counts.
fn taps(place: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    const SLOPE: f64 = -0.75;
    let last = from - 1;
    let source = (place * last) as f64 / (to - 1).max(1) as f64;
    let whole = source as usize;
    let part = source - whole as f64;
    let near = |x: f64| ((SLOPE + 2.0) * x - (SLOPE + 3.0)) * x * x + 1.0;
    let far = |x: f64| SLOPE * (((x - 5.0) * x + 8.0) * x - 4.0);
    [
        (whole.saturating_sub(1), far(1.0 + part)),
        (whole, near(part)),
        ((whole + 1).min(last), near(1.0 - part)),
        ((whole + 2).min(last), far(2.0 - part)),
    ]
}
