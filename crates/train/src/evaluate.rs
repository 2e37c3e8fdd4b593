//! How good a network is on labelled examples.

use engraft_engine::Network;

use crate::{ExampleBatch, Examples, Order, TrainError};

/// Loss and accuracy over a set of examples.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// Mean cross entropy.
    pub loss: f64,
    /// Share of examples whose most probable class is the right one, 0 to 1.
    pub accuracy: f64,
    /// How many examples there were.
    pub examples: usize,
}

/// Runs a network in evaluation mode over all examples.
///
/// # Errors
/// When the examples do not fit the network.
pub fn evaluate(
    network: &dyn Network,
    examples: &Examples<'_>,
    batch_size: usize,
) -> Result<Evaluation, TrainError> {
    let mut loss = 0.0;
    let mut right = 0;
    let mut count = 0;
    for batch in examples.batches(Order::Sequential, batch_size) {
        let ExampleBatch { input, labels, .. } = batch?.whole()?;
        let logits = network.forward(&input)?;
        let classes = logits.shape.last().copied().unwrap_or(1).max(1);
        let rows = logits.as_f32().unwrap_or_default().chunks_exact(classes);
        for (row, label) in rows.zip(labels) {
            loss -= log_softmax(row, label);
            right += usize::from(argmax(row) == label);
            count += 1;
        }
    }
    let examples = count.max(1) as f64;
    Ok(Evaluation { loss: loss / examples, accuracy: right as f64 / examples, examples: count })
}

/// The probabilities of the classes, largest logit largest.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|exponential| (exponential / sum) as f32).collect()
}

fn log_softmax(logits: &[f32], label: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    logits.get(label).map_or(f64::NEG_INFINITY, |logit| f64::from(logit - largest) - sum.ln())
}

/// The first of the largest.
fn argmax(values: &[f32]) -> usize {
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|value| *value == largest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_torch() {
        // torch.softmax(torch.tensor([1., 2., 3.]), 0) and log_softmax, torch 2.15.
        let probabilities = softmax(&[1.0, 2.0, 3.0]);
        for (ours, torch) in probabilities.iter().zip([0.090_030_57, 0.244_728_47, 0.665_240_94]) {
            assert!((ours - torch).abs() < 1e-7, "{ours} {torch}");
        }
        assert!((log_softmax(&[1.0, 2.0, 3.0], 0) - -2.407_605_96).abs() < 1e-7);
        assert_eq!(softmax(&[1000.0, -1000.0]), [1.0, 0.0]);
        assert_eq!(argmax(&[0.0, 2.0, 2.0]), 1);
    }
}
