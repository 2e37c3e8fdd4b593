//! The gradients of what position biases are made of.

use engraft_engine::relative_position_index;
use engraft_graph::{Attention, PositionBias};

/// From the gradient of an attention's biases, `[heads, tokens, tokens]`, those of the tensors behind them, in the order of
/// [`position_tensors`](super::step::position_tensors). `tensor` gives a tensor of the module.
pub(crate) fn position_gradients<'a>(
    attention: &Attention,
    bias: &[f32],
    tensor: impl Fn(&str) -> &'a [f32],
) -> Vec<Vec<f32>> {
    let heads = attention.heads;
    let window = match attention.position {
        PositionBias::None => return Vec::new(),
        PositionBias::Table { window, .. } | PositionBias::Network { window } => window,
    };
    // Of the biases of each distance, `[distances, heads]`.
    let index = relative_position_index(window);
    let mut table = vec![0.0_f64; (2 * window - 1).pow(2) * heads];
    for (head, biases) in bias.chunks(index.len()).enumerate() {
        for (entry, gradient) in index.iter().zip(biases) {
            table[*entry as usize * heads + head] += f64::from(*gradient);
        }
    }
    let floats = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    if let PositionBias::Table { .. } = attention.position {
        return vec![floats(table)];
    }
    // Sixteen times the sigmoid of a network of one hidden layer, of the distance on a logarithmic scale.
    let [coordinates, weight, hidden_bias, out] =
        ["relative_coords_table", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight"].map(tensor);
    let units = hidden_bias.len();
    let mut gradients = [vec![0.0_f64; 2 * units], vec![0.0; units], vec![0.0; heads * units]];
    let [of_weight, of_bias, of_out] = &mut gradients;
    for (place, table) in coordinates.chunks(2).zip(table.chunks(heads)) {
        let place = [0, 1].map(|axis| f64::from(place[axis]));
        let unit = |unit: usize| {
            let sum = f64::from(weight[2 * unit]) * place[0] + f64::from(weight[2 * unit + 1]) * place[1];
            (sum + f64::from(hidden_bias[unit])).max(0.0)
        };
        let hidden: Vec<f64> = (0..units).map(unit).collect();
        let mut of_hidden = vec![0.0; units];
        for (head, gradient) in table.iter().enumerate() {
            let weights = &out[head * units..][..units];
            let sum: f64 = hidden.iter().zip(weights).map(|(x, weight)| x * f64::from(*weight)).sum();
            let sigmoid = 1.0 / (1.0 + (-sum).exp());
            let gradient = gradient * 16.0 * sigmoid * (1.0 - sigmoid);
            for unit in 0..units {
                of_out[head * units + unit] += gradient * hidden[unit];
                of_hidden[unit] += gradient * f64::from(weights[unit]);
            }
        }
        for unit in (0..units).filter(|unit| hidden[*unit] > 0.0) {
            of_bias[unit] += of_hidden[unit];
            (0..2).for_each(|axis| of_weight[2 * unit + axis] += of_hidden[unit] * place[axis]);
        }
    }
    gradients.map(floats).into()
}
