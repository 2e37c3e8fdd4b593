//! One update of one parameter, step by step as `torch/optim/{sgd,adam,adamw}.py` compute it.

use burn_tensor::Tensor;
use engraft_engine::{Rate, Rule};

/// Moves `value` against `gradient` and keeps the [moments](Rule::moments); `updates` is the number of this update, from 1.
pub(crate) fn update(
    rule: Rule,
    rate: Rate,
    updates: u64,
    value: &mut Tensor<1>,
    gradient: Tensor<1>,
    moments: &mut [Tensor<1>],
) {
    let Rate { learning_rate, weight_decay } = rate;
    let decoupled = matches!(rule, Rule::AdamW { .. });
    let gradient = match weight_decay {
        0.0 => gradient,
        _ if decoupled => {
            value.inplace(|value| value * (1.0 - learning_rate * weight_decay));
            gradient
        }
        _ => gradient + value.clone() * weight_decay,
    };
    let step = match (rule, moments) {
        (Rule::Sgd { momentum, nesterov }, [velocity]) => {
            velocity.inplace(|velocity| velocity * momentum + gradient.clone());
            match nesterov {
                true => gradient + velocity.clone() * momentum,
                false => velocity.clone(),
            }
        }
        (Rule::Adam { betas, eps } | Rule::AdamW { betas, eps }, [mean, square]) => {
            mean.inplace(|mean| mean * betas[0] + gradient.clone() * (1.0 - betas[0]));
            square.inplace(|square| square * betas[1] + gradient.square() * (1.0 - betas[1]));
            let updates = updates as f64;
            let scale = (1.0 - betas[1].powf(updates)).sqrt();
            mean.clone() / (1.0 - betas[0].powf(updates)) / (square.clone().sqrt() / scale + eps)
        }
        // Without a memory it is plain descent.
        (_, _) => gradient,
    };
    value.inplace(|value| value - step * learning_rate);
}
