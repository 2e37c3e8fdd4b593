//! How good a network is on labelled examples.

use engraft_engine::EngineError;
use engraft_tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Examples, Order, TrainError};

/// Loss and accuracy over a set of examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean cross entropy.
    pub loss: f64,
    /// Share of examples whose most probable class is the right one, 0 to 1.
    pub accuracy: f64,
    /// How many examples there were.
    pub examples: usize,
    /// The same by class, in the order of the classes.
    #[serde(default)]
    pub classes: Vec<ClassCount>,
}

/// The examples of a class, and how many of them were recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Examples of the class.
    pub examples: usize,
    /// Examples of the class that were taken for it.
    pub right: usize,
}

/// What a network says of one example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// Which example.
    pub index: usize,
    /// Its class.
    pub label: usize,
    /// The most probable class.
    pub class: usize,
    /// How probable that is, 0 to 1.
    pub probability: f32,
}

impl Evaluation {
    /// The accuracy of always saying the class that is the commonest among the examples, 0 to 1.
    pub fn baseline(&self) -> f64 {
        let commonest = self.classes.iter().map(|class| class.examples).max().unwrap_or(0);
        commonest as f64 / self.examples.max(1) as f64
    }

    /// Between which accuracies the truth lies with 95 % confidence, if the examples were drawn at random from what the network will meet:
    /// the interval of Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    pub fn interval(&self) -> [f64; 2] {
        /// The 97.5 % quantile of the normal distribution.
        const Z: f64 = 1.959_963_984_540_054;
        let n = self.examples as f64;
        if n == 0.0 {
            return [0.0, 1.0];
        }
        let (p, z2) = (self.accuracy, Z * Z);
        let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        [(centre - half).max(0.0), (centre + half).min(1.0)]
    }
}

/// Runs a network in evaluation mode over all examples; `forward` is the network, inputs `[batch, ..]` to logits
/// `[batch, classes]`. `each` is told what it says of each example. Examples that cannot be read any more are left out.
///
/// # Errors
/// When the examples do not fit the network.
pub fn evaluate(
    forward: &mut dyn FnMut(&Tensor) -> Result<Tensor, EngineError>,
    examples: &Examples<'_>,
    batch_size: usize,
    each: &mut dyn FnMut(Guess),
) -> Result<Evaluation, TrainError> {
    let mut loss = 0.0;
    let mut counts: Vec<ClassCount> = Vec::new();
    for batch in examples.batches(Order::Sequential, batch_size) {
        let batch = batch?;
        if batch.indices.is_empty() {
            continue;
        }
        let logits = forward(&batch.input)?;
        let classes = logits.shape.last().copied().unwrap_or(1).max(1);
        counts.resize(classes.max(counts.len()), ClassCount::default());
        let rows = logits.as_f32().unwrap_or_default().chunks_exact(classes);
        for (row, (&label, &index)) in rows.zip(batch.labels.iter().zip(&batch.indices)) {
            let class = argmax(row);
            loss -= log_softmax(row, label);
            if let Some(count) = counts.get_mut(label) {
                count.examples += 1;
                count.right += usize::from(class == label);
            }
            each(Guess { index, label, class, probability: log_softmax(row, class).exp() as f32 });
        }
    }
    let count: usize = counts.iter().map(|count| count.examples).sum();
    let right: usize = counts.iter().map(|count| count.right).sum();
    let examples = count.max(1) as f64;
    Ok(Evaluation {
        loss: loss / examples,
        accuracy: right as f64 / examples,
        examples: count,
        classes: counts,
    })
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

    #[test]
    fn the_interval_is_that_of_statsmodels() {
        // statsmodels.stats.proportion.proportion_confint(50, 60, method="wilson"), and (10, 10).
        let of = |right: usize, examples: usize| {
            let classes = vec![ClassCount { examples, right }];
            Evaluation { loss: 0.0, accuracy: right as f64 / examples as f64, examples, classes }.interval()
        };
        for (ours, [low, high]) in
            [(of(50, 60), [0.719_683_868, 0.906_868_230]), (of(10, 10), [0.722_467_200, 1.0])]
        {
            assert!((ours[0] - low).abs() < 1e-6 && (ours[1] - high).abs() < 1e-6, "{ours:?}");
        }
        assert_eq!(
            Evaluation { loss: 0.0, accuracy: 0.0, examples: 0, classes: vec![] }.interval(),
            [0.0, 1.0]
        );
    }
}
