//! Self-attention, with the windows and position biases of Swin and MaxViT.

use burn_tensor::module::linear;
use burn_tensor::{Device, Int, Tensor, TensorData, activation};
use engraft_engine::relative_position_index;
use engraft_graph::{Attention, PositionBias, Scores, Windows};

use crate::value::{Rank, Value, pad_to};

/// Gives a tensor of the attention module by its name within it.
type Parameters<'a> = dyn FnMut(&str) -> Tensor<1> + 'a;

/// The attention of `[.., tokens, dim]`, or with windows of `[batch, height, width, dim]`; the output has the input's shape.
pub(crate) fn attention(op: &Attention, x: Value, parameters: &mut Parameters<'_>) -> Value {
    let shape = x.shape();
    match op.windows {
        None => {
            let [.., tokens, dim] = shape[..] else {
                unreachable!("shape inference admits rank 3 and 4 only")
            };
            let groups = shape.iter().product::<usize>() / (tokens * dim);
            let x = x.reshape(&[groups, tokens, dim]).tensor();
            Value::R3(attend(op, x, None, parameters)).reshape(&shape)
        }
        Some(windows) => in_windows(op, windows, x.tensor(), parameters).into(),
    }
}

/// Within each group of tokens: `[groups, tokens, dim]`. The mask, `[windows, tokens, tokens]`, belongs to `windows` successive
/// groups.
fn attend(
    op: &Attention,
    x: Tensor<3>,
    mask: Option<Tensor<3>>,
    parameters: &mut Parameters<'_>,
) -> Tensor<3> {
    let [groups, tokens, dim] = x.dims();
    let (heads, width) = (op.heads, op.dim / op.heads);
    let device = x.device();
    let [to_qkv, out] = op.projections();
    let mut bias = parameters(&format!("{to_qkv}bias"));
    if op.scores == Scores::Cosine {
        // Swin V2's keys have no bias, though its files have one.
        let ones = Tensor::<1>::ones([dim], &device);
        bias = bias * Tensor::cat(vec![ones.clone(), ones.zeros_like(), ones], 0);
    }
    let weight = parameters(&format!("{to_qkv}weight")).reshape([3 * dim, dim]).transpose();
    let qkv =
        linear(x, weight, Some(bias)).reshape([groups, tokens, 3, heads, width]).permute([2, 0, 3, 1, 4]);
    let part = |index: usize| qkv.clone().narrow(0, index, 1).reshape([groups, heads, tokens, width]);
    let (query, key, value) = (part(0), part(1), part(2));

    let mut scores: Tensor<4> = match op.scores {
        Scores::Product { scale } => (query * scale).matmul(key.transpose()),
        Scores::Cosine => {
            let scale = parameters("logit_scale").clamp_max(100.0_f64.ln()).exp();
            unit(query).matmul(unit(key).transpose()) * scale.reshape([1, heads, 1, 1])
        }
    };
    if let Some(bias) = position_bias(op, &device, parameters) {
        scores = scores + bias;
    }
    if let Some(mask) = mask {
        let [windows, ..] = mask.dims();
        let by_window: Tensor<5> = scores.reshape([groups / windows, windows, heads, tokens, tokens]);
        let masked = by_window + mask.reshape([1, windows, 1, tokens, tokens]);
        scores = masked.reshape([groups, heads, tokens, tokens]);
    }
    let attended: Tensor<4> = activation::softmax(scores, 3).matmul(value);
    let attended = attended.permute([0, 2, 1, 3]).reshape([groups, tokens, dim]);
    let weight = parameters(&format!("{out}weight")).reshape([dim, dim]).transpose();
    linear(attended, weight, Some(parameters(&format!("{out}bias"))))
}

/// Vectors of length one, as `torch.nn.functional.normalize`; those of length zero, as the keys of padding have it, stay. The clamp
/// comes before the root, whose slope at zero is infinite.
fn unit(x: Tensor<4>) -> Tensor<4> {
    let length = x.clone().square().sum_dim(3).clamp_min(1e-24).sqrt();
    x / length
}

