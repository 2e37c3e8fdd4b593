//! Adam (Kingma and Ba 2014, arXiv 1412.6980), step by step as `torch/optim/adam.py` computes it.

use std::collections::HashMap;

use burn_tensor::Tensor;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The optimiser's memory: running means of the gradients and of their squares.
#[derive(Default)]
pub(crate) struct Adam {
    steps: u64,
    moments: HashMap<String, [Tensor<1>; 2]>,
}

impl Adam {
    /// How many steps were begun.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// Moves one parameter against its gradient.
    pub(crate) fn update(
        &mut self,
        name: &str,
        value: &mut Tensor<1>,
        gradient: Tensor<1>,
        learning_rate: f64,
    ) {
        let zeros = || [gradient.zeros_like(), gradient.zeros_like()];
        let [mean, square] = self.moments.remove(name).unwrap_or_else(zeros);
        let mean = mean * BETA1 + gradient.clone() * (1.0 - BETA1);
        let square = square * BETA2 + gradient.square() * (1.0 - BETA2);
        let steps = self.steps as f64;
        let step_size = learning_rate / (1.0 - BETA1.powf(steps));
        let scale = (1.0 - BETA2.powf(steps)).sqrt();
        let step = mean.clone() * step_size / (square.clone().sqrt() / scale + EPSILON);
        value.inplace(|value| value - step);
        self.moments.insert(name.into(), [mean, square]);
    }
}
