//! The gradient of every operation by its input, against finite differences.

use engraft_graph::{Builder, Graph, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::formula;
use super::freezing::cross_entropy;
use super::operations::{Case, cases, constant, reshape};
use super::training::trainer;
use crate::{Engine, Targets};

/// How far a gradient may be from the slopes on both sides, relative to the largest of a case.
const TOLERANCE: f64 = 0.01;

/// Cases in which every element is at a kink or has a slope of zero.
const SATURATED: [&str; 5] = [
    "ReLU6, far from zero",
    "Hardsigmoid, far from zero",
    "Sigmoid, far from zero",
    "Tanh, far from zero",
    "softmax, large logits",
];

/// Every operation passes gradients on, between a tensor that trains and a linear layer that gives two classes.
pub fn operations_pass_gradients_on(engine: &dyn Engine) {
    // Stochastic depth is another operation in training; it has a test of its own.
    for case in cases().into_iter().filter(|case| !matches!(case.op, Op::StochasticDepth { .. })) {
        let probe = Probe::new(&case);
        let gradients = probe.gradients(engine);
        assert!(gradients.iter().all(|gradient| gradient.is_finite()), "{}: a gradient is NaN", case.name);
        let differences = probe.finite_differences(engine);
        let largest = differences.iter().flatten().fold(0.0_f64, |largest, slope| largest.max(slope.abs()));
        let mut sure = 0;
        for (i, [left, right]) in differences.into_iter().enumerate() {
            let gradient = f64::from(gradients[i]);
            // At a kink it is one of the two slopes, or one between. Rounding errors of the loss show in the slopes.
            let margin = TOLERANCE * largest + 5e-5;
            let is_right = (left.min(right) - margin..left.max(right) + margin).contains(&gradient);
            assert!(
                is_right,
                "{}: the gradient of element {i} is {gradient:e}, not {left:e}, {right:e}",
                case.name
            );
            sure += usize::from((left - right).abs() < margin && gradient.abs() > 10.0 * margin);
        }
        assert!(sure > 0 || SATURATED.contains(&case.name.as_str()), "{}: no gradient to be told", case.name);
    }
}

/// A network whose only input of weight is a parameter of it, `input.bias`, to which the operation is applied.
struct Probe {
    graph: Graph,
    state: StateDict,
    step: f32,
}

impl Probe {
    fn new(case: &Case) -> Self {
        let mut state = StateDict::new();
        let (mut b, input) = Builder::with_input("Probe", &[1]);
        let row = (input, 1);
        let x = constant(&mut b, &mut state, "input", case.input(0), row);
        let y = case.apply(&mut b, &mut state, x, row);
        let outputs = &case.output.values;
        let y = reshape(&mut b, &[1, outputs.len()], y);
        let y = b.layer("after", Linear::new(outputs.len(), 2), y);
        // So that the logits are of the order of one.
        let largest = outputs.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let width = 2.0 / (largest * (outputs.len() as f32).sqrt());
        state.insert("after.weight", formula::uniform("after.weight", &[2, outputs.len()], 0.0, width));
        state.insert("after.bias", Tensor::f32([2], vec![0.0; 2]));
        Self { graph: b.finish(y), state, step: case.input_width / 1000.0 }
    }

    /// Of the loss for label 0.
    fn gradients(&self, engine: &dyn Engine) -> Vec<f32> {
        let mut trainer = trainer(engine, &self.graph, &self.state, &|name| name == "input.bias");
        trainer.accumulate(&Tensor::f32([1, 1], vec![0.0]), &Targets::labels(&[0]), 1.0, 0).unwrap();
        let mut gradients = Vec::new();
        trainer.gradients(&mut |_, values| gradients = values.to_vec());
        gradients
    }

    /// To the left and to the right of each element the slope of the loss.
    fn finite_differences(&self, engine: &dyn Engine) -> Vec<[f64; 2]> {
        let loss = |values: Vec<f32>| {
            let mut state = self.state.clone();
            state.insert("input.bias", Tensor::f32([values.len()], values));
            let mut network = engine.network(&self.graph, state).unwrap();
            cross_entropy(&network.forward(&Tensor::f32([1, 1], vec![0.0])).unwrap(), &[0])
        };
        let values = self.state.get("input.bias").and_then(Tensor::as_f32).unwrap();
        let middle = loss(values.to_vec());
        let slope = |i: usize, step: f32| {
            let mut moved = values.to_vec();
            moved[i] += step;
            let step = f64::from(moved[i]) - f64::from(values[i]);
            (loss(moved) - middle) / step
        };
        (0..values.len()).map(|i| [slope(i, -self.step), slope(i, self.step)]).collect()
    }
}