/// What is added to the scores: `[1, heads, tokens, tokens]`.
fn position_bias(op: &Attention, device: &Device, parameters: &mut Parameters<'_>) -> Option<Tensor<4>> {
    let (window, table) = match op.position {
        PositionBias::None => return None,
        PositionBias::Table { window, .. } => {
            let distances = (2 * window - 1).pow(2);
            (window, parameters("relative_position_bias_table").reshape([distances, op.heads]))
        }
        PositionBias::Network { window } => {
            let distances = (2 * window - 1).pow(2);
            let coordinates = parameters("relative_coords_table").reshape([distances, 2]);
            let bias = parameters("cpb_mlp.0.bias");
            let [units] = bias.dims();
            let weight = parameters("cpb_mlp.0.weight").reshape([units, 2]).transpose();
            let hidden = activation::relu(linear(coordinates, weight, Some(bias)));
            let weight = parameters("cpb_mlp.2.weight").reshape([op.heads, units]).transpose();
            (window, linear(hidden, weight, None))
        }
    };
    let tokens = window * window;
    let index = TensorData::new(relative_position_index(window), [tokens * tokens]);
    let bias = table.select(0, Tensor::<1, Int>::from_data(index, device));
    let bias: Tensor<4> = bias.reshape([1, tokens, tokens, op.heads]).permute([0, 3, 1, 2]);
    Some(match op.position {
        PositionBias::Network { .. } => activation::sigmoid(bias) * 16.0,
        _ => bias,
    })
}

/// Attention within shifted windows (`torchvision/models/swin_transformer.py`, `shifted_window_attention`).
fn in_windows(op: &Attention, windows: Windows, x: Tensor<4>, parameters: &mut Parameters<'_>) -> Tensor<4> {
    let [batch, height, width, dim] = x.dims();
    let side = windows.side;
    let device = x.device();
    let (padded_height, padded_width) = (height.next_multiple_of(side), width.next_multiple_of(side));
    let x = pad_to(pad_to(x, 1, padded_height), 2, padded_width);
    let shift = [padded_height, padded_width].map(|size| if size > side { windows.shift } else { 0 });
    let rolled = shift != [0, 0];
    let back = shift.map(|shift| shift as isize);
    let x = if rolled { x.roll(&back.map(|shift| -shift), &[1, 2]) } else { x };
    let (down, across) = (padded_height / side, padded_width / side);
    let parts: Tensor<6> = x.reshape([batch, down, side, across, side, dim]);
    let x = parts.permute([0, 1, 3, 2, 4, 5]).reshape([batch * down * across, side * side, dim]);
    let mask = rolled.then(|| {
        let mask = shift_mask([padded_height, padded_width], side, shift);
        Tensor::<3>::from_data(TensorData::new(mask, [down * across, side * side, side * side]), &device)
    });
    let x = attend(op, x, mask, parameters);
    let parts: Tensor<6> = x.reshape([batch, down, across, side, side, dim]);
    let x: Tensor<4> = parts.permute([0, 1, 3, 2, 4, 5]).reshape([batch, padded_height, padded_width, dim]);
    let x = if rolled { x.roll(&back, &[1, 2]) } else { x };
    x.narrow(1, 0, height).narrow(2, 0, width)
}

/// Minus 100 for two tokens of a window that the shift brought together from opposite ends of the image, otherwise 0:
/// `[windows, tokens, tokens]`.
fn shift_mask([height, width]: [usize; 2], side: usize, shift: [usize; 2]) -> Vec<f32> {
    // The regions of an axis: what stays, the last window's part before the seam, and behind it.
    let region = |place: usize, size: usize, shift: usize| match place {
        _ if place < size - side => 0,
        _ if shift == 0 || place < size - shift => 1,
        _ => 2,
    };
    let mut mask = Vec::with_capacity(height * width * side * side);
    for top in (0..height).step_by(side) {
        for left in (0..width).step_by(side) {
            let places = (0..side * side).map(|token| {
                let (y, x) = (top + token / side, left + token % side);
                (region(y, height, shift[0]), region(x, width, shift[1]))
            });
            let regions: Vec<_> = places.collect();
            for a in &regions {
                mask.extend(regions.iter().map(|b| if a == b { 0.0 } else { -100.0 }));
            }
        }
    }
    mask
}
