//! The gradient of every operation by its input, against finite differences.

use engraft_graph::{Builder, Linear, Op};
use engraft_tensor::{StateDict, Tensor};

use super::formula;
use super::freezing::cross_entropy;
use super::operations::{Case, cases, constant, reshape};
use super::training::trainer;
use crate::{Engine, Network};

/// How far a gradient may be from the finite difference.
const TOLERANCE: f64 = 0.05;

/// Cases in which every element is at a kink or has a slope of zero.
const SATURATED: [&str; 5] = [
    "ReLU6, far from zero",
    "Hardsigmoid, far from zero",
    "Sigmoid, far from zero",
    "Tanh, far from zero",
    "softmax, large logits",
];

/// Every operation passes gradients on, between a tensor that trains and a linear layer that gives two classes.
///
/// Adam's first step shows nothing but the signs of gradients. Therefore a second way leads from the tensor to the classes, whose
/// gradient we choose: the opposite of what the operation's should be, but five in a hundred less, and then five in a hundred more.
/// If the operation's gradient lies between, the values go one way, and then the other.
pub fn operations_pass_gradients_on(engine: &dyn Engine) {
    // Stochastic depth is another operation in training; it has a test of its own.
    for case in cases().into_iter().filter(|case| !matches!(case.op, Op::StochasticDepth { .. })) {
        let probe = Probe::new(engine, &case);
        let (loss, differences) = probe.finite_differences();
        let gradients: Vec<f64> = differences.iter().map(|[left, right]| (left + right) / 2.0).collect();
        let largest = gradients.iter().fold(0.0_f64, |largest, gradient| largest.max(gradient.abs()));
        // Where the slope is the same on both sides, and no rounding error.
        let is_sure = |[left, right]: [f64; 2]| {
            left.abs() > (0.1 * largest).max(1e-6) && (left - right).abs() < TOLERANCE / 2.0 * left.abs()
        };
        let sure: Vec<usize> = (0..gradients.len()).filter(|i| is_sure(differences[*i])).collect();
        assert!(
            !sure.is_empty() || SATURATED.contains(&case.name.as_str()),
            "{}: no gradient to be told",
            case.name
        );
        for (share, way) in [(1.0 - TOLERANCE, -1.0), (1.0 + TOLERANCE, 1.0)] {
            let moved = probe.moved(engine, loss, &gradients, share);
            assert!(moved.iter().all(|moved| moved.is_finite()), "{}: a gradient is NaN", case.name);
            for &i in &sure {
                let gradient = gradients[i];
                let right = moved[i] * way * gradient.signum() > 0.0;
                assert!(right, "{}: the gradient of element {i} is not {gradient:e}", case.name);
            }
        }
    }
}

struct Probe<'a> {
    case: &'a Case,
    /// The first input of the operation.
    input: Tensor,
    /// The tensors of the operation and of the layer `after` it.
    state: StateDict,
    /// The operation and the layer after it.
    network: Box<dyn Network>,
}

impl<'a> Probe<'a> {
    fn new(engine: &dyn Engine, case: &'a Case) -> Self {
        let mut state = StateDict::new();
        let (mut b, x) = Builder::with_input("Probe", &case.inputs[0][1..]);
        let len = case.inputs[0].iter().product();
        let row = reshape(&mut b, &[1, len], x);
        let y = case.apply(&mut b, &mut state, x, (row, len));
        let outputs = &case.output.values;
        let y = reshape(&mut b, &[1, outputs.len()], y);
        let y = b.layer("after", Linear::new(outputs.len(), 2), y);
        // So that the logits are of the order of one.
        let largest = outputs.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let width = 2.0 / (largest * (outputs.len() as f32).sqrt());
        state.insert("after.weight", formula::uniform("after.weight", &[2, outputs.len()], 0.0, width));
        state.insert("after.bias", Tensor::f32([2], vec![0.0; 2]));
        let network = engine.network(&b.finish(y), state.clone()).unwrap();
        Self { case, input: case.input(0), state, network }
    }

    fn loss(&self, input: &Tensor) -> f64 {
        cross_entropy(&self.network.forward(input).unwrap(), &[0])
    }

    /// The loss for label 0, and to the left and to the right of each element the slope of the loss.
    fn finite_differences(&self) -> (f64, Vec<[f64; 2]>) {
        let loss = self.loss(&self.input);
        let step = self.case.input_width / 200.0;
        let values = self.input.as_f32().unwrap();
        let slope = |i: usize, step: f32| {
            let mut values = values.to_vec();
            values[i] += step;
            let step = f64::from(values[i]) - f64::from(self.input.as_f32().unwrap()[i]);
            (self.loss(&Tensor::f32(self.input.shape.clone(), values)) - loss) / step
        };
        (loss, (0..values.len()).map(|i| [slope(i, -step), slope(i, step)]).collect())
    }

    /// How each element of the input moves in the first step, if the gradient that comes by the second way is that of
    /// `gradients`, times `-share`.
    fn moved(&self, engine: &dyn Engine, loss: f64, gradients: &[f64], share: f64) -> Vec<f64> {
        let before = self.input.as_f32().unwrap();
        let mut state = self.state.clone();
        let (mut b, input) = Builder::with_input("Probe", &[1]);
        let row = (input, 1);
        let x = constant(&mut b, &mut state, "before", self.input.clone(), row);
        let y = self.case.apply(&mut b, &mut state, x, row);
        let y = reshape(&mut b, &[1, self.case.output.values.len()], y);
        let y = b.layer("after", Linear::new(self.case.output.values.len(), 2), y);

        // It adds to the first logit, by which the loss falls with the probability of the second class. Its bias takes away what it
        // adds here, so that the probabilities stay.
        let second = 1.0 - (-loss).exp();
        let weight: Vec<f32> = gradients.iter().map(|gradient| (share * gradient / second) as f32).collect();
        let added: f64 = weight.iter().zip(before).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        let weight = [weight, vec![0.0; before.len()]].concat();
        state.insert("direct.weight", Tensor::f32([2, before.len()], weight));
        state.insert("direct.bias", Tensor::f32([2], vec![-added as f32, 0.0]));
        let x = reshape(&mut b, &[1, before.len()], x);
        let direct = b.layer("direct", Linear::new(before.len(), 2), x);
        let y = b.function(Op::Add, &[y, direct]);

        let mut trainer = trainer(engine, &b.finish(y), &state, &|name| name == "before.bias", 0);
        trainer.step(&Tensor::f32([1, 1], vec![0.0]), &[0], 0.01).unwrap();
        let state = trainer.state();
        let after = state.get("before.bias").and_then(Tensor::as_f32).unwrap();
        after.iter().zip(before).map(|(after, before)| f64::from(*after) - f64::from(*before)).collect()
    }
}
